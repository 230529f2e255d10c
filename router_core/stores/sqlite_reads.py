"""Every read of the SQLite job store; runs in the reader's thread on a connection that cannot write."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from router_core.clock import Clock
from router_core.jobs.job import OPEN, Event, Job, State, Tombstone
from router_core.jobs.store import Delivery, EventPage, JobQuery, Page, StoreStats
from router_core.stores.limits import TOMBSTONE_SECONDS
from router_core.stores.sqlite_rows import COLUMNS, LATER, NO_BODY, job_of

__all__ = ["SqliteReads"]

_BY_ID: Final = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"
_RARE: Final = frozenset({State.CANCELLED, State.EXPIRED, State.FAILED})
_RARE_SQL: Final = "state IN ('cancelled', 'expired', 'failed')"
_SCAN: Final = 10_000
"""How many records one page of a listing may look at. A filter without an index of its own then returns a
short page with a cursor instead of holding up everybody's polls."""
_BY_STATE: Final = {
    State.QUEUED: "INDEXED BY jobs_ready WHERE state = 'queued'",
    State.SCHEDULED: f"INDEXED BY jobs_later WHERE {LATER} AND state = 'scheduled'",
    State.RETRYING: f"INDEXED BY jobs_later WHERE {LATER} AND state = 'retrying'",
    State.RUNNING: "INDEXED BY jobs_lease WHERE lease_until > 0 AND state = 'running'",
    State.CANCELLING: "INDEXED BY jobs_lease WHERE lease_until > 0 AND state = 'cancelling'",
}
"""How to find the jobs of an open state without looking at those that have ended."""


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

    # --- listing ----------------------------------------------------------------------------

    def find(self, query: JobQuery) -> Page:
        """Return one page of records, newest first."""
        limit = max(1, query.limit)
        sql, parameters, bounded = _listing(query, limit, self._now())
        jobs = [job_of(row) for row in self.connection.execute(sql, parameters).fetchall()]
        if len(jobs) > limit:
            return Page(tuple(jobs[:limit]), jobs[limit - 1].id)
        return Page(tuple(jobs), self._rest(query) if bounded else "")

    def _rest(self, query: JobQuery) -> str:
        """Return the cursor behind the records that a bounded listing looked at, or nothing at the end."""
        owner = "" if query.owner is None else "AND owner = :owner"
        row = self.connection.execute(
            f"SELECT id FROM jobs WHERE id < :cursor {owner} ORDER BY id DESC LIMIT 1 OFFSET {_SCAN - 1}",
            {"owner": query.owner, "cursor": query.cursor or "~"},
        ).fetchone()
        return "" if row is None else str(row[0])

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
        for state, source in _BY_STATE.items():
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


def _listing(query: JobQuery, limit: int, now: float) -> tuple[str, dict[str, Any], bool]:
    """Return SQL, parameters, and whether the query looks at a bounded number of records."""
    parameters = {
        "owner": query.owner, "route": query.route, "cursor": query.cursor or "~", "limit": limit + 1,
        "now": now,
    }  # fmt: skip
    wanted = "id < :cursor AND (expires_at = 0 OR expires_at > :now)"
    wanted += "" if query.owner is None else " AND owner = :owner"
    wanted += " AND route = :route" if query.route else ""
    order = "ORDER BY id DESC LIMIT :limit"
    if query.states and query.states <= OPEN:
        parts = [
            f"SELECT {NO_BODY} FROM jobs {_BY_STATE[state]} AND {wanted}" for state in sorted(query.states)
        ]
        return f"SELECT * FROM ({' UNION ALL '.join(parts)}) {order}", parameters, False
    states = (
        " AND state IN ({})".format(", ".join(f"'{s.value}'" for s in sorted(query.states)))
        if query.states
        else ""
    )
    if query.owner is not None and not query.route and query.states and query.states <= _RARE:
        index = "INDEXED BY jobs_owner_ended"
        return (
            f"SELECT {NO_BODY} FROM jobs {index} WHERE {_RARE_SQL} AND {wanted}{states} {order}",
            parameters,
            False,
        )
    index = "jobs_id" if query.owner is None else "jobs_owner"
    owner = "" if query.owner is None else "AND owner = :owner"
    inner = f"SELECT * FROM jobs INDEXED BY {index} WHERE id < :cursor {owner} ORDER BY id DESC LIMIT {_SCAN}"
    return f"SELECT {NO_BODY} FROM ({inner}) WHERE {wanted}{states} {order}", parameters, True
