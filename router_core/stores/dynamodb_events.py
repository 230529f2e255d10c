"""Events of jobs in the DynamoDB job store: packs of them beside the record, which holds their numbers.

A batch becomes one pack, written in one transaction with the number of its last event: no reader sees a
number without its event, and no worker whose fence is old writes either. A pack is cut into pieces, as an
item holds 400 KB and a single event may have more.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from router_core.errors import Fenced, StoreError
from router_core.jobs.job import Event, Fence, State
from router_core.jobs.store import EventPage, NewEvent
from router_core.stores.dynamodb_calls import AV, PATIENCE, Item, Refused
from router_core.stores.dynamodb_change import Change, has_write
from router_core.stores.dynamodb_items import RECORD, job_pk, number
from router_core.stores.dynamodb_records import Records, last_resort
from router_core.stores.limits import EVENT_BYTES, EVENT_COUNT

__all__ = ["EventPacks"]

_PIECE: Final = 300_000
_RINGS: Final = 256
_TRIES: Final = 8


@dataclass(slots=True)
class _Ring:
    """What is kept of one job's events, as this process last wrote or read it."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever appends: they would only refuse each other's numbers."""
    epoch: int = -1
    """The claim under which this was read or written; another one reads again."""
    attempt: int = 0
    last: int = 0
    sizes: deque[int] = field(default_factory=deque)
    packs: deque[tuple[int, int, int]] = field(default_factory=deque)
    """Of each pack, oldest first: its first number, its last one, how many pieces it has."""

    @property
    def first(self) -> int:
        """The number of the oldest event; greater than ``last`` when none is kept."""
        return self.last - len(self.sizes) + 1


class EventPacks:
    """``append`` and ``events``."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._table = records.table
        self._guard = threading.Lock()
        self._rings: OrderedDict[str, _Ring] = OrderedDict()

    # --- writing --------------------------------------------------------------------------------

    def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events, dropping the oldest beyond the ring's size."""
        with self._ring(fence.job_id) as ring:
            if ring.epoch != fence.epoch or not events:
                self._read(ring, self._held(self._records.item(fence.job_id), fence))
            if not events:
                return ring.last
            for _ in range(_TRIES):
                try:
                    return self._append(ring, fence, events)
                except Refused as refused:
                    # somebody else has appended under this fence, from another process
                    there = refused.item or self._records.item(fence.job_id)
                    self._read(ring, self._held(there, fence))
            raise StoreError(f"too many writers append events of job {fence.job_id} at once")

    def _append(self, ring: _Ring, fence: Fence, events: Sequence[NewEvent]) -> int:
        sizes = [*ring.sizes, *(len(event.data) for event in events)]
        last = ring.last + len(events)
        kept = _kept(sizes)
        first = last - kept + 1
        mine = min(kept, len(events))
        now = self._records.now()
        write_id = secrets.token_hex(8)
        pieces: list[dict[str, AV]] = []
        if mine:
            mine_only = events[len(events) - mine :]
            pieces = _pack(fence.job_id, last - mine + 1, mine_only, now, ring.attempt)
        change = Change()
        change.require_state({State.RUNNING})
        change.require("epoch", "=", number(fence.epoch))
        change.require("token", "=", {"S": fence.token})
        change.require("event_seq", "=", number(ring.last))
        change.add("version", 1)
        change.set("event_seq", number(last))
        change.set("first_seq", number(first))
        change.set("wx", {"S": write_id})
        self._commit(fence.job_id, write_id, change, pieces)
        ring.last = last
        ring.sizes = deque(sizes[len(sizes) - kept :])
        if mine:
            ring.packs.append((last - mine + 1, last, len(pieces)))
        self._drop(fence.job_id, ring)
        return last

    def _commit(self, job_id: str, write_id: str, change: Change, pieces: list[dict[str, AV]]) -> None:
        key = {"pk": {"S": job_pk(job_id)}, "sk": {"S": RECORD}}
        update = {
            "Update": {"Key": key, **change.parameters(), "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        }
        try:
            self._table.transact(write_id, [update, *({"Put": {"Item": piece}} for piece in pieces)])
        except Refused as refused:
            # it may have been taken before, and its answer lost
            if not has_write(refused.item or self._records.item(job_id), write_id):
                raise

    def _drop(self, job_id: str, ring: _Ring) -> None:
        """Delete packs of which nothing is kept. One that is left behind goes with the record."""
        gone = []
        while ring.packs and ring.packs[0][1] < ring.first:
            first, _, count = ring.packs.popleft()
            gone += [(job_pk(job_id), _sk(first, piece)) for piece in range(count)]
        try:
            self._table.write_many(deletes=gone)
        except StoreError:
            return

    def _held(self, item: Item | None, fence: Fence) -> Item:
        held = (
            item is not None and "grave" not in item and item["state"]["S"] == State.RUNNING.value
            and (int(item["epoch"]["N"]), item["token"]["S"]) == (fence.epoch, fence.token)
        )  # fmt: skip
        if item is None or not held:
            raise Fenced(f"job {fence.job_id} belongs to another worker, or has ended")
        return item

    def _read(self, ring: _Ring, item: Item) -> None:
        """Learn what is kept."""
        first, last = int(item["first_seq"]["N"]), int(item["event_seq"]["N"])
        job_id = str(item["id"]["S"])
        ring.packs.clear()
        sizes: dict[int, int] = {}
        for pack, count in self._packs(job_id, _sk(0)):
            ring.packs.append((pack[0].seq, pack[-1].seq, count))
            sizes.update((event.seq, len(event.data)) for event in pack)
        ring.sizes = deque(sizes.get(seq, 0) for seq in range(first, last + 1))
        ring.last = last
        ring.epoch, ring.attempt = int(item["epoch"]["N"]), int(item["attempt"]["N"])

    @contextmanager
    def _ring(self, job_id: str) -> Iterator[_Ring]:
        with self._guard:
            ring = self._rings.setdefault(job_id, _Ring())
            self._rings.move_to_end(job_id)
            if len(self._rings) > _RINGS:
                self._rings.popitem(last=False)
        if not ring.guard.acquire(timeout=PATIENCE):
            raise StoreError(f"too many events of job {job_id} wait to be written")
        try:
            yield ring
        finally:
            ring.guard.release()

    # --- reading --------------------------------------------------------------------------------

    def events(self, job_id: str, after: int, limit: int) -> EventPage:
        """Return kept events after a number."""
        page = EventPage((), 0, 0)
        for _ in range(5):
            item = self._records.item(job_id)
            if item is None or "grave" in item:
                return EventPage((), 0, 0)
            first, last = int(item["first_seq"]["N"]), int(item["event_seq"]["N"])
            wanted = max(after + 1, first)
            page = EventPage((), first if first <= last else 0, last)
            if wanted > last or limit <= 0:
                return page
            found = self._between(job_id, wanted, last, limit)
            if found and found[0].seq == wanted:
                return EventPage(tuple(found), page.first_seq, last)
            # the oldest were dropped between the two reads: look again
        return page

    def _between(self, job_id: str, wanted: int, last: int, limit: int) -> list[Event]:
        found: list[Event] = []
        for pack, _ in self._packs(job_id, self._start(job_id, wanted)):
            found += [event for event in pack if wanted <= event.seq <= last]
            if len(found) >= limit or pack[-1].seq >= last:
                break
        return found[:limit]

    def _start(self, job_id: str, seq: int) -> str:
        """Return the sort key of the first piece of the pack that holds a number."""
        rows = self._table.query(
            "pk = :pk AND sk BETWEEN :low AND :high",
            {":pk": {"S": job_pk(job_id)}, ":low": {"S": _sk(0)}, ":high": {"S": _sk(seq)}},
            ScanIndexForward=False, Limit=1, ProjectionExpression="sk",
        )  # fmt: skip
        row = next(iter(rows), None)
        return _sk(0 if row is None else int(str(row["sk"]["S"]).split("#")[1]))

    def _packs(self, job_id: str, start: str) -> Iterator[tuple[list[Event], int]]:
        """Yield the packs from a sort key on, and of how many pieces each is made."""
        rows = self._table.query(
            "pk = :pk AND sk BETWEEN :low AND :high",
            {":pk": {"S": job_pk(job_id)}, ":low": {"S": start}, ":high": {"S": "E$"}},
        )
        raw, first = b"", -1
        for row in rows:
            seq, piece = (int(part) for part in str(row["sk"]["S"]).split("#")[1:])
            raw = bytes(row["data"]["B"]) if piece == 0 else raw + bytes(row["data"]["B"])
            first = seq if piece == 0 else first
            if piece + 1 == int(row["of"]["N"]) and first == seq:
                yield _unpack(first, raw), piece + 1


def _sk(first: int, piece: int = 0) -> str:
    return f"E#{first:012d}#{piece:03d}"


def _kept(sizes: Sequence[int]) -> int:
    """Return how many of the newest events stay."""
    total = kept = 0
    for size in reversed(sizes):
        total += size
        if total > EVENT_BYTES or kept == EVENT_COUNT:
            break
        kept += 1
    return kept


def _pack(
    job_id: str, first: int, events: Sequence[NewEvent], now: float, attempt: int
) -> list[dict[str, AV]]:
    head = [[event.type, now, attempt, len(event.data)] for event in events]
    raw = json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(event.data for event in events)
    pieces = [raw[start : start + _PIECE] for start in range(0, len(raw), _PIECE)]
    return [
        {
            "pk": {"S": job_pk(job_id)}, "sk": {"S": _sk(first, piece)}, "data": {"B": data},
            "of": {"N": str(len(pieces))}, "ttl": last_resort(now),
        }
        for piece, data in enumerate(pieces)
    ]  # fmt: skip


def _unpack(first: int, raw: bytes) -> list[Event]:
    head, _, rest = raw.partition(b"\n")
    events = []
    start = 0
    for seq, (kind, at, attempt, size) in enumerate(json.loads(head), first):
        events.append(Event(seq, kind, rest[start : start + size], at, attempt))
        start += size
    return events
