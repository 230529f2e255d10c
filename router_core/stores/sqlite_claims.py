"""C1 in the SQLite store: hand ready jobs to a worker."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from router_core.jobs.job import Job
from router_core.jobs.store import Claim
from router_core.stores.sqlite_queues import Queues
from router_core.stores.sqlite_rows import COLUMNS, LATER, claimed

__all__ = ["Claims"]

_READY: Final = (
    f"SELECT 1, seq, {COLUMNS} FROM jobs INDEXED BY jobs_ready WHERE route = ? AND state = 'queued' "
    "AND not_before <= ? AND (deadline_at = 0 OR deadline_at > ?) ORDER BY rank LIMIT ?"
)
_RETRY_WINDOW: Final = 256
"""Among how many due retries, earliest first, the best rank is looked for: bounds the cost of a claim."""
_DUE_RETRY: Final = (
    f"SELECT 0, seq, {COLUMNS} FROM jobs INDEXED BY jobs_later WHERE {LATER} AND state = 'retrying' "
    "AND route = ? AND not_before <= ? AND (deadline_at = 0 OR deadline_at > ?) "
    f"ORDER BY not_before LIMIT {_RETRY_WINDOW}"
)
_BEST: Final = (
    f"SELECT * FROM (SELECT * FROM ({_READY}) UNION ALL SELECT * FROM ({_DUE_RETRY})) ORDER BY rank LIMIT ?"
)
_BY_ID: Final = (
    f"SELECT state = 'queued', seq, {COLUMNS} FROM jobs WHERE id = ? AND +state IN ('queued', 'retrying') "
    "AND not_before <= ? AND (deadline_at = 0 OR deadline_at > ?)"
)
_TAKE: Final = (
    "UPDATE jobs SET state = 'running', version = version + 1, epoch = epoch + 1, attempt = attempt + 1, "
    "token = ?, started_at = ?, progress = 0, message = '', worker_id = ?, lease_until = ? WHERE seq = ?"
)


class Claims:
    """Finds the best ready jobs and makes them a worker's, within the writer's transaction."""

    def __init__(self, now: Callable[[], float], queues: Queues) -> None:
        self._now = now
        self._queues = queues

    def take(self, connection: sqlite3.Connection, claim: Claim) -> list[Job]:
        """Take what the claim asks for and is ready, best rank first."""
        now = self._now()
        if claim.job_id:
            rows = connection.execute(_BY_ID, (claim.job_id, now, now)).fetchall()
            return self._make_theirs(connection, claim, rows, now)
        taken: list[Job] = []
        for route, free in claim.slots.items():
            if free <= 0:
                continue
            if self._queues.retry_is_due(connection, route, now):
                rows = connection.execute(_BEST, (route, now, now, free, route, now, now, free)).fetchall()
            else:
                rows = connection.execute(_READY, (route, now, now, free)).fetchall()
            if rows:
                taken += self._make_theirs(connection, claim, rows, now)
        return taken

    def _make_theirs(
        self, connection: sqlite3.Connection, claim: Claim, rows: Sequence[tuple[Any, ...]], now: float
    ) -> list[Job]:
        if not rows:
            return []
        until = now + claim.lease
        jobs = []
        waited = 0
        for row in rows:
            token = secrets.token_hex(16)
            connection.execute(_TAKE, (token, now, claim.worker_id, until, row[1]))
            waited += row[0]
            jobs.append(claimed(row[2:], token=token, now=now, worker_id=claim.worker_id, lease_until=until))
        self._queues.taken(jobs[0].route, waited, len(jobs) - waited)
        return jobs
