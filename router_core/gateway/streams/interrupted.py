"""The last event of a stream that did not come to its end."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router_core.gateway.clients.errors import error_reply, holds
from router_core.gateway.outcome import Outcome
from router_core.gateway.reply import Reply
from router_core.gateway.streams.scan import parse_event
from router_core.telemetry.masking import mask_text

__all__ = ["TOO_LATE", "TOO_LONG", "error_event", "masked"]

TOO_LATE: Final = "the upstream was silent for too long"
TOO_LONG: Final = "the upstream sent an event that is too large"
_MAX_ERROR: Final = 16 * 1024


def error_event(outcome: Outcome, named: bool) -> bytes:
    """Return the error event in the shape of OpenAI; ``named``: for a stream whose events have names."""
    error: dict[str, Any] = {
        "message": f"the stream was interrupted: {outcome.message}",
        "type": "timeout_error" if outcome.kind == "timeout" else "server_error",
        "param": None,
        "code": "stream_interrupted",
    }
    if named:
        body = msgspec.json.encode({**error, "type": "error", "error": error})
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


def masked(raw: bytes, secrets: tuple[str, ...] = ()) -> bytes:
    """Return an upstream's error event as it came, unless something in it is or looks like a credential, or
    it is longer than an error has to be."""
    text = raw.decode("utf-8", "replace")
    if len(raw) <= _MAX_ERROR and mask_text(text) == text and not holds(raw, secrets):
        return raw
    event = parse_event(raw)
    body = error_reply(Reply(500, {}, event.data), secrets).body or b""
    return (b"event: error\n" if event.name == b"error" else b"") + b"data: " + body + b"\n\n"
