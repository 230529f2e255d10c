"""Workers elsewhere that wait for a job, and the bell that wakes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from typing import Final

from router_core.jobs.job import State
from router_core.telemetry.events import JobMoved
from router_core.types import new_id

__all__ = ["Wakeups"]

WOKEN: Final = 2
"""Workers that one new job wakes: a second one in case that the first has gone. All others look by themselves
every few seconds, so none is needed, and a hundred idle workers do not all run for each job."""
_SHOWS_WORK: Final = frozenset({State.QUEUED.value})


class _Waiter:
    __slots__ = ("future", "loop", "routes", "worker_id")

    def __init__(self, worker_id: str, routes: Collection[str]) -> None:
        self.worker_id = worker_id
        self.routes = frozenset(routes)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[bool] = self.loop.create_future()

    def wake(self, ready: bool) -> None:
        """Let it go, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, ready)
        except RuntimeError:  # its loop is closed
            return

    def _settle(self, ready: bool) -> None:
        if not self.future.done():
            self.future.set_result(ready)


class Wakeups:
    """Counts what was queued in this process, by route. Only a hint: the store knows what is there."""

    def __init__(self) -> None:
        self._boot = new_id()[12:24]
        self._count = 0
        self._last: dict[str, int] = {}
        self._waiting: list[_Waiter] = []
        self._lock = threading.Lock()

    @property
    def seen(self) -> str:
        """How far the count is. Who hands it in again misses nothing that came in between."""
        return f"{self._boot}.{self._count}"

    def listen(self, event: object) -> None:
        """Ring for each job that was queued; subscribes to events."""
        if isinstance(event, JobMoved) and event.state in _SHOWS_WORK:
            self.ring(event.route)

    def ring(self, route: str) -> None:
        """Say that there may be a job of a route; from any thread."""
        with self._lock:
            self._count += 1
            self._last[route] = self._count
            chosen = [waiter for waiter in self._waiting if route in waiter.routes][:WOKEN]
            for waiter in chosen:
                self._waiting.remove(waiter)
        for waiter in chosen:
            waiter.wake(True)

    def leave(self, worker_id: str) -> None:
        """Let a worker go that has found work without being woken."""
        with self._lock:
            gone = [waiter for waiter in self._waiting if waiter.worker_id == worker_id]
            for waiter in gone:
                self._waiting.remove(waiter)
        for waiter in gone:
            waiter.wake(False)

    async def wait(self, worker_id: str, routes: Collection[str], seen: str, seconds: float) -> bool:
        """Return True once there may be a job of one of the routes, False after ``seconds``."""
        with self._lock:
            if self._missed(routes, seen):
                return True
            waiter = _Waiter(worker_id, routes)
            self._waiting.append(waiter)
        try:
            return await asyncio.wait_for(waiter.future, seconds)
        except TimeoutError:
            return False
        finally:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

    def _missed(self, routes: Collection[str], seen: str) -> bool:
        boot, _, count = seen.partition(".")
        if boot != self._boot or not count.isdecimal() or len(count) > 20:
            return True
        return any(self._last.get(route, 0) > int(count) for route in routes)
