"""What the platform allows: how long an answer may take and how large it may be."""

from __future__ import annotations

import time
from math import inf
from typing import Any, Final, NamedTuple

__all__ = ["ALB_DOOR", "HTTP_DOOR", "LAMBDA_REPLY_BYTES", "REST_DOOR", "URL_DOOR", "Door", "answer_seconds",
           "remaining_seconds"]  # fmt: skip

LAMBDA_REPLY_BYTES: Final = 6_291_556
"""Largest reply of a function, as JSON."""
_ALB_REPLY_BYTES: Final = 1024 * 1024
MARGIN: Final = 1.0
"""Seconds kept back for writing the answer and carrying it to the front door."""


class Door(NamedTuple):
    """A front door: the service that turns an HTTP request into an event."""

    name: str
    seconds: float
    """For how long it waits for the function."""
    reply_bytes: int


REST_DOOR: Final = Door("the REST API", 29.0, LAMBDA_REPLY_BYTES)
HTTP_DOOR: Final = Door("the HTTP API", 30.0, LAMBDA_REPLY_BYTES)
URL_DOOR: Final = Door("the function URL", inf, LAMBDA_REPLY_BYTES)
ALB_DOOR: Final = Door("the load balancer", inf, _ALB_REPLY_BYTES)


def remaining_seconds(context: Any) -> float:
    """Return how long the invocation may still run; infinite where nobody says (a call in a test)."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    if ask is None:
        return inf
    left: float = ask() / 1000
    return left


def answer_seconds(door: Door, received_ms: object, context: Any) -> float:
    """Return for how many seconds from now an answer can be waited for.

    ``received_ms`` is when the front door took the request: a cold start has used up some of its patience.
    """
    waited = time.time() - received_ms / 1000 if isinstance(received_ms, (int, float)) else 0.0
    if not 0.0 < waited < door.seconds:
        waited = 0.0  # an event that was recorded long ago, or a clock that differs
    return max(0.0, min(door.seconds - waited, remaining_seconds(context)) - MARGIN)
