"""The chunks of a scripted stream, and time as a scripted deployment takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from router_core.gateway.clients.scripted_answer import Piece, encode
from router_core.gateway.clients.scripted_args import Step
from router_core.gateway.reply import Phase, UpstreamFailure
from router_core.gateway.values import Timeouts

__all__ = ["ScriptedStream", "error_body", "wait"]


def error_body(message: str, param: str | None, code: str, status: int) -> bytes:
    """Return an error as OpenAI writes them."""
    kind = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}.get(status)
    kind = kind or ("invalid_request_error" if status < 500 else "server_error")
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code or None}})


async def wait(limits: Timeouts, seconds: float, phase: Phase, deadline: float) -> None:
    """Let time pass as a slow upstream does, but no longer than a transport would wait for one.

    Raises UpstreamFailure where a transport would.
    """
    patience = limits.first_byte if phase == "first_byte" else limits.idle
    left = min(patience, deadline - asyncio.get_running_loop().time())
    if seconds <= left:
        await asyncio.sleep(seconds)
        return
    await asyncio.sleep(max(0.0, left))
    raise UpstreamFailure("timeout", phase, "too slow as scripted", sent=True, started=phase == "body")


class ScriptedStream:
    """An answer in pieces. ``ended`` is called once: at the end, after a failure, or when it is closed."""

    def __init__(
        self, pieces: Iterator[Piece], step: Step, limits: Timeouts, deadline: float,
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        self._chunks = self._play(pieces, step, limits, deadline)
        self._step, self._limits, self._deadline = step, limits, deadline
        self._ended: Callable[[], None] | None = ended

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """End it, wherever it is."""
        self._end()
        await self._chunks.aclose()

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    async def _play(
        self, pieces: Iterator[Piece], step: Step, limits: Timeouts, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        speed, sent = step.tokens_per_second, 0
        for data, tokens in pieces:
            if tokens or sent:
                event = await self._trouble(sent)
                if event:
                    yield event
                    return
            pause = (step.chunk_delay or (tokens / speed if speed else 0.0)) if tokens else 0.0
            if pause:
                await wait(limits, pause, "body", deadline)
            sent += bool(tokens)
            yield data

    async def _trouble(self, sent: int) -> bytes:
        step = self._step
        if step.error_in_stream_after is not None and sent >= step.error_in_stream_after:
            text = step.fail_message or "the stream fails as scripted"
            return b"data: %s\n\n" % error_body(text, None, step.fail_code, step.fail_status or 500)
        if step.cut_after is not None and sent >= step.cut_after:
            raise UpstreamFailure("reset", "body", "the stream was cut as scripted", sent=True, started=True)
        if step.hang_after is not None and sent >= step.hang_after:
            await wait(self._limits, float("inf"), "body", self._deadline)
        return b""
