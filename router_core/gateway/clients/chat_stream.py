"""A stream that is translated on its way, whatever it is translated from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Protocol

from router_core.gateway.reply import Reply, UpstreamFailure

__all__ = ["TranslatedStream", "Translator", "answer_headers", "malformed"]

_OF_THE_BODY: Final = frozenset({
    "connection", "content-encoding", "content-length", "content-type", "keep-alive", "transfer-encoding",
})  # fmt: skip
_END: Final = 1.0
"""Seconds that an upstream has to end its answer after it has said everything."""


class Translator(Protocol):
    """Turns bytes of one protocol into bytes of another, in bounded memory."""

    ended: bool
    """Whether everything has been said: what follows does not matter."""

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes complete. Raises UpstreamFailure for what cannot be read."""

    def close(self) -> bytes:
        """Return what is left to say when the bytes end. Raises UpstreamFailure where they end too early."""


class TranslatedStream:
    """The chunks of a reply, translated. Closing it closes those of the upstream, begun or not."""

    def __init__(self, chunks: AsyncIterator[bytes], translator: Translator) -> None:
        self._chunks = chunks
        self._translator = translator
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._translator.ended and not self._over:
            await self._drain()
        while not self._over:
            try:
                data = await anext(self._chunks)
            except StopAsyncIteration:
                self._over = True
                out = self._translator.close()
            else:
                out = await self._fed(data)
            if out:
                return out
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let go of the upstream."""
        self._over = True
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()

    async def _fed(self, data: bytes) -> bytes:
        try:
            out = self._translator.feed(data)
        except UpstreamFailure:
            await self.aclose()
            raise
        return out

    async def _drain(self) -> None:
        """Read on to the end that has to come now, so that the connection can be used again."""
        self._over = True
        with suppress(UpstreamFailure, TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_END):
                await anext(self._chunks)
        await self.aclose()


def answer_headers(reply: Reply, content_type: str) -> dict[str, str]:
    """Return the headers of an upstream without those that described its body."""
    kept = {name: value for name, value in reply.headers.items() if name not in _OF_THE_BODY}
    return kept | {"content-type": content_type}


def malformed(message: str) -> UpstreamFailure:
    """Return the failure of an answer that cannot be read."""
    return UpstreamFailure("malformed", "body", message, sent=True, started=True)
