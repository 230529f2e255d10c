"""Taking jobs from the queues of the SQLite store, and knowing how full they are."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from router_core.errors import QueueFull
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.stores.drain import DrainRate
from router_core.stores.sqlite_rows import COLUMNS, job_of

__all__ = ["Admission", "Claims"]

_TAKE: Final = (
    "UPDATE jobs SET state = 'running', version = version + 1, epoch = epoch + 1, attempt = attempt + 1, "
    "token = lower(hex(randomblob(16))), started_at = ?, progress = 0, message = '', worker_id = ?, "
    "lease_until = ? "
)
_READY: Final = (
    "SELECT seq FROM jobs INDEXED BY jobs_ready WHERE route = ? AND state = 'queued' AND not_before <= ? "
    "AND (deadline_at = 0 OR deadline_at > ?) ORDER BY rank LIMIT ?"
)
_TAKE_READY: Final = f"{_TAKE} WHERE seq IN ({_READY}) RETURNING {COLUMNS}"
_TAKE_SEQ: Final = f"{_TAKE} WHERE seq = ? RETURNING {COLUMNS}"
_TAKE_ID: Final = (
    f"{_TAKE} WHERE id = ? AND (+state = 'queued' OR +state = 'retrying') AND not_before <= ? "
    f"AND (deadline_at = 0 OR deadline_at > ?) RETURNING {COLUMNS}"
)
_ANY_RETRY: Final = (
    "SELECT 1 FROM jobs INDEXED BY jobs_retry "
    "WHERE route = ? AND state = 'retrying' AND not_before <= ? LIMIT 1"
)
_RETRY_WINDOW: Final = 256
"""Among how many due retries, earliest first, the best rank is looked for: bounds the cost of a claim."""
_BEST: Final = (
    "SELECT seq, waited FROM ("
    "SELECT * FROM (SELECT seq, rank, 1 AS waited FROM jobs INDEXED BY jobs_ready WHERE route = ? "
    "AND state = 'queued' AND not_before <= ? AND (deadline_at = 0 OR deadline_at > ?) "
    "ORDER BY rank LIMIT ?) "
    "UNION ALL "
    "SELECT * FROM (SELECT seq, rank, 0 AS waited FROM jobs INDEXED BY jobs_retry WHERE route = ? "
    "AND state = 'retrying' AND not_before <= ? AND (deadline_at = 0 OR deadline_at > ?) "
    f"ORDER BY not_before LIMIT {_RETRY_WINDOW})"
    ") ORDER BY rank LIMIT ?"
)
_DEPTH: Final = (
    "SELECT (SELECT count(*) FROM jobs INDEXED BY jobs_ready WHERE route = :route AND state = 'queued') + "
    "(SELECT count(*) FROM jobs INDEXED BY jobs_scheduled WHERE route = :route AND state = 'scheduled')"
)


class Admission:
    """Knows how many jobs of a route wait, without counting them for every submission.

    Only this process adds jobs, so a count can be carried forward: our own additions and returned jobs raise
    it, and whatever else happens only lowers it. It is an upper bound at all times, and when the bound says
    full and jobs may have left unseen, it is counted anew: the answer is exact. Where several processes add
    (``shared``), nothing can be carried and every submission counts.
    """

    def __init__(self, monotonic: Callable[[], float], *, shared: bool) -> None:
        self._monotonic = monotonic
        self._shared = shared
        self._bounds: dict[str, int] = {}
        self._exact: set[str] = set()
        self._drain = DrainRate()

    def admit(self, connection: sqlite3.Connection, route: str, limit: int) -> None:
        """Raise QueueFull when ``limit`` jobs of the route wait."""
        bound = self._bounds.get(route)
        if bound is None or self._shared or (bound >= limit and route not in self._exact):
            bound = self._bounds[route] = int(connection.execute(_DEPTH, {"route": route}).fetchone()[0])
            self._exact.add(route)
        if bound >= limit:
            wait = self._drain.retry_after(route, bound, self._monotonic())
            raise QueueFull(
                f"{bound} jobs of {route} wait already; its queue holds {limit}", retry_after=wait,
                extra={"queue_size": limit},
            )  # fmt: skip

    def joined(self, route: str) -> None:
        """Note one more waiting job."""
        bound = self._bounds.get(route)
        if bound is not None:
            self._bounds[route] = bound + 1

    def taken(self, route: str, waited: int, count: int) -> None:
        """Note that workers took ``count`` jobs, ``waited`` of them from the counted queue."""
        bound = self._bounds.get(route)
        if bound is not None:
            self._bounds[route] = bound - waited
        self._drain.taken(route, count, self._monotonic())

    def unsure(self, route: str) -> None:
        """Note that a job may have left the queue."""
        self._exact.discard(route)

    def forget(self) -> None:
        """Start over: writes that were counted may not have happened."""
        self._bounds.clear()
        self._exact.clear()


class Claims:
    """C1: hand ready jobs to a worker."""

    def __init__(self, now: Callable[[], float], admission: Admission) -> None:
        self._now = now
        self._admission = admission

    def take(self, connection: sqlite3.Connection, claim: Claim) -> list[Job]:
        """Take what the claim asks for and is ready."""
        now = self._now()
        lease = (now, claim.worker_id, now + claim.lease)
        if claim.job_id:
            rows = connection.execute(_TAKE_ID, (*lease, claim.job_id, now, now)).fetchall()
            jobs = [job_of(row) for row in rows]
            for job in jobs:
                self._admission.taken(job.route, 0, 1)
                self._admission.unsure(job.route)
            return jobs
        taken: list[Job] = []
        for route, free in claim.slots.items():
            if free > 0:
                taken += self._take_route(connection, route, free, lease)
        return taken

    def _take_route(
        self, connection: sqlite3.Connection, route: str, free: int, lease: tuple[float, str, float]
    ) -> list[Job]:
        now = lease[0]
        if connection.execute(_ANY_RETRY, (route, now)).fetchone() is None:
            rows = connection.execute(_TAKE_READY, (*lease, route, now, now, free)).fetchall()
            waited = len(rows)
        else:
            best = connection.execute(_BEST, (route, now, now, free, route, now, now, free)).fetchall()
            rows = [connection.execute(_TAKE_SEQ, (*lease, seq)).fetchall()[0] for seq, _ in best]
            waited = sum(in_queue for _, in_queue in best)
        if not rows:
            return []
        self._admission.taken(route, waited, len(rows))
        jobs = [job_of(row) for row in rows]
        if len(jobs) > 1:
            jobs.sort(key=_rank)
        return jobs


def _rank(job: Job) -> float:
    return job.rank


def leaves_queue(frm: frozenset[State], to: State | None) -> bool:
    """Return whether a move may take a job out of the counted queue."""
    return to is not None and to is not State.QUEUED and (State.QUEUED in frm or State.SCHEDULED in frm)
