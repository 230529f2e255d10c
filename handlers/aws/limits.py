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
    body_bytes: int
    """What the body of an answer may have: in base64 it grows by a third, and headers stand beside it."""


REST_DOOR: Final = Door("the REST API", 29.0, LAMBDA_REPLY_BYTES, LAMBDA_REPLY_BYTES * 2 // 3)
HTTP_DOOR: Final = Door("the HTTP API", 30.0, LAMBDA_REPLY_BYTES, LAMBDA_REPLY_BYTES * 2 // 3)
URL_DOOR: Final = Door("the function URL", inf, LAMBDA_REPLY_BYTES, LAMBDA_REPLY_BYTES * 2 // 3)
ALB_DOOR: Final = Door("the load balancer", inf, _ALB_REPLY_BYTES, _ALB_REPLY_BYTES * 2 // 3)


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
    patience = door.seconds
    if isinstance(received_ms, (int, float)):
        waited = time.time() - received_ms / 1000
        if 0.0 < waited < patience:  # else it was recorded long ago, or a clock differs
            patience -= waited
    left = remaining_seconds(context)
    seconds = (left if left < patience else patience) - MARGIN
    return seconds if seconds > 0.0 else 0.0
