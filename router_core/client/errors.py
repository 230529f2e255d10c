"""What can go wrong on the caller's side, and how an answer becomes an exception again.

Beside the errors of ``router_core.errors``, which a service answers with and which are raised here under the
same names:

    UpstreamError
    ├── CannotConnect       nobody answers at that address; nothing was sent
    │   └── TlsFailed       somebody does, and cannot be trusted or spoken to securely
    ├── ConnectionCut       the connection broke after sending: the service may have acted
    ├── Silent              nothing came for too long (also an UpstreamTimeout and a TimeoutError)
    └── BadAnswer           the answer makes no sense: probably another program answers there
    JobError
    ├── JobFailed           the job's own error is in ``error``
    ├── JobCancelled
    └── JobExpired          it waited past its deadline and never started
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from router_core import errors as tree
from router_core.errors import (
    HTTPError,
    JobError,
    RateLimited,
    RouterError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from router_core.http.message import Headers

__all__ = [
    "BadAnswer",
    "CannotConnect",
    "ConnectionCut",
    "JobCancelled",
    "JobExpired",
    "JobFailed",
    "Silent",
    "TlsFailed",
    "error_from",
    "retry_after",
]

_MAX_TEXT: Final = 500
_KEPT_HEADERS: Final = ("retry-after", "allow", "location", "x-request-id")


class CannotConnect(UpstreamError, ConnectionError):
    """Nobody answers at that address; nothing was sent."""

    code = "cannot_connect"


class TlsFailed(CannotConnect):
    """Somebody answers there who cannot be trusted, or not be spoken to securely; nothing was sent."""

    code = "tls_failed"


class ConnectionCut(UpstreamError, ConnectionError):
    """The connection broke after the call was sent; whether the service acted on it is not known."""

    code = "connection_cut"


class Silent(UpstreamTimeout, TimeoutError):
    """Nothing came for too long; whether the service acted on the call is not known."""

    code = "silent"


class BadAnswer(UpstreamError):
    """The answer is not what this kind of service sends."""

    code = "bad_answer"


class JobEnded(JobError):
    """A job ended without a result."""

    def __init__(
        self, job_id: str, detail: str, *, reason: str = "", error: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.job_id = job_id
        self.reason = reason
        """Why, in one stable word: error, attempts_exhausted, timeout, lost ..."""
        self.error: dict[str, Any] = dict(error or {})
        """``type``, ``message``, ``attempt`` and ``retryable``, as the service tells them."""


class JobFailed(JobEnded):
    """The job failed; ``error`` is what its function raised, as far as the service tells."""

    code = "job_failed"


class JobCancelled(JobEnded):
    """Somebody cancelled the job."""

    code = "job_cancelled"


class JobExpired(JobEnded):
    """The job waited past its deadline and never started."""

    code = "job_expired"


def error_from(status: int, headers: Headers, body: bytes) -> RouterError:
    """Return the exception that an error answer stands for.

    ``body`` is the beginning of the answer. A problem document gives the class by its code, else by its
    status; of anything else only a short piece of text is kept, because any program may have written it.
    """
    problem = _problem(headers, body)
    code = _text(problem.get("code"))
    detail = _text(problem.get("detail")) or _text(problem.get("title")) or _plain(headers, body)
    known = {"type", "title", "status", "detail", "code", "retryable"}
    extra = {key: value for key, value in problem.items() if key not in known}
    kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
    kind = _BY_CODE.get(code)
    if kind is None or kind.status != status:
        kind = _BY_STATUS.get(status)
    shared: dict[str, Any] = {"code": code or None, "headers": kept, "extra": extra}
    if kind is None:
        return HTTPError(status if 400 <= status <= 599 else 502, detail, **shared)
    if issubclass(kind, tree.ValidationFailed):
        told = extra.pop("errors", None)
        errors = [dict(error) for error in told if isinstance(error, dict)] if isinstance(told, list) else []
        return kind(_with_fields(detail, errors), errors=errors, **shared)
    if issubclass(kind, (RateLimited, Unavailable)):
        wait = retry_after(headers)
        return kind(detail, retry_after=1.0 if wait is None else wait, **shared)
    return kind(detail, **shared)


def retry_after(headers: Headers) -> float | None:
    """Return the seconds of ``Retry-After``; None when there is none, or it is a date (we send none)."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e9 else None


def _problem(headers: Headers, body: bytes) -> dict[str, Any]:
    if "json" not in headers.get("content-type", ""):
        return {}
    try:
        value = pydantic_core.from_json(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {"detail": value}


def _plain(headers: Headers, body: bytes) -> str:
    text = " ".join(body[: 4 * _MAX_TEXT].decode("utf-8", "replace").split())
    if not text or "html" in headers.get("content-type", ""):
        return ""
    return _text(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 1] + "…"


def _with_fields(detail: str, errors: list[dict[str, Any]]) -> str:
    """Name the wrong fields in the text: most callers read nothing else."""
    named = []
    for error in errors[:5]:
        loc = error.get("loc")
        place = ".".join(str(part) for part in loc) if isinstance(loc, list) else ""
        named.append(f"{place}: {error.get('msg', '')}" if place else str(error.get("msg", "")))
    if len(errors) > len(named):
        named.append(f"and {len(errors) - len(named)} more")
    return f"{detail} ({'; '.join(named)})" if named else detail


_CLASSES: Final[tuple[type[RouterError], ...]] = (
    tree.BadRequest, tree.ValidationFailed, tree.PayloadTooLarge, tree.HeadersTooLarge, tree.UnsupportedMedia,
    tree.Unauthorized, tree.Forbidden, tree.NotFound, tree.MethodNotAllowed, tree.NotAcceptable,
    tree.RequestTimeout, tree.Conflict, tree.Gone, tree.RateLimited, tree.UpstreamError, tree.UpstreamTimeout,
    tree.Unavailable,
)  # fmt: skip
_BY_STATUS: Final[Mapping[int, type[RouterError]]] = {kind.status: kind for kind in _CLASSES}
_NARROWER: Final[tuple[type[RouterError], ...]] = (
    tree.KeyReused, tree.QueueFull, tree.StoreError, tree.Draining, tree.JobError,
)  # fmt: skip
_BY_CODE: Final[Mapping[str, type[RouterError]]] = {kind.code: kind for kind in (*_CLASSES, *_NARROWER)}
