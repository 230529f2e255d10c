"""HTTP/1.1 under the fault upstream: a server that does on the wire whatever a behaviour tells it to."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from router_core.testing.upstream import Upstream

__all__ = ["Exchange", "Seen", "Wire"]

_MAX_UNREAD: Final = 256 * 1024
"""Bytes taken off the socket before a behaviour asks for them: beyond, the caller feels that nobody reads."""


class Seen:
    """One request as it came in."""

    def __init__(
        self, number: int, connection: int, method: str, target: str, headers: dict[str, str]
    ) -> None:
        self.number = number
        """Counts from 1 over the life of the upstream."""
        self.connection = connection
        """Number of the connection that it came on, from 1."""
        self.method = method
        self.path = target.partition("?")[0]
        self.target = target
        self.headers = headers
        """Names in lower case; of equal names the last."""
        self.body = b""
        self.behaviour = ""
        """Name of what answered it."""
        self.cancelled = False
        """Whether the caller hung up before the behaviour had ended."""
        self.finished = False
        """Whether the behaviour has ended by itself."""

    def json(self) -> Any:
        """Return the body as JSON."""
        import json

        return json.loads(self.body)

    def __repr__(self) -> str:
        return (
            f"<{self.method} {self.target} #{self.number} on connection {self.connection}: {self.behaviour}>"
        )


class Exchange:
    """What a behaviour answers one request with."""

    def __init__(self, wire: Wire, request: Seen) -> None:
        self.request = request
        self.keep = request.headers.get("connection", "").lower() != "close"
        """Whether the connection stays open when the behaviour has ended."""
        self._wire = wire

    async def send(self, data: bytes) -> None:
        """Write bytes as they are; waits while the caller does not read."""
        await self._wire.write(data)

    async def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Write a status line and fields."""
        await self.send(head_of(status, headers or {}))

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Write a complete answer, in one piece."""
        fields = {"content-length": str(len(body)), **(headers or {})}
        await self.send(head_of(status, fields) + body)

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body; empty: its end."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def read_body(self) -> bytes:
        """Read the body, for behaviours that began before it was read."""
        self.request.body = await self._wire.body(self.request.headers)
        return self.request.body

    async def read_some(self, size: int) -> None:
        """Read that much of the body, for behaviours that began before it was read."""
        await self._wire.read_some(size)

    def reset(self) -> None:
        """Tear the connection down so that the caller sees it reset."""
        self.keep = False
        self._wire.reset()

    def close(self) -> None:
        """Hang up once everything written is out."""
        self.keep = False

    def forever(self) -> asyncio.Event:
        """Return what never happens: a behaviour that waits for it ends when the caller hangs up."""
        return asyncio.Event()


def head_of(status: int, headers: Mapping[str, str]) -> bytes:
    """Return a status line and fields, with the empty line after them."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Wire(asyncio.Protocol):
    """One connection: reads requests one after another and lets a behaviour answer each."""

    def __init__(self, upstream: Upstream) -> None:
        self.number = 0
        self._upstream = upstream
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._eof = False
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = transport  # type: ignore[assignment]
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self.number = self._upstream.connected(self, self._task)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()
        if len(self._buffer) > _MAX_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._eof = True
        self._more.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._more.set()
        # Its socket is closed behind this call, and until then it takes what the other side sends.
        asyncio.get_running_loop().call_soon(self._upstream.disconnected, self)
        if self._task is not None:
            self._task.cancel()

    def reset(self) -> None:
        """Close with a reset: what was sent and not read yet is lost to the caller."""
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close(self) -> None:
        """Hang up once everything written is out."""
        if self._transport is not None:
            self._transport.close()

    def kill(self) -> None:
        """Drop the connection as a killed process does."""
        self.reset()

    async def write(self, data: bytes) -> None:
        """Write bytes, and wait until the caller has taken enough of them."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the caller has hung up")
        self._transport.write(data)
        await self._writable.wait()
        if not data:
            await asyncio.sleep(0)

    async def _serve(self) -> None:
        try:
            while await self._one():
                pass
        except (OSError, ValueError):
            pass
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _one(self) -> bool:
        """Serve one request; returns whether another may follow."""
        head = await self._until(b"\r\n\r\n")
        if head is None:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        seen = self._upstream.saw(self.number, method, target, headers)
        exchange = Exchange(self, seen)
        self._upstream.begin()
        try:
            await self._upstream.answer(exchange)
            seen.finished = True
        except (asyncio.CancelledError, ConnectionError):
            seen.cancelled = True
            raise
        finally:
            self._upstream.end(seen)
        return exchange.keep

    async def body(self, headers: Mapping[str, str]) -> bytes:
        """Read a body of a known length, or one in chunks."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._exactly(int(headers.get("content-length", "0")))
        whole = bytearray()
        while True:
            size = int((await self._until(b"\r\n") or b"0").split(b";")[0], 16)
            piece = await self._exactly(size + 2)
            if size == 0:
                return bytes(whole)
            whole += piece[:-2]

    async def read_some(self, size: int) -> None:
        """Read bytes of a body."""
        await self._exactly(size)

    async def _until(self, end: bytes) -> bytes | None:
        while (at := self._buffer.find(end)) < 0:
            if not await self._wait():
                return None
        return self._take(at + len(end))[: -len(end)]

    async def _exactly(self, size: int) -> bytes:
        if size < 0:
            raise ValueError("negative length")
        while len(self._buffer) < size:
            if not await self._wait():
                raise ConnectionResetError("the caller has hung up within its request")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _wait(self) -> bool:
        """Wait for bytes; returns False when none will come."""
        if self._eof:
            return False
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self._more.clear()
        await self._more.wait()
        return not self._eof
