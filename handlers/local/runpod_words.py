"""RunPod's words: what a request may hold, and how a job reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pydantic_core

from router_core.binding.strict_json import loads
from router_core.errors import UnsupportedMedia, ValidationFailed
from router_core.http.message import Request
from router_core.jobs.job import Job, State
from router_core.jobs.prefer import query_value
from router_core.jobs.submission import SubmitOptions, read_options
from router_core.jobs.wire import runpod_word

__all__ = ["Envelope", "brief", "encode_status", "read_envelope", "read_wait"]

LOW_PRIORITY: Final = -10
_WAIT_MS: Final = (1_000, 300_000)
_DEFAULT_WAIT: Final = 90.0
_MAX_MS: Final = 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Envelope:
    """The body of ``/run``: the input, and how its job is to be treated."""

    input: Mapping[str, Any]
    options: SubmitOptions
    policy: Mapping[str, Any]


def read_envelope(request: Request, max_depth: int) -> Envelope:
    """Read the body of ``/run`` and ``/runsync``.

    Raises BadRequest for what is not JSON, UnsupportedMedia for another content type (which a web page could
    send without asking), ValidationFailed for values that are wrong. ``s3Config`` and unknown members are
    ignored, as the platform does.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMedia("the body must be JSON: send Content-Type: application/json")
    body = loads(request.body, max_depth)
    if not isinstance(body, dict):
        raise _wrong([], "must be an object with the member input", "object_type")
    given = body.get("input")
    if not isinstance(given, dict):
        kind = "missing" if "input" not in body else "object_type"
        raise _wrong(["input"], "must be an object of arguments", kind)
    options = replace(read_options(request.headers), request_id=request.id)
    policy = body.get("policy")
    if policy is not None and not isinstance(policy, dict):
        raise _wrong(["policy"], "must be an object", "object_type")
    policy = policy or {}
    return Envelope(given, _treated(policy, _webhook(body, options)).check(), policy)


def read_wait(request: Request) -> float:
    """Return for how many seconds ``/runsync`` waits: ``?wait=`` in milliseconds, else 90 s."""
    text = query_value(request, "wait")
    if text is None:
        return _DEFAULT_WAIT
    low, high = _WAIT_MS
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        error = {"loc": ["query", "wait"], "msg": f"must be {low} to {high} (milliseconds)", "type": "wait"}
        raise ValidationFailed(f"wait must be between {low} and {high} milliseconds", errors=[error])
    return int(text) / 1000


def _webhook(body: Mapping[str, Any], options: SubmitOptions) -> SubmitOptions:
    webhook = body.get("webhook")
    if webhook is None or webhook == "":
        return options
    if not isinstance(webhook, str):
        raise _wrong(["webhook"], "must be a URL", "string_type")
    return replace(options, webhook=webhook)


def _treated(policy: Mapping[str, Any], options: SubmitOptions) -> SubmitOptions:
    ttl = _milliseconds(policy, "ttl")
    timeout = _milliseconds(policy, "executionTimeout")
    low = policy.get("lowPriority", False)
    if not isinstance(low, bool):
        raise _wrong(["policy", "lowPriority"], "must be true or false", "bool_type")
    if ttl is not None:
        options = replace(options, cancel_after=ttl)
    if timeout is not None:
        options = replace(options, timeout=timeout)
    if low:
        options = replace(options, priority=LOW_PRIORITY)
    return options


def _milliseconds(policy: Mapping[str, Any], name: str) -> float | None:
    value = policy.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_MS:
        raise _wrong(["policy", name], f"must be 1 to {_MAX_MS} milliseconds", "milliseconds")
    return value / 1000


def _wrong(loc: list[str], text: str, kind: str) -> ValidationFailed:
    error = {"loc": ["body", *loc], "msg": text, "type": kind}
    return ValidationFailed(f"{'.'.join(loc) or 'the body'} {text}", errors=[error])


def brief(job: Job) -> dict[str, str]:
    """Return id and status alone."""
    return {"id": job.id, "status": runpod_word(job.state, job.reason)}


def encode_status(job: Job, output: bytes | None = None) -> bytes:
    """Return the job as the platform writes it; ``output`` is JSON and stands in the text as it is."""
    body: dict[str, Any] = brief(job)
    if job.started_at:
        body["delayTime"] = _ms(job.started_at - job.created_at)
        if job.finished_at:
            body["executionTime"] = _ms(job.finished_at - job.started_at)
    if job.worker_id:
        body["workerId"] = job.worker_id
    if job.attempt > 1:
        body["retries"] = job.attempt - 1
    error = _error(job)
    if error:
        body["error"] = error
    if not job.terminal and (job.progress or job.message):
        # The platform shows what a worker reports as the output so far; the two members beside it are ours.
        body |= {"progress": job.progress, "message": job.message}
        output = pydantic_core.to_json({"progress": job.progress, "message": job.message})
    text = pydantic_core.to_json(body)
    return text if output is None else b'%s,"output":%s}' % (text[:-1], output)


def _error(job: Job) -> str:
    if job.state is State.EXPIRED:
        return "the job was not started within its ttl"
    if job.state is not State.FAILED:
        return ""
    error = pydantic_core.from_json(job.error) if job.error else {}
    kind, message = error.get("type", ""), error.get("message", "")
    return ": ".join(part for part in (kind, message) if part) or job.reason or "failed"


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
