"""What a running job posts before its end: progress and chunks, each in order and never after the end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

import pydantic_core

from router_core.errors import RouterError

__all__ = ["MAX_CHUNK", "Chunks", "Line", "Progress", "Silent", "too_large"]

MAX_CHUNK: Final = 1_000_000 - 1024
"""Bytes of one chunk: RunPod takes 1 MB, the frame around it included."""
_WAITING: Final = 64
_WAITING_BYTES: Final = 4 * MAX_CHUNK


class Line(Protocol):
    """The way from one job to the platform."""

    async def progress(self, body: bytes) -> None:
        """Post progress once; what cannot be posted is left out. Does not raise."""

    async def chunk(self, body: bytes) -> bool:
        """Post a chunk, with tries; False if the platform did not take it. Does not raise."""


class Silent:
    """A line to nowhere, for jobs that did not come from the platform."""

    async def progress(self, body: bytes) -> None:
        """Drop it."""

    async def chunk(self, body: bytes) -> bool:
        """Drop it."""
        return True


class Progress:
    """Posts the latest progress of one job, at most once each ``every`` seconds, one after the other.

    What comes while a post is under way replaces what came before it. After ``close`` nothing is posted:
    a platform that hears of progress after the result would call the job unfinished for ever.
    """

    def __init__(self, line: Line, every: float) -> None:
        self._line = line
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._latest: tuple[float, str] = (0.0, "")
        self._posted: tuple[float, str] = (0.0, "")
        self._task: asyncio.Task[None] | None = None
        self._poked = False
        self._closed = asyncio.Event()

    def set(self, fraction: float, message: str) -> None:
        """Take the progress as it is now, from any thread."""
        self._latest = (fraction, message)
        if self._poked:
            return
        self._poked = True
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop is closed: this thread has outlived its job
            return

    def stop(self) -> None:
        """Begin no other post (on the loop)."""
        self._closed.set()

    async def close(self) -> None:
        """Post no more; returns when the post that is under way, if there is one, is over."""
        self.stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    def _start(self) -> None:
        self._poked = False
        if self._task is None and not self._closed.is_set() and self._latest != self._posted:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._latest != self._posted and not self._closed.is_set():
                self._posted = self._latest
                await self._line.progress(_progress_body(*self._posted))
                await self._pause()
        finally:
            self._task = None
        self._start()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._every):
                await self._closed.wait()
        except TimeoutError:
            return


def too_large(size: int = 0) -> RouterError:
    """Return the error for an item that cannot be a chunk."""
    has = f"has {size} bytes" if size else "is too large for a chunk"
    return RouterError(
        f"a streamed item {has}; RunPod takes {MAX_CHUNK} bytes: yield smaller items", code="chunk_too_large"
    )


def _progress_body(fraction: float, message: str) -> bytes:
    output = {"progress": fraction, "message": message}
    return pydantic_core.to_json({"status": "IN_PROGRESS", "output": output})


class Chunks:
    """Posts the chunks of one job in order, while the function makes the next ones.

    A chunk that the platform does not take ends the stream for its readers, who must not see a gap; the whole
    output still comes at the end.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.broken = False
        """The platform has refused a chunk, or nobody wants more: what came after it was not posted."""
        self.posted = 0

    async def put(self, item: bytes) -> None:
        """Take the JSON of one chunk; waits while much is waiting. Raises RouterError for one too large."""
        if len(item) > MAX_CHUNK:
            raise too_large(len(item))
        while not self.broken and (len(self._waiting) >= _WAITING or self._bytes > _WAITING_BYTES):
            self._moved.clear()
            await self._moved.wait()
        if self.broken:
            return
        self._waiting.append(item)
        self._bytes += len(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def flush(self) -> None:
        """Return when everything is posted."""
        while self._task is not None:
            await asyncio.wait({self._task})

    def stop(self) -> None:
        """Begin no other post (on the loop)."""
        self.broken = True
        self._waiting.clear()
        self._moved.set()

    async def drop(self) -> None:
        """Post no more; returns when the post that is under way, if there is one, is over."""
        self.stop()
        await self.flush()

    async def _run(self) -> None:
        try:
            while self._waiting:
                item = self._waiting.popleft()
                self._bytes -= len(item)
                if not await self._line.chunk(b'{"output":%s}' % item):
                    self.broken = True
                    self._waiting.clear()
                self.posted += 1
                self._moved.set()
        finally:
            self._bytes = 0
            self._task = None
            self._moved.set()
