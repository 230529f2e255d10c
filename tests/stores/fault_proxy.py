"""An HTTP proxy that does to some requests what networks and services do to them now and then."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from urllib.parse import urlsplit

from router_core.testing.loops import wind_up

__all__ = ["Fault", "FaultProxy"]


class Fault(Enum):
    """What becomes of one request."""

    THROTTLED = "answered with a throttling error, not passed on"
    REFUSED = "answered with 500, not passed on"
    FAILED = "passed on, and answered with 500"
    CUT = "the connection is cut, not passed on"
    DROPPED = "passed on, and the connection cut instead of an answer"
    HALVED = "passed on, and cut in the middle of the answer"
    LATE = "the connection is cut, and the request passed on with ``settle``, after whatever came later"
    SLOW = "passed on after a while"
    HUNG = "passed on, and never answered"


Decide = Callable[[str], "Fault | None"]


class FaultProxy:
    """Stands before a service on loopback, in a thread of its own; ``decide`` is asked for every request."""

    def __init__(self, upstream: str, *, slow: float = 0.1) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._slow = slow
        self.decide: Decide = lambda operation: None
        self.seen: list[tuple[str, Fault | None]] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._late: list[bytes] = []
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Future[None] = self._loop.create_future()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set_result, None)
        self._thread.join()

    async def settle(self) -> None:
        """Pass on all that is late."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._settle(), self._loop))

    async def _settle(self) -> None:
        while self._late:
            await self._forward(self._late.pop(0))

    # --- inside the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop
        server.close()
        await wind_up()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; returns whether the connection stays."""
        request = await _message(reader)
        operation = _operation(request)
        fault = self.decide(operation)
        self.seen.append((operation, fault))
        if fault is Fault.CUT:
            return False
        if fault in (Fault.THROTTLED, Fault.REFUSED):
            writer.write(_error(fault))
            await writer.drain()
            return True
        if fault is Fault.LATE:
            self._late.append(request)
            return False
        if fault is Fault.SLOW:
            await asyncio.sleep(self._slow)
        answer = await self._forward(request)
        if fault is Fault.DROPPED:
            return False
        if fault is Fault.HUNG:
            await reader.read()  # until the client has given up
            return False
        if fault is Fault.FAILED:
            answer = _error(fault)
        writer.write(answer[: len(answer) // 2] if fault is Fault.HALVED else answer)
        await writer.drain()
        return fault is not Fault.HALVED

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one request or answer; those of DynamoDB say how long they are."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _operation(request: bytes) -> str:
    for line in request.split(b"\r\n"):
        if line.lower().startswith(b"x-amz-target:"):
            return line.rpartition(b".")[2].decode().strip()
    return ""


def _error(fault: Fault) -> bytes:
    throttled = fault is Fault.THROTTLED
    kind = "ThrottlingException" if throttled else "InternalServerError"
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": fault.value}).encode()
    status = b"400 Bad Request" if throttled else b"500 Internal Server Error"
    return (
        b"HTTP/1.1 " + status + b"\r\nContent-Type: application/x-amz-json-1.0\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
