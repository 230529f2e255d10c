"""uvicorn's httptools protocol with time limits and without leniency.

llhttp already refuses most of what smuggling is made of (both lengths, bad chunks, bare LF, folded headers).
This class refuses the rest, and gives every phase of a connection a deadline:

    connected, nothing said     header_timeout, then closed
    head incomplete             header_timeout, then 408
    body incomplete             body_timeout (+ 1 s for each 64 KiB received), then 408
    answered, nothing new       uvicorn's keep-alive timer
    reader takes nothing        stall_timeout, then aborted

A timer is only started where something is missing: a request that arrives whole costs none.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from handlers.local.asgi import BODY_SECONDS_PER_BYTE, TIMED
from handlers.local.limits import Limits, LocalConfig, is_host, refusal
from router_core.errors import (
    BadRequest,
    HeadersTooLarge,
    HTTPError,
    RequestTimeout,
    RouterError,
    Unavailable,
)

__all__ = ["EXTENSIONS", "StrictHttpToolsProtocol"]

_IDLE, _HEAD, _BODY = range(3)
EXTENSIONS: Final[dict[str, Any]] = {TIMED: {}}
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_UPGRADING: Final = frozenset({b"upgrade", b"http2-settings"})
_CHUNK_OVERHEAD: Final = 64 * 1024
_HARD_CAP: Final = 1.25
_AHEAD: Final = 16
"""Requests that are read before the one in front is answered: while nothing is read, nobody learns that
the peer has gone."""


class StrictHttpToolsProtocol(HttpToolsProtocol):
    """One connection."""

    config: LocalConfig
    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits: Limits = self.config.limits
        self._phase = _IDLE
        self._timer: asyncio.TimerHandle | None = None
        self._timed_phase = _IDLE
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._fed = 0
        """Bytes received in the current phase, without those that came with the end of the last request."""
        self._chunk = 0
        """Bytes that were received at once, and are being parsed."""
        self._shared = 0
        """Bytes received together with the end of the last request: some of them may be of this head."""
        self._got = 0
        """Body bytes among them."""
        self._head_bytes = 0
        """As many bytes as the last head can have: it came in them, and perhaps some of what is around it."""
        self._version = "1.1"
        self._body_since = 0.0
        self._upgrading = False
        """The head that was just parsed asks for another protocol."""
        self._known_host = b"-"
        """The last Host that was found well formed."""
        self._deaf = False
        """Nothing more is read: the connection ends with the answer that is under way."""
        self._overtaken: list[Any] = []
        """Cycles that were not answered when the next request came."""

    # --- connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections * _HARD_CAP:
            self._note(503, "far too many connections")
            transport.abort()
            return
        self._arm(_IDLE, self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        self._disarm()
        self._unset_keepalive_if_required()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().connection_lost(exc)  # tells the last cycle
        for cycle in self._overtaken:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def pause_writing(self) -> None:
        """Start the time in which the reader has to take something."""
        super().pause_writing()
        if self._stall is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stall = self.loop.call_later(self._limits.stall_timeout, self._stalled)

    def resume_writing(self) -> None:
        """Stop that time."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self._note(0, "the reader took nothing")
            self.transport.abort()
            return
        self._unsent = unsent
        self._stall = self.loop.call_later(self._limits.stall_timeout, self._stalled)

    # --- bytes -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse, and see that what is missing has a deadline."""
        self._unset_keepalive_if_required()
        if self._deaf:
            return
        self._chunk = len(data)
        self._fed += self._chunk
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(
                cause if isinstance(cause, RouterError) else BadRequest("this is not valid HTTP/1.1")
            )
            return
        phase = self._phase
        if phase == _IDLE and self.cycle is not None and not self.cycle.response_complete:
            if self._timer is not None:
                self._disarm()
        elif phase == _BODY:
            self._in_body()
        else:
            self._in_head()

    def _feed(self, data: bytes) -> None:
        while True:  # each of pipelined requests may ask for another protocol
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Begin a request again as if it had not asked for another protocol; returns what is to be parsed.

        There is none here, and a server may ignore the wish. llhttp would drop the body: Java's client, for
        one, sends ``Upgrade: h2c`` with everything.
        """
        lines = [
            self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()
        ]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() not in _UPGRADING]
                if tokens:
                    lines.append(name + b": " + b",".join(tokens))
            elif name not in _UPGRADING:
                lines.append(name + b": " + value)
        self._upgrading = False
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*lines, b"", rest])

    def _in_head(self) -> None:
        if self._fed > self._limits.max_head_bytes:
            self._refuse(HeadersTooLarge("request line and headers are too large"))
        elif self._timer is None or self._timed_phase == _BODY:
            self._arm(_HEAD, self._limits.header_timeout)
        else:
            self._timed_phase = _HEAD

    def _in_body(self) -> None:
        if self._fed - self._got > _CHUNK_OVERHEAD + self._limits.max_head_bytes + self._got:
            self._refuse(BadRequest("the chunks of the body are too small, or its trailers too large"))
        elif self._timer is None or self._timed_phase != _BODY:
            self._body_since = self.loop.time()
            self._arm(_BODY, self._limits.body_timeout)

    # --- parser callbacks ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._phase = _HEAD
        self._new_request()

    def _new_request(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = EXTENSIONS

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; a trailer field, which comes after the body, is dropped.

        The list of headers is in the hands of the app by then: a trailer would join them unseen.
        """
        if self._phase == _HEAD:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse what llhttp lets through, then hand over."""
        upgrading = self.parser.should_upgrade()
        if upgrading and self.parser.get_method() == b"CONNECT":
            raise HTTPError(501, "this server is no proxy", code="not_implemented")
        self._check()
        if upgrading:
            self._upgrading = True
            return
        self._phase = _BODY
        self._head_bytes = self._fed + self._shared
        self._fed = self._got = self._shared = 0
        if len(self.connections) > self._limits.max_connections:
            raise Unavailable("too many connections", retry_after=1.0)
        self._begin_request()

    def _begin_request(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._overtaken = [each for each in (*self._overtaken, before) if not each.response_complete]
            if len(self.pipeline) <= _AHEAD:
                self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Count and pass on."""
        self._got += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._upgrading:
            return
        self._phase = _IDLE
        self._fed = 0
        self._shared = self._chunk
        self._end_request()

    def _end_request(self) -> None:
        super().on_message_complete()

    def _check(self) -> None:
        self._version = version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HTTPError(505, "this server speaks HTTP/1.1", code="http_version")
        host: bytes | None = None
        for name, value in self.headers:
            if name == b"host":
                if host is not None:
                    raise BadRequest("a request has exactly one Host")
                host = value
            elif name == b"transfer-encoding":
                _check_coding(value, version)
        if host is None:
            if version == "1.1":
                raise BadRequest("a request has exactly one Host")
        elif host != self._known_host:
            if not is_host(host):
                raise BadRequest("the Host is malformed")
            self._known_host = host
        self._check_target(host or b"")

    def _check_target(self, host: bytes) -> None:
        if len(self.url) > self._limits.max_head_bytes:
            # it came in one piece; llhttp would call a target of 64 KiB malformed
            raise HeadersTooLarge("request line and headers are too large")
        if self.url[:1] == b"/":
            if b"#" in self.url:
                raise BadRequest("a request target has no fragment")
            return
        if self.url == b"*" and self.parser.get_method() == b"OPTIONS":
            return
        absolute = _ABSOLUTE.match(self.url)
        if absolute is None or b"#" in self.url:
            raise BadRequest("the request target is malformed")
        if absolute[1].lower() != host.lower():
            raise BadRequest("the request target names another host than the Host header")

    # --- deadlines -------------------------------------------------------------------------------

    def _arm(self, phase: int, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timed_phase = phase
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._timed_phase == _BODY:
            self._body_too_slow()
        elif self._timed_phase == _IDLE and not self._fed:
            self.transport.close()
        else:
            self._refuse(RequestTimeout("the headers did not arrive in time"))

    def _body_too_slow(self) -> None:
        if self.flow.read_paused:
            # we are the slow ones
            self._body_since = self.loop.time()
            self._arm(_BODY, self._limits.body_timeout)
            return
        due = self._body_since + self._limits.body_timeout + self._got * BODY_SECONDS_PER_BYTE
        left = due - self.loop.time()
        if left > 0.01:
            self._arm(_BODY, left)
        else:
            self._refuse(RequestTimeout("the body did not arrive in time"))

    # --- refusals --------------------------------------------------------------------------------

    def _is_waiting(self) -> bool:
        """Return whether nothing of a request has come that would have a deadline of its own."""
        return self._phase == _IDLE and self._timer is None

    def _deafen(self) -> None:
        """Read nothing more; the answers that are under way still go out."""
        self._deaf = True
        self._disarm()
        if self.cycle is not None:
            self.cycle.keep_alive = False
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False

    def _refuse(self, error: RouterError) -> None:
        """Answer and close, unless another answer is under way: then close after that one."""
        self._note(error.status, error.detail)
        self._deafen()
        current = self.cycle
        if current is None or current.response_complete:
            self._write_refusal(error)
        elif self._phase == _BODY and not self.pipeline:
            if not current.response_started:
                self._write_refusal(error)
            self.transport.close()
            # the app is waiting for a body that will not come
            current.disconnected = True
            current.message_event.set()

    def _write_refusal(self, error: RouterError) -> None:
        self.transport.write(refusal(error, self.server_state.default_headers))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer as problem+json."""
        self._refuse(BadRequest(msg))

    def _note(self, status: int, reason: str) -> None:
        told = self.config.on_refusal
        if told is not None:
            told(status, reason, self.client[0] if self.client else "")


def _check_coding(value: bytes, version: str) -> None:
    if version == "1.0":
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding")
    if value.strip().lower() != b"chunked":
        raise HTTPError(501, "the only transfer coding is chunked", code="transfer_coding")
