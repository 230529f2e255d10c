"""The head of a connection's last request: the next one most often has the same, down to the byte.

A client sends the same head over and over, with another content-length at most. What was found out about it
(that it is well formed, where it leads, whose key it holds) then need not be found out again. Only a request
that came whole in one piece is compared, at the boundary of messages, so that nothing is left to interpret:
these bytes have been parsed and judged as one complete request before. What differs by as much as a byte
takes the usual way through the parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from handlers.local.asgi import SMALL
from handlers.local.direct_cycle import DirectCycle
from router_core.http.head import Head, LazyHeaders

if TYPE_CHECKING:
    from handlers.local.direct import DirectHttpToolsProtocol
    from router_core.middleware.exchange import Admission

__all__ = ["KnownHead", "known_head"]

_LONGEST: Final = 4096
"""A longer head is not remembered: it would cost each connection as much memory."""
_DIGITS: Final = 8
"""Places in which the content-length has to end."""


class KnownHead:
    """A head with what is known about it."""

    __slots__ = ("_admission", "_after", "_before", "_head", "_method", "_most", "_request_id", "_start",
                 "_url")  # fmt: skip

    def __init__(self, before: bytes, after: bytes, cycle: DirectCycle, admission: Admission) -> None:
        """``before`` and ``after`` surround the digits of its content-length; ``admission`` is what the gates
        say to it."""
        self._before = before
        self._start = len(before)
        self._after = after
        self._method = cycle.method
        self._url = cycle.url
        self._most = min(SMALL, cycle.head.body_limit)
        self._head = cycle.head
        given = cycle.head.headers.get("x-request-id") == cycle.request_id
        self._request_id = cycle.request_id if given else ""
        self._admission = admission

    def read(self, data: bytes, protocol: DirectHttpToolsProtocol) -> DirectCycle | None:
        """Return the request that these bytes are; None: not one with this head, or not exactly one."""
        if not data.startswith(self._before):
            return None
        start, after = self._start, self._after
        end = data.find(b"\r", start, start + _DIGITS)
        digits = data[start:end]
        size = end + len(after)
        if not digits.isdigit() or not data.startswith(after, end):
            return None
        length = int(digits)
        if size + length != len(data) or not 0 < length <= self._most:
            return None
        head = self._head
        if length != head.length:
            head = self._resized(length, digits)
        return DirectCycle(
            protocol, head, self._method, self._url, "1.1", True, self._request_id or protocol.door.ids.new(),
            data[size:], self._admission,
        )  # fmt: skip

    def _resized(self, length: int, digits: bytes) -> Head:
        """Note the same head with another content-length."""
        head = self._head
        raw = [(name, digits if name == b"content-length" else value) for name, value in head.headers.raw]
        headers = LazyHeaders(raw, dict(reversed(raw)))
        self._head = Head(headers, head.path, head.query, length, True, head.body_limit, head.request_id)
        return self._head


def known_head(data: bytes, cycle: DirectCycle, admission: Admission) -> KnownHead | None:
    """Return the head of a request, which was parsed and is all that there is in ``data``, for the next.

    None where it says more than these few things, or may be read in another way next time.
    """
    head = cycle.head
    if not head.has_body:
        return None  # nothing was asked of it that is asked of one with a body
    size = data.find(b"\r\n\r\n") + 4
    if not 4 < size <= _LONGEST or len(data) != size + head.length or not cycle.keep_alive:
        return None
    line = b"%b %b HTTP/1.1\r\n" % (cycle.method.encode(), cycle.url)
    if cycle.version != "1.1" or not data.startswith(line):
        return None
    start = 0
    for line in data[:size].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and name.lower() == b"content-length":
            digits = value.strip(b" \t")
            start += len(name) + 1 + value.find(digits)
            return KnownHead(data[:start], data[start + len(digits) : size], cycle, admission)
        start += len(line) + 2
    return None
