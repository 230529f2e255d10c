"""Reading records of the DynamoDB job store, and the values that stand beside them."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from router_core.clock import Clock
from router_core.errors import StoreError
from router_core.jobs.job import Job, Tombstone
from router_core.stores.dynamodb_calls import AV, Item, Table
from router_core.stores.dynamodb_items import (
    BODIES,
    INLINE,
    RECORD,
    body_mark,
    grave_of,
    id_of,
    job_of,
    job_pk,
)
from router_core.stores.limits import TOMBSTONE_SECONDS

__all__ = ["Body", "Facts", "Records", "is_id", "last_resort"]

_PIECE: Final = 350_000
_LONGEST_ID: Final = 512
_KNOWN: Final = 20_000
_CACHED: Final = 16 * 1024 * 1024
_LAST_RESORT: Final = 400 * 24 * 3600.0


class Incomplete(StoreError):
    """A value that stands beside a record is not there, though the record has not ended."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What never changes about a job, and what a change of its state has to know."""

    route: str
    deadline_at: float
    has_webhook: bool


@dataclass(frozen=True, slots=True)
class Body:
    """A value that gets items of its own."""

    name: str
    mark: str
    """What the record says in its place: the id of the items, and how many there are."""
    items: tuple[dict[str, AV], ...]


def is_id(job_id: str) -> bool:
    """Return whether a text may be the id of a record; others are unknown without a look."""
    return 0 < len(job_id) <= _LONGEST_ID and job_id.isprintable() and job_id.isascii()


def last_resort(at: float) -> AV:
    """Return when DynamoDB may delete an item that nothing else has deleted: no purge has run for a year."""
    return {"N": str(int(at + _LAST_RESORT))}


class Records:
    """The reads that all parts of the store share; remembers what cannot change."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self.table = table
        self.now: Callable[[], float] = clock.now
        self._guard = threading.Lock()
        self._facts: OrderedDict[str, Facts] = OrderedDict()
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0

    # --- records --------------------------------------------------------------------------------

    def item(self, job_id: str) -> Item | None:
        """Return the item of a record or tombstone."""
        return self.table.get(job_pk(job_id), RECORD) if is_id(job_id) else None

    def get(self, job_id: str) -> Job | Tombstone | None:
        """Return a record or its tombstone."""
        job = self._full(job_id)
        if not isinstance(job, Job) or not 0 < job.expires_at <= self.now():
            return job
        return Tombstone(job.id, job.owner, job.expires_at + TOMBSTONE_SECONDS)

    def job(self, job_id: str) -> Job | None:
        """Return a record, though it may have expired."""
        job = self._full(job_id)
        return job if isinstance(job, Job) else None

    def _full(self, job_id: str) -> Job | Tombstone | None:
        for _ in range(5):
            item = self.item(job_id)
            if item is None:
                return None
            if "grave" in item:
                return grave_of(item, self.now())
            job = self.whole(item)
            if job is not None:
                return job
        raise Incomplete(f"a part of job {job_id} is missing")

    def whole(self, item: Item) -> Job | None:
        """Return the record of an item with the values that stand beside it; None when one of them is not
        there any more: the record was changed or purged since the item was read.

        One that has expired is returned without them: the purge that removes them first may have died.
        """
        self.learn(item)
        marks = {name: str(item[body_mark(name)]["S"]) for name in BODIES if body_mark(name) in item}
        if not marks:
            return job_of(item)
        job_id = id_of(item)
        bodies = {name: self._body(job_id, mark) for name, mark in marks.items()}
        if None in bodies.values() and not 0 < job_of(item).expires_at <= self.now():
            return None
        return job_of(item, {name: body for name, body in bodies.items() if body is not None})

    def settled(self, item: Item) -> Job | None:
        """Return the record of an item; the one that stands there now when it is not whole any more."""
        return self.whole(item) or self.job(id_of(item))

    def many(self, job_ids: Sequence[str]) -> list[Item]:
        """Return the items of the records among some ids, as they are now, in the order of the ids."""
        keys = [(job_pk(job_id), RECORD) for job_id in dict.fromkeys(job_ids)]
        found = {id_of(item): item for item in self.table.get_many(keys) if "grave" not in item}
        return [found[job_id] for job_id in dict.fromkeys(job_ids) if job_id in found]

    def jobs(self, job_ids: Sequence[str]) -> list[Job]:
        """Return the records among some ids, for upkeep.

        One that has lost a part is returned without it: it must end like any other, and hinder none.
        """
        found = []
        for item in self.many(job_ids):
            try:
                job = self.settled(item)
            except Incomplete:
                job = job_of(item)
            if job is not None:
                found.append(job)
        return found

    # --- what cannot change ---------------------------------------------------------------------

    def learn(self, item: Item) -> Facts:
        """Remember the facts about a job."""
        facts = Facts(str(item["route"]["S"]), float(item["deadline_at"]["N"]), "webhook" in item)
        with self._guard:
            self._facts[id_of(item)] = facts
            if len(self._facts) > _KNOWN:
                self._facts.popitem(last=False)
        return facts

    def facts(self, job_id: str) -> Facts | None:
        """Return the facts about a job, or None when there is none."""
        found = self._facts.get(job_id)
        if found is not None:
            return found
        item = self.item(job_id)
        return None if item is None or "grave" in item else self.learn(item)

    # --- values beside the record ---------------------------------------------------------------

    def body(self, job_id: str, name: str, value: bytes, at: float) -> Body | None:
        """Return what to write for a large value; None when it may stand in the record."""
        if len(value) <= INLINE:
            return None
        uid = secrets.token_hex(8)
        pieces = [value[start : start + _PIECE] for start in range(0, len(value), _PIECE)]
        mark = f"{uid}.{len(pieces)}"
        items: tuple[dict[str, AV], ...] = tuple(
            {"pk": {"S": pk}, "sk": {"S": sk}, "body": {"B": piece}, "ttl": last_resort(at)}
            for (pk, sk), piece in zip(_body_keys(job_id, mark), pieces, strict=True)
        )
        self._keep(f"{job_id} {mark}", value)
        return Body(name, mark, items)

    def _body(self, job_id: str, mark: str) -> bytes | None:
        cache_key = f"{job_id} {mark}"
        with self._guard:
            known = self._bodies.get(cache_key)
            if known is not None:
                self._bodies.move_to_end(cache_key)
                return known
        keys = _body_keys(job_id, mark)
        found = {str(item["sk"]["S"]): item for item in self.table.get_many(keys)}
        if any(sk not in found for _, sk in keys):
            return None
        value = b"".join(bytes(found[sk]["body"]["B"]) for _, sk in keys)
        self._keep(cache_key, value)
        return value

    def _keep(self, cache_key: str, value: bytes) -> None:
        with self._guard:
            self._cached += len(value) - len(self._bodies.pop(cache_key, b""))
            self._bodies[cache_key] = value
            while self._cached > _CACHED:
                self._cached -= len(self._bodies.popitem(last=False)[1])


def _body_keys(job_id: str, mark: str) -> list[tuple[str, str]]:
    uid, count = mark.split(".")
    return [(job_pk(job_id), f"B#{uid}#{number}") for number in range(int(count))]
