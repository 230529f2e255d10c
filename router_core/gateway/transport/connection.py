"""One connection to an upstream: sends a request, takes the answer, and is or is not used again."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Literal, Protocol

from router_core.gateway.reply import FailureKind, Phase, Reply, UpstreamFailure
from router_core.gateway.transport.answer import Answer, Names, Unusable
from router_core.gateway.transport.chunks import Chunks
from router_core.gateway.transport.last_head import LastHead
from router_core.gateway.transport.tcp import KNOWS, bytes_sent, never_read, predates
from router_core.gateway.values import Timeouts
from router_core.http.taskless import Prompt

__all__ = ["Coming", "Connection", "Owner", "StaleConnection"]

_JOINED: Final = 32 * 1024
"""Bytes of a request up to which its body is copied behind its head, so that one write does for both."""
_NEVER: Final = float("inf")

_IDLE: Final = 0
_BUSY: Final = 1
_CLOSED: Final = 2


class StaleConnection(Exception):
    """The other side had given the connection up before the request came: nobody has read it."""


class Coming(Prompt[Reply]):
    """What becomes of a request: a reply, UpstreamFailure, or StaleConnection."""

    __slots__ = ("connection",)

    connection: Connection

    def forsake(self) -> None:
        """Hang up: whoever waited for the answer is gone."""
        self.connection.forsake(self)


class Owner(Protocol):
    """Who a connection belongs to."""

    def released(self, connection: Connection) -> None:
        """Take it back, ready for the next request."""

    def gone(self, connection: Connection) -> None:
        """Forget it: no more requests go over it."""

    def closed(self, connection: Connection) -> None:
        """Take note that its socket is closed, too."""


class Connection(asyncio.Protocol):
    """Carries one exchange after the other, never two at once."""

    __slots__ = (
        "_answer", "_before", "_chunks", "_deadline", "_eof", "_loop", "_owner", "_paused", "_phase",
        "_reply", "_reused", "_size", "_sock", "_started", "_state", "_timeouts", "_tls", "_transport",
        "_unasked", "_unread", "_unsent", "due", "heard", "retires",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, names: Names, last: LastHead, max_body: int, sock: socket.socket, *, tls: bool,
        max_age: float,
    ) -> None:  # fmt: skip
        self._owner = owner
        self._sock = sock
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._answer = Answer(names, max_body, last)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until it is connected
        self._state = _IDLE
        self._reused = False
        self._eof = False
        self._unread = False
        """Whether it is certain that the request of now was not read."""
        self._unasked = False
        """Whether the answer of now was sent before the request had arrived."""
        self._unsent = 0
        self._size = 0
        self._before = 0
        """Bytes sent before the request of now."""
        self._paused = False
        self._chunks: Chunks | None = None
        self.heard = False
        """Whether some of a stream came since ``stay`` was called; it has to be, as often as ``expire``."""
        self._reply: Coming | None = None
        self.due = _NEVER
        """When ``expire`` is to be called."""
        self.retires = self._loop.time() + max_age
        """When ``retire`` is to be called."""

    @property
    def usable(self) -> bool:
        """Whether a request can be sent now."""
        # Between an error and the news of it, the event loop may run others.
        return self._state == _IDLE and not self._transport.is_closing()

    def ask(
        self, head: bytes, body: bytes, timeouts: Timeouts, deadline: float, stream: bool, now: float
    ) -> Coming:
        """Send a request."""
        self._state = _BUSY
        self._started = False
        self._phase: Phase = "first_byte"
        self._timeouts = timeouts
        self._deadline = deadline
        due = now + timeouts.first_byte
        self.due = due if due < deadline else deadline
        self._answer.begin(stream)
        self._reply = reply = Coming(self._loop)
        reply.connection = self
        self._before += self._size
        self._size = size = len(head) + len(body)
        if size > _JOINED:
            self._unsent = size
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)
        return reply

    def forsake(self, reply: Coming) -> None:
        """Hang up: whoever waited for this answer is gone."""
        if self._reply is reply:
            self.drop()
        elif not reply.cancelled() and reply.exception() is None:
            # It had come in the same moment.
            chunks = reply.result().chunks
            if isinstance(chunks, Chunks):
                chunks.cut()

    def drop(self) -> None:
        """Close at once. Whoever waits for an answer has to be told before."""
        if self._state != _CLOSED:
            self._state = _CLOSED
            self._reply = self._chunks = None
            self._owner.gone(self)
            self._transport.abort()

    def abandon(self, message: str) -> None:
        """Close at once, and tell whoever waits for an answer."""
        if self._state == _BUSY:
            self._fail("reset", self._phase, message)
        else:
            self.drop()

    def retire(self) -> None:
        """Carry no request after this one."""
        self._answer.reusable = False
        if self._state == _IDLE:
            self.drop()

    def stay(self, now: float) -> None:
        """Give a stream time that some of has come: done for many pieces at once."""
        self.heard = False
        due = now + self._timeouts.idle
        self.due = due if due < self._deadline else self._deadline

    def expire(self, now: float) -> None:
        """Close what is idle for too long, give up what takes too long."""
        if self._state == _IDLE:
            self.drop()
            return
        phase = self._phase
        if now >= self._deadline:
            phase = "total"
        elif self._paused:
            # It is not the upstream that is slow.
            self.due = self._deadline
            return
        elif not self._started and (unsent := self._transport.get_write_buffer_size()):
            phase = "send"
            if unsent < self._unsent:
                self._unsent = unsent
                self._allow(self._timeouts.idle)
                return
        self._fail("timeout", phase)

    # Back-pressure, both ways.

    def pause(self) -> None:
        """Stop reading: whoever reads the answer is slower than the upstream."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._allow(self._timeouts.idle)
            self._transport.resume_reading()

    def resume_writing(self) -> None:
        """Begin to wait for the answer: only now the request is out, all but some of it."""
        if self._state == _BUSY and not self._started:
            self._allow(self._timeouts.first_byte)

    def _allow(self, seconds: float) -> None:
        """Give the other side time."""
        due = self._loop.time() + seconds
        self.due = due if due < self._deadline else self._deadline

    # What the event loop reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._count()

    def data_received(self, data: bytes) -> None:
        if self._state != _BUSY:
            # Nobody has asked: were it kept, the next request would get it for an answer.
            self.drop()
            return
        answer, chunks = self._answer, self._chunks
        if not self._started and self._begin(data):
            return
        try:
            if chunks is None:
                answer.feed(data)
            else:
                piece = answer.piece(data)
                if piece is not None:
                    self.heard = True
                    chunks.push(piece)
                    return
            if self._unasked and answer.status:
                self._refuse(answer)
            elif answer.complete:
                self._finish(answer, "framing")
            elif answer.status:
                self._hand_over(answer)
        except Unusable as error:
            if answer.streams and answer.pieces:
                self._hand_over(answer)
            self._fail(error.kind, "body" if answer.status else "first_byte", str(error))

    def eof_received(self) -> None:
        self._eof = True
        if self._state == _IDLE:
            self.drop()
        elif not self._started:
            # Under TLS the socket is closed already when the connection is lost.
            self._unread = self._never_read(closed=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == _IDLE:
            self.drop()
        elif self._state == _BUSY:
            self._lost(exc)
        self._answer.release()
        self._owner.closed(self)

    def _begin(self, data: bytes) -> bool:
        """Look at the first bytes of an answer; returns whether they are all of it, and need no parser."""
        self._started = True
        if self._reused and KNOWS and predates(self._sock, self._before):
            self._unasked = True
        if self._transport.get_write_buffer_size() or not data.startswith(b"HTTP/1.1 "):
            self._answer.reusable = False
        body = None if self._unasked else self._answer.known(data)
        if body is None:
            return False
        self._settle(200, self._answer.last_headers, body)
        return True

    def _refuse(self, answer: Answer) -> None:
        """Take nothing that was on its way before we had asked: it may be meant for somebody else."""
        if answer.status == 408 or answer.headers.get("connection", "").lower() == "close":
            # Said as they close a connection that is idle: they read nothing any more.
            self._stale()
        else:
            self._fail("malformed", "first_byte", "an answer came before the request was there")

    def _hand_over(self, answer: Answer) -> None:
        """Pass on what there is of an answer that is still coming."""
        if not answer.streams:
            self._phase = "body"
            self._allow(self._timeouts.idle)
            return
        chunks = self._chunks or self._open(answer)
        pieces = answer.pieces
        if pieces and chunks is not None:
            self._phase = "body"
            self._allow(self._timeouts.idle)
            chunks.push(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    def _open(self, answer: Answer) -> Chunks | None:
        """Answer with a stream; None if nobody is there any more."""
        reply, self._reply = self._reply, None
        if reply is None or reply.done():
            self.drop()
            return None
        self._chunks = chunks = Chunks(self, self._loop, answer.decoder)
        reply.set_result(Reply(answer.status, answer.headers, chunks=chunks))
        return chunks

    def _finish(self, answer: Answer, ended_by: Literal["framing", "close"]) -> None:
        """Pass on an answer that is complete, and be ready for the next request."""
        if answer.streams:
            self._hand_over(answer)
            chunks, self._chunks = self._chunks, None
            if chunks is None:
                return
            self._release()
            chunks.end(ended_by)
            return
        self._settle(answer.status, answer.headers, answer.body())

    def _settle(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer with all there is, when the connection is ready for the next request."""
        reply, self._reply = self._reply, None
        self._release()
        if reply is not None and not reply.done():
            reply.set_result(Reply(status, headers, body))

    def _release(self) -> None:
        if not self._answer.reusable:
            self.drop()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._tls:
            self._count()
        self._state = _IDLE
        self._reused = True
        self.heard = False
        self.due = _NEVER
        self._owner.released(self)

    def _lost(self, exc: Exception | None) -> None:
        """Judge what the end of the connection means for the answer."""
        answer = self._answer
        if answer.ends_by_close and answer.status and self._eof and exc is None:
            answer.reusable = False
            try:
                self._finish(answer, "close")
            except Unusable as error:
                self._fail(error.kind, "body", str(error))
            return
        closed = exc is None or isinstance(exc, BrokenPipeError)
        unread = self._unread or (not self._started and self._never_read(closed=closed))
        if unread and self._reused:
            self._stale()
        else:
            message = "the connection was closed" if closed else f"the connection broke: {exc}"
            self._fail("reset", self._phase, message, sent=not unread)

    def _never_read(self, *, closed: bool) -> bool:
        return never_read(self._sock, self._before, closed=closed)

    def _count(self) -> None:
        """Ask the kernel what was sent so far: TLS sends more than what it was given."""
        if self._tls:
            self._before = bytes_sent(self._sock)
            self._size = 0

    def _stale(self) -> None:
        reply = self._reply
        self.drop()
        if reply is not None and not reply.done():
            reply.set_exception(StaleConnection())

    def _fail(self, kind: FailureKind, phase: Phase, message: str = "", *, sent: bool = True) -> None:
        failure = UpstreamFailure(kind, phase, message, sent=sent, started=self._started)
        reply, chunks = self._reply, self._chunks
        self.drop()
        if chunks is not None:
            chunks.fail(failure)
        elif reply is not None and not reply.done():
            reply.set_exception(failure)
