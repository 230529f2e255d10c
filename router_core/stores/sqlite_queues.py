"""What the SQLite store's writer remembers of its queues, so that it need not ask the file each time."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from typing import Final

from router_core.errors import QueueFull
from router_core.jobs.job import Job, State
from router_core.stores.drain import DrainRate
from router_core.stores.sqlite_rows import LATER

__all__ = ["Queues"]

_COUNTED: Final = frozenset({State.QUEUED, State.SCHEDULED})
_DEPTH: Final = (
    "SELECT (SELECT count(*) FROM jobs INDEXED BY jobs_ready WHERE route = :route AND state = 'queued') + "
    f"(SELECT count(*) FROM jobs INDEXED BY jobs_later WHERE {LATER} AND state = 'scheduled' "
    "AND route = :route)"
)
_FIRST_RETRY: Final = (
    f"SELECT min(not_before) FROM jobs INDEXED BY jobs_later WHERE {LATER} AND state = 'retrying' "
    "AND route = ?"
)


class Queues:
    """Depth and next retry of each route.

    Only this process writes, so both can be carried forward. The depth is an upper bound at all times: our
    additions and returned jobs raise it, whatever else happens only lowers it. When the bound says full and
    jobs may have left unseen it is counted anew, so the answer is exact. The next retry is a lower bound in
    the same way. Where several processes write (``shared``) nothing is carried and every call asks the file.
    """

    def __init__(self, monotonic: Callable[[], float], *, shared: bool) -> None:
        self._monotonic = monotonic
        self._shared = shared
        self._depths: dict[str, int] = {}
        self._exact: set[str] = set()
        self._retries: dict[str, float] = {}
        self._drain = DrainRate()

    def admit(self, connection: sqlite3.Connection, route: str, limit: int) -> None:
        """Raise QueueFull when ``limit`` jobs of the route wait."""
        depth = self._depths.get(route)
        if depth is None or self._shared or (depth >= limit and route not in self._exact):
            depth = self._depths[route] = int(connection.execute(_DEPTH, {"route": route}).fetchone()[0])
            self._exact.add(route)
        if depth >= limit:
            raise QueueFull(
                f"{depth} jobs of {route} wait already; its queue holds {limit}",
                retry_after=self._drain.retry_after(route, depth, self._monotonic()),
                extra={"queue_size": limit},
            )

    def retry_is_due(self, connection: sqlite3.Connection, route: str, now: float) -> bool:
        """Return whether a retry of the route may start now."""
        at = self._retries.get(route)
        if at is None or self._shared:
            first = connection.execute(_FIRST_RETRY, (route,)).fetchone()[0]
            at = self._retries[route] = math.inf if first is None else first
        return at <= now

    def added(self, job: Job) -> None:
        """Note a new record."""
        if job.state in _COUNTED:
            self._joined(job.route)
        elif job.state is State.RETRYING:
            self._retries.pop(job.route, None)

    def taken(self, route: str, waited: int, retried: int) -> None:
        """Note that workers took jobs: ``waited`` from the queue, ``retried`` from the retries."""
        if waited and route in self._depths:
            self._depths[route] -= waited
        if retried:
            self._retries.pop(route, None)
        self._drain.taken(route, waited + retried, self._monotonic())

    def moved(self, job: Job, frm: frozenset[State], to: State) -> None:
        """Note that a move from one of some states was applied."""
        if to is State.QUEUED:
            if State.SCHEDULED not in frm:
                self._joined(job.route)
            return
        if frm & _COUNTED:
            self._exact.discard(job.route)
        if to is State.RETRYING:
            at = self._retries.get(job.route)
            if at is not None:
                self._retries[job.route] = min(at, job.not_before)

    def forget(self) -> None:
        """Start over: writes that were counted may not have happened."""
        self._depths.clear()
        self._exact.clear()
        self._retries.clear()

    def _joined(self, route: str) -> None:
        depth = self._depths.get(route)
        if depth is not None:
            self._depths[route] = depth + 1
