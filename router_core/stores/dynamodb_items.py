"""Records to items of DynamoDB and back, and where an item stands in the indexes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from router_core.jobs.job import TERMINAL, Job, State, Tombstone
from router_core.stores.dynamodb_calls import AV, Item
from router_core.stores.dynamodb_table import key_part, shard_of

__all__ = [
    "BODIES",
    "CHAIN",
    "COUNTED",
    "INLINE",
    "RECORD",
    "agenda_of",
    "base_item",
    "body_mark",
    "encode",
    "end_agenda",
    "grave_of",
    "id_of",
    "job_of",
    "job_pk",
    "number",
    "tombstone_item",
    "value_of",
]

RECORD: Final = "R"
"""Sort key of a record."""
INLINE: Final = 8 * 1024
"""A larger value gets an item of its own: DynamoDB charges each write, a heartbeat too, by the size of the
whole item, and 256 KB of input beside 256 KB of result would not fit into one."""
BODIES: Final = ("input", "result", "result_ref", "error", "attempts", "steps")
"""Fields that may be large."""
COUNTED: Final = frozenset({State.QUEUED, State.SCHEDULED})
"""States that fill a queue."""
CHAIN: Final = ("w0", "w1", "w2", "w3")
"""Ids of the last changes of state, newest first. One that finds its own here has happened, though another
may have followed before it could look (C3)."""
_TYPES: Final[Mapping[str, str]] = {field.name: str(field.type) for field in fields(Job)}
_KEPT: Final = frozenset({"version", "epoch", "attempt", "crash_count", "releases", "progress", "event_seq"})
"""Numbers that updates add to, and so have to be there even when they are 0."""
_ALWAYS: Final = _KEPT | {"token", "rank", "not_before", "deadline_at", "lease_until"}
_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in fields(Job)}
_SMALLEST: Final = 1e-120
"""DynamoDB keeps no number nearer to nought than 1e-130."""


def job_pk(job_id: str) -> str:
    """Return the partition of all items of a job."""
    return f"J#{job_id}"


def id_of(item: Item) -> str:
    """Return the job that an item of its partition belongs to."""
    return str(item["pk"]["S"])[2:]


def body_mark(name: str) -> str:
    """Return the attribute that names the item of a field that does not stand in the record."""
    return f"{name}@"


# --- values -----------------------------------------------------------------------------------------


def number(value: float) -> AV:
    """Return a number as DynamoDB writes it: a whole one without a point."""
    if abs(value) < _SMALLEST:
        return {"N": "0"}
    return {"N": str(int(value)) if value == int(value) else repr(value)}


def encode(name: str, value: Any) -> AV:
    """Return the value of a field as DynamoDB writes it."""
    kind = _TYPES[name]
    if kind == "bytes":
        return {"B": value}
    if kind == "bool":
        return {"BOOL": bool(value)}
    if kind in ("int", "float"):
        return number(value)
    if kind in ("str", "State"):
        return {"S": _sound(str(value))}
    return {"S": json.dumps(dict(value), separators=(",", ":"))}


def _sound(text: str) -> str:
    """Return the text without halves of characters, which are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def value_of(name: str, av: AV) -> Any:
    """Return the value of a field."""
    ((_, raw),) = av.items()
    kind = _TYPES[name]
    if kind == "bytes":
        return bytes(raw)
    if kind == "float":
        return float(raw)
    if kind == "int":
        return int(raw)
    if kind == "State":
        return State(raw)
    return raw if kind in ("bool", "str") else json.loads(raw)


# --- records ----------------------------------------------------------------------------------------


def job_of(item: Item, bodies: Mapping[str, bytes] | None = None) -> Job:
    """Return the record that an item holds; ``bodies`` are the fields that stand elsewhere."""
    values = {name: value_of(name, item[name]) for name in _TYPES if name in item}
    return Job(**{**values, **(bodies or {})})


def base_item(job: Job, write_id: str) -> dict[str, AV]:
    """Return the item of a new record, with its places in the indexes."""
    item: dict[str, AV] = {"pk": {"S": job_pk(job.id)}, "sk": {"S": RECORD}}
    for name in _TYPES:
        value = getattr(job, name)
        if name in _ALWAYS or (value != _DEFAULTS[name] and value != {}):
            item[name] = encode(name, value)
    route = key_part(job.route)
    # an update can copy what stands in the item, and cannot put texts together
    item["lane_q"], item["lane_r"] = {"S": f"q#{route}"}, {"S": f"r#{route}"}
    item["was"] = {"S": ""}
    item["first_seq"] = {"N": str(job.event_seq + 1)}
    for link in CHAIN:
        item[link] = {"S": ""}
    item[CHAIN[0]] = {"S": write_id}
    item["owned"] = {"S": f"o#{key_part(job.owner)}"}
    item["listed"] = {"S": f"{'done' if job.terminal else 'open'}#{shard_of(job.id)}"}
    if job.state is State.QUEUED:
        item["ready"], item["ready_at"] = item["lane_q"], item["rank"]
    elif job.state is State.RETRYING:
        item["ready"], item["ready_at"] = item["lane_r"], item["not_before"]
    agenda = agenda_of(job)
    if agenda is not None:
        item["agenda"], item["agenda_at"] = agenda
    return item


def agenda_of(job: Job) -> tuple[AV, AV] | None:
    """Return under what, and by when, an open job stands in the agenda."""
    if job.state is State.QUEUED:
        return _entry("late", job.id, job.deadline_at) if job.deadline_at else None
    if job.state in (State.SCHEDULED, State.RETRYING):
        kind = "sched" if job.state is State.SCHEDULED else "retry"
        at = min(job.not_before, job.deadline_at) if job.deadline_at else job.not_before
        return _entry(kind, job.id, at)
    if job.state in TERMINAL:
        return end_agenda(job) if job.expires_at else None
    return _entry("lease", job.id, job.lease_until)


def end_agenda(job: Job) -> tuple[AV, AV]:
    """Return when an ended record is to be purged."""
    return _entry("end", job.id, job.expires_at)


def _entry(kind: str, job_id: str, at: float) -> tuple[AV, AV]:
    return {"S": f"{kind}#{shard_of(job_id)}"}, number(at)


# --- tombstones -------------------------------------------------------------------------------------


def tombstone_item(job: Job, until: float) -> dict[str, AV]:
    """Return the item that stands in the place of a purged record."""
    return {
        "pk": {"S": job_pk(job.id)}, "sk": {"S": RECORD}, "owner": encode("owner", job.owner),
        "grave": number(until), "ttl": {"N": str(int(until) + 1)},
    }  # fmt: skip


def grave_of(item: Item, now: float) -> Tombstone | None:
    """Return the tombstone that an item holds, until it has expired: DynamoDB deletes up to 2 days late."""
    until = float(item["grave"]["N"])
    return Tombstone(id_of(item), str(item["owner"]["S"]), until) if until > now else None
