"""Tell what kind of event a Lambda function was called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ALB", "DIRECT", "HTTP_V2", "REST_V1", "SCHEDULE", "SQS", "UnknownEvent", "sniff"]

REST_V1: Final = "rest_v1"
HTTP_V2: Final = "http_v2"
ALB: Final = "alb"
SQS: Final = "sqs"
SCHEDULE: Final = "schedule"
DIRECT: Final = "direct"

_CLOCKS: Final = frozenset({"aws.events", "aws.scheduler"})


class UnknownEvent(ValueError):
    """The event is of no kind that is served here; the text says what was seen."""


def sniff(event: object) -> str:
    """Return the kind of an event; raises UnknownEvent, naming what it looks like."""
    if isinstance(event, dict):
        context = event.get("requestContext")
        if isinstance(context, dict):
            kind = _http(event, context)
        elif "Records" in event:
            kind = _records(event["Records"])
        else:
            kind = _plain(event)
        if kind:
            return kind
    raise UnknownEvent(f"this function does not know such an event: {_looks(event)}")


def _http(event: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    if "http" in context:
        return HTTP_V2
    if "elb" in context:
        return ALB
    return REST_V1 if "httpMethod" in event else ""


def _records(records: object) -> str:
    if not isinstance(records, list) or not records:
        return ""
    sources = {record.get("eventSource") if isinstance(record, dict) else None for record in records}
    return SQS if sources == {"aws:sqs"} else ""


def _plain(event: Mapping[str, Any]) -> str:
    if event.get("source") in _CLOCKS or event.get("detail-type") == "Scheduled Event":
        return SCHEDULE
    # a direct call names a route, or gives the input of the only one
    return DIRECT if isinstance(event.get("path"), str) or "input" in event else ""


def _looks(event: object) -> str:
    """Name the members that tell events apart, never their values: those may be secrets."""
    if not isinstance(event, dict):
        return f"a {type(event).__name__}"
    said = [f"an object with {', '.join(sorted(map(repr, list(event)[:12]))) or 'nothing in it'}"]
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    if isinstance(first, dict):
        source = first.get("eventSource") or first.get("EventSource")
        said.append(f"of records from {source!r}")
    for name in ("source", "detail-type"):
        if isinstance(event.get(name), str):
            said.append(f"{name} {event[name][:80]!r}")
    return ", ".join(said)
