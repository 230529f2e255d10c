"""One event, one line: JSON for machines, text for people."""

from __future__ import annotations

import functools
import json
import logging
import re
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from router_core.telemetry.events import JobMoved, Line, Note, RequestDone
from router_core.telemetry.masking import mask_fields, mask_text, printable
from router_core.telemetry.personal import Mask, masked_values
from router_core.telemetry.service_lines import Shape

__all__ = ["LEVELS", "json_line", "text_line", "to_fields"]

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_WORDS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}
_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.DEBUG: "\x1b[2m"}
_MAX_MESSAGE: Final = 8192
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")
_KNOWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "router",
    "color_message",
}


def to_fields(item: object) -> dict[str, Any]:
    """Return what a line says, secrets masked; the first members are ``event`` and perhaps ``message``."""
    if type(item) is RequestDone:
        return _request(item)
    if type(item) is JobMoved:
        return _moved(item)
    if isinstance(item, Note):
        return {
            "event": item.name,
            "message": mask_text(item.message[:_MAX_MESSAGE]),
            **mask_fields(item.fields),
        }
    if isinstance(item, logging.LogRecord):
        return _record(item)
    if isinstance(item, Line):
        return item.told()
    return {"event": type(item).__name__}


def _request(event: RequestDone) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event": "request",
        "method": event.method,
        "path": event.path[:1024],
        "status": event.status,
        "duration_ms": round(event.seconds * 1000, 3),
        "request_id": event.request_id,
    }
    for name in ("route", "principal", "client", "job_id", "bytes_out"):
        value = getattr(event, name)
        if value:
            fields[name] = value
    if event.disconnected:
        fields["disconnected"] = True
    return fields


def _moved(event: JobMoved) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event": "job",
        "move": event.move,
        "state": event.state,
        "job_id": event.job_id,
    }
    for name in ("route", "reason", "attempt", "request_id", "worker_id"):
        value = getattr(event, name)
        if value:
            fields[name] = value
    if event.seconds:
        fields["duration_ms"] = round(event.seconds * 1000, 3)
    return fields


def _record(record: logging.LogRecord) -> dict[str, Any]:
    given = {name: value for name, value in record.__dict__.items() if name not in _KNOWN}
    message = record.__dict__.get("message") or record.getMessage()
    return {
        "event": "log",
        "logger": record.name,
        "message": mask_text(message[:_MAX_MESSAGE]),
        **mask_fields(given),
    }


def json_line(
    at: float, level: int, fields: Mapping[str, Any], error: BaseException | None, mask: Mask | None = None,
    shape: Shape | None = None,
) -> str:  # fmt: skip
    """Return one JSON object on one line; ``mask`` sees every text that others had a part in, and ``shape``
    gives the members other names."""
    line: dict[str, Any] = {"ts": _stamp(at), "level": _WORDS.get(level, "info"), **fields}
    if error is not None:
        line["error"] = {"type": type(error).__name__, "message": mask_text(str(error)[:_MAX_MESSAGE])}
        line["traceback"] = _traceback(error)
    if mask is not None:
        line = masked_values(line, mask)
    if shape is not None:
        line = shape(line)
    try:
        text = pydantic_core.to_json(line, inf_nan_mode="strings", serialize_unknown=True).decode()
    except (ValueError, UnicodeError):
        text = json.dumps(line, default=str)
    # JSON leaves DEL, the C1 controls and two line separators as they are; terminals do not
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def text_line(
    level: int,
    fields: Mapping[str, Any],
    error: BaseException | None,
    *,
    colour: bool,
    at: float = 0.0,
    stamp: bool = True,
    mask: Mask | None = None,
) -> str:
    """Return one line for people; a traceback follows, indented."""
    rest = dict(fields) if mask is None else masked_values(fields, mask)
    event = str(rest.pop("event", ""))
    message = str(rest.pop("message", ""))
    if event == "request":
        head = f"{rest.pop('method')} {rest.pop('path')} {rest.pop('status')} {rest.pop('duration_ms')}ms"
    elif event == "log":
        head = f"{rest.pop('logger')}: {message}"
    else:
        head = message if _says(message, event) else f"{event} {message}".rstrip()
    pairs = " ".join(f"{name}={_plain(value)}" for name, value in rest.items())
    body = printable(f"{head}  {pairs}".rstrip())
    word = _WORDS.get(level, "info")
    tint = _COLOURS.get(level, "") if colour else ""
    front = f"{_clock(at)} {word:<7} " if stamp else ""
    line = f"{tint}{front}{body}\x1b[0m" if tint else front + body
    if error is not None:
        told = _traceback(error) if mask is None else mask(_traceback(error))
        line += "".join(f"\n    | {printable(part)}" for part in told.splitlines())
    return line


def _says(message: str, event: str) -> bool:
    """Return whether a message begins with the name of its event, as ``draining, up to 30 s`` does."""
    return message.startswith(event) and not message[len(event) : len(event) + 1].isalnum()


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error, limit=-40))
    return mask_text(text[-4 * _MAX_MESSAGE :])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _stamp(at: float) -> str:
    seconds = int(at)
    return f"{_second(seconds)}.{int((at - seconds) * 1000):03d}Z"


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    # half of what a line costs, and mostly the same as in the line before
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
