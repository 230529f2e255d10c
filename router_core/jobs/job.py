"""The job record, its states, and the table of allowed transitions.

    submit ---> scheduled --due--> queued --claim--> running --ok--> succeeded
                    |                |  ^               |-- error, attempts left --> retrying --due--> (claim)
                    |                |  +--- release ---+-- error, none left, fatal, timeout --> failed
                    |                |                  |-- lease expired --> retrying, or failed(lost)
                    |                |                  +-- cancel --> cancelling --> cancelled
                    +---- cancel ----+---- cancel ----> cancelled        (retrying too)
                    +--- deadline ---+--- deadline ---> expired          (retrying --> failed(timeout))

succeeded, failed, cancelled and expired are terminal and written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

__all__ = [
    "MAX_CRASHES",
    "MAX_RELEASES",
    "OPEN",
    "TERMINAL",
    "TRANSITIONS",
    "WAITING",
    "Attempt",
    "Event",
    "Fence",
    "Job",
    "Reason",
    "State",
    "Tombstone",
]


class State(StrEnum):
    """Where a job stands."""

    SCHEDULED = "scheduled"
    """Accepted with a start time; the sweeper moves it to queued when it is due."""
    QUEUED = "queued"
    """Ready; the next free worker of its route claims it."""
    RUNNING = "running"
    """A worker holds a lease on it. A crash leaves it here until the lease ends and the reaper acts."""
    RETRYING = "retrying"
    """An attempt ended badly and another will start at ``not_before``."""
    CANCELLING = "cancelling"
    """Somebody asked a running job to stop; only cancelled can follow."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """``reason`` says how: error, attempts_exhausted, timeout, lost, dead_letter, result_too_large."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """The deadline passed before the job ever started."""


class Reason(StrEnum):
    """Tells two roads to the same state apart."""

    ERROR = "error"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    TIMEOUT = "timeout"
    LOST = "lost"
    """Its worker vanished too often."""
    DEAD_LETTER = "dead_letter"
    RESULT_TOO_LARGE = "result_too_large"
    RELEASED = "released"
    """Given back by a worker that is shutting down; the attempt was not counted."""
    RESCUED = "rescued"
    """Taken from a worker whose lease ended."""
    DEADLINE = "deadline"
    CANCEL = "cancel"


TERMINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})
OPEN: Final = frozenset(set(State) - TERMINAL)
WAITING: Final = frozenset({State.SCHEDULED, State.QUEUED, State.RETRYING})
"""No worker holds it."""

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.SCHEDULED: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED}),
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.FAILED}),
    State.RUNNING: frozenset(
        {State.RUNNING, State.SUCCEEDED, State.FAILED, State.RETRYING, State.QUEUED, State.CANCELLING}
    ),
    State.RETRYING: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.CANCELLING: frozenset({State.CANCELLING, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""running -> running and cancelling -> cancelling are heartbeats and progress: same state, new version.
queued -> failed is a released job whose deadline passed (it has started before, so it is not expired)."""

MAX_CRASHES: Final = 3
"""A job whose worker vanished this often is failed(lost): it is probably what kills them."""
MAX_RELEASES: Final = 20
"""A job given back this often by workers shutting down is failed rather than passed on for ever."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What proves that a worker still owns a job: both values change with every claim."""

    job_id: str
    epoch: int
    token: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt ended; appended, never overwritten."""

    number: int
    started_at: float
    ended_at: float
    outcome: str
    """A ``State`` or ``Reason`` word: succeeded, error, timeout, released, rescued, cancelled."""
    error: Mapping[str, Any] | None = None
    """``{"type", "message", "attempt", "retryable"}``."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a job's replayable history: an output chunk, a progress step or a log line."""

    seq: int
    """Counts from 1 within the job, without gaps; assigned by the store."""
    type: str
    """``output``, ``progress`` or ``log``; authors may add their own. ``attempt`` stands before the first
    event of an attempt when there are events of one before it."""
    data: bytes
    """JSON."""
    at: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a job after its retention: enough to answer 410 rather than 404."""

    id: str
    owner: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Job:
    """One request to run one function. Times are wall-clock seconds since the epoch (UTC)."""

    id: str
    owner: str
    """``Principal.id`` of the caller; nobody else learns that the job exists."""
    route: str
    """``Route.key`` of the function to run."""
    state: State
    created_at: float
    input: bytes = b"{}"
    """JSON object of the arguments, files as blob references; empty when ``input_ref`` is set."""
    input_ref: str = ""
    """Blob key of an input that was too large to stand in the record."""
    reason: str = ""
    version: int = 1
    """+1 with every write: the ETag."""
    epoch: int = 0
    """+1 with every claim."""
    token: str = ""
    """128 random bits, new with every claim."""
    attempt: int = 0
    """Number of the current or last attempt; counted when it is claimed, so that a crash cannot hide it."""
    crash_count: int = 0
    releases: int = 0
    max_attempts: int = 3
    priority: int = 0
    """Higher runs earlier."""
    rank: float = 0.0
    """Sort key of the queue, lower first: ``ready time - priority * seconds per priority point``. As waiting
    makes every job older at the same speed, this constant order is what ageing amounts to."""
    worker_id: str = ""
    """Random per process boot, never a host name."""
    lease_until: float = 0.0
    not_before: float = 0.0
    deadline_at: float = 0.0
    """0 means none: after it a waiting job is not started any more."""
    timeout: float = 0.0
    """Seconds that one attempt may run; 0 means no limit."""
    cancel_requested_at: float = 0.0
    progress: float = 0.0
    """0..1, never falling within an epoch."""
    message: str = ""
    result: bytes = b""
    """JSON of the result; empty when there is none or ``result_ref`` is set."""
    result_ref: bytes = b""
    """JSON ``{"key","sha256","size","content_type"}`` of a result in the blob store."""
    error: bytes = b""
    """JSON ``{"type","message","attempt","retryable"}``."""
    attempts: bytes = b""
    """JSON list of ``Attempt``; empty means none has ended."""
    event_seq: int = 0
    """Number of the last event."""
    idem_hash: str = ""
    """Scope hash of the idempotency key; empty when none was given."""
    webhook: str = ""
    """JSON ``{"url"}`` or empty."""
    dispatch_pending: bool = False
    request_id: str = ""
    started_at: float = 0.0
    """Start of the current or last attempt."""
    finished_at: float = 0.0
    expires_at: float = 0.0
    """When a terminal record is deleted; 0 while open."""
    steps: bytes = b""
    """JSON object of ``once`` step outcomes."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Small JSON object for adapters (trace context, platform ids)."""

    @property
    def fence(self) -> Fence:
        """The right to write that the last claim gave."""
        return Fence(self.id, self.epoch, self.token)

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL
