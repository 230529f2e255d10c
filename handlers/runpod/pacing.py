"""Let no generator run away from the platform: what it yields is posted chunk by chunk, and a record keeps
only the last megabyte of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router_core.jobs.job import Fence
from router_core.jobs.store import NewEvent, Store

__all__ = ["PacedStore", "Reader"]


class Reader:
    """How far the events of one job have been read."""

    def __init__(self) -> None:
        self._read = 0
        self._moved = asyncio.Event()
        self._arrived = asyncio.Event()
        self._gone = False

    async def arrived(self, seconds: float) -> None:
        """Wait until something was appended here, or for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return
        self._arrived.clear()

    def read(self, seq: int) -> None:
        """Note that everything up to an event has been read."""
        self._read = seq
        self._moved.set()

    def leave(self) -> None:
        """Read no more."""
        self._gone = True
        self._moved.set()

    async def caught_up(self, seq: int) -> None:
        """Say that there is something to read; wait until it was read, or nobody reads any more."""
        self._arrived.set()
        while self._read < seq and not self._gone:
            self._moved.clear()
            await self._moved.wait()


class PacedStore:
    """A store whose ``append`` returns when the reader of the job, if it has one, has read what was appended.

    The journal of the job waits for that, and the generator for the journal.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readers: dict[str, Reader] = {}
        # Everything else is the store's, what only some stores can do included. Not by __getattr__: whoever
        # asks with isinstance for a protocol looks at attributes that are there (Python 3.12).
        for name in dir(store):
            if not name.startswith("_") and not hasattr(self, name):
                setattr(self, name, getattr(store, name))

    def follow(self, job_id: str) -> Reader:
        """Begin to read the events of a job."""
        reader = self._readers[job_id] = Reader()
        return reader

    def leave(self, job_id: str) -> None:
        """End it."""
        reader = self._readers.pop(job_id, None)
        if reader is not None:
            reader.leave()

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Append, then wait for the reader."""
        last = await self._store.append(fence, events)
        reader = self._readers.get(fence.job_id)
        if reader is not None:
            await reader.caught_up(last)
        return last
