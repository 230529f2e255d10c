"""Traces by OpenTelemetry, sent as OTLP over HTTP: a span for each request, and for jobs that wait and run.

A job has a trace of its own, whose id is the id of the job: whichever process runs it adds to the same trace
as the one that took it in, and a link leads from there to the request and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections import OrderedDict
from hashlib import blake2b
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router_core.http.message import Request, Response
from router_core.settings import Settings
from router_core.telemetry import conventions as names
from router_core.telemetry.events import JobMoved, RequestDone
from router_core.telemetry.tracing import Attributes, Handle, Identify

__all__ = ["OtlpTracer"]

_DRAIN: Final = 2.0
_REMEMBERED: Final = 10_000
"""Requests and jobs under way that are known at once."""
_QUIET: Final = frozenset({"/health", "/health/ready", "/health/detailed", "/metrics"})
_KINDS: Final = {
    "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER, "consumer": SpanKind.CONSUMER,
}  # fmt: skip
_NS: Final = 1_000_000_000
_HEX: Final = re.compile(r"[0-9a-f]{32}")


class _Ids(RandomIdGenerator):
    """Random, but for spans whose ids follow from that of a job."""

    def __init__(self) -> None:
        self._next = threading.local()

    def use(self, trace: int, span: int) -> None:
        """Give these to the next span of this thread."""
        self._next.ids = (trace, span)

    def generate_trace_id(self) -> int:
        """Return an id for a trace."""
        ids = getattr(self._next, "ids", None)
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return an id for a span."""
        ids = getattr(self._next, "ids", None)
        self._next.ids = None
        return ids[1] if ids else super().generate_span_id()


class OtlpTracer:
    """A Tracer, and a listener for ``Events.subscribe``."""

    def __init__(self, settings: Settings, processor: SpanProcessor | None = None) -> None:
        """``processor`` takes the spans, by default to ``settings.otlp_endpoint``; sampling, names and
        further attributes are those of the usual ``OTEL_`` variables."""
        if processor is None:
            exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
            processor = BatchSpanProcessor(exporter)
        self._ids = _Ids()
        resource = Resource.create({SERVICE_NAME: settings.service_name})
        self.provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("router_core")
        self._propagator = TraceContextTextMapPropagator()
        self._requests: OrderedDict[str, list[Span]] = OrderedDict()
        self._claimed: OrderedDict[str, float] = OrderedDict()
        """When jobs were claimed here."""
        self._submitted: OrderedDict[str, SpanContext] = OrderedDict()
        """What jobs that were taken in here are linked to."""

    # -- spans ---------------------------------------------------------------------------------------

    def begin(
        self, name: str, attributes: Attributes, *, kind: str = "internal", at: float | None = None,
        parent: Span | None = None, links: tuple[Link, ...] = (),
    ) -> Span:  # fmt: skip
        """Return a span that has begun."""
        context = None if parent is None else set_span_in_context(parent)
        return self._tracer.start_span(
            name, context, _KINDS[kind], dict(attributes), links, None if at is None else int(at * _NS)
        )

    def end(self, span: Span, attributes: Attributes, *, at: float | None = None, error: str = "") -> None:
        """End a span."""
        if span.is_recording():
            span.set_attributes(dict(attributes))
            if error:
                span.set_attribute(names.ERROR_TYPE, error)
                span.set_status(Status(StatusCode.ERROR, error))
        span.end(None if at is None else int(at * _NS))

    def headers(self, span: Span) -> dict[str, str]:
        """Return ``traceparent`` and ``tracestate``."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return carrier

    # -- requests ------------------------------------------------------------------------------------

    def around(self, handle: Handle, identify: Identify) -> Handle:
        """Return a handler whose work is inside of a span, which belongs to the caller's trace."""

        async def traced(request: Request, *more: Any) -> Response:
            if request.path in _QUIET:
                return await handle(request, *more)
            if not request.id:
                request = identify(request)
            span = self._begin_request(request)
            token = otel_context.attach(set_span_in_context(span))
            try:
                return await handle(request, *more)
            except BaseException as error:
                self._forget(request.id, span)
                self.end(span, {}, error=type(error).__name__)
                raise
            finally:
                otel_context.detach(token)

        return traced

    def _begin_request(self, request: Request) -> Span:
        carrier = {
            name: value
            for name in ("traceparent", "tracestate")
            if (value := request.headers.get(name)) is not None
        }
        span = self._tracer.start_span(
            request.method,
            self._propagator.extract(carrier, otel_context.Context()),
            SpanKind.SERVER,
            {names.HTTP_METHOD: request.method, names.URL_PATH: request.path[:1024]},
        )
        self._requests.setdefault(request.id, []).append(span)
        if len(self._requests) > _REMEMBERED:
            for lost in self._requests.popitem(last=False)[1]:
                lost.end()
        return span

    def _forget(self, request_id: str, span: Span) -> None:
        held = self._requests.get(request_id, [])
        if span in held:
            held.remove(span)
        if not held:
            self._requests.pop(request_id, None)

    # -- events --------------------------------------------------------------------------------------

    def __call__(self, event: object) -> None:
        """Take one event."""
        if type(event) is RequestDone:
            self._answered(event)
        elif type(event) is JobMoved:
            self._moved(event)

    def _answered(self, event: RequestDone) -> None:
        held = self._requests.get(event.request_id)
        if not held:
            return
        span = held[-1]
        self._forget(event.request_id, span)
        route = event.route.partition(" ")[2] or event.route
        attributes = {
            names.HTTP_STATUS: event.status,
            names.REQUEST_ID: event.request_id,
            names.HTTP_ROUTE: route,
            names.PRINCIPAL: event.principal,
            names.JOB_ID: event.job_id,
        }
        span.update_name(f"{event.method} {route}".strip())
        error = str(event.status) if event.status >= 500 else ""
        self.end(span, {name: value for name, value in attributes.items() if value != ""}, error=error)

    def _moved(self, event: JobMoved) -> None:
        now = time.time()
        told = {
            names.JOB_ID: event.job_id,
            names.JOB_MOVE: event.move,
            names.JOB_STATE: event.state,
            names.JOB_ATTEMPT: event.attempt,
        }
        root = self._root_of(event.job_id)
        if event.move == "add":
            span = self.begin(f"submit {event.route}", told, kind="producer", links=(Link(root),))
            _remember(self._submitted, event.job_id, span.get_span_context())
            span.end()
        elif event.move == "claim":
            self._waited(event, told, root, now)
            _remember(self._claimed, event.job_id, now)
        else:
            began = self._claimed.pop(event.job_id, None)
            if began is None and not event.seconds:
                return  # it has not run here
            began = now - event.seconds if began is None else began
            span = self.begin(
                f"run {event.route}", told, kind="consumer", at=began, parent=NonRecordingSpan(root),
                links=(Link(root),),
            )  # fmt: skip
            self.end(span, {}, at=now, error=event.reason or event.state if event.state == "failed" else "")

    def _waited(self, event: JobMoved, told: Attributes, root: SpanContext, now: float) -> None:
        """Make a span of the time in the queue; the first one is the root of the job's trace."""
        submitted = self._submitted.pop(event.job_id, None)
        links = () if submitted is None else (Link(submitted),)
        parent: Span | None = NonRecordingSpan(root)
        if event.attempt <= 1:
            self._ids.use(root.trace_id, root.span_id)
            parent = NonRecordingSpan(SpanContext(0, 0, False))
        span = self.begin(
            f"queue {event.route}", told, kind="producer", at=now - event.seconds, parent=parent, links=links
        )
        span.end(int(now * _NS))

    def _root_of(self, job_id: str) -> SpanContext:
        """Return the root of a job's trace, which every process finds by its id alone."""
        digest = blake2b(job_id.encode("utf-8", "replace"), digest_size=24).digest()
        trace = int(job_id, 16) if _HEX.fullmatch(job_id) else int.from_bytes(digest[:16], "big")
        span, trace = int.from_bytes(digest[16:], "big") or 1, trace or 1
        decision = self.provider.sampler.should_sample(None, trace, "job").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace, span, is_remote=True, trace_flags=flags)

    async def close(self) -> None:
        """Hand over what is left; a receiver that is away is not waited for."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def end() -> None:
            self.provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=end, name="router-traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                await ended.wait()


def _remember(where: OrderedDict[str, Any], key: str, value: Any) -> None:
    where[key] = value
    if len(where) > _REMEMBERED:
        where.popitem(last=False)
