"""An upstream that answers late, or streams at a pace: ``python -m benchmarks.gateways.upstream PORT``.

One answer of a chat completion after DELAY seconds; a request whose body asks for a stream gets EVENTS events
of about 200 bytes, PACE seconds apart. NAME, a digit, is part of the id of each answer. It reads requests no
further than it has to.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Final

import uvloop

__all__ = ["CHAT", "main"]

CHAT: Final = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "bench",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 160}}
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 160, "total_tokens": 360},
    }
)  # fmt: skip
"""About 1 KB."""
_ANSWER: Final = (
    f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(CHAT)}\r\n\r\n{CHAT}".encode()
)
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(delta: dict[str, object], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench",
            "choices": [choice], **more}  # fmt: skip
    line = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


_CONTENT: Final = _event({"content": "some words, "})
_LAST: Final = (
    _event({}, usage={"prompt_tokens": 200, "completion_tokens": 50, "total_tokens": 250})
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float, events: int, pace: float, name: bytes) -> None:
        self._delay, self._events, self._pace = delay, events, pace
        self._answer, self._content, self._last = (
            each.replace(b"chatcmpl-1", b"chatcmpl-" + name) for each in (_ANSWER, _CONTENT, _LAST)
        )
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
        if b'"stream":true' in body.replace(b" ", b""):
            self._write(_HEAD)
            self._next(self._events)
        elif self._delay:
            self._loop.call_later(self._delay, self._write, self._answer)
        else:
            self._write(self._answer)

    def _next(self, left: int) -> None:
        if left:
            self._write(self._content)
            self._loop.call_later(self._pace, self._next, left - 1)
        else:
            self._write(self._last)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def _serve(port: int) -> None:
    delay = float(os.environ.get("DELAY", "0"))
    events, pace = int(os.environ.get("EVENTS", "50")), float(os.environ.get("PACE", "0.01"))
    name = os.environ.get("NAME", "1").encode()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(delay, events, pace, name), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
