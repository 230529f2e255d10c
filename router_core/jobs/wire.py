"""The shape of a job on the wire: written by the server, read by the client.

Light to import, because the client needs it and nothing else of this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Final

import pydantic_core

from router_core.clock import rfc3339
from router_core.errors import UpstreamError
from router_core.jobs.job import TERMINAL, Job, Reason, State

__all__ = [
    "JobView",
    "apipod_body",
    "encode_job",
    "job_body",
    "job_links",
    "job_metrics",
    "parse_job",
    "parse_state",
    "runpod_word",
    "timestamp",
]

_RUNPOD_WORDS: Final[Mapping[State, str]] = {
    State.SCHEDULED: "IN_QUEUE",
    State.QUEUED: "IN_QUEUE",
    State.RETRYING: "IN_QUEUE",
    State.RUNNING: "IN_PROGRESS",
    State.CANCELLING: "IN_PROGRESS",
    State.SUCCEEDED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
    State.EXPIRED: "TIMED_OUT",
}
_FOREIGN_WORDS: Final[Mapping[str, State]] = {
    "in_queue": State.QUEUED,
    "in_progress": State.RUNNING,
    "completed": State.SUCCEEDED,
    "timed_out": State.FAILED,
    # the words of apipod services
    "processing": State.RUNNING,
    "streaming": State.RUNNING,
    "finished": State.SUCCEEDED,
    "timeout": State.FAILED,
    "rejected": State.FAILED,
    # a spelling that other job services use
    "canceled": State.CANCELLED,
}
_APIPOD_WORDS: Final[Mapping[State, str]] = {
    State.SCHEDULED: "QUEUED",
    State.QUEUED: "QUEUED",
    State.RETRYING: "QUEUED",
    State.RUNNING: "PROCESSING",
    State.CANCELLING: "PROCESSING",
    State.SUCCEEDED: "FINISHED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
    State.EXPIRED: "TIMEOUT",
}


def timestamp(seconds: float) -> str:
    """Return RFC 3339 in UTC with microseconds."""
    return rfc3339(seconds, "microseconds")


def runpod_word(state: State, reason: str = "") -> str:
    """Return the state in RunPod's words."""
    if state is State.FAILED and reason == Reason.TIMEOUT:
        return "TIMED_OUT"
    return _RUNPOD_WORDS[state]


def parse_state(word: str) -> State:
    """Read a state in our words, RunPod's, or those of an apipod service.

    Raises ValueError for a word that nobody uses.
    """
    lower = word.lower()
    foreign = _FOREIGN_WORDS.get(lower)
    return foreign if foreign is not None else State(lower)


def job_links(job_id: str, *, prefix: str = "", stream: bool = False) -> dict[str, str]:
    """Return where a job is read, cancelled and followed."""
    own = f"{prefix}/jobs/{job_id}"
    links = {
        "self": own,
        "status": f"{prefix}/status/{job_id}",
        "cancel": f"{own}/cancel",
        "events": f"{own}/events",
        "result": f"{own}/result",
    }
    if stream:
        links["stream"] = f"{prefix}/stream/{job_id}"
    return links


def job_metrics(job: Job) -> dict[str, float]:
    """Return the seconds that the last attempt waited and ran, as far as they are known."""
    metrics: dict[str, float] = {}
    if job.started_at:
        if job.finished_at:
            metrics["execution_time_s"] = round(max(0.0, job.finished_at - job.started_at), 6)
        metrics["queue_time_s"] = round(max(0.0, job.started_at - max(job.created_at, job.not_before)), 6)
    return metrics


def job_body(job: Job, *, prefix: str = "", stream: bool = False) -> dict[str, Any]:
    """Return the job as JSON-able members; nulls are left out."""
    body: dict[str, Any] = pydantic_core.from_json(encode_job(job, prefix=prefix, stream=stream))
    return body


def encode_job(job: Job, *, prefix: str = "", stream: bool = False) -> bytes:
    """Return the JSON text of the job.

    ``result`` and ``error`` are JSON in the record already and are spliced in as they are: a poll does not
    pay for decoding a result that it only passes on.
    """
    own = f"{prefix}/jobs/{job.id}"
    head = (
        f'{{"job_id":"{job.id}","route":{_quote(job.route)},"status":"{job.state.value}",'
        f'"progress":{_number(job.progress)}'
    )
    if job.message:
        head += f',"message":{_quote(job.message)}'
    parts = [head.encode()]
    if job.result and job.result != b"null":
        parts += (b',"result":', job.result)
    if job.result_ref:
        parts += (b',"result_ref":', _public_ref(job.result_ref, f"{own}/result"))
    if job.error:
        parts += (b',"error":', job.error)
    parts.append(_tail(job, prefix, stream))
    return b"".join(parts)


def _tail(job: Job, prefix: str, stream: bool) -> bytes:
    text = f',"attempt":{job.attempt}'
    if job.reason:
        text += f',"reason":{_quote(job.reason)}'
    if job.priority:
        text += f',"priority":{job.priority}'
    text += f',"created_at":"{timestamp(job.created_at)}"'
    for name, moment in (
        ("not_before", job.not_before if job.state in _NOT_YET else 0.0),
        ("deadline_at", job.deadline_at),
        ("started_at", job.started_at),
        ("finished_at", job.finished_at),
        ("expires_at", job.expires_at),
    ):
        if moment:
            text += f',"{name}":"{timestamp(moment)}"'
    origin = job.meta.get("retry_of")
    if isinstance(origin, str):
        text += f',"retry_of":{_quote(origin)}'
    metrics = pydantic_core.to_json(job_metrics(job))
    links = pydantic_core.to_json(job_links(job.id, prefix=prefix, stream=stream))
    return b'%s,"metrics":%s,"links":%s}' % (text.encode(), metrics, links)


_NOT_YET: Final = frozenset({State.SCHEDULED, State.RETRYING})


def _number(value: float) -> str:
    return repr(float(value)) if -1e300 < value < 1e300 else "0.0"


def _public_ref(ref: bytes, href: str) -> bytes:
    """Leave the blob's key out: it is an address inside, and the result is read at ``href``."""
    known = pydantic_core.from_json(ref)
    shown = {"href": href} | {
        name: known[name] for name in ("size", "sha256", "content_type") if name in known
    }
    if known.get("filename"):
        shown["filename"] = known["filename"]
    return pydantic_core.to_json(shown)


def apipod_body(job: Job, *, prefix: str = "", stream: bool = False, result: Any = None) -> dict[str, Any]:
    """Return the job as apipod services write it, which is what fastsdk reads.

    Other than ours: upper-case status words, ``error`` as text, and an offloaded result (given as ``result``)
    stands in the body, because that client never follows a link to it.
    """
    body = job_body(job, prefix=prefix, stream=stream)
    body["status"] = (
        "TIMEOUT" if runpod_word(job.state, job.reason) == "TIMED_OUT" else _APIPOD_WORDS[job.state]
    )
    if job.result_ref and result is not None:
        body["result"] = result
    if (error := body.get("error")) is not None:
        body["error"] = _error_text(error)
    elif job.state is State.EXPIRED:
        body["error"] = "the deadline passed before the job started"
    if "queue_time_s" in body["metrics"]:
        body["metrics"]["platform_queue_time_s"] = body["metrics"]["queue_time_s"]
    links = body["links"]
    for name in ("status", "stream"):
        if name in links:
            links[name] += "?shape=apipod"
    links["cancel"] = f"{prefix}/cancel/{job.id}"
    return body


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        kind, message = error.get("type"), error.get("message")
        return f"{kind}: {message}" if kind and message else str(message or kind or "failed")
    return str(error)


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as a caller sees it."""

    job_id: str
    status: State
    route: str = ""
    progress: float = 0.0
    message: str = ""
    reason: str = ""
    result: Any = None
    result_ref: Mapping[str, Any] | None = None
    """Set when the result is too large for the body: read ``links["result"]``."""
    error: Mapping[str, Any] | None = None
    """``{"type", "message", "attempt", "retryable"}``."""
    attempt: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL


def parse_job(body: bytes | str | Mapping[str, Any]) -> JobView:
    """Read a job body of ours, or one of a RunPod-shaped endpoint (``id``, ``output``).

    Raises UpstreamError when it is neither: what answers there is not a job service.
    """
    try:
        raw = pydantic_core.from_json(body) if isinstance(body, (bytes, str)) else dict(body)
        return _view(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UpstreamError(f"the answer is not a job: {error!r}", code="not_a_job") from error


def _view(raw: Mapping[str, Any]) -> JobView:
    word = str(raw["status"])
    error = raw.get("error")
    if error is not None and not isinstance(error, Mapping):
        error = {"type": "Error", "message": str(error), "attempt": raw.get("attempt", 0), "retryable": False}
    metrics = dict(raw.get("metrics") or {})
    for theirs, ours in (("executionTime", "execution_time_s"), ("delayTime", "queue_time_s")):
        if isinstance(raw.get(theirs), (int, float)):
            metrics.setdefault(ours, raw[theirs] / 1000)
    status = parse_state(word)
    return JobView(
        job_id=str(raw["job_id"] if "job_id" in raw else raw["id"]),
        status=status,
        route=str(raw.get("route") or ""),
        progress=_fraction(raw.get("progress"), status),
        message=str(raw.get("message") or ""),
        reason=str(raw.get("reason") or ("timeout" if word.lower() in ("timed_out", "timeout") else "")),
        result=raw["result"] if "result" in raw else raw.get("output"),
        result_ref=raw.get("result_ref"),
        error=error,
        attempt=int(raw.get("attempt") or 0),
        created_at=_moment(raw.get("created_at")),
        started_at=_moment(raw.get("started_at")),
        finished_at=_moment(raw.get("finished_at")),
        metrics=metrics,
        links=dict(raw.get("links") or {}),
        raw=raw,
    )


def _fraction(value: Any, status: State) -> float:
    if isinstance(value, (int, float)) and 0 <= value <= 1:
        return float(value)
    return 1.0 if status is State.SUCCEEDED else 0.0


def _moment(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None
