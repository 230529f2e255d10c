"""Every way in which a record may change, as values.

A ``Move`` says which record it applies to (states, fence, seen epoch, lease), and what it writes. A store
applies it in one atomic step or not at all; it never invents a change of its own. Each function below is one
named change of the specification, so that the combination of state, reason and times is always right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from router_core.jobs.job import TERMINAL, TRANSITIONS, WAITING, Fence, Job, Reason, State

__all__ = [
    "Move",
    "cancel_running",
    "cancel_waiting",
    "cancelled",
    "crash",
    "dead_letter",
    "deadline",
    "dispatched",
    "due",
    "fail",
    "forgotten",
    "progress",
    "release",
    "rescue",
    "retry",
    "step",
    "succeed",
]

_RUNNING: Final = frozenset({State.RUNNING})
_READY: Final = frozenset({State.QUEUED, State.RETRYING})
_DONE: Final = {"token": "", "lease_until": 0.0, "worker_id": "", "dispatch_pending": False}


@dataclass(frozen=True, slots=True)
class Move:
    """One guarded change of one record.

    It applies when the record's state is in ``frm`` and every guard that is set holds; then ``sets`` are
    written, ``adds`` are added to, and ``version`` grows by one. A move to a terminal state of a job with
    a webhook also writes its outbox row, in the same atomic step.
    """

    name: str
    frm: frozenset[State]
    to: State | None = None
    """None keeps the state."""
    fence: Fence | None = None
    """C2: epoch and token must match."""
    epoch: int | None = None
    """C4: the epoch that the reaper saw."""
    lease_before: float | None = None
    """C4: the lease must have ended before this time."""
    version: int | None = None
    """The version that the writer saw."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    adds: Mapping[str, int] = field(default_factory=dict)
    progress_floor: bool = False
    """Write ``progress`` as the larger of the old and the new value (never falling within an epoch)."""

    def __post_init__(self) -> None:
        if self.to is not None:
            for state in self.frm:
                if self.to not in TRANSITIONS[state]:
                    raise ValueError(f"{self.name}: {state} -> {self.to} is not a transition")


def succeed(
    fence: Fence, *, now: float, retention: float, attempts: bytes, result: bytes = b"",
    result_ref: bytes = b"", message: str | None = None,
) -> Move:  # fmt: skip
    """Running -> succeeded. The blob behind ``result_ref`` is durable before this is written (C6)."""
    sets = {
        **_DONE, "result": result, "result_ref": result_ref, "progress": 1.0, "finished_at": now,
        "expires_at": now + retention, "attempts": attempts, "error": b"", "reason": "",
    }  # fmt: skip
    if message is not None:
        sets["message"] = message
    return Move("succeed", _RUNNING, State.SUCCEEDED, fence=fence, sets=sets)


def fail(
    fence: Fence,
    *,
    now: float,
    retention: float,
    attempts: bytes,
    error: bytes,
    reason: Reason = Reason.ERROR,
) -> Move:
    """Running -> failed: no attempt is left, or none would help."""
    sets = {
        **_DONE, "error": error, "reason": reason.value, "finished_at": now, "expires_at": now + retention,
        "attempts": attempts,
    }  # fmt: skip
    return Move("fail", _RUNNING, State.FAILED, fence=fence, sets=sets)


def retry(fence: Fence, *, now: float, not_before: float, rank: float, attempts: bytes, error: bytes) -> Move:
    """Running -> retrying: the attempt is spent and another starts at ``not_before``."""
    sets = {
        "token": "", "lease_until": 0.0, "worker_id": "", "error": error, "reason": Reason.ERROR.value,
        "not_before": not_before, "rank": rank, "attempts": attempts,
    }  # fmt: skip
    return Move("retry", _RUNNING, State.RETRYING, fence=fence, sets=sets)


def crash(
    fence: Fence, *, now: float, retention: float, not_before: float, rank: float, attempts: bytes,
    error: bytes, lost: bool,
) -> Move:  # fmt: skip
    """Running -> retrying, or failed(lost): the process that ran the function died, its worker lives.

    Counts as a crash, like a rescue, so that a job which kills whatever runs it ends.
    """
    adds = {"crash_count": 1}
    if lost:
        ended = fail(fence, now=now, retention=retention, attempts=attempts, error=error, reason=Reason.LOST)
        return replace(ended, name="crash", adds=adds)
    again = retry(fence, now=now, not_before=not_before, rank=rank, attempts=attempts, error=error)
    return replace(again, name="crash", adds=adds)


def release(fence: Fence, *, attempts: bytes) -> Move:
    """Running -> queued: a worker shutting down gives the job back; the attempt is not counted."""
    sets = {
        "token": "", "lease_until": 0.0, "worker_id": "", "reason": Reason.RELEASED.value,
        "attempts": attempts, "progress": 0.0,
    }  # fmt: skip
    return Move(
        "release", _RUNNING, State.QUEUED, fence=fence, sets=sets, adds={"attempt": -1, "releases": 1}
    )


def cancelled(fence: Fence, *, now: float, retention: float, attempts: bytes) -> Move:
    """Cancelling -> cancelled, by the worker that has stopped."""
    sets = {
        **_DONE, "reason": Reason.CANCEL.value, "finished_at": now, "expires_at": now + retention,
        "attempts": attempts,
    }  # fmt: skip
    return Move("cancelled", frozenset({State.CANCELLING}), State.CANCELLED, fence=fence, sets=sets)


def cancel_waiting(*, now: float, retention: float) -> Move:
    """Scheduled, queued or retrying -> cancelled: nobody runs it, so it ends at once."""
    sets = {
        **_DONE, "reason": Reason.CANCEL.value, "cancel_requested_at": now, "finished_at": now,
        "expires_at": now + retention,
    }  # fmt: skip
    return Move("cancel", WAITING, State.CANCELLED, sets=sets)


def cancel_running(*, now: float) -> Move:
    """Running -> cancelling: its worker learns of it with the next heartbeat, or at once in this process."""
    return Move("cancel", _RUNNING, State.CANCELLING, sets={"cancel_requested_at": now})


def progress(fence: Fence, *, fraction: float, message: str) -> Move:
    """Write the latest progress of a running job."""
    sets = {"progress": min(1.0, max(0.0, fraction)), "message": message}
    return Move("progress", _RUNNING, fence=fence, sets=sets, progress_floor=True)


def step(fence: Fence, *, steps: bytes) -> Move:
    """Record the outcomes of ``once`` steps."""
    return Move("step", _RUNNING, fence=fence, sets={"steps": steps})


def due(*, now: float) -> Move:
    """Scheduled -> queued: its time has come."""
    return Move("due", frozenset({State.SCHEDULED}), State.QUEUED, sets={"dispatch_pending": True})


def dispatched(epoch: int | None = None) -> Move:
    """Note that the queue knows of the job.

    With the ``epoch`` that was told: by the time of this note a worker may have claimed the job and put it
    back, which the queue does not know.
    """
    return Move("dispatched", _READY, epoch=epoch, sets={"dispatch_pending": False})


def forgotten(epoch: int) -> Move:
    """Note that the queue does not know of the job any more: the sweeper tells it when the job is due."""
    return Move("forgotten", _READY, epoch=epoch, sets={"dispatch_pending": True})


def dead_letter(job: Job, *, now: float, retention: float, attempts: bytes, error: bytes) -> Move:
    """Queued, retrying, or running with an ended lease -> failed: its queue has given up on it.

    The guards repeat what was seen, so that a worker that claims or still has the job keeps it.
    """
    running = job.state is State.RUNNING
    guards: dict[str, Any] = (
        {"epoch": job.epoch, "lease_before": now} if running else {"version": job.version}
    )
    sets = {
        **_DONE, "reason": Reason.DEAD_LETTER.value, "error": error, "finished_at": now,
        "expires_at": now + retention, "attempts": attempts,
    }  # fmt: skip
    return Move("dead_letter", frozenset({job.state}), State.FAILED, sets=sets, **guards)


def deadline(job: Job, *, now: float, retention: float) -> Move:
    """A waiting job whose deadline passed: expired if it never started, else failed(timeout)."""
    started = job.attempt > 0 or job.releases > 0
    to = State.FAILED if started or job.state is State.RETRYING else State.EXPIRED
    reason = Reason.TIMEOUT if to is State.FAILED else Reason.DEADLINE
    sets = {**_DONE, "reason": reason.value, "finished_at": now, "expires_at": now + retention}
    return Move("deadline", frozenset({job.state}), to, version=job.version, sets=sets)


def rescue(
    job: Job, *, now: float, retention: float, not_before: float, attempts: bytes, error: bytes, lost: bool
) -> Move:
    """C4: take a job from a worker whose lease ended.

    ``lost`` says that no further claim is allowed (crashes or attempts spent). A cancelling job becomes
    cancelled. The guards repeat what the reaper saw, so that a worker that came back in between keeps it.
    """
    guards: dict[str, Any] = {"epoch": job.epoch, "lease_before": now, "adds": {"crash_count": 1}}
    ended = {**_DONE, "finished_at": now, "expires_at": now + retention, "attempts": attempts}
    if job.state is State.CANCELLING:
        sets: dict[str, Any] = {**ended, "reason": Reason.CANCEL.value}
        return Move("rescue", frozenset({State.CANCELLING}), State.CANCELLED, sets=sets, **guards)
    if lost:
        sets = {**ended, "reason": Reason.LOST.value, "error": error}
        return Move("rescue", _RUNNING, State.FAILED, sets=sets, **guards)
    sets = {
        "token": "", "lease_until": 0.0, "worker_id": "", "reason": Reason.RESCUED.value, "error": error,
        "not_before": not_before, "rank": not_before, "attempts": attempts,
    }  # fmt: skip
    return Move("rescue", _RUNNING, State.RETRYING, sets=sets, **guards)


def ends(move: Move) -> bool:
    """Return whether the move leads to a terminal state."""
    return move.to in TERMINAL
