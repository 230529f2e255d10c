"""Server-sent events: writing them, and reading them in bounded memory."""

from __future__ import annotations

from typing import Final

from router_core.records import dataclass

__all__ = ["HEARTBEAT", "MAX_EVENT", "SSE_TYPE", "ServerEvent", "SseParser", "encode_event"]

SSE_TYPE: Final = "text/event-stream"
HEARTBEAT: Final = b": keep-alive\n\n"
"""A comment: keeps proxies from closing an idle stream, and readers ignore it."""
MAX_EVENT: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. A generator may yield these to choose name and id itself; ``data`` is sent as it is."""

    data: str = ""
    event: str = ""
    """Empty: an unnamed event, which browsers call ``message``."""
    id: str = ""
    """Comes back as ``Last-Event-ID`` when the reader reconnects."""
    retry: int | None = None
    """Milliseconds a reader should wait before it reconnects."""


def encode_event(event: ServerEvent) -> bytes:
    """Return the bytes of an event.

    Raises ValueError when the name or the id holds a line break or a NUL: they would forge another field.
    """
    lines: list[str] = []
    if event.event:
        lines.append(f"event: {_field('event', event.event)}")
    if event.id:
        lines.append(f"id: {_field('id', event.id)}")
    if event.retry is not None:
        lines.append(f"retry: {int(event.retry)}")
    # a reader joins data lines with \n; a bare \r ends a line as well, so it cannot be carried
    data = event.data.replace("\r\n", "\n").replace("\r", "\n") if "\r" in event.data else event.data
    lines.extend(f"data: {line}" for line in data.split("\n"))
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def _field(name: str, value: str) -> str:
    if any(ch in value for ch in "\r\n\0"):
        raise ValueError(f"the {name} of a server-sent event holds a line break or NUL")
    return value


class SseParser:
    """Turn bytes, in whatever pieces they come, into events, as the HTML standard says.

    One event, and one line, may have up to ``max_event`` bytes; ``feed`` raises ValueError beyond that, so a
    peer that never ends its line cannot fill the memory. ``retry`` without data updates nothing here.
    """

    __slots__ = (
        "_buffer",
        "_data",
        "_event",
        "_id",
        "_max_event",
        "_retry",
        "_size",
        "_skip_lf",
        "_started",
        "last_id",
    )

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._buffer = bytearray()
        self._skip_lf = False
        self._started = False
        self.last_id = ""
        self._data: list[str] = []
        self._event = ""
        self._id = ""
        self._retry: int | None = None
        self._size = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that are complete now."""
        events: list[ServerEvent] = []
        if self._skip_lf and data:
            # the \r at the end of the piece before was the first half of a \r\n
            self._skip_lf = False
            data = data[1:] if data[:1] == b"\n" else data
        if b"\n" not in data and b"\r" not in data:
            self._buffer += data
            self._check(len(self._buffer))
            return events
        text = bytes(self._buffer) + data
        self._skip_lf = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._buffer = bytearray(lines.pop())
        self._check(len(self._buffer))
        for line in lines:
            self._check(len(line))
            event = self._line(line)
            if event is not None:
                events.append(event)
        return events

    def _line(self, raw: bytes) -> ServerEvent | None:
        if not self._started:
            self._started = True
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw:
            return self._dispatch()
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(raw)
            self._check(self._size)
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
            self.last_id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self._retry = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = None
        if self._data:
            event = ServerEvent("\n".join(self._data), self._event, self._id, self._retry)
        self._reset()
        return event

    def _reset(self) -> None:
        self._data = []
        self._event = ""
        self._id = ""
        self._retry = None
        self._size = 0

    def _check(self, size: int) -> None:
        if size > self._max_event:
            raise ValueError(f"a server-sent event is larger than {self._max_event} bytes")
