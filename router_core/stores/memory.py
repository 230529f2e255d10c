"""The job store in this process's memory: for tests and trials, gone when the process ends."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from router_core.clock import Clock, SystemClock
from router_core.errors import Conflict, Fenced, Gone, KeyReused, QueueFull, StoreError
from router_core.jobs.job import TERMINAL, Event, Fence, Job, State, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.store import (
    Added,
    Claim,
    Delivery,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Purged,
    Renewal,
    StoreStats,
)
from router_core.stores.drain import DrainRate
from router_core.stores.limits import EVENT_BYTES, EVENT_COUNT, TOMBSTONE_SECONDS
from router_core.stores.memory_index import MemoryIndex
from router_core.stores.outbox_row import webhook_url

__all__ = ["MemoryJobStore"]

_MIB: Final = 1024 * 1024
_RETRY_WINDOW: Final = 256
"""Among how many due retries, earliest first, the best rank is looked for: bounds the cost of a claim."""


class MemoryJobStore:
    """Records in dictionaries behind one lock.

    Nothing survives the process, which is also why no write waits for a disk. Ended records are bounded:
    beyond ``max_finished`` of them, or ``max_finished_bytes`` of inputs and results, the least recently used
    become tombstones before their time.
    """

    def __init__(
        self, clock: Clock | None = None, *, max_finished: int = 10_000, max_finished_bytes: int = 256 * _MIB
    ) -> None:
        clock = clock or SystemClock()
        self._now, self._monotonic = clock.now, clock.monotonic
        self._max_finished, self._max_bytes = max_finished, max_finished_bytes
        self._lock = threading.Lock()
        self._index = MemoryIndex()
        self._drain = DrainRate()
        self._keys: OrderedDict[str, tuple[IdempotencyKey, str]] = OrderedDict()
        self._rings: dict[str, deque[Event]] = {}
        self._ring_bytes: dict[str, int] = {}
        self._outbox: dict[str, Delivery] = {}
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        self._evicted_blobs: list[str] = []
        self._closed = False

    # --- JobStore ---------------------------------------------------------------------------

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Keep a new record. An idempotency key whose job was deleted or purged early raises Gone."""
        with self._open_lock():
            earlier = self._admit(job.route, queue_limit, key)
            if earlier is not None:
                return Added(earlier, replayed=True)
            if job.id in self._index.jobs:
                raise Conflict(f"a job with the id {job.id} exists")
            self._index.put(job)
            if key is not None:
                self._keys[key.scope_hash] = (key, job.id)
            return Added(job)

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Answer as ``add`` would, and add nothing."""
        with self._open_lock():
            return self._admit(route, queue_limit, key)

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return the record, its tombstone, or None."""
        with self._open_lock():
            job = self._index.jobs.get(job_id)
            now = self._now()
            if job is None:
                grave = self._tombstones.get(job_id)
                return None if grave is None or grave.expires_at <= now else grave
            if job.expires_at and job.expires_at <= now:
                return Tombstone(job.id, job.owner, job.expires_at + TOMBSTONE_SECONDS)
            if job_id in self._index.finished:
                self._index.finished.move_to_end(job_id)
            return job

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take ready jobs, best rank first."""
        with self._open_lock():
            now = self._now()
            if claim.job_id:
                job = self._index.jobs.get(claim.job_id)
                return [self._take(claim, job, now)] if job is not None and _ready(job, now) else []
            taken: list[Job] = []
            for route, free in claim.slots.items():
                taken += [self._take(claim, job, now) for job in self._best(route, free, now)]
            return taken

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move if its guards hold."""
        with self._open_lock():
            job = self._index.jobs.get(job_id)
            if job is None or not _allows(job, move):
                return Moved(False, job)
            job = _moved(job, move)
            self._index.put(job)
            if move.to in TERMINAL:
                self._ended(job)
            return Moved(True, job)

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Extend the leases that still belong to these fences."""
        with self._open_lock():
            until = self._now() + lease
            answers = []
            for fence in fences:
                job = self._held(fence)
                if job is not None:
                    self._index.put(replace(job, lease_until=until, version=job.version + 1))
                cancel = job is not None and job.state is State.CANCELLING
                answers.append(Renewal(fence.job_id, job is not None, cancel))
            return answers

    async def find(self, query: JobQuery) -> Page:
        """List records, newest first."""
        with self._open_lock():
            limit = max(1, query.limit)
            now = self._now()
            found: list[Job] = []
            for job_id in reversed(self._index.newest_first(query.owner, query.cursor)):
                job = self._index.jobs[job_id]
                if _matches(job, query, now):
                    found.append(replace(job, input=b"", result=b""))
                    if len(found) > limit:
                        return Page(tuple(found[:limit]), found[limit - 1].id)
            return Page(tuple(found))

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events of a running job."""
        with self._open_lock():
            job = self._held(fence)
            if job is None or job.state is not State.RUNNING:
                raise Fenced(f"job {fence.job_id} belongs to another worker, or has ended")
            if not events:
                return job.event_seq
            ring = self._rings.setdefault(job.id, deque())
            size, now, seq = self._ring_bytes.get(job.id, 0), self._now(), job.event_seq
            for seq, event in enumerate(events, job.event_seq + 1):
                ring.append(Event(seq, event.type, event.data, now, job.attempt))
                size += len(event.data)
            while ring and (size > EVENT_BYTES or len(ring) > EVENT_COUNT):
                size -= len(ring.popleft().data)
            self._ring_bytes[job.id] = size
            self._index.put(replace(job, event_seq=seq, version=job.version + 1))
            return seq

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events after a number."""
        with self._open_lock():
            job = self._index.jobs.get(job_id)
            ring = self._rings.get(job_id, ())
            page = [event for event in ring if event.seq > after][:limit]
            return EventPage(tuple(page), ring[0].seq if ring else 0, job.event_seq if job else 0)

    # --- JobUpkeep --------------------------------------------------------------------------

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose lease has ended."""
        with self._open_lock():
            now = self._now()
            late = self._index.leases.pick(limit, until=lambda lease: lease >= now)
            return [self._index.jobs[job_id] for job_id in late]

    async def due(self, limit: int = 100) -> Sequence[Job]:
        """Return jobs whose deadline has passed, then scheduled jobs whose time has come."""
        with self._open_lock():
            now = self._now()
            late = self._index.deadlines.upto(now, limit)
            ready = [job_id for job_id in self._index.scheduled.upto(now, limit) if job_id not in late]
            return [self._index.jobs[job_id] for job_id in (late + ready)[:limit]]

    async def next_due(self) -> float | None:
        """Return the earliest start time of scheduled and retrying jobs."""
        with self._open_lock():
            firsts = (self._index.scheduled.first(), self._index.retry_due.first())
            return min((first[0] for first in firsts if first is not None), default=None)

    async def purge(self, limit: int = 500) -> Purged:
        """Turn expired records into tombstones; drop old tombstones and keys."""
        with self._open_lock():
            now = self._now()
            expired = [self._index.jobs[job_id] for job_id in self._index.expiry.upto(now, limit)]
            blobs, self._evicted_blobs = self._evicted_blobs, []
            for job in expired:
                blobs += self._bury(job, now)
            # both stand in the order in which they end, near enough: a late one goes with its neighbours
            while self._tombstones and next(iter(self._tombstones.values())).expires_at <= now:
                self._tombstones.popitem(last=False)
            while self._keys and next(iter(self._keys.values()))[0].expires_at <= now:
                self._keys.popitem(last=False)
            return Purged(len(expired), blobs)

    async def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        with self._open_lock():
            job = self._index.jobs.get(job_id)
            if job is None or not job.terminal:
                return None
            self._bury(job, self._now())
            return job

    async def unreferenced(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of the blob keys that no record names."""
        with self._open_lock():
            return [key for key in keys if not self._index.names_blob(key)]

    async def stats(self) -> StoreStats:
        """Count the open jobs."""
        with self._open_lock():
            counts: dict[tuple[str, State], int] = {}
            oldest = 0.0
            for job in self._index.jobs.values():
                if job.terminal:
                    continue
                counts[job.route, job.state] = counts.get((job.route, job.state), 0) + 1
                if job.state is State.QUEUED:
                    since = max(job.created_at, job.not_before)
                    oldest = min(oldest or since, since)
            return StoreStats(counts, oldest)

    async def ping(self) -> None:
        """Raise StoreError when closed."""
        with self._open_lock():
            return

    async def open(self) -> None:
        """Do nothing: it is ready."""

    async def close(self) -> None:
        """Refuse what comes later."""
        self._closed = True

    # --- Outbox -----------------------------------------------------------------------------

    async def deliveries(self, limit: int = 100) -> Sequence[Delivery]:
        """Return webhooks to send now."""
        with self._open_lock():
            now = self._now()
            ready = [row for row in self._outbox.values() if row.next_at <= now]
            return sorted(ready, key=lambda row: row.next_at)[:limit]

    async def delivered(self, delivery_id: str) -> None:
        """Forget a webhook."""
        with self._open_lock():
            self._outbox.pop(delivery_id, None)

    async def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> None:
        """Note a failed try of a webhook."""
        with self._open_lock():
            row = self._outbox.get(delivery_id)
            if row is not None:
                self._outbox[delivery_id] = replace(row, attempt=attempt, next_at=next_at)

    # --- inside the lock --------------------------------------------------------------------

    def _open_lock(self) -> threading.Lock:
        if self._closed:
            raise StoreError("the job store is closed")
        return self._lock

    def _admit(self, route: str, limit: int | None, key: IdempotencyKey | None) -> Job | None:
        earlier = None if key is None else self._earlier(key)
        depth = self._index.depth[route]
        if earlier is None and limit is not None and depth >= limit:
            raise QueueFull(
                f"{depth} jobs of {route} wait already; its queue holds {limit}",
                retry_after=self._drain.retry_after(route, depth, self._monotonic()),
                extra={"queue_size": limit},
            )
        return earlier

    def _earlier(self, key: IdempotencyKey) -> Job | None:
        known = self._keys.get(key.scope_hash)
        now = self._now()
        if known is None or known[0].expires_at <= now:
            return None
        if known[0].fingerprint != key.fingerprint:
            raise KeyReused("this idempotency key was used with another request")
        job = self._index.jobs.get(known[1])
        if job is None or (job.expires_at and job.expires_at <= now):
            raise Gone("the job of this idempotency key has expired")
        return job

    def _best(self, route: str, free: int, now: float) -> list[Job]:
        jobs = self._index.jobs

        def ready(job_id: str) -> bool:
            return _ready(jobs[job_id], now)

        found: list[str] = []
        if route in self._index.ready:
            found += self._index.ready[route].pick(free, wanted=ready)
        if route in self._index.retrying:
            found += self._index.retrying[route].pick(_RETRY_WINDOW, until=lambda at: at > now, wanted=ready)
        return sorted((jobs[job_id] for job_id in found), key=lambda job: job.rank)[: max(0, free)]

    def _take(self, claim: Claim, job: Job, now: float) -> Job:
        self._drain.taken(job.route, 1, self._monotonic())
        job = replace(
            job, state=State.RUNNING, version=job.version + 1, epoch=job.epoch + 1, attempt=job.attempt + 1,
            token=secrets.token_hex(16), started_at=now, progress=0.0, message="", worker_id=claim.worker_id,
            lease_until=now + claim.lease,
        )  # fmt: skip
        self._index.put(job)
        return job

    def _held(self, fence: Fence) -> Job | None:
        job = self._index.jobs.get(fence.job_id)
        held = (
            job is not None and job.lease_until > 0 and (job.epoch, job.token) == (fence.epoch, fence.token)
        )
        return job if held else None

    def _ended(self, job: Job) -> None:
        if job.webhook:
            row = f"{job.id}.{job.state.value}"
            at = job.finished_at
            self._outbox[row] = Delivery(row, job.id, webhook_url(job.webhook), at, next_at=at)
        index = self._index
        while len(index.finished) > self._max_finished or (
            index.finished_bytes > self._max_bytes and len(index.finished) > 1
        ):
            self._evicted_blobs += self._bury(index.jobs[next(iter(index.finished))], self._now())

    def _bury(self, job: Job, now: float) -> list[str]:
        self._rings.pop(job.id, None)
        self._ring_bytes.pop(job.id, None)
        self._tombstones[job.id] = Tombstone(job.id, job.owner, now + TOMBSTONE_SECONDS)
        while len(self._tombstones) > 10 * self._max_finished:
            self._tombstones.popitem(last=False)
        while len(self._keys) > 10 * self._max_finished:
            self._keys.popitem(last=False)
        return self._index.remove(job)


def _ready(job: Job, now: float) -> bool:
    waits = job.state is State.QUEUED or job.state is State.RETRYING
    return waits and job.not_before <= now and not 0 < job.deadline_at <= now


def _allows(job: Job, move: Move) -> bool:
    fence = move.fence
    if job.state not in move.frm or (fence is not None and fence != job.fence):
        return False
    if move.epoch is not None and move.epoch != job.epoch:
        return False
    if move.lease_before is not None and job.lease_until >= move.lease_before:
        return False
    return move.version is None or move.version == job.version


def _moved(job: Job, move: Move) -> Job:
    changes: dict[str, Any] = dict(move.sets)
    if move.progress_floor and "progress" in changes:
        changes["progress"] = max(job.progress, changes["progress"])
    for name, amount in move.adds.items():
        changes[name] = getattr(job, name) + amount
    if move.to is not None:
        changes["state"] = move.to
    return replace(job, version=job.version + 1, **changes)


def _matches(job: Job, query: JobQuery, now: float) -> bool:
    if query.states and job.state not in query.states:
        return False
    if query.route and job.route != query.route:
        return False
    return not 0 < job.expires_at <= now
