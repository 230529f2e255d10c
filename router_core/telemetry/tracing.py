"""What tracing is to those who are traced: nothing of it is made, or imported, unless it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from router_core.http.message import Request, Response
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note

__all__ = ["Attributes", "Handle", "Identify", "Tracer", "open_tracing"]

Attributes = Mapping[str, Any]
Handle = Callable[..., Coroutine[Any, Any, Response]]
Identify = Callable[[Request], Request]


class Tracer(Protocol):
    """Makes spans; what a span is only it knows."""

    def begin(
        self, name: str, attributes: Attributes, *, kind: str = "internal", at: float | None = None,
        parent: Any = None,
    ) -> Any:  # fmt: skip
        """Return a span that began ``at`` seconds since the epoch (None: now), below ``parent`` or whatever
        this task is part of. ``kind`` is internal, client, server, producer or consumer."""

    def end(
        self, span: Any, attributes: Attributes, *, at: float | None = None, error: str = ""
    ) -> None:  # fmt: skip
        """End a span, ``error`` being a word for what went wrong."""

    def headers(self, span: Any) -> dict[str, str]:
        """Return the headers that tell the next service of a span."""

    def __call__(self, event: object) -> None:
        """Listen to events: requests and jobs become spans."""

    def around(self, handle: Handle, identify: Identify) -> Handle:
        """Return what answers requests inside of spans of their own; ``identify`` gives a request its id."""

    async def close(self) -> None:
        """Hand over what is left, for some seconds at most."""


def open_tracing(settings: Settings, events: Events) -> Tracer | None:
    """Return what traces, where an address for traces is configured; else None, and nothing is imported."""
    if not settings.otlp_endpoint:
        return None
    if settings.provider == "lambda":
        text = "a function is frozen after its answer and could not send traces: use ROUTER_TRACER=powertools"
        events.emit(Note("tracing_unavailable", "warning", text))
        return None
    try:
        from router_core.telemetry.opentelemetry import OtlpTracer
    except ImportError as error:
        text = "OTEL_EXPORTER_OTLP_ENDPOINT is set, and there is no OpenTelemetry: install router-core[otel]"
        events.emit(Note("tracing_unavailable", "warning", text, {"error": str(error)}))
        return None
    return OtlpTracer(settings)
