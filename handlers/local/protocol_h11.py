"""uvicorn's h11 protocol with time limits and without leniency; used where httptools is not installed."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from handlers.local.limits import Limits, LocalConfig, is_host, refusal
from router_core.errors import BadRequest, RequestTimeout, RouterError, Unavailable

__all__ = ["StrictH11Protocol"]

_LENIENT: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
"""Bare LF, bare CR and folded lines, all of which h11 would accept in a head."""


class _StrictConnection(h11.Connection):
    """Refuses in heads what proxies in front of us may read in another way."""

    def __init__(self, max_head: int) -> None:
        super().__init__(h11.SERVER, max_head)
        self._tail = b""

    def receive_data(self, data: bytes) -> None:
        """Look at the head as it was written, which h11's events do not show."""
        if data and self.their_state is h11.IDLE:
            seen = self._tail + data
            head, end, _ = seen.partition(b"\r\n\r\n")
            if _LENIENT.search(head if end else head.rstrip(b"\r")):
                raise h11.RemoteProtocolError("line endings", error_status_hint=400)
            self._tail = b"" if end else seen[-3:]
        super().receive_data(data)

    def next_event(self) -> Any:
        """Return the next event; refuse a request with two lengths."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            fields = dict(event.headers)
            if b"transfer-encoding" in fields and (
                b"content-length" in fields or event.http_version == b"1.0"
            ):
                raise h11.RemoteProtocolError("two lengths", error_status_hint=400)
            if not is_host(fields.get(b"host", b"")) or event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("malformed Host or version", error_status_hint=400)
            if event.method == b"CONNECT" or event.target[:1] != b"/" or b"#" in event.target:
                raise h11.RemoteProtocolError("malformed target", error_status_hint=400)
        return event


class StrictH11Protocol(H11Protocol):
    """One connection."""

    config: LocalConfig
    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits: Limits = self.config.limits
        self.conn = _StrictConnection(self._limits.max_head_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._timed: Any = None
        self._deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(Unavailable("too many connections"))
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and see that what is missing has a deadline."""
        if self._deaf:
            return
        try:
            super().data_received(data)
        except h11.RemoteProtocolError:
            self._refuse(BadRequest("this is not valid HTTP/1.1"))
            return
        if not self._deaf:
            self._watch()

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.timeout_keep_alive_task is None):
            if self._timer is None or self._timed is not state:
                self._stop_timer()
                self._timed = state
                limits = self._limits
                seconds = limits.body_timeout if state is h11.SEND_BODY else limits.header_timeout
                self._timer = self.loop.call_later(seconds, self._too_slow)
        else:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(RequestTimeout("the request did not arrive in time"))

    def _refuse(self, error: RouterError) -> None:
        self._deaf = True
        self._stop_timer()
        told = self.config.on_refusal
        if told is not None:
            told(error.status, error.detail, self.client[0] if self.client else "")
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(refusal(error, self.server_state.default_headers))
        self.transport.close()
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Answer as problem+json."""
        self._refuse(BadRequest(msg))
