"""What a caller may ask for besides the arguments: key, priority, delay, deadline, webhook."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.http.message import Headers
from router_core.jobs.dispatch import Abilities

__all__ = [
    "AGEING",
    "DEFAULT_OPTIONS",
    "MAX_DELAY",
    "SubmitOptions",
    "parse_duration",
    "rank",
    "read_options",
    "scope_hash",
]

AGEING: Final = 60.0
"""Seconds of waiting that weigh as much as one point of priority, so that low priority is late, not never."""
MAX_PRIORITY: Final = 100
MAX_DELAY: Final = 30 * 24 * 3600.0
MAX_URL: Final = 2048

_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}\Z")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?\Z", re.ASCII)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How one job is to be treated; the route's options fill what is not given."""

    key: str = ""
    """Idempotency key."""
    fingerprint: str = ""
    """SHA-256 of what was asked; computed from the arguments when empty."""
    method: str = "POST"
    """Part of the scope of the key."""
    priority: int | None = None
    delay: float = 0.0
    """Seconds before the job may start."""
    cancel_after: float = 0.0
    """Seconds from now after which the job is not started any more; 0 means never."""
    webhook: str = ""
    """URL that is told when the job has ended."""
    max_attempts: int | None = None
    timeout: float | None = None
    """Seconds that one attempt may run; a caller can only shorten what the route allows."""
    request_id: str = ""
    tell: bool = True
    """False leaves the queue untold: who submits runs the job too. Should that fail, the sweeper tells it."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> SubmitOptions:
        """Return these options; raises BadRequest naming the one that cannot be."""
        if self.key and not _KEY.match(self.key):
            raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters", code="bad_key")
        if self.priority is not None and not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise BadRequest(f"the priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}")
        for name, value in (("delay", self.delay), ("deadline", self.cancel_after)):
            if not 0 <= value <= MAX_DELAY:
                raise BadRequest(f"the {name} must be between 0 and {MAX_DELAY:.0f} seconds")
        if self.cancel_after and self.cancel_after <= self.delay:
            raise BadRequest("the job would be due only after its deadline")
        if len(self.webhook) > MAX_URL:
            raise BadRequest(f"the webhook URL is longer than {MAX_URL} characters")
        if self.max_attempts is not None and not 1 <= self.max_attempts <= 100:
            raise BadRequest("max_attempts must be between 1 and 100")
        return self

    def allowed_by(self, queue: Abilities) -> SubmitOptions:
        """Return these options; raises BadRequest naming the one that the queue of this service lacks."""
        if self.priority is not None and not queue.priority:
            raise BadRequest("the queue of this service knows no priorities", code="no_priorities")
        if self.delay > 0 and not queue.delay:
            raise BadRequest("the queue of this service cannot hold a job back", code="no_delays")
        return self


DEFAULT_OPTIONS: Final = SubmitOptions()


def rank(ready_at: float, priority: int) -> float:
    """Return the place in the queue, lower first: a constant order that amounts to ageing."""
    return ready_at - priority * AGEING


def scope_hash(principal: str, method: str, route: str, key: str) -> str:
    """Return what an idempotency key is valid for.

    Each part is preceded by its length: joined by a delimiter, one caller's parts could be chosen so that
    they read as another's.
    """
    digest = hashlib.sha256()
    for part in (principal, method, route, key):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def read_options(headers: Headers, *, method: str = "POST", request_id: str = "") -> SubmitOptions:
    """Read the job headers of a request.

    ``Idempotency-Key``; ``X-Job-Priority`` (-100 to 100, higher runs earlier); ``X-Job-Delay`` and
    ``Cancel-After`` (seconds, or a duration such as ``90s``, ``5m``, ``2h``); ``X-Webhook-Url``.
    Raises BadRequest, naming the header.
    """
    if not any(name in headers for name in _HEADERS):
        return SubmitOptions(method=method, request_id=request_id)
    key = _single(headers, "idempotency-key")
    if key == "":
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters", code="bad_key")
    return SubmitOptions(
        key=key or "",
        priority=_integer(headers, "x-job-priority"),
        delay=_seconds(headers, "x-job-delay"),
        cancel_after=_seconds(headers, "cancel-after"),
        webhook=_single(headers, "x-webhook-url") or "",
        method=method,
        request_id=request_id,
    ).check()


_HEADERS: Final = ("idempotency-key", "x-job-priority", "x-job-delay", "cancel-after", "x-webhook-url")


def _single(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise BadRequest(f"the header {name} is given {len(values)} times")
    return values[0].strip() if values else None


def _integer(headers: Headers, name: str) -> int | None:
    text = _single(headers, name)
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,6}", text):
        raise BadRequest(f"the header {name} must be an integer")
    return int(text)


def _seconds(headers: Headers, name: str) -> float:
    text = _single(headers, name)
    return 0.0 if text is None else parse_duration(text, f"the header {name}")


def parse_duration(text: str, name: str) -> float:
    """Read ``300``, ``1.5``, ``90s``, ``5m``, ``2h`` or ``1d`` as seconds; raises BadRequest."""
    match = _DURATION.match(text.strip().lower())
    if match is None:
        raise BadRequest(f"{name} must be a number of seconds, or a duration such as 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]
