"""The outermost layer: give the request an id, and report how it was answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from time import perf_counter
from typing import Final

from router_core.http.message import Request, Response
from router_core.middleware.exchange import Exchange
from router_core.telemetry.events import Events, RequestDone
from router_core.types import new_id

__all__ = ["identified", "recorded", "request_id"]

_NEW: Final = tuple.__new__
"""What the class does, without the call of a function in between."""
_GIVEN: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


def request_id(given: str | None) -> str:
    """Return the caller's request id if it is well formed, otherwise a new one."""
    return given if given is not None and _GIVEN.match(given) else new_id()


def identified(request: Request) -> Request:
    """Return the request with an id, where its adapter gave it none."""
    return replace(request, id=request_id(request.headers.get("x-request-id")))


def recorded(events: Events, exchange: Exchange, response: Response, started: float) -> Response:
    """Report an answer; a stream when its last byte was handed over or its reader went away."""
    body = response.body
    if isinstance(body, bytes):
        _report(events, exchange, response, started, len(body), False)
        return response
    stream = _Recorded(body, events, exchange, response, started)
    return Response(response.status, response.headers, stream)


def _report(
    events: Events, exchange: Exchange, response: Response, started: float, size: int, gone: bool
) -> None:
    request: Request = exchange.request
    match = exchange.match
    principal = exchange.principal
    job_id = ""
    if response.status == 202 or (match is not None and match.route.kind == "job"):
        job_id = _job_id(response)
    events.emit(
        _NEW(RequestDone, (
            request.method,
            request.path,
            match.route.key if match is not None else "",
            response.status,
            perf_counter() - started,
            request.id,
            principal.id if principal is not None else "",
            request.client,
            job_id,
            size,
            gone,
        ))
    )  # fmt: skip


def _job_id(response: Response) -> str:
    location = response.header("location") or ""
    return location.rpartition("/")[2] if "/jobs/" in location else ""


class _Recorded:
    """A stream that counts what was taken from it and reports once."""

    __slots__ = ("_body", "_events", "_exchange", "_reported", "_response", "_size", "_started")

    def __init__(
        self,
        body: AsyncIterator[bytes],
        events: Events,
        exchange: Exchange,
        response: Response,
        started: float,
    ) -> None:
        self._body = body
        self._events = events
        self._exchange = exchange
        self._response = response
        self._started = started
        self._size = 0
        self._reported = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._body.__anext__()
        except StopAsyncIteration:
            self._report(False)
            raise
        self._size += len(chunk)
        return chunk

    def tap(self, sink: Callable[[bytes], bool]) -> None:
        """Offer chunks to ``sink`` as soon as they come, where the stream beneath can do that, which says how
        much was ``tapped``; what it does not take (False) is iterated over."""
        tap = getattr(self._body, "tap", None)
        if tap is not None:
            tap(sink)

    async def aclose(self) -> None:
        """Close the stream beneath."""
        try:
            aclose = getattr(self._body, "aclose", None)
            if aclose is not None:
                await aclose()
        finally:
            self._report(True)

    def _report(self, gone: bool) -> None:
        if not self._reported:
            self._reported = True
            size = self._size + getattr(self._body, "tapped", 0)
            _report(self._events, self._exchange, self._response, self._started, size, gone)
