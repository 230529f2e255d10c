"""How the end of a job is answered over HTTP: its result, or a problem that says why there is none."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from router_core import errors
from router_core.binding.result import file_response
from router_core.errors import JobError, RouterError
from router_core.http.media import File
from router_core.http.message import Request, Response
from router_core.http.negotiate import best_match
from router_core.jobs.job import Job, Reason, State
from router_core.jobs.result import JSON_TYPE, Result

__all__ = ["job_error", "result_response"]

_FILE_KEYS: Final = frozenset({"file_name", "content_type", "content"})

_STATUS_BY_NAME: Final[Mapping[str, int]] = {
    name: kind.status
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, RouterError)
}
"""What a function meant by raising one of our errors, where the record holds only its name."""


class _Ended(JobError):
    """A job without a result, with the status that its end is answered with."""

    def __init__(self, status: int, detail: str, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.status = status
        self.title = _TITLES.get(status, "Job Failed")


_TITLES: Final = {409: "Job Cancelled", 504: "Job Timed Out"}


def job_error(job: Job, location: str) -> JobError:
    """Return the problem for a job that ended without a result.

    The status is the one that the function's error carries; 504 after a timeout or deadline, 409 after a
    cancel, else 500.
    """
    error = _error_of(job)
    status, code = _status(job, error)
    extra: dict[str, Any] = {"job_id": job.id, "job_status": job.state.value, "reason": job.reason or None}
    if error:
        extra["error"] = error
    detail = str(error.get("message") or "") or _DETAILS.get(job.state, "the job failed")
    return _Ended(status, detail, code=code, extra=extra, headers={"location": location})


_DETAILS: Final = {
    State.CANCELLED: "the job was cancelled",
    State.EXPIRED: "the deadline passed before the job started",
}


def _error_of(job: Job) -> dict[str, Any]:
    if not job.error:
        return {}
    error = pydantic_core.from_json(job.error)
    return error if isinstance(error, dict) else {"message": str(error)}


def _status(job: Job, error: Mapping[str, Any]) -> tuple[int, str]:
    if job.state is State.CANCELLED:
        return 409, "job_cancelled"
    if job.state is State.EXPIRED:
        return 504, "job_expired"
    if job.reason == Reason.TIMEOUT:
        return 504, "job_timeout"
    if job.reason not in (Reason.ERROR, Reason.ATTEMPTS_EXHAUSTED):
        return 500, f"job_{job.reason}" if job.reason else "job_failed"
    status = error.get("status", _STATUS_BY_NAME.get(str(error.get("type")), 500))
    if not isinstance(status, int) or not 400 <= status <= 599:
        status = 500
    return status, str(error.get("code") or "job_failed")


def result_response(result: Result, request: Request, *, status: int = 200) -> Response:
    """Return a result as the plain call would: JSON as it is, a file as its bytes, text to who wants text.

    How a file is shown (and that a page is saved rather than run) is decided where plain calls decide it.
    What lies in the blob store is answered as it lies there, which is what ``result_ref`` describes.
    """
    data = result.data
    file = result.file if result.file is not None or not result.inline else _file(data)
    if file is not None:
        return file_response(status, file)
    if data == b"null" and status in _NO_BODY:
        return Response(status)
    if data.startswith(b'"') and _wants_text(request):
        return Response.text(pydantic_core.from_json(data), status)
    return Response(status, (("content-type", JSON_TYPE), ("x-content-type-options", "nosniff")), data)


_NO_BODY: Final = (204, 205)


def _wants_text(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return "text/" in accept and best_match(accept, (JSON_TYPE, "text/plain")) == "text/plain"


def _file(data: bytes) -> File | None:
    """Return the file when the JSON is a file object and nothing else."""
    head = data[:2048]
    if not data.startswith(b"{") or b'"content_type"' not in head or b'"content"' not in head:
        return None
    value = pydantic_core.from_json(data)
    if not _FILE_KEYS.issuperset(value) or not all(isinstance(item, str) for item in value.values()):
        return None
    try:
        content = base64.b64decode(value["content"], validate=True)
    except (binascii.Error, ValueError, KeyError):
        return None
    return File(content, filename=value.get("file_name", ""), content_type=value["content_type"])
