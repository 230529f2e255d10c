"""Records to rows and back, and the SQL of a move."""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, Final

from router_core.jobs.job import Job, State
from router_core.jobs.moves import Move

__all__ = ["COLUMNS", "INSERTS", "LATER", "NO_BODY", "Inserts", "MoveStatements", "claimed", "job_of"]

_FIELDS: Final = tuple(field.name for field in fields(Job))
_STATE: Final = _FIELDS.index("state")
_PENDING: Final = _FIELDS.index("dispatch_pending")
_VERSION, _EPOCH, _ATTEMPT, _TOKEN, _STARTED, _PROGRESS, _MESSAGE, _WORKER, _LEASE = (
    _FIELDS.index(name)
    for name in (
        "version", "epoch", "attempt", "token", "started_at", "progress", "message", "worker_id",
        "lease_until",
    )
)  # fmt: skip
_STATES: Final[Mapping[str, State]] = {state.value: state for state in State}

if _FIELDS[-1] != "meta":  # job_of relies on it
    raise AssertionError("meta must be the last field of Job")

COLUMNS: Final = ", ".join(_FIELDS)
"""What every query that returns records selects, in the order of ``Job``'s fields."""
NO_BODY: Final = ", ".join("x''" if name in ("input", "result") else name for name in _FIELDS)
"""The same without input and result, for listings."""

LATER: Final = "state IN ('retrying', 'scheduled')"
"""The condition of the indices of jobs that wait for a time; a query has to repeat it to use them."""


def job_of(row: tuple[Any, ...]) -> Job:
    """Turn a row of ``COLUMNS`` into a record."""
    values = list(row)
    values[_STATE] = _STATES[row[_STATE]]
    values[_PENDING] = row[_PENDING] != 0
    meta = row[-1]
    values[-1] = {} if meta == "{}" else json.loads(meta)
    return Job(*values)


def claimed(row: tuple[Any, ...], *, token: str, now: float, worker_id: str, lease_until: float) -> Job:
    """Turn a row as it stood before a claim into the record as it stands after it."""
    values = list(row)
    values[_STATE] = State.RUNNING
    values[_VERSION] += 1
    values[_EPOCH] += 1
    values[_ATTEMPT] += 1
    values[_TOKEN] = token
    values[_STARTED] = now
    values[_PROGRESS] = 0.0
    values[_MESSAGE] = ""
    values[_WORKER] = worker_id
    values[_LEASE] = lease_until
    values[_PENDING] = row[_PENDING] != 0
    meta = row[-1]
    values[-1] = {} if meta == "{}" else json.loads(meta)
    return Job(*values)


# --- insert -------------------------------------------------------------------------------------

_USUAL: Final = (
    "id", "owner", "route", "state", "created_at", "input", "max_attempts", "priority", "rank", "not_before",
    "deadline_at", "timeout", "idem_hash", "webhook", "request_id", "dispatch_pending",
)  # fmt: skip
"""What a submission sets; the other columns of a new job hold their defaults and cost nothing to write."""


class Inserts:
    """The two ways to insert a record: the usual columns, or all of them."""

    def __init__(self) -> None:
        rest = tuple(name for name in _FIELDS if name not in _USUAL and name != "meta")
        by_name = {field.name: field for field in fields(Job)}
        self._rest = attrgetter(*rest)
        self._rest_defaults = tuple(by_name[name].default for name in rest)
        if MISSING in self._rest_defaults:
            raise AssertionError("a field of Job without default must be among the usual ones")
        self._usual = attrgetter(*_USUAL)
        self._all = attrgetter(*_USUAL, *rest)
        self._usual_sql = _insert(_USUAL)
        self._all_sql = _insert((*_USUAL, *rest, "meta", "has_blobs"))

    def statement(self, job: Job, has_blobs: bool) -> tuple[str, tuple[Any, ...]]:
        """Return SQL and parameters that insert the record."""
        if not has_blobs and not job.meta and self._rest(job) == self._rest_defaults:
            return self._usual_sql, self._usual(job)
        meta = json.dumps(dict(job.meta), separators=(",", ":")) if job.meta else "{}"
        return self._all_sql, (*self._all(job), meta, has_blobs)


def _insert(names: tuple[str, ...]) -> str:
    return f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


INSERTS: Final = Inserts()


# --- moves --------------------------------------------------------------------------------------

_SETTABLE: Final = frozenset(_FIELDS) - {
    "id",
    "owner",
    "route",
    "state",
    "version",
    "epoch",
    "created_at",
    "event_seq",
}
_COUNTERS: Final = frozenset({"attempt", "crash_count", "releases"})


class MoveStatements:
    """SQL of moves, built once for each shape of move that is seen."""

    def __init__(self) -> None:
        self._cache: dict[tuple[object, ...], str] = {}

    def statement(self, job_id: str, move: Move) -> tuple[str, list[Any]]:
        """Return SQL that applies the move if its guards hold, with its parameters."""
        fence = move.fence
        shape = (
            move.frm, move.to, fence is None, move.epoch is None, move.lease_before is None,
            move.version is None, move.progress_floor, tuple(move.sets), tuple(move.adds),
        )  # fmt: skip
        sql = self._cache.get(shape)
        if sql is None:
            sql = self._cache[shape] = _update(move)
        parameters = [json.dumps(dict(v)) if k == "meta" else v for k, v in move.sets.items()]
        parameters.extend(move.adds.values())
        parameters.append(job_id)
        if fence is not None:
            parameters.append(fence.epoch)
            parameters.append(fence.token)
        for guard in (move.epoch, move.lease_before, move.version):
            if guard is not None:
                parameters.append(guard)
        return sql, parameters


def _update(move: Move) -> str:
    unknown = (set(move.sets) - _SETTABLE) | (set(move.adds) - _COUNTERS)
    if unknown:
        raise ValueError(f"{move.name}: a move cannot write {', '.join(sorted(unknown))}")
    writes = ["version = version + 1"]
    if move.to is not None:
        writes.append(f"state = '{move.to.value}'")
    for name in move.sets:
        writes.append(
            "progress = max(progress, ?)" if move.progress_floor and name == "progress" else f"{name} = ?"
        )
    writes.extend(f"{name} = {name} + ?" for name in move.adds)
    states = sorted(state.value for state in move.frm)
    guards = ["id = ?"]
    if move.fence is not None:
        guards.append("epoch = ? AND token = ?")
    if move.epoch is not None:
        guards.append("epoch = ?")
    if move.lease_before is not None:
        guards.append("lease_until < ?")
    if move.version is not None:
        guards.append("version = ?")
    # `+` keeps the planner off the indices of single states: the id finds the row
    guards.append(f"+state = '{states[0]}'" if len(states) == 1 else f"+state IN {tuple(states)}")
    return f"UPDATE jobs SET {', '.join(writes)} WHERE {' AND '.join(guards)}"
