"""What becomes of a job whose attempt did not end with a result: one ladder, one move for each rung."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pydantic_core

from router_core.binding.returns import InvalidResult
from router_core.errors import BadRequest, Misconfigured, RouterError, StoreError
from router_core.jobs import moves
from router_core.jobs.execution import Exited
from router_core.jobs.job import MAX_CRASHES, MAX_RELEASES, Job, Reason, State
from router_core.jobs.moves import Move
from router_core.routing.route import JobOptions

__all__ = ["MAX_BACKOFF", "Failure", "backoff", "decide", "failure_of", "history", "is_retryable", "rank_at"]

MAX_BACKOFF: Final = 300.0
MAX_HISTORY: Final = 20
"""Attempts kept in a record: the latest."""
MAX_MESSAGE: Final = 2_000
"""Characters of an error's message."""
_RETRYABLE_STATUS: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt has no result."""

    type: str
    message: str
    retryable: bool
    """Whether another attempt may help; whether the route wants one, and one is left, are other questions."""
    reason: Reason = Reason.ERROR
    """error, timeout, lost (its process died), result_too_large, released or cancel."""
    retry_after: float = 0.0
    """Seconds that the other side asked to wait."""
    status: int = 0
    """HTTP status and code of an error that has them, for callers who wait; 0 and empty otherwise."""
    code: str = ""
    ours: bool = False
    """The machinery failed, not the function: retried even where errors are not."""
    error: BaseException | None = None
    """For the log."""
    trace: str = ""
    """Traceback of an error that happened in another process; for the log."""

    def body(self, attempt: int) -> bytes:
        """Return what callers see."""
        body = {"type": self.type, "message": self.message, "attempt": attempt, "retryable": self.retryable}
        if self.status:
            body |= {"status": self.status, "code": self.code}
        return pydantic_core.to_json(body)


def failure_of(error: BaseException, options: JobOptions) -> Failure:
    """Describe an exception; its text is cut to 2,000 characters and made encodable."""
    if isinstance(error, Exited) and error.__cause__ is not None:
        error = error.__cause__
    retry_after = getattr(error, "retry_after", 0.0)
    return Failure(
        type=type(error).__name__,
        message=_text(error),
        retryable=is_retryable(error, options),
        retry_after=retry_after if isinstance(retry_after, (int, float)) and retry_after > 0 else 0.0,
        status=error.status if isinstance(error, RouterError) else 0,
        code=error.code if isinstance(error, RouterError) else "",
        ours=isinstance(error, StoreError),
        error=error,
    )


def is_retryable(error: BaseException, options: JobOptions) -> bool:
    """Return whether another attempt may help: what the caller or the author has to mend stays broken."""
    if isinstance(error, (BadRequest, InvalidResult, Misconfigured)):
        return False
    if isinstance(error, RouterError) and error.status < 500 and error.status not in _RETRYABLE_STATUS:
        return False
    return isinstance(error, options.retry_on)


def _text(error: BaseException) -> str:
    try:
        text = error.detail if isinstance(error, RouterError) else str(error)
    except Exception:  # a __str__ that fails must not hide the error it should describe
        text = ""
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode()


def backoff(options: JobOptions, attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Return seconds before the next attempt: full jitter over a doubling ceiling, so that jobs which
    failed together do not come back together."""
    ceiling = min(MAX_BACKOFF, max(0.0, options.backoff) * 2.0 ** min(attempt - 1, 30))
    return ceiling * draw()


def rank_at(job: Job, ready_at: float) -> float:
    """Return the queue rank of a job that becomes ready at ``ready_at``: it keeps the head start that its
    priority gave it when it was submitted."""
    if not job.priority:
        return ready_at
    first_ready = max(job.created_at, job.not_before)
    return ready_at - max(-MAX_HEAD_START, min(MAX_HEAD_START, first_ready - job.rank))


MAX_HEAD_START: Final = 86_400.0
"""Bounds what a priority may be worth, should a record hold times that do not fit each other."""


def history(job: Job, outcome: str, now: float, error: bytes = b"") -> bytes:
    """Return the job's attempts with the current one appended; the oldest are dropped."""
    entry: dict[str, Any] = {
        "number": job.attempt, "started_at": job.started_at, "ended_at": now, "outcome": outcome,
    }  # fmt: skip
    if error:
        entry["error"] = pydantic_core.from_json(error)
    if not job.attempts:
        return pydantic_core.to_json([entry])
    earlier: list[Any] = pydantic_core.from_json(job.attempts)
    return pydantic_core.to_json([*earlier[-(MAX_HISTORY - 1) :], entry])


def decide(
    job: Job, failure: Failure, options: JobOptions, *, now: float, retention: float,
    draw: Callable[[], float] = random.random,
) -> Move:  # fmt: skip
    """Return the move for an attempt that ended with a failure.

    The rungs, first match wins: cancelled, given back, timed out, result too large, process died, error
    with an attempt left, error. Whether the worker still owns the job is not asked here: the fence inside
    the move answers that.
    """
    if failure.reason is Reason.CANCEL:
        return moves.cancelled(
            job.fence, now=now, retention=retention, attempts=history(job, State.CANCELLED.value, now)
        )
    if failure.reason is Reason.RELEASED:
        return _release(job, now, retention)
    attempts_left = job.attempt < job.max_attempts
    lost = failure.reason is Reason.LOST and (not attempts_left or job.crash_count + 1 >= MAX_CRASHES)
    final = failure.reason is not Reason.ERROR
    policy = options.max_attempts is not None and job.max_attempts > 1
    covered = not final and (failure.ours or (failure.retryable and policy))
    # what callers read says what this service does about such an error, not what some service might
    told = replace(failure, retryable=covered or (failure.reason is Reason.LOST and not lost))
    error = told.body(job.attempt)
    attempts = history(job, failure.reason.value, now, error)
    delay = max(backoff(options, job.attempt, draw), min(failure.retry_after, MAX_BACKOFF))
    again = {"not_before": now + delay, "rank": rank_at(job, now + delay)}
    if failure.reason is Reason.LOST:
        return moves.crash(
            job.fence, now=now, retention=retention, attempts=attempts, error=error, lost=lost, **again
        )
    if covered and attempts_left:
        return moves.retry(job.fence, now=now, attempts=attempts, error=error, **again)
    reason = Reason.ATTEMPTS_EXHAUSTED if covered and job.attempt > 1 else failure.reason
    return moves.fail(job.fence, now=now, retention=retention, attempts=attempts, error=error, reason=reason)


def _release(job: Job, now: float, retention: float) -> Move:
    attempts = history(job, Reason.RELEASED.value, now)
    if job.releases < MAX_RELEASES:
        return moves.release(job.fence, attempts=attempts)
    text = f"given back {MAX_RELEASES} times by workers that were shutting down"
    gone = Failure("JobError", text, True, Reason.RELEASED)
    return moves.fail(
        job.fence, now=now, retention=retention, attempts=attempts, error=gone.body(job.attempt),
        reason=Reason.ATTEMPTS_EXHAUSTED,
    )  # fmt: skip
