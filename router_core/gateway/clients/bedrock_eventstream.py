"""Read ``application/vnd.amazon.eventstream``: binary messages with checksums, in bounded memory."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_MESSAGE", "EventMessage", "EventStreamReader"]

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of one message; those of a model are far smaller."""
_MAX_HEADERS: Final = 128 * 1024
_PRELUDE: Final = struct.Struct(">III")
_LENGTH: Final = struct.Struct(">H")
_CRC: Final = struct.Struct(">I")
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Type of a header -> bytes of its value, where they are always as many."""
_STRING: Final = 7
_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class EventMessage:
    """One message."""

    headers: dict[str, str]
    """Those that are texts; others say nothing to us."""
    payload: bytes


class EventStreamReader:
    """Turns bytes, in whatever pieces they come, into messages."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._max = max_message
        self._buffer = bytearray()
        self._wanted = _PRELUDE.size
        """Bytes without which nothing can be read."""

    @property
    def between(self) -> bool:
        """Whether no message is half read."""
        return not self._buffer

    def feed(self, data: bytes) -> list[EventMessage]:
        """Return the messages that are complete now. Raises ValueError for what is none."""
        self._buffer += data
        messages: list[EventMessage] = []
        at = 0
        while len(self._buffer) - at >= self._wanted:
            total, headers = self._prelude(at)
            if len(self._buffer) - at < total:
                self._wanted = total
                break
            messages.append(self._message(at, total, headers))
            at += total
            self._wanted = _PRELUDE.size
        del self._buffer[:at]
        return messages

    def _prelude(self, at: int) -> tuple[int, int]:
        total, headers, checksum = _PRELUDE.unpack_from(self._buffer, at)
        if zlib.crc32(self._buffer[at : at + 8]) != checksum:
            raise ValueError("the checksum of a prelude is wrong")
        if total > self._max or headers > _MAX_HEADERS:
            raise ValueError("a message is too long")
        if total < headers + _PRELUDE.size + _CRC.size:
            raise ValueError("a message is shorter than its headers")
        return total, headers

    def _message(self, at: int, total: int, headers: int) -> EventMessage:
        end = at + total - _CRC.size
        (checksum,) = _CRC.unpack_from(self._buffer, end)
        with memoryview(self._buffer) as view:
            if zlib.crc32(view[at:end]) != checksum:
                raise ValueError("the checksum of a message is wrong")
            begin = at + _PRELUDE.size + headers
            return EventMessage(_headers(bytes(view[at + _PRELUDE.size : begin])), bytes(view[begin:end]))


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        name, at = _piece(data, at + 1, data[at])
        if at >= len(data):
            raise ValueError("a header has no type")
        kind = data[at]
        at += 1
        size = _SIZES.get(kind, -1)
        if kind in (_STRING, _BYTES):
            raw, at = _piece(data, at, 2)
            size = _LENGTH.unpack(raw)[0]
        if size < 0:
            raise ValueError("a header has a type that is not known")
        value, at = _piece(data, at, size)
        if kind == _STRING:
            found[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


def _piece(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise ValueError("a header is cut")
    return data[at : at + size], at + size
