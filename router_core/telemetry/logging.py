"""Structured logs that no request waits for: a bounded queue, and a thread that formats and writes.

    log = Log(settings)
    events.subscribe(log)      # requests, job moves and notes
    log.install()              # everything that uses the logging module, where this process is ours
    ...
    log.close()

``EventLogger`` hands events to the ``logging`` module instead, whatever somebody else's process (FastAPI with
an app mounted in it) has made of it. An installed ``Log`` silences it, so that an app may always have one.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections import deque
from typing import Final, TextIO

from router_core.errors import Misconfigured
from router_core.settings import Settings
from router_core.telemetry.events import JobMoved, Line, Note, RequestDone
from router_core.telemetry.lines import LEVELS, json_line, text_line, to_fields
from router_core.telemetry.personal import Mask, PersonalMask, masked_values
from router_core.telemetry.service_lines import service_shape

__all__ = ["EventLogger", "Log", "level_of", "mask_of"]

_EVENTS: Final = "router_core.events"
_SILENT: Final = logging.CRITICAL + 1
_CAPACITY: Final = 10_000
_BATCH: Final = 500
_QUIET: Final = frozenset(
    {
        "/health", "/health/ready", "/health/detailed", "/metrics",
        "/worker/wait", "/worker/claim", "/worker/heartbeat",
    }
)  # fmt: skip


def level_of(event: object) -> int:
    """Return how important an event is, as a number of the logging module."""
    if type(event) is RequestDone:
        if event.status >= 500:
            return logging.ERROR if event.status not in (502, 503, 504) else logging.WARNING
        # probes and idle workers come every few seconds and say nothing while all is well
        return logging.DEBUG if event.path in _QUIET and event.status < 400 else logging.INFO
    if type(event) is JobMoved:
        return logging.WARNING if event.state == "failed" or event.move == "rescue" else logging.INFO
    if type(event) is Note:
        return LEVELS.get(event.level, logging.INFO)
    return event.importance if isinstance(event, Line) else logging.DEBUG


def mask_of(settings: Settings) -> Mask | None:
    """Return what masks texts beside credentials, if anything does.

    Raises Misconfigured for a masker that cannot be loaded: without it nothing may be logged.
    """
    if settings.log_masking == "secrets":
        return None
    if not settings.log_masker:
        return PersonalMask()
    module, _, name = settings.log_masker.partition(":")
    try:
        own = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Misconfigured(
            f"ROUTER_LOG_MASKER is {settings.log_masker!r}; it must be module:function: {error}"
        ) from None
    if not callable(own):
        raise Misconfigured(f"ROUTER_LOG_MASKER is {settings.log_masker!r}, which is no function")
    return PersonalMask(own)


class EventLogger:
    """Listener that hands events to a logger of the logging module, by default ``router_core.events``."""

    __slots__ = ("_logger", "_mask")

    def __init__(self, logger: logging.Logger | None = None, mask: Mask | None = None) -> None:
        self._logger = logger or logging.getLogger(_EVENTS)
        self._mask = mask

    def __call__(self, event: object) -> None:
        """Log one event."""
        if type(event) is RequestDone and event[3] < 500 and not self._logger.isEnabledFor(logging.INFO):
            return
        level = level_of(event)
        if self._logger.isEnabledFor(level):
            fields = to_fields(event)
            error = event.error if isinstance(event, Note) else None
            if self._mask is not None:
                fields = masked_values(fields, self._mask)
                error = None  # its text is formatted by others, who would show what is in it
            text = text_line(level, fields, None, colour=False, stamp=False)
            self._logger.log(level, "%s", text, exc_info=error, extra={"router": fields})

    def hears(self, level: int) -> bool:
        """Return whether it writes what is of this level."""
        return self._logger.isEnabledFor(level)


class Log:
    """Listener and logging handler with one queue and one thread; when the queue is full, lines are dropped
    and counted rather than waited for."""

    def __init__(self, settings: Settings, stream: TextIO | None = None, capacity: int = _CAPACITY) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._level = LEVELS.get(settings.log_level.lower(), logging.INFO)
        terminal = _is_terminal(self._stream)
        self._shape = service_shape(settings.service_name) if settings.log_format == "service" else None
        chosen = settings.log_format in ("json", "service")
        self._json = chosen or (settings.log_format != "text" and not terminal)
        self._colour = terminal
        self._mask = mask_of(settings)
        self._queue: deque[tuple[float, object]] = deque()
        self._capacity = capacity
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._handler = _Handler(self)
        self._replaced: tuple[list[logging.Handler], int] | None = None
        self.dropped = 0
        """How many lines were lost because they came faster than they could be written."""

    # --- taking ----------------------------------------------------------------------------------

    def __call__(self, event: object) -> None:
        """Take one event: this is a listener for ``Events.subscribe``."""
        if type(event) is RequestDone and event[3] < 500 and self._level > logging.INFO:
            return
        if level_of(event) >= self._level:
            self.put(event)

    def hears(self, level: int) -> bool:
        """Return whether it writes what is of this level."""
        return level >= self._level

    def put(self, item: object) -> None:
        """Queue an event or a LogRecord; never waits."""
        if len(self._queue) >= self._capacity:
            self.dropped += 1
            return
        self._queue.append((time.time(), item))
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            self._start()

    def install(self) -> None:
        """Make this the handler of the root logger, until ``close``."""
        root = logging.getLogger()
        if self._replaced is None:
            self._replaced = (root.handlers[:], root.level)
        root.handlers[:] = [self._handler]
        root.setLevel(self._level)
        logging.getLogger(_EVENTS).setLevel(_SILENT)
        # what uvicorn says at info (started, waiting, finished) our own events say already
        logging.getLogger("uvicorn").setLevel(max(self._level, logging.WARNING))

    def close(self) -> None:
        """Write what is queued and stop; put the root logger back. Safe to call twice."""
        if self._replaced is not None:
            root = logging.getLogger()
            root.handlers[:], level = self._replaced
            root.setLevel(level)
            logging.getLogger(_EVENTS).setLevel(logging.NOTSET)
            self._replaced = None
        self._closed = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self._drain()

    # --- writing ---------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="router-log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        told = 0
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            self._drain()
            if self.dropped > told:
                lost, told = self.dropped - told, self.dropped
                note = Note("log_dropped", "warning", f"{lost} log lines were lost", {"lost": lost})
                self._write([self._format(time.time(), note)])
            # gather what comes within a moment, so that a busy server writes in batches
            time.sleep(0.02)

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            lines: list[str] = []
            while queue and len(lines) < _BATCH:
                lines.append(self._format(*queue.popleft()))
            self._write(lines)

    def _format(self, at: float, item: object) -> str:
        try:
            record = item if isinstance(item, logging.LogRecord) else None
            level = record.levelno if record is not None else level_of(item)
            fields = to_fields(item)
            error = _error_of(item)
            if self._json:
                return json_line(at, level, fields, error, self._mask, self._shape)
            return text_line(level, fields, error, colour=self._colour, at=at, mask=self._mask)
        except Exception as error:
            # a value that cannot be shown must not silence the lines after it
            return json_line(
                at, logging.ERROR, {"event": "log_failed", "message": type(error).__name__}, None
            )

    def _write(self, lines: list[str]) -> None:
        try:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += len(lines)


class _Handler(logging.Handler):
    """Puts records of the logging module into the queue."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record."""
        if record.name.startswith("uvicorn") and record.msg in _SAID_BY_US:
            return
        try:
            # the arguments may change before the thread looks at them
            record.message = record.getMessage()
        except Exception:
            record.message = str(record.msg)
        self._log.put(record)


_SAID_BY_US: Final = frozenset(
    {
        "ASGI callable returned without completing response.",
        "ASGI callable returned without starting response.",
        "Application startup failed. Exiting.",
    }
)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _error_of(item: object) -> BaseException | None:
    if isinstance(item, Note):
        return item.error
    if isinstance(item, logging.LogRecord) and item.exc_info:
        return item.exc_info[1]
    return None
