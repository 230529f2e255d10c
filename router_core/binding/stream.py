"""Generators as streams of bytes: framing, idling, failing, stopping."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Final, Protocol, Self

from router_core.binding.depends import RunSync
from router_core.binding.returns import encode_json
from router_core.errors import RouterError
from router_core.http.message import Request
from router_core.http.ndjson import encode_line
from router_core.http.problem import problem_body
from router_core.http.sse import HEARTBEAT, ServerEvent, encode_event

__all__ = ["Frames", "NdjsonFrames", "SseFrames", "StreamBody", "iterate_in_threads"]

_END: Final = object()
_CLOSE_GRACE: Final = 5.0
"""Seconds that ``aclose`` waits for a generator to stop; after that it goes on stopping by itself."""


async def iterate_in_threads(items: Generator[Any, None, None], run_sync: RunSync) -> AsyncIterator[Any]:
    """Iterate a sync generator without blocking the event loop.

    All steps run in one context, so what the generator sets stays set. If the reader goes away during a
    step, that step is waited for, because a running generator cannot be closed.
    """
    context = contextvars.copy_context()
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(run_sync(context.run, next, items, _END))
            item = await asyncio.shield(step)
            step = None
            if item is _END:
                return
            yield item
    finally:
        if step is not None and not step.done():
            await asyncio.wait([step])
        await run_sync(context.run, items.close)


class Frames(Protocol):
    """How values are written into a stream."""

    def item(self, value: Any) -> bytes:
        """Return the bytes of one value; raises InvalidResult."""

    def error(self, error: RouterError) -> bytes:
        """Return what tells the reader that the stream failed."""

    def end(self) -> bytes:
        """Return what tells the reader that the stream is complete."""


class SseFrames:
    """Each value is the JSON ``data`` of an unnamed event; ``error`` and ``end`` are events of that name."""

    __slots__ = ("_encode", "_request")

    def __init__(self, encode: Callable[[Any], bytes], request: Request) -> None:
        self._encode = encode
        self._request = request

    def item(self, value: Any) -> bytes:
        """Return one event."""
        if isinstance(value, ServerEvent):
            return encode_event(value)
        return b"data: " + self._encode(value) + b"\n\n"

    def error(self, error: RouterError) -> bytes:
        """Return the problem as an ``error`` event."""
        return b"event: error\ndata: " + _problem(error, self._request) + b"\n\n"

    def end(self) -> bytes:
        """Return the ``end`` event: a browser must close then, or it reconnects and starts over."""
        return b"event: end\ndata: null\n\n"


class NdjsonFrames:
    """Each value is a line; an error is a last line ``{"error": problem}``; the end is that of the body."""

    __slots__ = ("_encode", "_request")

    def __init__(self, encode: Callable[[Any], bytes], request: Request) -> None:
        self._encode = encode
        self._request = request

    def item(self, value: Any) -> bytes:
        """Return one line."""
        if isinstance(value, ServerEvent):
            return encode_line(encode_json(value.data))
        return encode_line(self._encode(value))

    def error(self, error: RouterError) -> bytes:
        """Return the problem as a line."""
        return encode_line(b'{"error":' + _problem(error, self._request) + b"}")

    def end(self) -> bytes:
        """Return nothing."""
        return b""


def _problem(error: RouterError, request: Request) -> bytes:
    return encode_json(problem_body(error, instance=request.path, request_id=request.id))


class StreamBody:
    """The body of a streaming response.

    The generator runs in one task from start to end (so a timeout or a context that it holds across yields
    works), and only one step for each piece that the reader takes. ``aclose`` stops it where it stands: its
    ``finally`` runs, then ``on_close``.
    """

    __slots__ = (
        "_answer", "_closing", "_demand", "_failed", "_frames", "_heartbeat", "_items", "_on_close",
        "_on_error", "_over", "_task",
    )  # fmt: skip

    def __init__(
        self,
        items: AsyncIterator[Any],
        frames: Frames,
        *,
        heartbeat: float | None = None,
        on_close: Callable[[BaseException | None], Awaitable[None]] | None = None,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._items = items
        self._frames = frames
        self._heartbeat = heartbeat
        self._on_close = on_close
        self._on_error = on_error
        self._task: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._demand = asyncio.Event()
        self._closing = False
        self._over = False
        self._failed: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._closing or (self._over and self._answer is None):
            raise StopAsyncIteration
        answer = self._ask()
        if not answer.done():
            await asyncio.wait([answer], timeout=self._heartbeat)
        if not answer.done():
            return HEARTBEAT
        self._answer = None
        piece = answer.result()
        if self._over and self._failed is not None and self._on_error is not None:
            self._on_error(self._failed)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def prime(self, timeout: float = 0.5) -> None:
        """Wait a moment for the first piece, so that an error before it can still choose the status.

        Raises what the generator raised; the stream is closed then.
        """
        answer = self._ask()
        if not answer.done():
            await asyncio.wait([answer], timeout=timeout)
        if self._over and self._failed is not None:
            self._closing = True
            raise self._failed

    async def aclose(self) -> None:
        """Stop the generator and clean up; may be called at any time, also twice."""
        self._closing = True
        if self._over:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._pump())  # never started: it goes straight to the clean-up
            self._demand.set()
        else:
            self._task.cancel()
        await asyncio.wait([self._task], timeout=_CLOSE_GRACE)

    def _ask(self) -> asyncio.Future[bytes]:
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._demand.set()
        if self._task is None:
            self._task = asyncio.create_task(self._pump())
        return self._answer

    async def _pump(self) -> None:
        failed: BaseException | None = None
        try:
            while await self._step():
                pass
        except asyncio.CancelledError as exc:
            failed = exc  # the reader is gone
            raise
        except BaseException as exc:
            failed = exc
        finally:
            failed = await self._clean_up(failed)
            self._end(failed)

    async def _step(self) -> bool:
        await self._demand.wait()
        if self._closing:
            return False
        item = await anext(self._items, _END)
        if item is _END:
            return False
        self._give(self._frames.item(item))
        return True

    def _give(self, piece: bytes) -> None:
        self._demand.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(piece)

    async def _clean_up(self, failed: BaseException | None) -> BaseException | None:
        """Close the generator, then what the call depended on; the first error counts."""
        try:
            await _close(self._items)
        except BaseException as exc:
            failed = failed or exc
        try:
            if self._on_close is not None:
                await self._on_close(failed)
        except BaseException as exc:
            failed = failed or exc
        return failed

    def _end(self, failed: BaseException | None) -> None:
        self._over = True
        if failed is None or isinstance(failed, asyncio.CancelledError):
            self._give(self._frames.end())
            return
        self._failed = (
            failed if isinstance(failed, Exception) else RuntimeError(f"{type(failed).__name__} in a stream")
        )
        shown = (
            failed if isinstance(failed, RouterError) else RouterError("the stream broke off: internal error")
        )
        self._give(self._frames.error(shown))


async def _close(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
