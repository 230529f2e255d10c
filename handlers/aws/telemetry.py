"""Log lines and metrics of a function, written before the reply: nothing runs after it.

One JSON object a line on stdout, which is where CloudWatch reads; each says which invocation it belongs to
and whether that was a cold start. With POWERTOOLS_METRICS_NAMESPACE set, the lines that carry a figure are in
CloudWatch's embedded metric format, so that a metric costs no call and no library.

The variables are those of Powertools, whose loggers, metrics and tracer authors may use beside this. They are
not used here: measured beside each other, importing its Logger and Metrics takes 8 ms of every cold start and
this 2, its batch processing 34 ms, and a line of its Logger 22 us where one of these takes 5.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

from router_core.settings import Settings
from router_core.telemetry.events import JobMoved, RequestDone
from router_core.telemetry.lines import LEVELS, json_line, text_line, to_fields
from router_core.telemetry.logging import level_of, mask_of
from router_core.telemetry.service_lines import service_shape

__all__ = ["Telemetry"]

_EVENTS: Final = "router_core.events"
_SILENT: Final = logging.CRITICAL + 1
_ENDS: Final[Mapping[str, str]] = {
    "succeeded": "JobsSucceeded", "failed": "JobsFailed", "cancelled": "JobsCancelled",
    "expired": "JobsExpired", "retrying": "JobRetries",
}  # fmt: skip
_DURATIONS: Final = frozenset({"RequestDuration", "JobDuration", "InitDuration"})


class Telemetry:
    """Listener of the app's events, and handler of the logging module, with one line for each."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
        self._stream = stream
        self._level = LEVELS.get(settings.log_level, logging.INFO)
        self._json = settings.log_format != "text"
        self._mask = mask_of(settings)
        self._namespace = environ.get("POWERTOOLS_METRICS_NAMESPACE", "")
        function = environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self._service = environ.get("POWERTOOLS_SERVICE_NAME", "") or function or "router-core"
        self._shape = service_shape(self._service) if settings.log_format == "service" else None
        self._environ = environ
        self._handler = _Handler(self)
        self._context: Any = None
        self.is_cold = False
        """Whether the invocation is the first one of this process."""
        self._thawed = True
        self.init_seconds = 0.0

    # --- life ------------------------------------------------------------------------------------

    def install(self) -> None:
        """Write what the logging module is told as well."""
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(self._level)
        logging.getLogger(_EVENTS).setLevel(_SILENT)  # the app's events come here directly

    def begin(self, context: Any) -> None:
        """Note which invocation the next lines belong to; the first one is a cold start."""
        cold = self.is_cold = self._thawed
        self._thawed = False
        self._context = context
        if cold and self._namespace:
            figures = {"ColdStarts": 1, "InitDuration": round(self.init_seconds * 1000, 1)}
            self.line(logging.INFO, {"event": "cold_start", **self._metrics(figures)})

    def _call(self) -> dict[str, Any]:
        """Return what every line says about the invocation that it belongs to."""
        context = self._context
        if context is None:
            return {}
        call = {"function_request_id": getattr(context, "aws_request_id", ""), "cold_start": self.is_cold}
        trace = self._environ.get("_X_AMZN_TRACE_ID")
        if trace:
            call["trace_id"] = trace.partition(";")[0].removeprefix("Root=")
        return call

    def restored(self) -> None:
        """Count the next invocation as a cold start: the process was thawed from a snapshot."""
        self._thawed = True

    # --- lines -----------------------------------------------------------------------------------

    def __call__(self, event: object) -> None:
        """Write one event of the app."""
        level = level_of(event)
        figures = _figures(event) if self._namespace else {}
        if level < self._level and not figures:
            return
        fields = to_fields(event)
        if figures:
            status = f"{event.status // 100}xx" if isinstance(event, RequestDone) else ""
            fields.update(self._metrics(figures, status))
        self.line(level, fields, getattr(event, "error", None))

    def record(self, record: logging.LogRecord) -> None:
        """Write one record of the logging module."""
        error = record.exc_info[1] if record.exc_info else None
        self.line(record.levelno, to_fields(record), error)

    def line(self, level: int, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        """Write one line; a stream that is gone loses it."""
        fields = {**fields, "service": self._service, **self._call()}
        if self._json:
            text = json_line(time.time(), level, fields, error, self._mask, self._shape)
        else:
            text = text_line(level, fields, error, colour=False, stamp=False, mask=self._mask)
        stream = sys.stdout if self._stream is None else self._stream
        try:
            stream.write(f"{text}\n")
            stream.flush()
        except (OSError, ValueError):
            return

    # --- metrics ---------------------------------------------------------------------------------

    def _metrics(self, figures: Mapping[str, float], status: str = "") -> dict[str, Any]:
        """Return the members that make a log line a metric."""
        dimensions = [["service"], ["service", "status_class"]] if status else [["service"]]
        definitions = [
            {"Name": name, "Unit": "Milliseconds" if name in _DURATIONS else "Count"} for name in figures
        ]
        directive = {"Namespace": self._namespace, "Dimensions": dimensions, "Metrics": definitions}
        members: dict[str, Any] = {
            "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        }
        if status:
            members["status_class"] = status
        return {**members, **figures}


def _figures(event: object) -> dict[str, float]:
    """Return what is counted about an event."""
    if type(event) is RequestDone:
        return {"Requests": 1, "RequestDuration": round(event.seconds * 1000, 3)}
    if type(event) is JobMoved and event.state in _ENDS:
        figures: dict[str, float] = {_ENDS[event.state]: 1}
        if event.seconds:
            figures["JobDuration"] = round(event.seconds * 1000, 3)
        return figures
    return {}


class _Handler(logging.Handler):
    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._telemetry.record(record)
        except Exception:
            self.handleError(record)
