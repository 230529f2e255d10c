"""Every read of the SQLite job store; runs in the reader's thread on a connection that cannot write."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from router_core.clock import Clock
from router_core.jobs.job import Event, Job, State, Tombstone
from router_core.jobs.store import Delivery, EventPage, JobQuery, Page, StoreStats
from router_core.stores.limits import TOMBSTONE_SECONDS
from router_core.stores.sqlite_listing import OPEN_SOURCES, find
from router_core.stores.sqlite_rows import COLUMNS, LATER, job_of

__all__ = ["SqliteReads"]

_BY_ID: Final = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"


class SqliteReads:
    """The reads of one store."""

    connection: sqlite3.Connection

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now

    def get(self, job_id: str) -> Job | Tombstone | None:
        """Return a record or its tombstone."""
        row = self.connection.execute(_BY_ID, (job_id,)).fetchone()
        if row is not None:
            job = job_of(row)
            if job.expires_at and job.expires_at <= self._now():
                return Tombstone(job.id, job.owner, job.expires_at + TOMBSTONE_SECONDS)
            return job
        row = self.connection.execute(
            "SELECT id, owner, expires_at FROM tombstones WHERE id = ?", (job_id,)
        ).fetchone()
        return None if row is None or row[2] <= self._now() else Tombstone(*row)

    def events(self, job_id: str, after: int, limit: int) -> EventPage:
        """Return a page of a job's events."""
        head = self.connection.execute(
            "SELECT event_first, event_seq FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        if head is None:
            return EventPage((), 0, 0)
        first, last = head
        rows = self.connection.execute(
            "SELECT seq, type, data, at, attempt FROM events "
            "WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (job_id, after, limit),
        ).fetchall()
        return EventPage(tuple(Event(*row) for row in rows), first if first <= last else 0, last)

    def find(self, query: JobQuery) -> Page:
        """Return one page of records, newest first."""
        return find(self.connection, query, self._now())

    # --- upkeep -----------------------------------------------------------------------------

    def overdue(self, limit: int) -> list[Job]:
        """Return jobs whose lease has ended."""
        return self._jobs(
            f"SELECT {COLUMNS} FROM jobs INDEXED BY jobs_lease WHERE lease_until > 0 AND lease_until < ? "
            "AND state IN ('running', 'cancelling') ORDER BY lease_until LIMIT ?",
            (self._now(), limit),
        )

    def due(self, limit: int) -> list[Job]:
        """Return jobs whose deadline has passed, then scheduled jobs whose time has come."""
        now = self._now()
        late = self._jobs(
            f"SELECT {COLUMNS} FROM jobs INDEXED BY jobs_deadline "
            "WHERE deadline_at > 0 AND finished_at = 0 AND deadline_at <= ? "
            "AND state IN ('scheduled', 'queued', 'retrying') ORDER BY deadline_at LIMIT ?",
            (now, limit),
        )
        ready = self._jobs(
            f"SELECT {COLUMNS} FROM jobs INDEXED BY jobs_later_due "
            f"WHERE {LATER} AND state = 'scheduled' AND not_before <= ? "
            "AND (deadline_at = 0 OR deadline_at > ?) ORDER BY not_before LIMIT ?",
            (now, now, limit - len(late)),
        )
        return late + ready

    def next_due(self) -> float | None:
        """Return the earliest start time that somebody waits for."""
        row = self.connection.execute(
            f"SELECT min(not_before) FROM jobs INDEXED BY jobs_later_due WHERE {LATER}"
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def stats(self) -> StoreStats:
        """Count the open jobs."""
        counts: dict[tuple[str, State], int] = {}
        oldest = 0.0
        for state, source in OPEN_SOURCES.items():
            rows = self.connection.execute(
                f"SELECT route, count(*), min(max(created_at, not_before)) FROM jobs {source} GROUP BY route"
            ).fetchall()
            for route, count, since in rows:
                counts[route, state] = count
                if state is State.QUEUED:
                    oldest = min(oldest or since, since)
        return StoreStats(counts, oldest)

    def unreferenced(self, keys: Sequence[str]) -> list[str]:
        """Return those of the blob keys that no record names."""
        named = "SELECT 1 FROM blob_refs WHERE key = ? LIMIT 1"
        return [key for key in keys if self.connection.execute(named, (key,)).fetchone() is None]

    def deliveries(self, limit: int) -> list[Delivery]:
        """Return webhooks to send now."""
        rows = self.connection.execute(
            "SELECT id, job_id, url, created_at, attempt, next_at FROM outbox WHERE next_at <= ? "
            "ORDER BY next_at LIMIT ?",
            (self._now(), limit),
        ).fetchall()
        return [Delivery(*row) for row in rows]

    def _jobs(self, sql: str, parameters: tuple[Any, ...]) -> list[Job]:
        return [job_of(row) for row in self.connection.execute(sql, parameters).fetchall()]
