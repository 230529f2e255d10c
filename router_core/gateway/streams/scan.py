"""Where events begin and end in a stream of bytes, whatever pieces it comes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["MAX_EVENT", "EventTooLongError", "RawEvent", "Splitter", "parse_event", "split_events"]

MAX_EVENT: Final = 1024 * 1024
"""Bytes of one event, which is also all that is ever kept of a stream that does not end its lines."""

_END: Final = re.compile(rb"\n\n|\n\r\n?|\r\r\n?")
"""An empty line: the end of an event. Lines end with LF, CRLF or CR, and a CRLF is one end, not two."""
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset((b"data", b"event", b"id", b"retry"))


class EventTooLongError(ValueError):
    """An event is larger than ``MAX_EVENT``, or a line never ends."""


class RawEvent(NamedTuple):
    """What one event says."""

    data: bytes
    """Its lines of data, joined with a line feed. Without any: a comment, a ping."""
    name: bytes = b""
    alien: bool = False
    """Whether it holds a line that belongs into no stream of events: HTML, JSON, garbage."""


class Splitter:
    """Takes bytes and gives them back up to the last end of an event; the rest waits for more.

    Events larger than ``most`` bytes raise EventTooLongError.
    """

    __slots__ = ("_most", "pending")

    def __init__(self, most: int = MAX_EVENT) -> None:
        self._most = most
        self.pending = bytearray()
        """The beginning of an event whose end has not come."""

    def feed(self, chunk: bytes) -> bytes:
        """Return whole events, as they came; nothing when none has ended."""
        pending = self.pending
        if not pending:
            end = _last_end(chunk, 0)
            if end == len(chunk) <= self._most:
                return chunk
            pending += chunk
        else:
            start = max(len(pending) - 2, 0)  # the end may have begun in the piece before
            pending += chunk
            end = _last_end(pending, start)
        if len(pending) - end > self._most:
            raise EventTooLongError(f"an event is larger than {self._most} bytes")
        if not end:
            return b""
        whole = bytes(pending[:end])
        del pending[:end]
        if len(whole) > self._most:
            self._check(whole)
        return whole

    def rest(self) -> bytes:
        """Return what is left at the end of a stream."""
        left = bytes(self.pending)
        self.pending.clear()
        return left

    def _check(self, whole: bytes) -> None:
        if any(len(event) > self._most for event in split_events(whole)):
            raise EventTooLongError(f"an event is larger than {self._most} bytes")


def _last_end(data: bytes | bytearray, start: int) -> int:
    """Return where the last event that begins after ``start`` ends, 0 when none does."""
    end = data.rfind(b"\n\n", start) + 2
    if data.find(b"\r", start) < 0:
        return end if end > 1 else 0
    for blank in (b"\n\r", b"\r\r"):
        at = data.rfind(blank, start)
        if at >= 0:
            end = max(end, at + (3 if data[at + 2 : at + 3] == b"\n" else 2))
    return end if end > 1 else 0


def split_events(whole: bytes) -> Iterator[bytes]:
    """Cut whole events apart; joined again they are what was given. An unended last one comes too."""
    start = 0
    for match in _END.finditer(whole):
        yield whole[start : match.end()]
        start = match.end()
    if start < len(whole):
        yield whole[start:]


def parse_event(raw: bytes) -> RawEvent:
    """Read one event, as the HTML standard says; a byte order mark at its beginning is no part of it."""
    if raw[:6] == b"data: " and raw.find(b"\n") == len(raw) - 2 and raw.find(b"\r") < 0:
        return RawEvent(raw[6:-2])
    data: list[bytes] = []
    name = b""
    alien = False
    for line in raw.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if not line or line[:1] == b":":
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field not in _FIELDS:
            alien = True
    return RawEvent(b"\n".join(data), name, alien)
