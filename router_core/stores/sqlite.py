"""The job store on one SQLite file: the default, with nothing else to install."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured, StoreError
from router_core.jobs.job import Fence, Job, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.store import (
    Added,
    Claim,
    Delivery,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Purged,
    Renewal,
    StoreStats,
)
from router_core.stores.lane import Lane
from router_core.stores.sqlite_file import BUSY_SECONDS, FileLock, has_wal_reset_bug, prepare
from router_core.stores.sqlite_lanes import SqliteReader, SqliteWriter
from router_core.stores.sqlite_reads import SqliteReads
from router_core.stores.sqlite_writes import SqliteWrites

__all__ = ["SqliteJobStore"]


class SqliteJobStore:
    """Job records in one file on a local disk (a network file system breaks SQLite's locks).

    A write is on the disk (WAL, synchronous=FULL) before it is answered. One thread does all of them and
    commits whatever gathered during the last commit as one transaction; another thread reads.

    With a SQLite older than 3.51.3 the file belongs to one process at a time (``exclusive``): a second one
    is refused when it opens the store. Whoever opens it then knows that the workers before it are gone, and
    their jobs are rescued at once instead of after their lease.
    """

    def __init__(
        self,
        path: str | Path,
        clock: Clock | None = None,
        *,
        exclusive: bool | None = None,
        busy: float = BUSY_SECONDS,
    ) -> None:
        self._path = Path(path).expanduser()
        if exclusive is False and has_wal_reset_bug():
            raise Misconfigured(
                f"SQLite {sqlite3.sqlite_version} may corrupt a file that several processes write to; "
                "use a Python with SQLite 3.51.3 or newer, or leave exclusive unset"
            )
        self._exclusive = has_wal_reset_bug() if exclusive is None else exclusive
        self.multi_process = not self._exclusive
        """Whether several processes may have the file open at once."""
        clock = self._clock = clock or SystemClock()
        self._lock = FileLock(self._path)
        self._writer = SqliteWriter(self._path, SqliteWrites(clock, shared=not self._exclusive), busy)
        self._reader = SqliteReader(self._path, SqliteReads(clock))
        self._write_lane = Lane("jobs-writer", self._writer.run_batch, self._writer.close)
        self._read_lane = Lane("jobs-reader", self._reader.run_batch, self._reader.close)
        self._guard = threading.Lock()
        self._opened = self._closed = False

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or open the file; raises Misconfigured when it is unusable, StoreError when it is locked."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._guard:
            if self._closed:
                raise StoreError("the job store is closed")
            if self._opened:
                return
            prepare(self._path)
            self._lock.take(shared=not self._exclusive)
            try:
                self._writer.open()
                if self._exclusive:
                    self._writer.end_leases(self._clock.now())
                self._reader.open()
            except BaseException:
                self._writer.close()
                self._lock.release()
                raise
            self._write_lane.start()
            self._read_lane.start()
            self._opened = True

    async def close(self) -> None:
        """Finish what was handed in and let the file go; safe to call twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._guard:
            self._closed = True
            if self._opened:
                # the writer is the last to close the file, which folds the log into it
                self._read_lane.stop()
                self._write_lane.stop()
            self._lock.release()

    # --- JobStore ---------------------------------------------------------------------------

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Write a new record. An idempotency key whose job was deleted or purged early raises Gone."""
        added: Added = await self._write_lane.call(self._writer.ops.add, job, queue_limit, key)
        return added

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Answer as ``add`` would, and write nothing."""
        earlier: Job | None = await self._write_lane.call(self._writer.ops.foresee, route, queue_limit, key)
        return earlier

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return the record, its tombstone, or None."""
        found: Job | Tombstone | None = await self._read_lane.call(self._reader.ops.get, job_id)
        return found

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take ready jobs, best rank first."""
        jobs: Sequence[Job] = await self._write_lane.call(self._writer.ops.claim, claim)
        return jobs

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move if its guards hold."""
        moved: Moved = await self._write_lane.call(self._writer.ops.move, job_id, move)
        return moved

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Extend the leases that still belong to these fences."""
        renewals: Sequence[Renewal] = await self._write_lane.call(
            self._writer.ops.renew, tuple(fences), lease
        )
        return renewals

    async def find(self, query: JobQuery) -> Page:
        """List records, newest first; a page may be short and still have a cursor."""
        page: Page = await self._read_lane.call(self._reader.ops.find, query)
        return page

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events of a running job."""
        last: int = await self._write_lane.call(self._writer.ops.append, fence, tuple(events))
        return last

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events after a number."""
        page: EventPage = await self._read_lane.call(self._reader.ops.events, job_id, after, limit)
        return page

    # --- JobUpkeep --------------------------------------------------------------------------

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose lease has ended."""
        jobs: Sequence[Job] = await self._read_lane.call(self._reader.ops.overdue, limit)
        return jobs

    async def due(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs that the sweeper has to move."""
        jobs: Sequence[Job] = await self._read_lane.call(self._reader.ops.due, limit)
        return jobs

    async def next_due(self) -> float | None:
        """Return the earliest start time of scheduled and retrying jobs."""
        at: float | None = await self._read_lane.call(self._reader.ops.next_due)
        return at

    async def purge(self, limit: int = 500) -> Purged:
        """Turn expired records into tombstones."""
        purged: Purged = await self._write_lane.call(self._writer.ops.purge, limit)
        return purged

    async def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        job: Job | None = await self._write_lane.call(self._writer.ops.delete, job_id)
        return job

    async def unreferenced(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of the blob keys that no record names."""
        rest: Sequence[str] = await self._read_lane.call(self._reader.ops.unreferenced, tuple(keys))
        return rest

    async def stats(self) -> StoreStats:
        """Count the open jobs."""
        stats: StoreStats = await self._read_lane.call(self._reader.ops.stats)
        return stats

    async def ping(self) -> None:
        """Write something; raises StoreError if that fails, or if the file was removed or replaced."""
        await self._write_lane.call(self._writer.ping)

    # --- Outbox -----------------------------------------------------------------------------

    async def deliveries(self, limit: int = 100) -> Sequence[Delivery]:
        """Return webhooks to send now."""
        rows: Sequence[Delivery] = await self._read_lane.call(self._reader.ops.deliveries, limit)
        return rows

    async def delivered(self, delivery_id: str) -> None:
        """Forget a webhook."""
        await self._write_lane.call(self._writer.ops.delivered, delivery_id)

    async def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> None:
        """Note a failed try of a webhook."""
        await self._write_lane.call(self._writer.ops.postpone, delivery_id, attempt, next_at)
