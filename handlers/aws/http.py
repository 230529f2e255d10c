"""HTTP events: read, answered by the app, and written as a reply that the front door can carry."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from handlers.aws import reply as replies
from handlers.aws.events import ALB, HTTP_V2, REST_V1
from handlers.aws.limits import HTTP_DOOR, Door, answer_seconds
from handlers.aws.plain import PlainDoor
from router_core.calls import CallService
from router_core.errors import BadRequest, PayloadTooLarge, RouterError, UpstreamTimeout
from router_core.http.head import Head, LazyHeaders, read_fields
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.telemetry.events import Note, RequestDone
from router_core.types import ANONYMOUS, Counted

if TYPE_CHECKING:
    from handlers.aws.fields import Raw
    from router_core.app import App

__all__ = ["SHAPES", "HttpCalls", "whole"]

SHAPES: Final[Mapping[str, str]] = {
    REST_V1: "handlers.aws.rest_v1", HTTP_V2: "handlers.aws.http_v2", ALB: "handlers.aws.alb",
}  # fmt: skip
"""Kind of event -> the module that reads and writes it; a function mostly sees one of them."""
_SLACK: Final = 0.5
"""Seconds after which a stream that ought to have ended is given up: waits end first."""
_BODILESS: Final = frozenset({204, 304})
_NO_PARAMS: Final[Mapping[str, str]] = {}
_SURELY_FITS: Final = 128 * 1024
"""Bytes of a body that become a reply within the limits of every front door, whatever is in it."""
_KNOWN: Final = 256
"""Sets of header fields that are kept: most answers bring one of a few."""

Event = Mapping[str, Any]


class Call:
    """One HTTP event on its way, and what is known of it."""

    __slots__ = ("context", "door", "event", "head", "kind", "raw", "request", "started")

    def __init__(self, kind: str, event: Event, context: Any) -> None:
        self.kind = kind
        self.event = event
        self.context = context
        self.started = perf_counter()
        self.raw: Raw | None = None
        self.head: Head | None = None
        self.request = _NOTHING
        self.door: Door = HTTP_DOOR
        """Where it came from."""


_NOTHING: Final = Request("GET", "")


class HttpCalls:
    """Answers HTTP events with one service."""

    def __init__(self, service: App | CallService, *, takes_jobs: bool = True) -> None:
        """``takes_jobs=False``: a job would never run here, so the wish for one is passed over."""
        self._service = service
        self._settings = service.settings
        self._events = service.events
        self._clock = service.clock if isinstance(service, CallService) else service.parts.clock
        self._takes_jobs = takes_jobs
        self._looks = () if isinstance(service, CallService) else service.looks
        self._ids = _Ids()
        self._plain = PlainDoor(self._settings, self._clock)
        self._shapes: dict[str, tuple[Callable[..., Raw], Callable[..., dict[str, Any]]]] = {}
        self._fields: dict[tuple[replies.Pair, ...], replies.Fields] = {}

    def restored(self) -> None:
        """Draw other ids than the process that a snapshot was taken of."""
        self._ids = _Ids()

    async def reply(self, kind: str, event: Event, context: Any) -> dict[str, Any]:
        """Answer an event with a reply that its front door can carry."""
        self._ids.context = context
        plain = self._plain.read(event, context, self._ids) if kind == HTTP_V2 else None
        if plain is None:
            call = Call(kind, event, context)
            return await self._finished(call, await self._answer(call))
        request, door = plain
        try:
            for look in self._looks:
                await look()
            response = await self._service.handle(request)
        except Exception as error:
            response = self._raised(request, error)
        body = response.body
        if (
            type(body) is bytes
            and len(body) <= _SURELY_FITS
            and request.method != "HEAD"
            and response.status not in _BODILESS
        ):
            return self._plain.write(response, body, self._fields) or self._written(kind, event, response)
        call = Call(kind, event, context)
        call.request, call.door = request, door
        return await self._finished(call, await _bodied(request, response))

    async def _finished(self, call: Call, response: Response) -> dict[str, Any]:
        if not isinstance(response.body, bytes):
            response = await self._buffered(call, response)
        written = self._written(call.kind, call.event, response)
        limit = call.door.reply_bytes
        if replies.json_size(written, limit) <= limit:
            return written
        return await self._smaller(call, response)

    async def respond(self, kind: str, event: Event, context: Any) -> Response:
        """Answer an event with a response, which may be a stream."""
        return await self._answer(Call(kind, event, context))

    async def _answer(self, call: Call) -> Response:
        try:
            request = self._read(call)
            if call.head is not None and call.head.length > call.head.body_limit:
                await self._admit(request, call.head)
        except RouterError as error:
            return self._refused(call, error)
        except Exception as error:  # a member of a type that nobody has thought of
            self._events.emit(Note("event_unreadable", "error", "the event cannot be read", error=error))
            return self._refused(call, BadRequest("the event cannot be read"))
        try:
            for look in self._looks:
                await look()
            response = await self._service.handle(request)
        except Exception as error:
            response = self._raised(request, error)
        return await _bodied(request, response)

    def _raised(self, request: Request, error: Exception) -> Response:
        self._note("handle_failed", "the app raised", request, error)
        return self._problem(RouterError(), request)

    # --- in --------------------------------------------------------------------------------------

    def _read(self, call: Call) -> Request:
        call.raw = raw = self._shape(call.kind)[0](call.event)
        call.door = raw.door
        self._ids.context = call.context
        call.head = head = self._head(raw, call.event)
        seconds = answer_seconds(raw.door, raw.received_ms, call.context)
        call.request = request = Request(
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
            {"event": call.event, "context": call.context},
            raw.root,
            None,
            raw.door.body_bytes,
            self._clock.monotonic() + seconds,
        )
        return request

    async def _admit(self, request: Request, head: Head) -> None:
        limit = await self._service.admit(request)
        limit = head.body_limit if limit is None else limit
        if head.length > limit:
            raise PayloadTooLarge(f"the request body may have {limit} bytes")

    def _head(self, raw: Raw, event: Event) -> Head:
        headers = raw.headers
        if raw.body:  # what the front door says about the length may be that of the base64; the first counts
            stated = (b"content-length", b"%d" % len(raw.body))
            if stated not in headers:
                headers.insert(0, stated)
        head = read_fields(headers, raw.path, raw.query, True, self._settings, self._ids)
        if "host" in head.headers and (self._takes_jobs or "prefer" not in head.headers):
            return head
        if "host" not in head.headers:
            domain = event["requestContext"].get("domainName")
            headers.append((b"host", domain.encode("latin-1", "replace") if isinstance(domain, str) else b""))
        if not self._takes_jobs:
            headers = [pair for pair in headers if pair[0] != b"prefer" or b"respond-async" not in pair[1]]
        head.headers = LazyHeaders(headers, dict(reversed(headers)))
        return head

    def _shape(self, kind: str) -> tuple[Callable[..., Raw], Callable[..., dict[str, Any]]]:
        """Return how to read and how to write a kind of event."""
        shape = self._shapes.get(kind)
        if shape is None:
            module = importlib.import_module(SHAPES[kind])
            shape = self._shapes[kind] = (module.read, module.write)
        return shape

    # --- out -------------------------------------------------------------------------------------

    def sendable(self, response: Response) -> tuple[Response, replies.Fields, str]:
        """Return a response whose headers may be sent, these, and the request id, which is none of them."""
        headers, request_id = response.headers, ""
        if headers and headers[-1][0] == "x-request-id":
            request_id, headers = headers[-1][1], headers[:-1]
        fields = self._fields.get(headers)
        if fields is None:
            try:
                fields = replies.Fields(headers)
            except ValueError as error:
                self._note("response_header_refused", str(error), _NOTHING)
                refused = problem_response(RouterError(), request_id=request_id)
                return self.sendable(refused.with_headers(*SECURITY_HEADERS, ("x-request-id", request_id)))
            if len(self._fields) < _KNOWN and sum(len(value) for _, value in headers) < 1024:
                self._fields[headers] = fields
        return response, fields, request_id

    def _written(
        self, kind: str, event: Event, response: Response, base64_only: bool = False
    ) -> dict[str, Any]:
        response, fields, request_id = self.sendable(response)
        body = response.body if isinstance(response.body, bytes) else b""
        reply = replies.make(response.status, fields, request_id, body, base64_only=base64_only)
        return self._shape(kind)[1](event, reply)

    async def _buffered(self, call: Call, response: Response) -> Response:
        """Collect a stream, in the time and to the size that the front door allows."""
        seconds = call.request.answer_by - self._clock.monotonic() + _SLACK
        try:
            body = await _collected(response.body, call.door, seconds)
        except RouterError as error:
            return self._problem(error, call.request)
        except Exception as error:
            self._note("stream_failed", str(error), call.request, error)
            return self._problem(RouterError(), call.request)
        return Response(response.status, response.headers, body)

    async def _smaller(self, call: Call, response: Response) -> dict[str, Any]:
        """Make a reply that fits: escapes may cost more than base64, and a store of blobs may hold it."""
        limit = call.door.reply_bytes
        written = self._written(call.kind, call.event, response, base64_only=True)
        if replies.json_size(written, limit) <= limit:
            return written
        app = await whole(self._service)
        if response.status < 300 and getattr(app.parts.blobs, "presigns", False):
            try:
                from handlers.aws.offload import offload

                return self._written(call.kind, call.event, await offload(app, response))
            except RouterError as error:
                self._note("offload_failed", str(error), call.request, error)
                return self._written(call.kind, call.event, self._problem(error, call.request))
        large = _too_large(call.door)
        self._note("reply_too_large", str(large), call.request)
        return self._written(call.kind, call.event, self._problem(large, call.request))

    def _problem(self, error: RouterError, request: Request) -> Response:
        response = problem_response(error, instance=request.path, request_id=request.id)
        return self._with_headers(response, request, request.id)

    def _refused(self, call: Call, error: RouterError) -> Response:
        """Answer a request that cannot be understood or taken."""
        self._ids.context = call.context
        raw, head = call.raw, call.head
        request_id = self._ids.new() if head is None else head.request_id
        method, path, client = (raw.method, raw.path, raw.client) if raw else ("", "", "")
        seconds = perf_counter() - call.started
        self._events.emit(
            RequestDone(method, path, "", error.status, seconds, request_id=request_id, client=client)
        )
        response = problem_response(error, request_id=request_id)
        asked = _NOTHING if head is None else Request(method, head.path, headers=head.headers)
        return self._with_headers(response, asked, request_id)

    def _with_headers(self, response: Response, request: Request, request_id: str) -> Response:
        """Add what answers carry that come from the service; the id of the request stands last."""
        if self._settings.cors_origins:
            from router_core.security.cors import cors_of

            cors = cors_of(self._settings)
            response = response if cors is None else cors.mark(request, response)
        return response.with_headers(*SECURITY_HEADERS, ("x-request-id", request_id))

    def _note(self, name: str, said: str, request: Request, error: BaseException | None = None) -> None:
        fields = {"request_id": request.id, "method": request.method, "path": request.path}
        self._events.emit(Note(name, "error", said, fields, error))


class _Ids(Counted):
    """Gives a request the id of its invocation, so that all logs of one call share it."""

    __slots__ = ("context",)

    context: Any

    def new(self) -> str:
        """Return the id of the invocation, or the next one of our own."""
        given = getattr(self.context, "aws_request_id", None)
        return given if isinstance(given, str) and given else super().new()


async def whole(service: App | CallService) -> App:
    """Return the app with its jobs and all."""
    return await service.whole() if isinstance(service, CallService) else service


async def _collected(body: AsyncIterator[bytes] | bytes, door: Door, seconds: float) -> bytes:
    """Return a whole stream; raises what to answer when it is too long in time or in bytes."""
    if isinstance(body, bytes):
        return body
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


async def _bodied(request: Request, response: Response) -> Response:
    """Return the response without a body where HTTP has none."""
    if request.method != "HEAD" and response.status not in _BODILESS:
        return response
    await _close(response.body)
    return Response(response.status, response.headers)


async def _close(body: Any) -> None:
    aclose = getattr(body, "aclose", None)
    if aclose is not None:
        await aclose()
