"""Scripted streams of upstreams, and what is made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.streams.gate import Held, hold

__all__ = [
    "DONE", "FINISH", "ROLE", "USAGE", "Source", "chunk", "cut", "data", "drain", "errors_in", "held", "text",
]  # fmt: skip


def data(document: Any) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chunk(delta: Any, finish: str | None = None, **more: Any) -> bytes:
    """Return one chunk of a chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return data({"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **more})


def text(content: str) -> bytes:
    """Return a chunk with text."""
    return chunk({"content": content})


ROLE = chunk({"role": "assistant", "content": ""})
FINISH = chunk({}, "stop")
USAGE = data(
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
)
DONE = b"data: [DONE]\n\n"


class Source:
    """Chunks of an upstream. ``end`` says what comes after the last: the end, a failure, or nothing ever."""

    def __init__(
        self, chunks: Iterable[bytes], end: Literal["end", "hang"] | BaseException = "end"
    ) -> None:  # fmt: skip
        self._chunks = iter(chunks)
        self._end = end
        self.taken = 0
        self.closed = 0
        self.hangs = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for one in self._chunks:
            self.taken += 1
            return one
        if isinstance(self._end, BaseException):
            raise self._end
        if self._end == "hang":
            self.hangs.set()
            await asyncio.get_running_loop().create_future()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Note that somebody closed it."""
        self.closed += 1


def cut() -> UpstreamFailure:
    """Return the failure of a connection that broke in the middle of an answer."""
    return UpstreamFailure("reset", "body", sent=True, started=True)


async def held(
    source: Source | Iterable[bytes],
    headers: dict[str, str] | None = None,
    patience: float = 30.0,
    **options: Any,
) -> Held:
    """Hold a stream."""
    chunks = source if isinstance(source, Source) else Source(source)
    deadline = asyncio.get_running_loop().time() + patience
    return await hold(Reply(200, headers or {}, None, chunks), deadline=deadline, **options)


async def drain(stream: Held) -> bytes:
    """Read a stream to its end."""
    return b"".join([piece async for piece in stream.chunks])


def errors_in(out: bytes) -> list[dict[str, Any]]:
    """Return the errors that a client would find in a stream."""
    found = []
    for event in out.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data: {") and (error := json.loads(line[6:]).get("error")):
                found.append(error)
    return found
