"""How many calls of a route run at once in this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from router_core.jobs.worker import concurrency_of
from router_core.routing.route import Route

__all__ = ["Slots", "allowed"]


def allowed(routes: Iterable[Route], wanted: int) -> int:
    """Return how many jobs this worker may hold at once: as many as are wanted and some route can run.

    Never more: a job that waits here counts as running on the platform, where another worker could have it.
    """
    total = 0
    for route in routes:
        limit = _limit(route)
        total += wanted if limit is None else limit
    return max(1, min(wanted, total))


def _limit(route: Route) -> int | None:
    """Return the limit of a route; plain functions have none unless their author sets one."""
    if route.kind == "job":
        return concurrency_of(route)
    return route.job.concurrency or None


class Slots:
    """Counts what runs, by route."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._free = {
            route.key: asyncio.Semaphore(limit) for route in routes if (limit := _limit(route)) is not None
        }

    async def take(self, route: Route) -> Callable[[], None]:
        """Wait for a slot; returns what gives it back, once, however often it is called."""
        semaphore = self._free.get(route.key)
        if semaphore is None:
            return _nothing
        await semaphore.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                semaphore.release()

        return give_back


def _nothing() -> None:
    """There is no limit."""
