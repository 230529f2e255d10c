"""Send a neutral response over ASGI: whole bodies in one go, streams chunk by chunk with back-pressure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

from router_core.errors import RouterError
from router_core.http.message import Response
from router_core.http.problem import problem_response
from router_core.telemetry.events import Events, Note

__all__ = ["STALL_SECONDS", "Sender"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

STALL_SECONDS: Final = 30.0
"""A reader that takes nothing for so long is given up."""
_SLICE: Final = 256 * 1024
"""Larger bodies are handed over in pieces of this size, so that a slow reader costs one piece of memory."""
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 16 * 1024 * 1024
_CACHE_SIZE: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS: Final = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS: Final = frozenset({204, 304})


class Sender:
    """Sends responses; keeps the encoded form of header fields that come back in every response."""

    __slots__ = ("_encoded", "_events")

    def __init__(self, events: Events) -> None:
        self._events = events
        self._encoded: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    async def send(
        self,
        scope: MutableMapping[str, Any],
        response: Response,
        send: Send,
        receive: Receive | None = None,
        request_id: str = "",
    ) -> None:
        """Send one response. ``receive`` is watched for the end of the connection while a stream runs."""
        body = response.body
        try:
            headers = self.fields(response, scope["method"] == "HEAD")
        except ValueError as error:
            # an injected line break must never reach the wire, and half an answer would be worse than none
            self._events.emit(
                Note("response_header_refused", "error", str(error), {"request_id": request_id})
            )
            await _close(body)
            response = problem_response(RouterError(), request_id=request_id)
            body = response.body
            headers = self.fields(response, scope["method"] == "HEAD")
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if scope["method"] == "HEAD" or response.status in _BODILESS:
            await _close(body)
            await send({"type": "http.response.body", "body": b""})
        elif isinstance(body, bytes):
            if len(body) <= _SLICE:
                await send({"type": "http.response.body", "body": body})
            else:
                await self._stream(_slices(body), send, receive, request_id)
        else:
            await self._stream(body, send, receive, request_id)

    async def send_early(
        self, scope: MutableMapping[str, Any], response: Response, send: Send, receive: Receive
    ) -> None:
        """Answer while the body is still coming, then swallow some of it.

        Closing at once would reset the connection, and the peer would lose the answer that tells it why.
        """
        body = response.body
        assert_bytes = body if isinstance(body, bytes) else b""
        headers = self.fields(response, False)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if scope["method"] != "HEAD":
            await send({"type": "http.response.body", "body": assert_bytes, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                await _swallow(receive)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})

    # --- headers ---------------------------------------------------------------------------------

    def fields(self, response: Response, is_head: bool) -> list[tuple[bytes, bytes]]:
        """Return the encoded header fields; raises ValueError for what may not be one."""
        cache = self._encoded
        headers: list[tuple[bytes, bytes]] = []
        body = response.body
        for pair in response.headers:
            encoded = cache.get(pair)
            if encoded is None:
                encoded = (b"x-request-id", _value(pair)) if pair[0] == "x-request-id" else _encode(pair)
                if encoded[0] in _OURS:
                    if encoded[0] == b"transfer-encoding" or (body and isinstance(body, bytes)):
                        continue
                    if not body and not is_head:
                        continue
                elif pair[0] != "x-request-id" and len(pair[1]) <= 128:
                    if len(cache) >= _CACHE_SIZE:
                        cache.clear()  # most were addresses of jobs, which do not come back
                    cache[pair] = encoded
            headers.append(encoded)
        if isinstance(body, bytes) and response.status not in _BODILESS and (body or not is_head):
            headers.append((b"content-length", b"%d" % len(body)))
        return headers

    # --- streams ---------------------------------------------------------------------------------

    async def _stream(
        self, chunks: AsyncIterator[bytes], send: Send, receive: Receive | None, request_id: str
    ) -> None:
        guard = _Guard(receive)
        try:
            async for chunk in chunks:
                if guard.reason:
                    break
                if chunk:
                    guard.sending_since = guard.now()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    guard.sending_since = 0.0
            if not guard.reason:
                await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if not guard.acquit():
                raise
        except OSError:
            pass  # how some servers say that the peer has gone
        except Exception as error:
            # the status is out already: the missing end of the body is what tells the peer
            self._events.emit(Note("stream_failed", "error", str(error), {"request_id": request_id}, error))
        finally:
            guard.close()
            await self._aclose(chunks, request_id)
        if guard.reason == "slow":
            self._events.emit(Note("slow_reader_closed", "warning", "", {"request_id": request_id}))

    async def _aclose(self, chunks: AsyncIterator[bytes], request_id: str) -> None:
        try:
            await _close(chunks)
        except Exception as error:
            self._events.emit(
                Note("stream_close_failed", "error", str(error), {"request_id": request_id}, error)
            )


class _Guard:
    """Interrupts the current task when the peer goes away or takes nothing for too long.

    One task and one timer for a stream, none for a chunk.
    """

    __slots__ = ("_loop", "_task", "_timer", "_watcher", "reason", "sending_since")

    def __init__(self, receive: Receive | None) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is sent from a task")
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(STALL_SECONDS, self._look)
        self._watcher = None if receive is None else self._loop.create_task(self._watch(receive))
        self.sending_since = 0.0
        self.reason = ""

    def now(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def acquit(self) -> bool:
        """Return whether it was this guard that cancelled the task, and take the cancellation back."""
        if not self.reason:
            return False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _interrupt(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._task.cancel()

    def _look(self) -> None:
        since = self.sending_since
        left = STALL_SECONDS if not since else since + STALL_SECONDS - self.now()
        if left <= 0:
            self._interrupt("slow")
        else:
            self._timer = self._loop.call_later(left, self._look)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._interrupt("gone")


def _encode(pair: tuple[str, str]) -> tuple[bytes, bytes]:
    name = pair[0]
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a header name")
    return name.lower().encode("ascii"), _value(pair)


def _value(pair: tuple[str, str]) -> bytes:
    name, value = pair
    if _BAD_VALUE.search(value):
        raise ValueError(f"the value of the header {name!r} holds a control character")
    return value.encode("latin-1")


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE):
        yield body[start : start + _SLICE]


async def _close(body: Any) -> None:
    aclose = getattr(body, "aclose", None)
    if aclose is not None:
        await aclose()


async def _swallow(receive: Receive) -> None:
    left = _LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
