"""What time brings, in the DynamoDB job store: leases that end, starts, deadlines, retention, webhooks.

Everything here begins at the agenda, an index, which lags by a moment. An entry that it does not show yet is
found by the next look; one that is out of date is dropped, because the record itself is read before anything
is said or done about it, and every write has its own guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from router_core.jobs.job import TERMINAL, WAITING, Job, State
from router_core.jobs.store import Delivery, Purged
from router_core.stores.dynamodb_blobs import BlobRefs
from router_core.stores.dynamodb_calls import AV, Item, Refused
from router_core.stores.dynamodb_change import Change
from router_core.stores.dynamodb_items import (
    BODIES,
    RECORD,
    body_mark,
    end_agenda,
    id_of,
    job_of,
    job_pk,
    number,
    tombstone_item,
)
from router_core.stores.dynamodb_moves import HELD
from router_core.stores.dynamodb_queues import Queues
from router_core.stores.dynamodb_records import Records, is_id
from router_core.stores.dynamodb_table import AGENDA, SHARDS
from router_core.stores.limits import TOMBSTONE_SECONDS
from router_core.stores.outbox_row import webhook_url

__all__ = ["Upkeep"]

_PAGE: Final = 100
_RESERVE: Final = 2.0
"""Seconds that a purge keeps for the record that it has begun with."""
_WINDOW: Final = 1000
"""Entries of one part of the agenda looked at beyond what was asked for."""
_OUTBOX: Final = ("hook_at", "hook_try", "webhook", "state", "finished_at", "agenda", "agenda_at")
"""What a tombstone keeps of a record whose webhook has not been sent yet."""


class Upkeep:
    """The parts for reaper, sweeper and sender of webhooks."""

    def __init__(self, records: Records, queues: Queues, blobs: BlobRefs) -> None:
        self._records = records
        self._table = records.table
        self._queues = queues
        self._blobs = blobs

    # --- leases, starts, deadlines --------------------------------------------------------------

    def overdue(self, limit: int) -> list[Job]:
        """Return jobs whose lease has ended."""
        now = self._records.now()
        jobs = self._records.jobs(self._until("lease", "<", now, limit))
        late = [job for job in jobs if job.state in HELD and job.lease_until < now]
        return sorted(late, key=lambda job: job.lease_until)[:limit]

    def due(self, limit: int) -> list[Job]:
        """Return jobs whose deadline has passed, then scheduled jobs whose time has come."""
        now = self._records.now()
        ids = [
            *self._until("sched", "<=", now, limit),
            *self._until("late", "<=", now, limit),
            # a retry stands here from its time on until a worker has it, and is of no interest before its end
            *self._until("retry", "<=", now, limit, only_late=True),
        ]
        late, ready = [], []
        for job in self._records.jobs(ids):
            if job.state in WAITING and 0 < job.deadline_at <= now:
                late.append(job)
            elif job.state is State.SCHEDULED and job.not_before <= now:
                ready.append(job)
        late.sort(key=lambda job: job.deadline_at)
        ready.sort(key=lambda job: job.not_before)
        return (late + ready)[:limit]

    def next_due(self) -> float | None:
        """Return the earliest start time of scheduled and retrying jobs."""
        firsts = [self._first(kind, shard) for kind in ("sched", "retry") for shard in range(SHARDS)]
        return min((at for at in firsts if at is not None), default=None)

    def _first(self, kind: str, shard: int) -> float | None:
        """Return the earliest start in one part; the order is by start or deadline, whichever comes first."""
        best: float | None = None
        for row in self._entries(kind, shard, "", 0.0):
            if best is not None and float(row["agenda_at"]["N"]) >= best:
                break
            at = float(row["not_before"]["N"])
            best = at if best is None else min(best, at)
        return best

    def _until(
        self, kind: str, comparison: str, now: float, limit: int, *, only_late: bool = False
    ) -> list[str]:
        """Return the jobs that stand in a part of the agenda up to a time, earliest first."""
        rows: list[Item] = []
        for shard in range(SHARDS):
            found = self._entries(kind, shard, comparison, now, only_late=only_late)
            rows += islice(found, limit)
        rows.sort(key=lambda row: float(row["agenda_at"]["N"]))
        return [id_of(row) for row in rows[:limit]]

    def _entries(
        self, kind: str, shard: int, comparison: str, now: float, *, only_late: bool = False
    ) -> Iterator[Item]:
        values: dict[str, AV] = {":part": {"S": f"{kind}#{shard}"}}
        condition = "agenda = :part"
        more: dict[str, str] = {}
        if comparison:
            condition += f" AND agenda_at {comparison} :now"
            values[":now"] = number(now)
        if only_late:
            values[":zero"] = {"N": "0"}
            more["FilterExpression"] = "deadline_at > :zero AND deadline_at <= :now"
        return self._table.query(condition, values, IndexName=AGENDA, Limit=_PAGE, **more)

    # --- retention ------------------------------------------------------------------------------

    def purge(self, limit: int) -> Purged:
        """Turn expired records into tombstones. Old tombstones and keys are deleted by DynamoDB."""
        self._queues.heal()
        now = self._records.now()
        ids = self._until("end", "<=", now, limit)
        if len(ids) < limit:
            ids += self._unsent(now, limit - len(ids))
        count = 0
        blobs: list[str] = []
        for item in self._records.many(ids):
            job = self._records.whole(item)
            if job is None or not job.terminal or not 0 < job.expires_at <= now:
                continue
            if self._table.left() < _RESERVE:
                break  # what was freed must be told; the next purge goes on
            if self._bury(item, job, now, blobs):
                count += 1
        return Purged(count, blobs)

    def _unsent(self, now: float, limit: int) -> list[str]:
        """Return expired jobs whose webhook has not been sent."""
        found: list[str] = []
        for shard in range(SHARDS):
            rows = islice(self._entries("hook", shard, "<=", now), _WINDOW)
            found += [
                id_of(row) for row in rows if "expires_at" in row and float(row["expires_at"]["N"]) <= now
            ]
        return found[:limit]

    def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        item = self._records.item(job_id)
        job = None if item is None or "grave" in item else self._records.whole(item)
        if item is None or job is None or not job.terminal:
            return None
        now = self._records.now()
        if not self._expire(job, now):
            return None
        self._bury(item, job, now, [])
        return job

    def _expire(self, job: Job, now: float) -> bool:
        """End the retention of a record now: a purge finishes what is begun here, should it be cut short."""
        change = Change()
        change.require_state(TERMINAL)
        change.set("expires_at", number(now))
        if not job.webhook:
            change.set("agenda", end_agenda(job)[0])
            change.set("agenda_at", number(now))
        try:
            self._table.update(job_pk(job.id), RECORD, **change.parameters())
        except Refused:
            return False
        return True

    def _bury(self, item: Item, job: Job, now: float, blobs: list[str]) -> bool:
        """Delete all that belongs to an expired record, and it last, so that nothing is left unfound."""
        if _has_more(item, job):
            rows = self._table.query(
                "pk = :pk", {":pk": {"S": job_pk(job.id)}}, ProjectionExpression="pk, sk"
            )
            beside = [(job_pk(job.id), str(row["sk"]["S"])) for row in rows]
            self._table.write_many(deletes=[key for key in beside if key[1] != RECORD])
        freed = self._blobs.freed(job)
        grave = tombstone_item(job, now + TOMBSTONE_SECONDS)
        condition, values = "attribute_exists(version) AND attribute_not_exists(hook_at)", None
        if "hook_at" in item:
            # as it was seen: a webhook that is sent in the meantime must not come back
            grave.update({name: item[name] for name in _OUTBOX if name in item})
            condition, values = (
                "attribute_exists(version) AND hook_at = :hook_at",
                {":hook_at": item["hook_at"]},
            )
        try:
            self._table.put(grave, condition=condition, values=values)
        except Refused:
            return False  # another process has done it, or the next purge will
        blobs += freed
        return True

    # --- outbox ---------------------------------------------------------------------------------

    def deliveries(self, limit: int) -> list[Delivery]:
        """Return webhooks to send now."""
        now = self._records.now()
        ids = self._until("hook", "<=", now, limit)
        items = self._table.get_many([(job_pk(job_id), RECORD) for job_id in ids])
        rows = [_delivery(item) for item in items if "hook_at" in item]
        ready = [row for row in rows if row.next_at <= now]
        return sorted(ready, key=lambda row: row.next_at)[:limit]

    def delivered(self, delivery_id: str) -> None:
        """Forget a webhook."""
        change, job_id = self._hooked(delivery_id)
        change.remove("hook_at", "hook_try")
        # a record stands in the agenda by its end from now on, a tombstone not at all
        item = self._records.item(job_id)
        if item is None:
            return
        expires_at = float(item["expires_at"]["N"]) if "expires_at" in item else 0.0
        if expires_at and "grave" not in item:
            change.set("agenda", end_agenda(job_of(item))[0])
            change.set("agenda_at", number(expires_at))
            change.require("expires_at", "=", number(expires_at))
        else:
            change.remove("agenda", "agenda_at")
        try:
            self._table.update(job_pk(job_id), RECORD, **change.parameters())
        except Refused:
            return

    def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> None:
        """Note a failed try of a webhook."""
        change, job_id = self._hooked(delivery_id)
        if not is_id(job_id):
            return
        change.set("hook_at", number(next_at))
        change.set("hook_try", number(attempt))
        change.set("agenda_at", number(next_at))
        try:
            self._table.update(job_pk(job_id), RECORD, **change.parameters())
        except Refused:
            return

    def _hooked(self, delivery_id: str) -> tuple[Change, str]:
        job_id, _, state = delivery_id.rpartition(".")
        change = Change()
        change.require_text(f"attribute_exists({change.name('hook_at')})")
        change.require("state", "=", {"S": state})
        return change, job_id


def _delivery(item: Item) -> Delivery:
    job_id, state = id_of(item), str(item["state"]["S"])
    created_at = float(item["finished_at"]["N"]) if "finished_at" in item else 0.0
    return Delivery(
        f"{job_id}.{state}", job_id, webhook_url(str(item["webhook"]["S"])), created_at,
        int(item["hook_try"]["N"]), float(item["hook_at"]["N"]),
    )  # fmt: skip


def _has_more(item: Item, job: Job) -> bool:
    """Return whether there may be items beside a record: events, large values, also those of a worker that
    died before it could make them part of it."""
    marked = any(body_mark(name) in item for name in BODIES)
    disturbed = job.epoch > 1 or job.crash_count > 0 or job.cancel_requested_at > 0
    return marked or job.event_seq > 0 or disturbed
