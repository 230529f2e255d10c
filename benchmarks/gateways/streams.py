"""A client that reads streams, many at a time: when the first event came, and how many did."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks.gateways.programs import KEY, request_body

__all__ = ["Streams", "read_streams"]

_STAGGER = 0.5
"""Seconds over which the first streams begin."""


@dataclass(slots=True)
class Streams:
    """What was seen of them."""

    first: list[float] = field(default_factory=list)
    """Seconds to the first event of each."""
    events: int = 0
    broken: int = 0


def read_streams(port: int, parallel: int, seconds: float, model: str = "auto") -> Streams:
    """Have so many streams open at once, one after the other, for a time; those that are open then end."""
    return uvloop.run(_read(port, parallel, seconds, model))


async def _read(port: int, parallel: int, seconds: float, model: str) -> Streams:
    body = request_body(model, stream=True).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    seen = Streams()
    until = loop.time() + seconds
    made: list[_Reader] = []
    for _ in range(parallel):
        _, reader = await loop.create_connection(lambda: _Reader(request, seen, until), "127.0.0.1", port)
        made.append(reader)
        # streams of one length that began together would all begin together again and again
        await asyncio.sleep(_STAGGER / parallel)
    await asyncio.gather(*[reader.ended for reader in made])
    return seen


class _Reader(asyncio.Protocol):
    def __init__(self, request: bytes, seen: Streams, until: float) -> None:
        self._request = request
        self._seen = seen
        self._until = until
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._sent = 0.0
        self._waits = True
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        if self._transport is None or time.monotonic() >= self._until:
            self._end()
            return
        self._sent = time.perf_counter()
        self._waits = True
        self._tail = b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        events = data.count(b"data: ")
        if self._waits and events:
            self._waits = False
            self._seen.first.append(time.perf_counter() - self._sent)
        self._seen.events += events
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.ended.done():
            self._seen.broken += 1
            self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()
