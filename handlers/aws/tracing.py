"""X-Ray traces of invocations, made with the Tracer of Powertools: only where ``ROUTER_TRACER=powertools``.

The library and the X-Ray SDK beneath it are loaded then and not otherwise. Each invocation is a subsegment
``## handler`` that says what it was (route, status, job, cold start), and has the exceptions that the log
has. Of the libraries that the SDK could patch only botocore is, where the service keeps jobs: to look for all
of them takes a multiple of the time. For others the author asks the tracer: ``Tracer().patch(["httpx"])``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from handlers.aws.function import LambdaApp
from router_core.calls import CallService
from router_core.errors import Misconfigured
from router_core.telemetry.events import JobMoved, Note, RequestDone

__all__ = ["TracedApp"]

_SPAN: Final = "## handler"
_FRAMES: Final = 50


class TracedApp(LambdaApp):
    """A handler that sends a trace of every invocation."""

    def __init__(self, service: Any, *args: Any, **kwargs: Any) -> None:
        """Raises Misconfigured where the tracer is not installed."""
        self._tracer = _tracer(calls_aws=not isinstance(service, CallService))
        self._span: Any = None
        self._jobs: dict[str, dict[str, str]] = {}
        super().__init__(service, *args, **kwargs)
        service.events.subscribe(self._mark)

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer one event inside a span of its own."""
        with self.traced():
            return super().__call__(event, context)

    def traced(self) -> AbstractContextManager[None]:
        """Return the span of one invocation."""
        return self._traced()

    @contextmanager
    def _traced(self) -> Iterator[None]:
        with self._tracer.provider.in_subsegment(name=_SPAN) as span:
            self._span = span
            try:
                yield
            finally:
                self._span = None
                if span is not None:
                    self._close(span)

    def _close(self, span: Any) -> None:
        span.put_annotation("ColdStart", self.telemetry.is_cold)
        span.put_annotation("Service", self._tracer.service)
        if self._jobs:
            span.put_metadata("jobs", self._jobs, self._tracer.service)
            self._jobs = {}

    def _mark(self, event: object) -> None:
        """Put into the open span what an event of the app says."""
        span = self._span
        if span is None:
            return
        if isinstance(event, RequestDone):
            marks = {"Route": event.route, "Method": event.method, "Status": event.status,
                     "RequestId": event.request_id, "JobId": event.job_id}  # fmt: skip
            if event.status >= 500:
                span.add_fault_flag()
        elif isinstance(event, JobMoved):
            marks = {"Route": event.route, "JobId": event.job_id}
            self._jobs[event.job_id] = {"route": event.route, "state": event.state}
        else:
            marks = {}
            error = event.error if isinstance(event, Note) and event.level == "error" else None
            if error is not None:
                span.add_exception(error, traceback.extract_tb(error.__traceback__, -_FRAMES))
        for name, value in marks.items():
            if value != "":
                span.put_annotation(name, value)


def _tracer(calls_aws: bool) -> Any:
    try:
        from aws_lambda_powertools import Tracer

        return Tracer(auto_patch=calls_aws, patch_modules=["botocore"] if calls_aws else None)
    except ImportError as error:
        raise Misconfigured(
            "ROUTER_TRACER=powertools needs the package aws-lambda-powertools[tracer] in the function; "
            f"install it or unset the variable ({error})"
        ) from None
