"""How a worker learns that a job is ready."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from router_core.jobs.job import Job

__all__ = ["Abilities", "Dispatcher"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a queue can do: a route that needs more is refused by name, a call that asks for more with 400."""

    delay: bool
    """Can it hold a job back until ``not_before``?"""
    priority: bool
    """Does a higher priority overtake?"""
    cancel: bool
    """Can a running job be told to stop?"""
    stream: bool
    """Do events reach a reader while the job runs?"""
    external: bool = True
    """Does the queue live outside the record store? Then a record stays marked ``dispatch_pending`` until the
    queue has taken it. A queue that only wakes workers of this store sets False and saves that write."""


class Dispatcher(Protocol):
    """A queue. Its message is the job's id; the store is the truth."""

    abilities: Abilities

    async def dispatch(self, job: Job) -> None:
        """Tell the queue that a job is ready. Raises Unavailable when the queue does not take it;
        the record stays marked ``dispatch_pending`` and the sweeper tries again."""

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Begin to hand ready jobs to ``run`` (a queue consumed elsewhere does nothing here)."""

    async def stop(self, grace: float) -> None:
        """Hand out no more, wait up to ``grace`` seconds for what runs, then let go."""
