"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
from itertools import count

__all__ = ["FakeClock"]


class FakeClock:
    """Implements ``Clock``; safe to ask and to move from any thread.

    ``advance`` moves both times and wakes sleepers on whatever loop they wait; ``jump`` moves the wall clock
    alone, as an operator or a time server does.
    """

    def __init__(self, now: float = 1_700_000_000.0, monotonic: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now, self._monotonic = now, monotonic
        self._ticket = count()
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return wall-clock seconds."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by ``seconds``; 0 and less only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._ticket), loop, future))
        await future

    def advance(self, seconds: float) -> None:
        """Move time forward and wake whoever has slept long enough."""
        if seconds < 0:
            raise ValueError("time does not go back; use jump() for the wall clock")
        with self._lock:
            self._now += seconds
            self._monotonic += seconds
            woken = []
            while self._sleepers and self._sleepers[0][0] <= self._monotonic:
                woken.append(heapq.heappop(self._sleepers))
        for _, _, loop, future in woken:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(_wake, future)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back without time passing."""
        with self._lock:
            self._now += seconds

    async def pass_time(self, seconds: float, *, step: float = 1.0, turns: int = 5) -> None:
        """Advance in steps and let tasks of this loop run after each, so that loops of sleeps keep up."""
        while seconds > 0:
            self.advance(min(step, seconds))
            seconds -= step
            for _ in range(turns):
                await asyncio.sleep(0)

    @property
    def sleepers(self) -> int:
        """How many callers wait in ``sleep``."""
        with self._lock:
            return sum(not future.done() for _, _, _, future in self._sleepers)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
