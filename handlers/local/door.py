"""What the connections of one server share at the door below ASGI: the way in, and answers half written."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from router_core.http.head import MAX_TARGET
from router_core.http.message import Request, Response
from router_core.http.taskless import TASKLESS
from router_core.middleware.headers import with_headers
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from handlers.local.asgi import AsgiApp
    from router_core.middleware.exchange import Admission

__all__ = ["Door"]

_CACHE_SIZE: Final = 512
_PLAIN_TARGET: Final = re.compile(
    rb"(/(?:[A-Za-z0-9._~!$&'()*+,;=:@-][A-Za-z0-9._~!$&'()*+,;=:@/-]*)?)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@/?%-]*))?\Z"
)
"""Targets that need no decoding. ``//`` at the beginning is not one: it could be read as a host."""
_BODILESS: Final = frozenset({204, 304})


class Door:
    """What the connections of one server share."""

    __slots__ = ("_blocks", "_date", "_dates", "_full", "_targets", "admission", "admitted", "asgi",
                 "events", "handle", "ids", "settings", "taskless")  # fmt: skip

    def __init__(self, asgi: AsgiApp) -> None:
        self.asgi = asgi
        self.handle = asgi.app.handle
        self.events = asgi.app.events
        self.settings = asgi.app.settings
        self.ids = asgi.ids
        app: Any = asgi.app
        self.admission: Callable[[Request], Admission | None] = getattr(app, "admission", None) or _nobody
        self.admitted: Callable[[Request, Admission], Coroutine[Any, Any, Response]]
        self.admitted = getattr(app, "admitted", None) or _never
        self.taskless = frozenset(
            route.path.encode() for route in getattr(app, "routes", ()) if route.meta.get(TASKLESS)
        )
        """Targets whose answers are begun without a task."""
        self._full: dict[int, tuple[tuple[tuple[str, str], ...], int, bytes | None]] = {}
        self._targets: dict[bytes, str] = {}
        self._blocks: dict[tuple[int, tuple[tuple[str, str], ...]], bytes | None] = {}
        self._dates: list[tuple[bytes, bytes]] = []
        self._date = b""

    def target(self, url: bytes) -> tuple[str, bytes] | None:
        """Return path and query, or None for a target that has to be looked at more closely."""
        path = self._targets.get(url)
        if path is not None:
            return path, b""
        match = _PLAIN_TARGET.match(url)
        if match is None or len(url) > MAX_TARGET:
            return None
        path = match[1].decode("ascii")
        if match[2] is not None:
            return path, match[2]
        if len(self._targets) >= _CACHE_SIZE:
            self._targets.clear()
        self._targets[url] = path
        return path, b""

    def block(self, status: int, fields: tuple[tuple[str, str], ...]) -> bytes | None:
        """Return header fields as they are written; None where they say more than is understood here.

        Raises ValueError for what may not be a header field.
        """
        try:
            return self._blocks[status, fields]
        except KeyError:
            pass
        # the length comes last, and belongs to the body rather than to the block
        encoded = self.asgi.sender.fields(Response(status, fields, b"-"), False)[:-1]
        block: bytes | None = b"".join([b"%b: %b\r\n" % pair for pair in encoded])
        if status in _BODILESS or any(name == b"connection" for name, _ in encoded):
            block = None
        if len(self._blocks) >= _CACHE_SIZE:
            self._blocks.clear()
        self._blocks[status, fields] = block
        return block

    def full_block(self, response: Response) -> bytes | None:
        """Return the header fields of an answer together with those that every answer carries.

        Most routes give the same tuple again and again: it is known by its identity, for to compare it takes
        longer than to write it.
        """
        fields, status = response.headers, response.status
        known = self._full.get(id(fields))
        if known is not None and known[0] is fields and known[1] == status:
            return known[2]
        try:
            block = self.block(status, with_headers(response, "").headers[:-1])
        except ValueError:
            return None
        if len(self._full) >= _CACHE_SIZE:
            self._full.clear()
        self._full[id(fields)] = (fields, status, block)
        return block

    def front(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the header fields of every answer; uvicorn makes a new list of them each second."""
        if default_headers is not self._dates:
            self._dates = default_headers
            self._date = b"".join([b"%b: %b\r\n" % pair for pair in default_headers])
        return self._date

    async def close(self, chunks: Any, request_id: str) -> None:
        """Close a stream, whatever it says to that."""
        aclose = getattr(chunks, "aclose", None)
        if aclose is None:
            return
        try:
            await aclose()
        except Exception as error:
            fields = {"request_id": request_id}
            self.events.emit(Note("stream_close_failed", "error", str(error), fields, error))

    async def send(self, cycle: RequestResponseCycle, response: Response, request_id: str) -> None:
        """Send an answer the way of ASGI."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.asgi.sender.send(scope, response, send, receive, request_id)

        await cycle.run_asgi(app)


def _nobody(_request: Request) -> None:
    """Admit nobody for good."""


async def _never(_request: Request, _admission: Admission) -> Response:
    raise RuntimeError("nobody was admitted")
