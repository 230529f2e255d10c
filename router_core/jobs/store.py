"""What a job store has to be able to do.

Three small protocols, one implementation class each technology. Every method may be awaited from any event
loop and thread: heartbeats come from a thread of their own, so that user code which blocks the main loop
does not cost it the lease.

Errors: ``StoreError`` when the store cannot answer (the write may or may not have happened: read back),
``QueueFull``, ``Conflict``/``KeyReused`` from ``add``. A store translates its driver's errors in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router_core.jobs.job import Event, Fence, Job, State, Tombstone
from router_core.jobs.moves import Move

__all__ = [
    "Added",
    "Claim",
    "Delivery",
    "EventPage",
    "IdempotencyKey",
    "JobQuery",
    "JobStore",
    "JobUpkeep",
    "Moved",
    "NewEvent",
    "Outbox",
    "Page",
    "Purged",
    "Renewal",
    "Store",
    "StoreStats",
]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Same scope and same fingerprint: same job. Same scope, other fingerprint: ``KeyReused``."""

    scope_hash: str
    """SHA-256 over the length-prefixed principal, method, route and key."""
    fingerprint: str
    """SHA-256 of the canonical body and its content type."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a submission."""

    job: Job
    replayed: bool = False
    """The job existed already, under the same idempotency key."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker asks for work: either one job by id, or up to ``slots[route]`` jobs of each route."""

    worker_id: str
    """``name/id`` of a worker elsewhere, an id without a slash of one that uses this very store."""
    lease: float
    """Seconds."""
    slots: Mapping[str, int] = field(default_factory=dict)
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """Answer to a move: the record as it now is (None: there is none), and whether the move made it so."""

    applied: bool
    job: Job | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """Answer to a heartbeat for one job."""

    job_id: str
    held: bool
    """False: fenced; stop the work and discard it."""
    cancel: bool = False
    """Somebody asked the job to stop."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before the store has numbered it."""

    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events after a position, oldest first. ``first_seq`` is the oldest that is still kept (0: none):
    if it is greater than the position asked for plus one, events in between were dropped."""

    events: Sequence[Event]
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Filter of a listing; newest first."""

    owner: str | None = None
    """None lists the jobs of everybody."""
    states: frozenset[State] = frozenset()
    """Empty: any."""
    route: str = ""
    cursor: str = ""
    """Id of the last job of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; an empty cursor ends it."""

    jobs: Sequence[Job]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed: blob keys that nobody refers to any more, and how many records."""

    jobs: int
    blobs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts for health and metrics."""

    by_route: Mapping[tuple[str, State], int]
    """Open jobs only."""
    oldest_queued_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook to send: a row of the outbox."""

    id: str
    """``{job_id}.{state}``: stable over tries, so that a receiver can drop a repetition."""
    job_id: str
    url: str
    created_at: float
    attempt: int = 0
    next_at: float = 0.0


class JobStore(Protocol):
    """The record of jobs: the truth about each of them."""

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Write a new record, durably, before returning.

        In one atomic step: look the key up, count the jobs of the route that are queued or scheduled,
        write record and key. Raises QueueFull when ``queue_limit`` of them wait already (a replay never
        is), KeyReused when the key belongs to another request.
        """

    async def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Job | None:
        """Return the job that ``add`` would replay now, or None; raises what ``add`` would refuse with.

        Writes nothing and promises nothing: it saves the work before an ``add`` that is bound to fail.
        """

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Return the record, its tombstone after retention, or None. A terminal job whose ``expires_at``
        has passed is a tombstone even when no purge has run yet."""

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """C1: take jobs that are ready (queued, or retrying and due; not past their deadline), best rank
        first.

        Each gets state running, epoch + 1, a new token, attempt + 1, ``started_at``, progress 0, the lease.
        """

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move if its guards hold; otherwise change nothing and return the record as it is."""

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Heartbeat: extend the leases that still belong to these fences by ``lease`` seconds from now.

        A store that cannot do it for all of them in time may answer for some; the others are asked again.
        """

    async def find(self, query: JobQuery) -> Page:
        """List records without their inputs and results (those fields come back empty)."""

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events of a running job; returns the last number. Raises Fenced.

        At most 1,000 events and 1 MB are kept for a job; the oldest go first.
        """

    async def events(self, job_id: str, after: int = 0, limit: int = 100) -> EventPage:
        """Return kept events with a number greater than ``after``."""


class JobUpkeep(Protocol):
    """What the reaper and the sweeper need."""

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return running and cancelling jobs whose lease has ended."""

    async def due(self, limit: int = 100) -> Sequence[Job]:
        """Return scheduled jobs whose time has come and waiting jobs whose deadline has passed."""

    async def next_due(self) -> float | None:
        """Return the earliest ``not_before`` of scheduled and retrying jobs, or None."""

    async def purge(self, limit: int = 500) -> Purged:
        """Turn expired terminal records into tombstones (kept 7 days), drop old tombstones and keys."""

    async def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone at once; returns it, or None if it was not terminal."""

    async def stats(self) -> StoreStats:
        """Count the open jobs."""

    async def ping(self) -> None:
        """Raise StoreError unless a write would succeed now."""

    async def open(self) -> None:
        """Get ready; raises Misconfigured with what to change when the store cannot be used."""

    async def close(self) -> None:
        """Finish what was begun and let go; safe to call twice."""


class Outbox(Protocol):
    """Webhooks that a terminal move has put beside the record."""

    async def deliveries(self, limit: int = 100) -> Sequence[Delivery]:
        """Return rows whose ``next_at`` has come."""

    async def delivered(self, delivery_id: str) -> None:
        """Forget a row: it was taken, or will never be."""

    async def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> None:
        """Note a failed try."""


class Store(JobStore, JobUpkeep, Outbox, Protocol):
    """The three together: what an implementation class offers."""
