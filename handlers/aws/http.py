"""HTTP events: read, answered by the app, and written as a reply that the front door can carry."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from handlers.aws import reply as replies
from handlers.aws.events import ALB, HTTP_V2, REST_V1
from handlers.aws.limits import Door, answer_seconds
from router_core.calls import CallService
from router_core.errors import BadRequest, PayloadTooLarge, RouterError, UpstreamTimeout
from router_core.http.head import Head, read_fields
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.telemetry.events import Note, RequestDone
from router_core.types import ANONYMOUS, Counted

if TYPE_CHECKING:
    from handlers.aws.fields import Raw
    from router_core.app import App

__all__ = ["SHAPES", "HttpCalls", "Shape", "whole"]

SHAPES: Final[Mapping[str, str]] = {
    REST_V1: "handlers.aws.rest_v1", HTTP_V2: "handlers.aws.http_v2", ALB: "handlers.aws.alb",
}  # fmt: skip
"""Kind of event -> the module that reads and writes it; a function mostly sees one of them."""
_SLACK: Final = 0.5
"""Seconds after which a stream that ought to have ended is given up: waits end first."""
_BODILESS: Final = frozenset({204, 304})


class Shape:
    """The way of one front door to write a request and to read an answer."""

    def __init__(self, kind: str) -> None:
        module: ModuleType = importlib.import_module(SHAPES[kind])
        self.read = module.read
        self.write = module.write
        self.door = module.door
        self.received_ms = module.received_ms


class HttpCalls:
    """Answers HTTP events with one app."""

    def __init__(self, service: App | CallService, *, takes_jobs: bool = True) -> None:
        """``takes_jobs=False``: a job would never run here, so the wish for one is passed over."""
        self._service = service
        self._settings = service.settings
        self._events = service.events
        self._clock = service.clock if isinstance(service, CallService) else service.parts.clock
        self._takes_jobs = takes_jobs
        self._ids = Counted()
        self._shapes: dict[str, Shape] = {}

    def shape(self, kind: str) -> Shape:
        """Return the way to read and write a kind of event."""
        shape = self._shapes.get(kind)
        if shape is None:
            shape = self._shapes[kind] = Shape(kind)
        return shape

    def restored(self) -> None:
        """Draw other ids than the process that a snapshot was taken of."""
        self._ids = Counted()

    async def reply(self, kind: str, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Answer an event with a reply that its front door can carry."""
        shape = self.shape(kind)
        door: Door = shape.door(event)
        response, request = await self.respond(kind, event, context)
        body = response.body
        if not isinstance(body, bytes):
            seconds = request.answer_by - self._clock.monotonic() + _SLACK
            try:
                response = Response(response.status, response.headers, await _collected(body, door, seconds))
            except RouterError as error:
                response = self._problem(error, request)
        written = self._written(shape, event, response, request)
        if replies.json_size(written, door.reply_bytes) <= door.reply_bytes:
            return written
        return await self._smaller(shape, event, response, request)

    async def respond(
        self, kind: str, event: Mapping[str, Any], context: Any, *, streams: bool = False
    ) -> tuple[Response, Request]:
        """Answer an event; never raises. ``streams``: the answer goes out piece by piece as it is made."""
        started = perf_counter()
        shape = self.shape(kind)
        door: Door = shape.door(event)
        raw: Raw | None = None
        head: Head | None = None
        try:
            seconds = answer_seconds(door, shape.received_ms(event), context)
            raw = shape.read(event)
            head = self._head(raw, context)
            answer_by = self._clock.monotonic() + seconds
            request = _request(raw, head, (event, context), door, answer_by)
            if head.length > head.body_limit:
                await self._admit(request, head)
        except RouterError as error:
            return self._refused(error, raw, head, context, started)
        except Exception as error:  # a member of a type that nobody has thought of
            self._events.emit(Note("event_unreadable", "error", "the event cannot be read", error=error))
            return self._refused(BadRequest("the event cannot be read"), raw, head, context, started)
        try:
            response = await self._service.handle(request)
        except Exception as error:
            self._note("handle_failed", "the app raised", request, error)
            response = problem_response(RouterError(), instance=request.path, request_id=request.id)
        if request.method == "HEAD" or response.status in _BODILESS:
            await _close(response.body)
            response = Response(response.status, response.headers)
        return response, request

    # --- in --------------------------------------------------------------------------------------

    def _head(self, raw: Raw, context: Any) -> Head:
        headers = raw.headers
        if raw.body:  # what the front door says about the length may be that of the base64
            headers = [pair for pair in headers if pair[0] not in _LENGTHS]
            headers.append((b"content-length", b"%d" % len(raw.body)))
        if not self._takes_jobs:
            headers = [pair for pair in headers if pair[0] != b"prefer" or b"respond-async" not in pair[1]]
        return read_fields(headers, raw.path, raw.query, True, self._settings, _Ids(context, self._ids))

    async def _admit(self, request: Request, head: Head) -> None:
        limit = await self._service.admit(request)
        limit = head.body_limit if limit is None else limit
        if head.length > limit:
            raise PayloadTooLarge(f"the request body may have {limit} bytes")

    # --- out -------------------------------------------------------------------------------------

    def _written(
        self, shape: Shape, event: Mapping[str, Any], response: Response, request: Request,
        base64_only: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        body = response.body if isinstance(response.body, bytes) else b""
        try:
            headers = replies.checked(response.headers)
        except ValueError as error:
            self._note("response_header_refused", str(error), request)
            response = self._problem(RouterError(), request)
            headers, body = replies.checked(response.headers), _bytes(response)
        reply = replies.make(response.status, headers, body, base64_only=base64_only)
        written: dict[str, Any] = shape.write(event, reply)
        return written

    async def _smaller(
        self, shape: Shape, event: Mapping[str, Any], response: Response, request: Request
    ) -> dict[str, Any]:
        """Make a reply that fits: escapes may cost more than base64, and a store of blobs may hold it."""
        door: Door = shape.door(event)
        written = self._written(shape, event, response, request, base64_only=True)
        if replies.json_size(written, door.reply_bytes) <= door.reply_bytes:
            return written
        app = await whole(self._service)
        if response.status < 300 and getattr(app.parts.blobs, "presigns", False):
            try:
                from handlers.aws.offload import offload

                return self._written(shape, event, await offload(app, response), request)
            except RouterError as error:
                self._note("offload_failed", str(error), request, error)
                return self._written(shape, event, self._problem(error, request), request)
        large = _too_large(door)
        self._note("reply_too_large", str(large), request)
        return self._written(shape, event, self._problem(large, request), request)

    def _problem(self, error: RouterError, request: Request) -> Response:
        response = problem_response(error, instance=request.path, request_id=request.id)
        return response.with_headers(("x-request-id", request.id), *SECURITY_HEADERS)

    def _refused(
        self, error: RouterError, raw: Raw | None, head: Head | None, context: Any, started: float
    ) -> tuple[Response, Request]:
        """Answer a request that cannot be understood or taken."""
        request = Request(
            raw.method if raw else "GET", raw.path if raw else "",
            id=_Ids(context, self._ids).new() if head is None else head.request_id,
            client=raw.client if raw else "",
        )  # fmt: skip
        response = problem_response(error, request_id=request.id)
        response = response.with_headers(("x-request-id", request.id), *SECURITY_HEADERS)
        self._events.emit(
            RequestDone(
                method=request.method, path=request.path, route="", status=error.status,
                seconds=perf_counter() - started, request_id=request.id, client=request.client,
            )
        )  # fmt: skip
        return response, request

    def _note(self, name: str, said: str, request: Request, error: BaseException | None = None) -> None:
        fields = {"request_id": request.id, "method": request.method, "path": request.path}
        self._events.emit(Note(name, "error", said, fields, error))


_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})


class _Ids(Counted):
    """Gives a request the id of its invocation, so that all logs of one call share it."""

    __slots__ = ("_context", "_others")

    def __init__(self, context: Any, others: Counted) -> None:
        self._context = context
        self._others = others

    def new(self) -> str:
        """Return the id of the invocation, or the next one of our own."""
        given = getattr(self._context, "aws_request_id", None)
        return given if isinstance(given, str) and given else self._others.new()


def _request(
    raw: Raw, head: Head, native: tuple[Mapping[str, Any], Any], door: Door, answer_by: float
) -> Request:
    return Request(
        raw.method,
        head.path,
        head.query,
        head.headers,
        raw.body,
        head.request_id,
        raw.client,
        raw.scheme,
        ANONYMOUS,
        _NO_PARAMS,
        {"event": native[0], "context": native[1]},
        raw.root,
        None,
        door.reply_bytes * 2 // 3,  # in base64 it grows by a third, and headers stand beside it
        answer_by,
    )


_NO_PARAMS: Final[Mapping[str, str]] = {}


async def whole(service: App | CallService) -> App:
    """Return the app with its jobs and all."""
    return await service.whole() if isinstance(service, CallService) else service


async def _collected(body: AsyncIterator[bytes], door: Door, seconds: float) -> bytes:
    """Return a whole stream; raises what to answer when it is too long in time or in bytes."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(max(0.0, seconds) if seconds < 1e9 else None):
            async for chunk in body:
                size += len(chunk)
                if size > door.reply_bytes:
                    raise _too_large(door)
                parts.append(chunk)
    except TimeoutError:
        raise UpstreamTimeout(
            f"the stream did not end in the time that {door.name} waits for an answer, and it does not take "
            "one piece by piece: serve it as a job and follow its events, or by a function URL that streams",
            code="stream_unfinished",
        ) from None
    finally:
        await _close(body)
    return b"".join(parts)


def _too_large(door: Door) -> RouterError:
    return RouterError(
        f"the answer is larger than the {door.reply_bytes} bytes of a reply through {door.name}; the "
        "operator can set ROUTER_BLOBS=s3://bucket/prefix to have large answers given as links",
        code="reply_too_large",
    )


async def _close(body: Any) -> None:
    aclose = getattr(body, "aclose", None)
    if aclose is not None:
        await aclose()


def _bytes(response: Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b""
