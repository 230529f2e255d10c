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

    def arrive(self) -> None:
        """Say that there is something to read."""
        self._arrived.set()

    def read(self, seq: int) -> None:
        """Note that everything up to an event has been read."""
        self._read = seq
        self._moved.set()

    def leave(self) -> None:
        """Read no more."""
        self._gone = True
        self._moved.set()

    async def caught_up(self, seq: int) -> None:
        """Wait until everything up to an event was read, or nobody reads any more."""
        while self._read < seq and not self._gone:
            self._moved.clear()
            await self._moved.wait()


class PacedStore:
    """A store whose ``append`` returns when all readers of the job, if there are any, have read it.

    The journal of the job waits for that, and the generator for the journal.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readers: dict[str, list[Reader]] = {}
        # Everything else is the store's, what only some stores can do included. Not by __getattr__: whoever
        # asks with isinstance for a protocol looks at attributes that are there (Python 3.12).
        for name in dir(store):
            if not name.startswith("_") and not hasattr(self, name):
                setattr(self, name, getattr(store, name))

    def follow(self, job_id: str) -> Reader:
        """Begin to read the events of a job; two deliveries may, that came with one key."""
        reader = Reader()
        self._readers.setdefault(job_id, []).append(reader)
        return reader

    def leave(self, job_id: str, reader: Reader) -> None:
        """End it."""
        reader.leave()
        others = [each for each in self._readers.pop(job_id, ()) if each is not reader]
        if others:
            self._readers[job_id] = others

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Append, then wait for the readers."""
        last = await self._store.append(fence, events)
        readers = self._readers.get(fence.job_id, ())
        for reader in readers:
            reader.arrive()
        for reader in tuple(readers):
            await reader.caught_up(last)
        return last
