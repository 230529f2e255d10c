"""What a function returned, as a response or as the result of a job."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from router_core.binding.depends import RunSync, run_in_thread
from router_core.binding.stream import NdjsonFrames, SseFrames, StreamBody, iterate_in_threads
from router_core.errors import NotAcceptable, RouterError
from router_core.http.media import DEFAULT_CONTENT_TYPE, File
from router_core.http.message import Request, Response
from router_core.http.ndjson import NDJSON_TYPE, NDJSON_TYPES
from router_core.http.negotiate import best_match
from router_core.http.sse import SSE_TYPE

if TYPE_CHECKING:
    from router_core.routing.route import Route

__all__ = [
    "HEARTBEAT_SECONDS",
    "disposition",
    "encode_result",
    "file_of",
    "file_response",
    "is_stream",
    "json_response",
    "to_response",
]

HEARTBEAT_SECONDS: Final = 15.0
_JSON: Final = (("content-type", "application/json"),)
_STREAM_OFFERS: Final = (NDJSON_TYPE, SSE_TYPE, *NDJSON_TYPES[1:])
_NO_BODY: Final = (204, 205, 304)
_PIECE: Final = 256 * 1024
_INLINE: Final = (
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "text/plain",
    "application/pdf",
)


def to_response(
    route: Route,
    value: Any,
    request: Request,
    *,
    on_close: Callable[[BaseException | None], Awaitable[None]] | None = None,
    on_error: Callable[[BaseException], None] | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    run_sync: RunSync = run_in_thread,
) -> Response:
    """Return the answer for what the function returned; raises InvalidResult, NotAcceptable.

    ``on_close`` is awaited when a stream has ended, with the error that ended it if one did (the dependencies
    of the call are cleaned up there); for anything but a stream it is left to the caller. ``on_error`` is
    told of an error after the stream has begun, which the caller sees as an error event.
    """
    if isinstance(value, Response):
        return value
    if is_stream(value):
        items = iterate_in_threads(value, run_sync) if isinstance(value, types.GeneratorType) else value
        return _stream(route, items, request, on_close, on_error, heartbeat)
    if isinstance(value, (File, bytes, bytearray, memoryview)):
        return file_response(route.status, value if isinstance(value, File) else File(value))
    if value is None and route.status in _NO_BODY:
        return Response(route.status)
    body = route.plan.result.encode(value)
    if isinstance(value, str):
        accept = request.headers.get("accept", "")
        if "text/" in accept and best_match(accept, ("application/json", "text/plain")) == "text/plain":
            return Response.text(value, route.status)
    return Response(route.status, _JSON, body)


def json_response(route: Route, value: Any) -> Response:
    """Return the answer for a value of exactly the class that the route promises; raises InvalidResult."""
    return Response(route.status, _JSON, route.plan.result.encode(value))


def encode_result(route: Route, value: Any) -> bytes:
    """Return a result as JSON, for a job's record; a file becomes a base64 object. Raises InvalidResult."""
    if isinstance(value, Response) and file_of(value) is None:
        return _response_json(value)
    file = file_of(value)
    if file is not None:
        from router_core.binding.returns import encode_json

        return encode_json(file)
    return route.plan.result.encode(value)


def file_of(value: Any) -> File | None:
    """Return the file that a result is, if it is nothing else."""
    if isinstance(value, Response):
        content_type = value.header("content-type") or DEFAULT_CONTENT_TYPE
        if not isinstance(value.body, bytes) or content_type.partition(";")[0].strip() == "application/json":
            return None
        return File(value.body, content_type=content_type)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return File(value)
    return value if isinstance(value, File) else None


def is_stream(value: Any) -> bool:
    """Return whether a result is to be iterated: a generator or an async iterator."""
    # isinstance and not hasattr: models answer for attributes that they do not have, at length
    return isinstance(value, (types.GeneratorType, AsyncIterator))


def _response_json(response: Response) -> bytes:
    if not isinstance(response.body, bytes):
        raise RouterError(
            "a job cannot return a Response that streams; yield the items instead", code="invalid_result"
        )
    return response.body or b"null"


def _stream(
    route: Route,
    items: AsyncIterator[Any],
    request: Request,
    on_close: Callable[[BaseException | None], Awaitable[None]] | None,
    on_error: Callable[[BaseException], None] | None,
    heartbeat: float,
) -> Response:
    chosen = best_match(request.headers.get("accept", ""), _STREAM_OFFERS)
    if chosen is None:
        raise NotAcceptable(f"this route streams: accept {SSE_TYPE} or {NDJSON_TYPE}")
    encode = route.plan.result.encode
    frames = SseFrames(encode, request) if chosen == SSE_TYPE else NdjsonFrames(encode, request)
    idle = heartbeat if chosen == SSE_TYPE else None
    body = StreamBody(items, frames, heartbeat=idle, on_close=on_close, on_error=on_error)
    headers = (
        ("content-type", chosen + ("; charset=utf-8" if chosen == SSE_TYPE else "")),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),  # nginx would hold events back
    )
    return Response(200 if route.status in _NO_BODY else route.status, headers, body)


def file_response(status: int, file: File) -> Response:
    """Return a file as the answer: its bytes, its type and its name."""
    content_type = file.content_type or DEFAULT_CONTENT_TYPE
    headers = [
        ("content-type", content_type),
        ("content-length", str(file.size)),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", disposition(content_type, file.filename)),
    ]
    if file.path is None or file.size <= _PIECE:
        return Response(status, tuple(headers), file.read())
    return Response(status, tuple(headers), _pieces(file))


def disposition(content_type: str, filename: str = "") -> str:
    """Return the Content-Disposition of a file.

    Anything that a browser would run (HTML, SVG) is saved rather than shown: it may be a caller's upload.
    """
    media = content_type.partition(";")[0].strip().lower()
    shown = media in _INLINE or media.startswith(("audio/", "video/"))
    return ("inline" if shown else "attachment") + _filename(filename)


def _filename(name: str) -> str:
    return f"; filename*=UTF-8''{quote(name, safe='')}" if name else ""


async def _pieces(file: File) -> AsyncIterator[bytes]:
    handle = await asyncio.to_thread(file.open)
    try:
        while piece := await asyncio.to_thread(handle.read, _PIECE):
            yield piece
    finally:
        handle.close()
