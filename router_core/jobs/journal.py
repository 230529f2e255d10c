"""Carry what a function says (progress, events, steps) to where it is kept, in few writes and in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from router_core.jobs.context import JobProgress
from router_core.jobs.store import NewEvent

__all__ = ["Journal", "Sink"]

T = TypeVar("T")

MAX_EVENTS: Final = 1_000
MAX_BYTES: Final = 1024 * 1024
"""What may wait here. A store keeps no more of a job, so the oldest go, as they would there."""


class Sink(Protocol):
    """Where a journal writes. A method that raises is called again with the same values; a sink that no
    longer wants them returns."""

    async def progress(self, fraction: float, message: str) -> None:
        """Take the latest progress."""

    async def events(self, events: Sequence[NewEvent]) -> None:
        """Take events, oldest first."""

    async def step(self, name: str, outcome: bytes) -> None:
        """Take the outcome of a step, durably."""


class Journal:
    """Collects from any thread, writes from one loop.

    Progress is written at most once each ``progress_every`` seconds, events are gathered for
    ``events_every`` seconds. After ``close`` nothing is written any more: a thread that outlives its job
    talks to nobody.
    """

    __slots__ = (
        "_bytes", "_closed", "_dirty", "_events", "_events_every", "_last_progress", "_lock", "_loop",
        "_poked", "_progress_every", "_pump", "_sink", "_sleeping", "dropped", "progress",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sink: Sink, *, progress_every: float = 1.0,
        events_every: float = 0.05,
    ) -> None:  # fmt: skip
        self.progress = JobProgress(self._progress_changed)
        self.dropped = 0
        """Events that did not fit."""
        self._loop = loop
        self._sink = sink
        self._progress_every = progress_every
        self._events_every = events_every
        self._last_progress = -progress_every
        self._dirty = False
        self._events: deque[NewEvent] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._poked = False
        self._closed = False
        self._sleeping = False
        self._pump: asyncio.Task[None] | None = None

    # --- from any thread

    def emit(self, event: NewEvent) -> None:
        """Take an event; the oldest goes when too many wait."""
        with self._lock:
            if self._closed:
                return
            self._events.append(event)
            self._bytes += len(event.data)
            while len(self._events) > MAX_EVENTS or (self._bytes > MAX_BYTES and len(self._events) > 1):
                self._bytes -= len(self._events.popleft().data)
                self.dropped += 1
        self._poke()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it in this thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def step(self, name: str, outcome: bytes) -> None:
        """Hand a step to the sink; callers are on the loop, or come through ``wait``."""
        await self._sink.step(name, outcome)

    def _progress_changed(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._poke()

    def _poke(self) -> None:
        if self._poked or self._closed:
            return
        self._poked = True
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop is closed: this thread has outlived its worker
            self._closed = True

    # --- on the loop

    def _start(self) -> None:
        if not self._closed and self._pump is None:
            self._pump = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while not self._closed and (self._dirty or self._events):
                await self._pause(self._delay())
                if not self._closed:
                    await self._write()
        finally:
            self._poked = False
            self._pump = None
        if not self._closed and (self._dirty or self._events):
            self._poke()  # something came between the last look and clearing the flag

    def _delay(self) -> float:
        if self._events:
            return self._events_every
        since = self._loop.time() - self._last_progress
        return max(self._events_every, self._progress_every - since)

    async def _pause(self, seconds: float) -> None:
        self._sleeping = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._sleeping = False

    async def _write(self) -> None:
        try:
            await self._write_events()
            if self._dirty and self._loop.time() - self._last_progress >= self._progress_every:
                self._last_progress = self._loop.time()
                self._dirty = False
                await self._sink.progress(*self.progress.latest())
        except Exception:
            # the sink keeps what it could not write; the next round comes after a pause
            self._dirty = True
            await self._pause(self._progress_every)

    async def _write_events(self) -> None:
        with self._lock:
            batch, size = list(self._events), self._bytes
            self._events.clear()
            self._bytes = 0
        if not batch:
            return
        try:
            await self._sink.events(batch)
        except Exception:
            with self._lock:
                self._events.extendleft(reversed(batch))
                self._bytes += size
            raise

    async def room(self) -> None:
        """Wait while so much is waiting that more would push out the oldest."""
        while not self._closed and (len(self._events) > MAX_EVENTS // 2 or self._bytes > MAX_BYTES // 2):
            if self._pump is None:
                self._start()
            await asyncio.sleep(self._events_every / 4)

    async def flush(self) -> None:
        """Write the events that wait, and end. Progress that waits is left to the terminal write."""
        if self._pump is None and not self._events:
            self._closed = True
            return
        pump = self._pump
        if pump is not None:
            self._closed = True
            if self._sleeping:
                pump.cancel()
            await asyncio.wait({pump})
        with self._lock:
            self._closed = True
        await self._write_events()

    def close(self) -> None:
        """End at once; what waits is dropped."""
        with self._lock:
            self._closed = True
            self._events.clear()
            self._bytes = 0
        if self._pump is not None and self._sleeping:
            self._pump.cancel()
