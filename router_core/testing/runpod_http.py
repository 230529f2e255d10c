"""HTTP/1.1 on a loopback port in a thread of its own: the wire under the stand-in for RunPod's platform."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

from router_core.testing.loops import wind_up
from router_core.testing.ports import HeldPort

__all__ = ["Ask", "Hangup", "Reply", "Wire"]

T = TypeVar("T")
Answer = Callable[["Ask"], Awaitable["Reply"]]

_MAX_HEAD: Final = 64 * 1024
_MAX_BODY: Final = 64 * 1024 * 1024
_READ: Final = 64 * 1024


class Hangup(Exception):
    """Close the connection without another byte."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as it came in; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    """Set when the caller has closed its connection."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back; ``half`` sends the head and half of the body, and hangs up."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    half: bool = False
    lost: bool = False
    """Everything was done, and the caller hears nothing of it."""

    @classmethod
    def of(cls, value: Any, status: int = 200) -> Reply:
        """Return a JSON answer."""
        return cls(status, json.dumps(value).encode())

    def encode(self) -> bytes:
        """Return the bytes."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        head = f"HTTP/1.1 {self.status} {phrase}\r\ncontent-length: {len(self.body)}\r\n"
        if self.body:
            head += f"content-type: {self.content_type}\r\n"
        return head.encode() + b"\r\n" + self.body


class _Connection(asyncio.Protocol):
    """Reads requests one after another; notices at any time that the caller is gone."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._wire.connections.add(self)
        self._task = asyncio.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._more.set()
        self._writable.set()
        self._wire.connections.discard(self)
        self._wire.hung_up()

    def close(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            while not self._gone.is_set():
                ask = await self._read()
                if ask is None or not await self._answer(ask):
                    break
        except (Hangup, ValueError):
            pass
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _answer(self, ask: Ask) -> bool:
        """Answer one request; returns whether the connection may be used for another."""
        reply = await self._wire.answer(ask)
        if self._transport is None or reply.lost:
            return False
        data = reply.encode()
        self._transport.write(data[: len(data) - len(reply.body) // 2 - 1] if reply.half else data)
        await self._writable.wait()
        return not reply.half and ask.headers.get("connection", "").lower() != "close"

    async def _read(self) -> Ask | None:
        head = await self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await self._body(headers)
        if body is None:
            return None
        path, _, query = target.partition("?")
        return Ask(
            method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, body, self._gone
        )

    async def _body(self, headers: Mapping[str, str]) -> bytes | None:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._exactly(int(headers.get("content-length", "0")))
        whole = bytearray()
        while True:
            line = await self._until(b"\r\n")
            size = int((line or b"0").split(b";")[0], 16)
            piece = await self._exactly(size + 2)
            if piece is None:
                return None
            if size == 0:
                return bytes(whole)
            whole += piece[:-2]
            if len(whole) > _MAX_BODY:
                raise Hangup

    async def _until(self, end: bytes) -> bytes | None:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise Hangup
            if not await self._wait():
                return None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _exactly(self, size: int) -> bytes | None:
        if not 0 <= size <= _MAX_BODY:
            raise Hangup
        while len(self._buffer) < size:
            if not await self._wait():
                return None
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _wait(self) -> bool:
        """Wait for bytes; returns False when none will come."""
        if self._gone.is_set():
            return False
        self._more.clear()
        await self._more.wait()
        return not self._gone.is_set()


class Wire:
    """A server on 127.0.0.1 whose loop runs in a thread, so that tests may block."""

    def __init__(self, answer: Answer, hung_up: Callable[[], None] = lambda: None) -> None:
        """``hung_up`` is called whenever a caller has closed its connection."""
        self.answer = answer
        self.hung_up = hung_up
        self.connections: set[_Connection] = set()
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._held: HeldPort | None = None
        self._thread = threading.Thread(target=self._run, name="runpod-api", daemon=True)

    def start(self) -> None:
        """Begin to listen, on the port it had before if it was down."""
        if not self._thread.is_alive():
            self._thread.start()
        self.call(self._listen())

    def down(self) -> None:
        """Refuse connections and hang up on those that are open."""
        self.call(self._close())

    def stop(self) -> None:
        """End the thread."""
        if not self._thread.is_alive():
            return
        self.down()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = 60.0) -> T:
        """Run a coroutine on the loop and wait for it, from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    async def _listen(self) -> None:
        if self._held is None:
            self._held = HeldPort()
            self.port = self._held.number
        if self._server is None:
            self._server = await self.loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, reuse_address=True
            )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(wind_up())
            self.loop.close()
