"""The ways in which an upstream fails, and the plain ways in which it does not."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.testing.upstream_wire import Exchange, head_of

__all__ = [
    "SSE", "Behaviour", "after", "burst_5xx", "close_delimited", "cut_chunked", "cut_in_body", "early_answer",
    "endless_line", "error_in_stream", "flood_1xx", "garbage_sse", "gzip_bomb", "gzipped", "hang",
    "junk_after", "ok", "raw", "reset_after_first_byte", "reset_before", "reset_in_stream", "slow_head",
    "stall_in_stream", "status", "then_close", "trickle",
]  # fmt: skip

_JSON: Final = {"content-type": "application/json"}
SSE: Final[Mapping[str, str]] = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
"""Fields of an event stream."""
_EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"piece %d"}}]}\n\n'


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to treat a request."""

    name: str
    run: Callable[[Exchange], Awaitable[None]]
    early: bool = False
    """Whether it runs before the body of the request is read."""


def ok(
    body: bytes | Any = b'{"ok":true}', *, code: int = 200, headers: Mapping[str, str] | None = None
) -> Behaviour:  # fmt: skip
    """Answer whole; what is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def run(exchange: Exchange) -> None:
        await exchange.whole(code, data, {**_JSON, **(headers or {})})

    return Behaviour("ok", run)


def raw(*pieces: bytes, close: bool = True, pause: float = 0.0, early: bool = False) -> Behaviour:
    """Send bytes exactly as they are, one write for each piece, and hang up unless told not to."""

    async def run(exchange: Exchange) -> None:
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause)
            await exchange.send(piece)
        if close:
            exchange.close()

    return Behaviour("raw", run, early)


def status(
    code: int, *, retry_after: str | None = None, message: str = "scripted", kind: str = "scripted_error",
    name: str | None = None, headers: Mapping[str, str] | None = None,
) -> Behaviour:  # fmt: skip
    """Answer with an error in the shape of OpenAI; ``name`` becomes its ``code``."""
    fields = {**_JSON, **(headers or {})}
    if retry_after is not None:
        fields["retry-after"] = retry_after
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": name}}).encode()

    async def run(exchange: Exchange) -> None:
        await exchange.whole(code, body, fields)

    return Behaviour(f"status {code}", run)


def burst_5xx(count: int, code: int = 503) -> tuple[Behaviour, ...]:
    """Return that many errors, to be queued."""
    return tuple(status(code, message="burst") for _ in range(count))


def after(seconds: float, behaviour: Behaviour) -> Behaviour:
    """Do the same later."""

    async def run(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await behaviour.run(exchange)

    return Behaviour(f"{behaviour.name} after {seconds:g}", run, behaviour.early)


def hang() -> Behaviour:
    """Take the request and never answer."""

    async def run(exchange: Exchange) -> None:
        await exchange.forever().wait()

    return Behaviour("hang", run)


def reset_before() -> Behaviour:
    """Take the request and reset the connection."""

    async def run(exchange: Exchange) -> None:
        exchange.reset()

    return Behaviour("reset_before", run)


def reset_after_first_byte(first: bytes = b"H") -> Behaviour:
    """Reset the connection when a part of the answer is out; it is given time to arrive."""

    async def run(exchange: Exchange) -> None:
        await exchange.send(first)
        await asyncio.sleep(0.02)
        exchange.reset()

    return Behaviour("reset_after_first_byte", run)


def reset_in_stream(events: int = 2) -> Behaviour:
    """Stream that many events and reset the connection."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for number in range(events):
            await exchange.chunk(_EVENT % number)
        await asyncio.sleep(0.02)
        exchange.reset()

    return Behaviour("reset_in_stream", run)


def stall_in_stream(events: int = 2) -> Behaviour:
    """Stream that many events and fall silent."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for number in range(events):
            await exchange.chunk(_EVENT % number)
        await exchange.forever().wait()

    return Behaviour("stall_in_stream", run)


def cut_in_body(length: int = 1000, sent: int = 100) -> Behaviour:
    """Announce a length and hang up, cleanly, before all of it was sent."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, {**_JSON, "content-length": str(length)})
        await exchange.send(b" " * sent)
        exchange.close()

    return Behaviour("cut_in_body", run)


def cut_chunked(events: int = 2, headers: Mapping[str, str] = SSE) -> Behaviour:
    """Stream that many events and hang up, cleanly, without the last chunk."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, headers)
        for number in range(events):
            await exchange.chunk(_EVENT % number)
        exchange.close()

    return Behaviour("cut_chunked", run)


def close_delimited(body: bytes = b'{"ok":true}', content_type: str = "application/json") -> Behaviour:
    """Send a body that has no length and ends with the connection."""
    return raw(head_of(200, {"content-type": content_type, "connection": "close"}) + body)


def garbage_sse(events: int = 5) -> Behaviour:
    """Stream events that hold no JSON."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for number in range(events):
            await exchange.chunk(b"data: \xff\xfe{{not json %d\n\n" % number)
        await exchange.chunk(b"")

    return Behaviour("garbage_sse", run)


def endless_line(size: int = 256 * 1024 * 1024) -> Behaviour:
    """Stream that many bytes without a newline, as fast as they are taken."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        block = b"x" * 65536
        for _ in range(max(size // len(block), 1)):
            await exchange.chunk(block)
        await exchange.chunk(b"")

    return Behaviour("endless_line", run)


def error_in_stream(events: int = 0, message: str = "overloaded", kind: str = "server_error") -> Behaviour:
    """Answer 200 and, after that many events, stream an error."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for number in range(events):
            await exchange.chunk(_EVENT % number)
        error = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        await exchange.chunk(b"data: " + json.dumps(error).encode() + b"\n\n")
        await exchange.chunk(b"")

    return Behaviour("error_in_stream", run)


def trickle(pause: float = 0.05, piece: bytes = b" ", count: int = 1_000_000) -> Behaviour:
    """Send a body a few bytes at a time."""

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, {**_JSON, "content-length": str(len(piece) * count)})
        for _ in range(count):
            await exchange.send(piece)
            await asyncio.sleep(pause)

    return Behaviour("trickle", run)


def slow_head(pause: float = 0.05, count: int = 1_000_000) -> Behaviour:
    """Send the head of the answer one field after the other, slowly and for long."""

    async def run(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        for number in range(count):
            await exchange.send(b"x-field-%d: value\r\n" % number)
            await asyncio.sleep(pause)

    return Behaviour("slow_head", run)


def flood_1xx(count: int = 100_000) -> Behaviour:
    """Send that many interim answers before the final one."""

    async def run(exchange: Exchange) -> None:
        for _ in range(count // 100):
            await exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100)
        await exchange.whole(200, b'{"ok":true}', _JSON)

    return Behaviour("flood_1xx", run)


def gzipped(
    body: bytes = b'{"ok":true}', coding: str = "gzip", content_type: str = "application/json"
) -> Behaviour:
    """Answer with a body that is coded, although nobody asked for it."""
    data = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    return ok(data, headers={"content-encoding": coding, "content-type": content_type})


def gzip_bomb(size: int = 10 * 1024**3, content_type: str = "application/json") -> Behaviour:
    """Send a body that is small on the wire and becomes that many bytes.

    It is many gzip members of 16 MiB, so that making it costs nothing.
    """
    unit = 16 * 1024 * 1024

    async def run(exchange: Exchange) -> None:
        squeezer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = bytes(65536)
        member = b"".join(squeezer.compress(block) for _ in range(unit // len(block))) + squeezer.flush()
        await exchange.head(
            200,
            {"content-type": content_type, "content-encoding": "gzip", "transfer-encoding": "chunked"},
        )
        for _ in range(max(size // unit, 1)):
            await exchange.chunk(member)
        await exchange.chunk(b"")

    return Behaviour("gzip_bomb", run)


def early_answer(code: int = 413, *, close: bool = True) -> Behaviour:
    """Answer as soon as the head of the request is there, without reading its body."""

    async def run(exchange: Exchange) -> None:
        body = b'{"error":{"message":"too large","type":"invalid_request_error"}}'
        await exchange.whole(code, body, {**_JSON, "connection": "close"} if close else _JSON)
        # Hanging up on unread bytes resets the connection, which can destroy the answer on its way.
        await asyncio.sleep(0.05)
        exchange.close()

    return Behaviour("early_answer", run, early=True)


def junk_after(
    junk: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", *, pause: float | None = None
) -> Behaviour:
    """Answer well, and send more than was asked for: in the same piece, or after a pause."""

    async def run(exchange: Exchange) -> None:
        good = b'{"ok":true}'
        answer = head_of(200, {**_JSON, "content-length": str(len(good))}) + good
        if pause is None:
            await exchange.send(answer + junk)
            return
        await exchange.send(answer)
        await asyncio.sleep(pause)
        await exchange.send(junk)

    return Behaviour("junk_after", run)


def then_close(behaviour: Behaviour, seconds: float = 0.0) -> Behaviour:
    """Do it, say nothing of closing, and hang up after that time all the same."""

    async def run(exchange: Exchange) -> None:
        await behaviour.run(exchange)
        await asyncio.sleep(seconds)
        exchange.close()

    return Behaviour(f"{behaviour.name}, then close", run, behaviour.early)
