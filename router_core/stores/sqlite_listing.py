"""Listings of the SQLite store: pages of records, newest first, at a bounded cost."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from router_core.jobs.job import OPEN, State
from router_core.jobs.store import JobQuery, Page
from router_core.stores.sqlite_rows import LATER, NO_BODY, job_of

__all__ = ["OPEN_SOURCES", "find"]

OPEN_SOURCES: Final[Mapping[State, str]] = {
    State.QUEUED: "INDEXED BY jobs_ready WHERE state = 'queued'",
    State.SCHEDULED: f"INDEXED BY jobs_later WHERE {LATER} AND state = 'scheduled'",
    State.RETRYING: f"INDEXED BY jobs_later WHERE {LATER} AND state = 'retrying'",
    State.RUNNING: "INDEXED BY jobs_lease WHERE lease_until > 0 AND state = 'running'",
    State.CANCELLING: "INDEXED BY jobs_lease WHERE lease_until > 0 AND state = 'cancelling'",
}
"""How to find the jobs of an open state without looking at those that have ended."""
_RARE: Final = frozenset({State.CANCELLED, State.EXPIRED, State.FAILED})
_RARE_SOURCE: Final = (
    "INDEXED BY jobs_owner_ended WHERE state IN ('cancelled', 'expired', 'failed') AND state = "
)
_SCAN: Final = 10_000
"""How many records one page may look at. A filter that has no index of its own then gives a short page with
a cursor rather than hold up everybody's polls."""
_LAST: Final = "~"
"""Stands behind every id."""


def find(connection: sqlite3.Connection, query: JobQuery, now: float) -> Page:
    """Return one page."""
    limit = max(1, query.limit)
    values = {
        "owner": query.owner, "route": query.route, "cursor": query.cursor or _LAST, "limit": limit + 1,
        "now": now, "floor": "",
    }  # fmt: skip
    sources = _sources(query)
    if not sources:
        values["floor"] = _floor(connection, query, values)
        sources = [_scan(query)]
    wanted = _wanted(query)
    parts = [f"SELECT * FROM (SELECT {NO_BODY} FROM jobs {source} AND {wanted})" for source in sources]
    sql = " UNION ALL ".join(parts)
    if len(parts) > 1:
        sql = f"SELECT * FROM ({sql}) ORDER BY id DESC LIMIT :limit"
    jobs = [job_of(row) for row in connection.execute(sql, values).fetchall()]
    if len(jobs) > limit:
        return Page(tuple(jobs[:limit]), jobs[limit - 1].id)
    return Page(tuple(jobs), str(values["floor"]))


def _sources(query: JobQuery) -> list[str]:
    """Return one index and condition for each state, where the states have indices."""
    states = sorted(query.states)
    if query.states and query.states <= OPEN:
        return [OPEN_SOURCES[state] for state in states]
    if query.states and query.states <= _RARE and query.owner is not None and not query.route:
        return [f"{_RARE_SOURCE}'{state.value}'" for state in states]
    return []


def _scan(query: JobQuery) -> str:
    """Return the index and condition that look at every record of the owner down to the floor."""
    states = ", ".join(f"'{state.value}'" for state in sorted(query.states))
    among = f" AND +state IN ({states})" if states else ""
    return f"INDEXED BY {_index(query)} WHERE id >= :floor{among}"


def _wanted(query: JobQuery) -> str:
    wanted = "id < :cursor AND (expires_at = 0 OR expires_at > :now)"
    wanted += "" if query.owner is None else " AND owner = :owner"
    wanted += " AND +route = :route" if query.route else ""
    return f"{wanted} ORDER BY id DESC LIMIT :limit"


def _floor(connection: sqlite3.Connection, query: JobQuery, values: Mapping[str, Any]) -> str:
    """Return the id at which the page stops looking, or nothing when there are not that many."""
    owner = "" if query.owner is None else "AND owner = :owner"
    row = connection.execute(
        f"SELECT id FROM jobs INDEXED BY {_index(query)} WHERE id < :cursor {owner} "
        f"ORDER BY id DESC LIMIT 1 OFFSET {_SCAN - 1}",
        values,
    ).fetchone()
    return "" if row is None else str(row[0])


def _index(query: JobQuery) -> str:
    return "jobs_id" if query.owner is None else "jobs_owner"
