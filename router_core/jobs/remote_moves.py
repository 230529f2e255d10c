"""From what a remote worker says about its job to the move that is written.

The worker names an outcome and describes it. Times, history, rank and whether another attempt follows are the
coordinator's: a hostile worker can spoil the job that it holds, as any worker could, and nothing else.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Any

import pydantic_core

from router_core.errors import ValidationFailed
from router_core.jobs import moves
from router_core.jobs.blobs import Blob
from router_core.jobs.context import MAX_STEPS_BYTES
from router_core.jobs.job import MAX_CRASHES, MAX_RELEASES, Fence, Job, Reason, State
from router_core.jobs.moves import Move
from router_core.jobs.remote_wire import Ended, Progress, Steps, Succeed, is_json, lease_mark
from router_core.jobs.retry import MAX_BACKOFF, Failure, history, rank_at
from router_core.jobs.settle import MAX_INLINE

__all__ = ["ended", "noted", "settled_by", "succeeded"]

_NO_ERROR = Failure("JobError", "the worker gave no reason", False)


def noted(fence: Fence, said: Progress | Steps) -> Move:
    """Return the move that writes progress or steps. Raises ValidationFailed."""
    if isinstance(said, Progress):
        return moves.progress(fence, fraction=said.progress, message=said.message)
    steps = said.steps.encode()
    if len(steps) > MAX_STEPS_BYTES * 2 or not _is_object(steps):
        raise _wrong("steps", "must be a JSON object")
    return moves.step(fence, steps=steps)


def succeeded(job: Job, fence: Fence, said: Succeed, blob: Blob | None, *, now: float, keep: float) -> Move:
    """Return the move to succeeded; ``blob`` is the result where it was uploaded. Raises ValidationFailed."""
    result, ref = b"", b""
    if said.upload is not None and blob is not None:
        members: dict[str, Any] = {
            "key": blob.key, "sha256": blob.sha256, "size": blob.size,
            "content_type": said.upload.content_type,
        }  # fmt: skip
        if said.upload.filename is not None:
            members["filename"] = said.upload.filename
        ref = pydantic_core.to_json(members)
    else:
        result = (said.result or "").encode()
        if len(result) > MAX_INLINE or not is_json(result):
            raise _wrong("result", f"must be JSON of at most {MAX_INLINE} bytes")
    return moves.succeed(
        fence, now=now, retention=keep, result=result, result_ref=ref, message=said.message,
        attempts=_history(job, fence, State.SUCCEEDED.value, now),
    )  # fmt: skip


def ended(job: Job, fence: Fence, said: Ended, *, now: float, keep: float) -> Move:
    """Return the move for an attempt without a result.

    A retry that is not left becomes a failure, a crash too many loses the job, and what was given back too
    often is not passed on again.
    """
    move = _ended(job, fence, said, now, keep)
    if said.progress is None or move.to is State.QUEUED:
        return move
    sets = {**move.sets, "progress": said.progress, "message": said.message or ""}
    return replace(move, sets=sets, progress_floor=True)


def _ended(job: Job, fence: Fence, said: Ended, now: float, keep: float) -> Move:
    if said.move == "cancelled":
        attempts = _history(job, fence, State.CANCELLED.value, now)
        return moves.cancelled(fence, now=now, retention=keep, attempts=attempts)
    if said.move == "release" and job.releases < MAX_RELEASES:
        return moves.release(fence, attempts=_history(job, fence, Reason.RELEASED.value, now))
    error = _failure(said).body(job.attempt)
    left = job.attempt < job.max_attempts
    at = now + min(said.delay, MAX_BACKOFF * 2)
    again: dict[str, Any] = {"not_before": at, "rank": rank_at(job, at), "error": error}
    if said.move == "crash":
        lost = not left or job.crash_count + 1 >= MAX_CRASHES
        attempts = _history(job, fence, Reason.LOST.value, now, error)
        return moves.crash(fence, now=now, retention=keep, attempts=attempts, lost=lost, **again)
    reason = Reason(said.reason)
    attempts = _history(job, fence, reason.value, now, error)
    if said.move == "retry" and left:
        return moves.retry(fence, now=now, attempts=attempts, **again)
    if said.move in ("retry", "release"):
        reason = Reason.ATTEMPTS_EXHAUSTED
    return moves.fail(fence, now=now, retention=keep, attempts=attempts, error=error, reason=reason)


def _failure(said: Ended) -> Failure:
    if said.error is None:
        return _NO_ERROR
    error = said.error
    status = error.status if 400 <= error.status <= 599 else 0
    return Failure(error.type, error.message, error.retryable, status=status, code=error.code)


def _history(job: Job, fence: Fence, outcome: str, now: float, error: bytes = b"") -> bytes:
    """Append the attempt with the mark of the lease that ended it, for its worker may ask again."""
    attempts: list[dict[str, Any]] = pydantic_core.from_json(history(job, outcome, now, error))
    attempts[-1]["lease"] = lease_mark(fence)
    return pydantic_core.to_json(attempts)


def settled_by(job: Job, fence: Fence) -> bool:
    """Return whether it was this lease that ended the job's last attempt."""
    if job.epoch != fence.epoch or job.token or not job.attempts:
        return False
    last = pydantic_core.from_json(job.attempts)[-1]
    mark = str(last.get("lease", "")) if isinstance(last, dict) else ""
    return hmac.compare_digest(mark.encode(), lease_mark(fence).encode())


def _is_object(text: bytes) -> bool:
    return text[:1] == b"{" and is_json(text)


def _wrong(field: str, text: str) -> ValidationFailed:
    return ValidationFailed(errors=[{"loc": ["body", field], "msg": text, "type": "value_error"}])
