"""What an event of a model's stream is: content, the end, an error, or nothing that a caller waits for."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from router_core.gateway.streams.scan import RawEvent

__all__ = ["Seen", "Verdict", "judge", "text_size"]

_DONE: Final = b"[DONE]"
_MAX_DEPTH: Final = 8
_SILENT_TYPES: Final = frozenset({
    # responses
    "response.created", "response.in_progress", "response.queued", "response.output_item.added",
    "response.content_part.added", "response.reasoning_summary_part.added", "keepalive",
    # messages
    "message_start", "content_block_start", "content_block_stop", "ping",
})  # fmt: skip
"""Types of events that announce content and are none. Every other type is taken for content, so that an
event that nobody knew when this was written still reaches the caller at once."""
_FINAL_TYPES: Final = frozenset({
    "response.completed", "response.incomplete", "message_stop",
    "transcript.text.done", "image_generation.completed", "image_edit.completed",
})  # fmt: skip
_ERROR_TYPES: Final = frozenset({"error", "response.failed", "response.error"})


class Verdict(Enum):
    """What an event is."""

    SILENT = 1
    """A comment, a ping, a role, an empty delta."""
    CONTENT = 2
    ERROR = 3
    DONE = 4
    """``[DONE]``."""
    GARBAGE = 5


class Seen(NamedTuple):
    """One event, judged."""

    verdict: Verdict
    document: dict[str, Any] | None = None
    finished: bool = False
    """Whether it says that the model has finished."""
    usage_only: bool = False
    """Whether there is nothing in it but the usage that ``stream_options.include_usage`` asks for."""


_SILENT: Final = Seen(Verdict.SILENT)
_GARBAGE: Final = Seen(Verdict.GARBAGE)


def judge(event: RawEvent) -> Seen:
    """Judge one event."""
    data = event.data
    if not data.strip():
        return _GARBAGE if event.alien else _SILENT
    if data.strip() == _DONE:
        return Seen(Verdict.DONE, finished=True)
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Seen(Verdict.ERROR) if event.name == b"error" else _GARBAGE
    if not isinstance(document, dict):
        return _GARBAGE
    if event.name == b"error" or _is_error(document):
        return Seen(Verdict.ERROR, document)
    kind = document.get("type")
    if isinstance(kind, str) and "choices" not in document:
        return _judge_typed(kind, document)
    return _judge_chunk(document)


def text_size(document: dict[str, Any] | None) -> int:
    """Return about how many bytes of an event are what the model wrote."""
    if document is None:
        return 0
    choices = document.get("choices")
    if isinstance(choices, list):
        return sum(
            _size(choice.get("delta") or choice.get("text")) for choice in choices if isinstance(choice, dict)
        )
    return _size(document.get("delta"))


def _is_error(document: dict[str, Any]) -> bool:
    if document.get("type") in _ERROR_TYPES or document.get("object") == "error":
        return True
    return bool(document.get("error"))


def _judge_typed(kind: str, document: dict[str, Any]) -> Seen:
    """Judge an event that names its type: those of responses, of messages, of transcriptions."""
    if kind in _SILENT_TYPES:
        return Seen(Verdict.SILENT, document)
    finished = kind in _FINAL_TYPES
    if kind == "message_delta":
        delta = document.get("delta")
        finished = isinstance(delta, dict) and bool(delta.get("stop_reason"))
    return Seen(Verdict.CONTENT, document, finished)


def _judge_chunk(document: dict[str, Any]) -> Seen:
    """Judge a chunk of chat completions or of completions."""
    choices = document.get("choices")
    if not isinstance(choices, list):
        # neither a chunk nor anything that names itself: some upstreams send timings or ids so
        return Seen(Verdict.SILENT, document)
    if not choices:
        return Seen(Verdict.SILENT, document, usage_only=isinstance(document.get("usage"), dict))
    content = finished = False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        reason = choice.get("finish_reason")
        if reason == "error":
            return Seen(Verdict.ERROR, document)
        finished = finished or bool(reason)
        content = content or bool(choice.get("text")) or _says(choice.get("delta"))
    return Seen(Verdict.CONTENT if content or finished else Verdict.SILENT, document, finished)


def _says(delta: Any) -> bool:
    """Return whether a delta holds more than a role: text, reasoning, a refusal, a tool call, sound."""
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _size(value: Any, depth: int = 0) -> int:
    """Return the bytes of all text in a value; names and ids of tool calls count too, they are output."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if depth >= _MAX_DEPTH:
        return 0
    if isinstance(value, dict):
        return sum(_size(each, depth + 1) for name, each in value.items() if name not in ("role", "type"))
    if isinstance(value, list):
        return sum(_size(each, depth + 1) for each in value)
    return 0
