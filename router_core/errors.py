"""Every error that the product raises on purpose, and what each one tells the caller to do.

RouterError                     500  something went wrong here
├── HTTPError                    any  raised by authors: ``raise HTTPError(418, "teapot")``
├── BadRequest                  400  mend the request
│   ├── ValidationFailed        422  mend the named fields
│   ├── PayloadTooLarge         413  send less
│   ├── HeadersTooLarge         431  send fewer or shorter headers
│   └── UnsupportedMedia        415  send another content type
├── Unauthorized                401  say who you are
├── Forbidden                   403  ask for the right
├── NotFound                    404  no such thing, or not yours
├── MethodNotAllowed            405  use a method from ``Allow``
├── NotAcceptable               406  accept another content type
├── RequestTimeout              408  send faster
├── Conflict                    409  look at the state first
│   └── KeyReused               422  this idempotency key belongs to another request
├── Gone                        410  it was here and has expired
├── RateLimited                 429  wait for ``Retry-After``
│   └── QueueFull               429  wait for ``Retry-After``
├── UpstreamError               502  a service behind us failed
│   └── UpstreamTimeout         504  a service behind us was too slow
├── Unavailable                 503  wait for ``Retry-After``
│   ├── StoreError              503  the record store cannot answer
│   └── Draining                503  this process is going away
├── JobError                    500  a job ended without a result
├── Fenced                      409  (internal) another worker owns this job now
└── Misconfigured               500  the author or operator has to change something
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

__all__ = [
    "BadRequest",
    "Conflict",
    "Draining",
    "Fenced",
    "Forbidden",
    "Gone",
    "HTTPError",
    "HeadersTooLarge",
    "JobError",
    "KeyReused",
    "MethodNotAllowed",
    "Misconfigured",
    "NotAcceptable",
    "NotFound",
    "PayloadTooLarge",
    "QueueFull",
    "RateLimited",
    "RequestTimeout",
    "RouterError",
    "StoreError",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMedia",
    "UpstreamError",
    "UpstreamTimeout",
    "ValidationFailed",
]


class RouterError(Exception):
    """An error with an HTTP status, a stable code and a text that may be shown to the caller.

    ``extra`` adds members to the problem body, ``headers`` adds response headers.
    """

    status: int = 500
    code: str = "internal_error"
    title: str = "Internal Server Error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers: dict[str, str] = dict(headers or {})
        self.extra: dict[str, Any] = dict(extra or {})
        if code is not None:
            self.code = code


class HTTPError(RouterError):
    """An answer with any 4xx or 5xx status, raised by the author of a service."""

    code = "http_error"

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError needs a status between 400 and 599, not {status}")
        self.status = status
        self.title = _title(status)
        super().__init__(detail, code=code, headers=headers, extra=extra)


class BadRequest(RouterError):
    """The request cannot be understood."""

    status, code, title = 400, "bad_request", "Bad Request"


class ValidationFailed(BadRequest):
    """The request was understood and some of its values are wrong.

    ``errors`` holds one mapping per wrong value: ``loc`` (source, then the path to the value),
    ``msg`` and ``type`` (a stable word).
    """

    status, code, title = 422, "validation_failed", "Unprocessable Content"

    def __init__(self, detail: str = "", *, errors: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        super().__init__(detail or "one or more values are wrong", **kwargs)
        self.errors: list[dict[str, Any]] = [dict(error) for error in errors]
        self.extra["errors"] = self.errors


class PayloadTooLarge(BadRequest):
    """The body, or one part of it, is larger than this server takes."""

    status, code, title = 413, "payload_too_large", "Content Too Large"


class HeadersTooLarge(BadRequest):
    """The request line or the headers are larger than this server takes."""

    status, code, title = 431, "headers_too_large", "Request Header Fields Too Large"


class UnsupportedMedia(BadRequest):
    """The content type of the body is not one that this route reads."""

    status, code, title = 415, "unsupported_media_type", "Unsupported Media Type"


class Unauthorized(RouterError):
    """Nobody, or nobody known, is asking."""

    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(RouterError):
    """The caller is known and may not do this."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(RouterError):
    """There is no such thing, or it belongs to somebody else; the answer does not say which."""

    status, code, title = 404, "not_found", "Not Found"


class MethodNotAllowed(RouterError):
    """The path exists and does not take this method."""

    status, code, title = 405, "method_not_allowed", "Method Not Allowed"


class NotAcceptable(RouterError):
    """The result cannot be sent in any content type that the caller accepts."""

    status, code, title = 406, "not_acceptable", "Not Acceptable"


class RequestTimeout(RouterError):
    """The request arrived too slowly."""

    status, code, title = 408, "request_timeout", "Request Timeout"


class Conflict(RouterError):
    """The thing is in a state that does not allow this."""

    status, code, title = 409, "conflict", "Conflict"


class KeyReused(Conflict):
    """The idempotency key was used before with another request."""

    status, code, title = 422, "idempotency_key_reused", "Unprocessable Content"


class Gone(RouterError):
    """The thing existed and its retention is over."""

    status, code, title = 410, "gone", "Gone"


class _RetryLater(RouterError):
    """An error that goes away by itself; ``retry_after`` is in seconds."""

    retryable = True

    def __init__(self, detail: str = "", *, retry_after: float = 1.0, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.retry_after = retry_after
        # rounded up: who comes back as told must not be early
        self.headers.setdefault("Retry-After", str(max(1, ceil(retry_after))))


class RateLimited(_RetryLater):
    """The caller asks too often."""

    status, code, title = 429, "rate_limited", "Too Many Requests"


class QueueFull(RateLimited):
    """As many jobs are waiting on this route as it allows."""

    code = "queue_full"


class Unavailable(_RetryLater):
    """This server cannot answer at the moment."""

    status, code, title = 503, "unavailable", "Service Unavailable"


class StoreError(Unavailable):
    """The record store cannot answer; what was asked may or may not have happened."""

    code = "store_unavailable"


class Draining(Unavailable):
    """This process finishes what it has and takes no more."""

    code = "draining"


class UpstreamError(RouterError):
    """A service behind us failed; ``retryable`` says whether asking again may help."""

    status, code, title = 502, "upstream_error", "Bad Gateway"


class UpstreamTimeout(UpstreamError):
    """A service behind us did not answer in time."""

    status, code, title = 504, "upstream_timeout", "Gateway Timeout"


class JobError(RouterError):
    """A job ended without a result: failed, cancelled or expired."""

    code = "job_failed"


class Fenced(RouterError):
    """A write came from a worker that no longer owns the job; it must stop and discard its work."""

    status, code, title = 409, "fenced", "Conflict"


class Misconfigured(RouterError):
    """The service or its settings are wrong; the text names the place and what to change."""

    code = "misconfigured"


_TITLES = {
    cls.status: cls.title
    for cls in (
        BadRequest, PayloadTooLarge, HeadersTooLarge, UnsupportedMedia, Unauthorized, Forbidden, NotFound,
        MethodNotAllowed, NotAcceptable, RequestTimeout, Conflict, ValidationFailed, Gone, RateLimited,
        UpstreamError, Unavailable, UpstreamTimeout,
    )
}  # fmt: skip


def _title(status: int) -> str:
    return _TITLES.get(status, "Error" if status < 500 else "Server Error")
