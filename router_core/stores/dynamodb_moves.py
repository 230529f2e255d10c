"""Every change of a record in the DynamoDB job store: one conditional UpdateItem each."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from router_core.errors import StoreError
from router_core.jobs.job import TERMINAL, WAITING, Fence, Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Moved, Renewal
from router_core.stores.blob_refs import result_keys
from router_core.stores.dynamodb_blobs import BlobRefs
from router_core.stores.dynamodb_calls import AV, Item, Refused
from router_core.stores.dynamodb_change import Change, has_write
from router_core.stores.dynamodb_items import BODIES, COUNTED, RECORD, body_mark, encode, job_pk, number
from router_core.stores.dynamodb_queues import Queues, leaves
from router_core.stores.dynamodb_records import Body, Facts, Records, is_id
from router_core.stores.dynamodb_table import shard_of

__all__ = ["HELD", "Moves"]

HELD: Final = frozenset({State.RUNNING, State.CANCELLING})
_FIXED: Final = frozenset(
    {"id", "owner", "route", "state", "version", "epoch", "created_at", "event_seq", "deadline_at", "webhook"}
)
_SETTABLE: Final = frozenset(field.name for field in fields(Job)) - _FIXED
_COUNTERS: Final = frozenset({"attempt", "crash_count", "releases"})
_ORDER: Final = frozenset({"rank", "not_before"})
_KEPT_FOR_NOBODY: Final = 30 * 24 * 3600.0
"""How long after its retention DynamoDB deletes a record by itself, should no purge ever run."""


class Moves:
    """Moves and heartbeats."""

    def __init__(self, records: Records, queues: Queues, blobs: BlobRefs) -> None:
        self._records = records
        self._table = records.table
        self._queues = queues
        self._blobs = blobs

    def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move if its guards hold."""
        _check(move)
        facts = self._records.facts(job_id)
        if facts is None or (move.fence is not None and move.fence.job_id != job_id):
            return Moved(False, self._records.job(job_id))
        bodies = self._bodies(job_id, move)
        blobs = result_keys(move.sets.get("result_ref", b""))
        # all that the record will point to is there before it does (C6), and a queue is counted up first
        self._table.write_many([item for body in bodies.values() for item in body.items])
        self._blobs.add(job_id, blobs)
        returns = move.to is State.QUEUED and not move.frm <= COUNTED
        if returns:
            self._queues.joined(facts.route)
        applied, item = self._apply(job_id, move, facts, bodies)
        if returns and not applied:
            self._queues.left(facts.route)
        if not applied:
            self._take_back(job_id, item, bodies, blobs)
        elif item is not None and move.to is not None and leaves(_was(item), move.to):
            self._queues.left(facts.route)
        if item is None or "grave" in item:
            return Moved(applied, None)
        return Moved(applied, self._records.settled(item))

    def _bodies(self, job_id: str, move: Move) -> Mapping[str, Body]:
        found = {}
        for name in BODIES:
            value = move.sets.get(name)
            body = self._records.body(job_id, name, value, self._records.now()) if value else None
            if body is not None:
                found[name] = body
        return found

    def _take_back(
        self, job_id: str, item: Item | None, bodies: Mapping[str, Body], blobs: frozenset[str]
    ) -> None:
        """Remove what was written for a move that was refused."""
        self._table.write_many(
            deletes=[(str(i["pk"]["S"]), str(i["sk"]["S"])) for body in bodies.values() for i in body.items]
        )
        named = result_keys(bytes(item["result_ref"]["B"])) if item and "result_ref" in item else frozenset()
        self._blobs.remove(job_id, blobs - named)

    def _apply(
        self, job_id: str, move: Move, facts: Facts, bodies: Mapping[str, Body]
    ) -> tuple[bool, Item | None]:
        """Write; returns whether the move was made, and the item as it is now."""
        write_id = secrets.token_hex(8)
        floors = (True, False) if move.progress_floor and "progress" in move.sets else (True,)
        item: Item | None = None
        for rises in floors:
            change = self._change(job_id, move, facts, bodies, rises=rises)
            if move.to is None:
                change.set("wx", {"S": write_id})
            else:
                change.copy("was", "state")
                change.sign(write_id)
            try:
                return True, self._table.update(job_pk(job_id), RECORD, **change.parameters())
            except Refused as refused:
                item = refused.item
                if has_write(item, write_id):
                    return True, item  # an earlier try of this write was taken, and its answer lost
                if not rises or item is None or "grave" in item or not _allows(item, move):
                    break
        return False, item

    def _change(
        self, job_id: str, move: Move, facts: Facts, bodies: Mapping[str, Body], *, rises: bool
    ) -> Change:
        change = Change()
        change.require_state(move.frm)
        _guards(change, move)
        if move.progress_floor and "progress" in move.sets:
            # the larger value stays: DynamoDB has no max(), so the two cases are two writes
            change.require("progress", "<=" if rises else ">", encode("progress", move.sets["progress"]))
        change.add("version", 1)
        for name, value in move.sets.items():
            if name == "progress" and not rises:
                continue
            _write(change, name, value, bodies.get(name))
        for name, amount in move.adds.items():
            change.add(name, amount)
        if move.to is not None:
            change.set("state", {"S": move.to.value})
            _place(change, job_id, move, facts)
        elif "lease_until" in move.sets:
            change.set("agenda_at", number(move.sets["lease_until"]))
        return change

    # --- heartbeats -----------------------------------------------------------------------------

    def renew(self, fences: Sequence[Fence], lease: float) -> list[Renewal]:
        """Extend leases, one after the other: each is a write of its own.

        Those for which there is no time left are not answered for, and an error after the first does not hide
        which leases were extended: a worker that hears of none gives up all of its jobs.
        """
        renewals: list[Renewal] = []
        for fence in fences:
            try:
                renewals.append(self._renew(fence, self._records.now() + lease))
            except StoreError:
                if not renewals:
                    raise
                break
            if self._table.left() <= 0:
                break
        return renewals

    def _renew(self, fence: Fence, until: float) -> Renewal:
        if not is_id(fence.job_id):
            return Renewal(fence.job_id, False)
        change = Change()
        change.require_state(HELD)
        _fenced(change, fence)
        change.add("version", 1)
        change.set("lease_until", number(until))
        change.set("agenda_at", number(until))
        try:
            # again after an unclear answer does no harm: it only extends what is still ours
            item = self._table.update(job_pk(fence.job_id), RECORD, **change.parameters())
        except Refused:
            return Renewal(fence.job_id, False)
        return Renewal(fence.job_id, True, item["state"]["S"] == State.CANCELLING.value)


# --- the parts of a change --------------------------------------------------------------------------


def _check(move: Move) -> None:
    unknown = (set(move.sets) - _SETTABLE) | (set(move.adds) - _COUNTERS)
    if move.to is None:
        unknown |= set(move.sets) & _ORDER
        if "lease_until" in move.sets and not move.frm <= HELD:
            unknown.add("lease_until")
    if unknown:
        raise ValueError(f"{move.name}: a move cannot write {', '.join(sorted(unknown))}")
    if move.to is State.RETRYING and "not_before" not in move.sets:
        raise ValueError(f"{move.name}: a retry needs its time")


def _guards(change: Change, move: Move) -> None:
    if move.fence is not None:
        _fenced(change, move.fence)
    if move.epoch is not None:
        change.require("epoch", "=", number(move.epoch))
    if move.lease_before is not None:
        change.require("lease_until", "<", number(move.lease_before))
    if move.version is not None:
        change.require("version", "=", number(move.version))


def _fenced(change: Change, fence: Fence) -> None:
    change.require("epoch", "=", number(fence.epoch))
    change.require("token", "=", {"S": fence.token})


def _write(change: Change, name: str, value: Any, body: Body | None) -> None:
    if body is not None:
        change.set(body_mark(name), {"S": body.mark})
        change.remove(name)
        return
    change.set(name, encode(name, value))
    if name in BODIES:
        change.remove(body_mark(name))


def _place(change: Change, job_id: str, move: Move, facts: Facts) -> None:
    """Move the record to the places in the indexes that its new state has."""
    shard, sets = shard_of(job_id), move.sets
    if move.to is State.QUEUED:
        change.copy("ready", "lane_q")
        _copy_or_set(change, "ready_at", "rank", sets)
        _agenda(change, f"late#{shard}", facts.deadline_at)
    elif move.to is State.RETRYING:
        not_before = float(sets["not_before"])
        change.copy("ready", "lane_r")
        change.set("ready_at", number(not_before))
        _agenda(
            change,
            f"retry#{shard}",
            min(not_before, facts.deadline_at) if facts.deadline_at else not_before,
            always=True,
        )
    elif move.to in TERMINAL:
        _end(change, shard, sets, facts)
    elif "lease_until" in sets:
        change.set("agenda_at", number(sets["lease_until"]))
    if move.to not in WAITING and move.frm & WAITING:
        change.remove("ready", "ready_at")


def _end(change: Change, shard: int, sets: Mapping[str, Any], facts: Facts) -> None:
    expires_at = float(sets.get("expires_at", 0.0))
    change.set("listed", {"S": f"done#{shard}"})
    if expires_at:
        change.set("ttl", {"N": str(int(expires_at + _KEPT_FOR_NOBODY))})
    if facts.has_webhook:
        # the outbox: a row of it is the record itself, standing in the agenda by its next try (I9)
        change.set("hook_at", number(float(sets.get("finished_at", 0.0))))
        change.set("hook_try", {"N": "0"})
        _agenda(change, f"hook#{shard}", float(sets.get("finished_at", 0.0)), always=True)
    else:
        _agenda(change, f"end#{shard}", expires_at)


def _agenda(change: Change, kind: str, at: float, *, always: bool = False) -> None:
    if at or always:
        change.set("agenda", {"S": kind})
        change.set("agenda_at", number(at))
    else:
        change.remove("agenda", "agenda_at")


def _copy_or_set(change: Change, attribute: str, source: str, sets: Mapping[str, Any]) -> None:
    if source in sets:
        change.set(attribute, number(sets[source]))
    else:
        change.copy(attribute, source)


def _was(item: Item) -> str:
    return str(item["was"]["S"])


def _allows(item: Mapping[str, AV], move: Move) -> bool:
    """Return whether a record would take a move, progress aside."""
    if State(item["state"]["S"]) not in move.frm:
        return False
    epoch = int(item["epoch"]["N"])
    if move.fence is not None and (move.fence.epoch, move.fence.token) != (epoch, item["token"]["S"]):
        return False
    if move.epoch is not None and move.epoch != epoch:
        return False
    if move.lease_before is not None and float(item["lease_until"]["N"]) >= move.lease_before:
        return False
    return move.version is None or move.version == int(item["version"]["N"])
