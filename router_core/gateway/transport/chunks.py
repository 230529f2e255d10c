"""The body of a streamed answer, handed over as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.transport.decode import BadCoding, Bomb, Decoder

if TYPE_CHECKING:
    from router_core.gateway.transport.connection import Connection

__all__ = ["HIGH_WATER", "Chunks"]

HIGH_WATER: Final = 64 * 1024
"""Bytes that wait for the reader before the upstream is no longer read from."""


class Chunks:
    """An iterator over the bytes of one answer: all that has come since the last time, in one piece.

    A reader that is cancelled, or that closes it before the end, ends the call at the upstream.
    """

    __slots__ = ("_connection", "_decoder", "_failure", "_loop", "_pieces", "_size", "_tap", "_waiter",
                 "ended_by")  # fmt: skip

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, decoder: Decoder | None
    ) -> None:  # fmt: skip
        self._connection: Connection | None = connection
        self._loop = loop
        self._decoder = decoder
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailure | None = None
        self._tap: Callable[[bytes], bool] | None = None
        self.ended_by: Literal["", "framing", "close"] = ""
        """How the end was told: by the framing of HTTP, or only by a connection that closed, cleanly, which
        may as well have been a cut. Empty before the end and after a failure."""

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        while True:
            taken = self._take()
            if taken:
                return taken
            if self._failure is not None:
                raise self._failure
            if self._connection is None:
                raise StopAsyncIteration
            await self._wait()

    def tap(self, sink: Callable[[bytes], bool]) -> None:
        """Offer what comes to ``sink`` first, while the reader waits for nothing else; what it does not take
        (False) goes to the reader. That saves the reader, which is a task, a turn for each piece."""
        self._tap = sink

    async def aclose(self) -> None:
        """End the call at the upstream, unless all of the answer has come."""
        self.cut()

    def cut(self) -> None:
        """Hang up on the upstream, and forget what has come; nothing happens after the end."""
        self._pieces.clear()
        self._decoder = self._tap = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        self._wake()

    # What the connection reports.

    def push(self, data: bytes) -> None:
        """Take bytes that have come."""
        tap, waiter = self._tap, self._waiter
        if (
            tap is not None
            and waiter is not None
            and not waiter.done()
            and self._decoder is None
            and tap(data)
        ):
            return
        self._size += len(data)
        if self._decoder is not None:
            self._decoder.feed(data)
        else:
            self._pieces.append(data)
        if self._size > HIGH_WATER and self._connection is not None:
            self._connection.pause()
        self._wake()

    def end(self, ended_by: Literal["framing", "close"]) -> None:
        """Take note that all has come."""
        self._connection = None
        self.ended_by = ended_by
        self._wake()

    def fail(self, failure: UpstreamFailure) -> None:
        """Take note that no more will come; what has come is handed over first."""
        self._connection = None
        self._failure = failure
        self._wake()

    def _take(self) -> bytes:
        if self._decoder is not None:
            return self._decoded(self._decoder)
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._drained()
        return data

    def _decoded(self, decoder: Decoder) -> bytes:
        try:
            data = decoder.read(HIGH_WATER)
            if data:
                return data
            if self.ended_by and not decoder.ended:
                raise BadCoding("the compressed body was cut")
        except BadCoding as error:
            self._give_up(UpstreamFailure("malformed", "body", str(error), sent=True, started=True))
        except Bomb as error:
            self._give_up(UpstreamFailure("too_large", "body", str(error), sent=True, started=True))
        else:
            self._drained()
        return b""

    def _give_up(self, failure: UpstreamFailure) -> None:
        self.cut()
        self.ended_by = ""
        self._failure = failure

    def _drained(self) -> None:
        self._size = 0
        if self._connection is not None:
            self._connection.resume()

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("two readers of one answer")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except (asyncio.CancelledError, GeneratorExit):
            self.cut()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
