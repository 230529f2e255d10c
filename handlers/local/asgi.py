"""The ASGI application: scope -> neutral request -> ``app.handle`` -> send.

    from fastapi import FastAPI
    ai = AsgiApp(app)
    api = FastAPI(lifespan=ai.lifespan)
    api.mount("/ai", ai)

A framework does not run the lifespan of what is mounted in it. Without ``lifespan=`` as above the app starts
with the first request, and nobody drains its jobs at the end: they are rescued when their leases run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from handlers.local.asgi_head import read_head, to_request
from handlers.local.asgi_send import Sender
from handlers.local.eager import first_step, resumed
from router_core.errors import PayloadTooLarge, RequestTimeout, RouterError, Unavailable
from router_core.http.head import Head
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note, RequestDone
from router_core.types import Counted

if TYPE_CHECKING:
    from router_core.security.cors import Cors

__all__ = ["SMALL", "TIMED", "Application", "AsgiApp"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TIMED: Final = "router_core.timed"
"""Scope extension of a server that holds bodies to their time limit itself, which saves a timer a request."""
SMALL: Final = 64 * 1024
"""A body up to this size is read before anything is asked about its sender."""
BODY_SECONDS_PER_BYTE: Final = 1 / 65536
"""A large body may take longer than the limit as long as it keeps coming at 64 KiB/s."""


class Application(Protocol):
    """What is served: ``router_core.app.App``, or anything with its shape."""

    @property
    def settings(self) -> Settings:
        """Limits are taken from here."""

    @property
    def events(self) -> Events:
        """Requests that never reach ``handle`` are reported here."""

    async def handle(self, request: Request) -> Response:
        """Answer; errors are answers too."""

    async def start(self) -> None:
        """Get ready to handle."""

    async def stop(self, grace: float) -> None:
        """Finish what was begun, within ``grace`` seconds."""


class AsgiApp:
    """Serve an app over ASGI; give it to any ASGI server or mount it in another ASGI framework."""

    __slots__ = ("_admit", "_app", "_cors", "_ids", "_lock", "_sender", "_settings",
                 "raises_start_error", "start_error", "started")  # fmt: skip

    def __init__(self, app: Application) -> None:
        self._app = app
        self._settings = app.settings
        self._admit: Callable[[Request], Awaitable[int | None]] | None = getattr(app, "admit", None)
        """Judges a request before a large body is read: ``Stack.admit``."""
        self._cors = _cors(app.settings)
        self._sender = Sender(app.events)
        self._ids = Counted()
        self.started = False
        """Whether requests can be handed to the app."""
        self.start_error: Exception | None = None
        """What kept the app from starting, if anything did."""
        self.raises_start_error = False
        """Whoever runs the server raises it, so the server need not say it as well."""
        self._lock: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        kind = scope["type"]
        if kind == "http":
            if self.started or await self._start_late(scope, send):
                await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            # before the handshake is accepted a close is an answer of 403, which every client understands
            await send({"type": "websocket.close", "code": 1000, "reason": "this service has no websockets"})
        else:
            raise ValueError(f"unknown ASGI scope type {kind!r}")

    @property
    def app(self) -> Application:
        """The app that is served."""
        return self._app

    @property
    def ids(self) -> Counted:
        """Where the ids of requests come from."""
        return self._ids

    @property
    def sender(self) -> Sender:
        """What sends its answers."""
        return self._sender

    # --- life ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """Start and stop the app around its host: ``FastAPI(lifespan=asgi_app.lifespan)``."""
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    async def _start(self) -> None:
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if not self.started:
                await self._app.start()
                self.started = True

    async def _stop(self) -> None:
        if self.started:
            self.started = False
            await self._app.stop(self._settings.drain_grace)

    async def _start_late(self, scope: Scope, send: Send) -> bool:
        """Start on the first request of a mounted app; False when the caller was told to come back."""
        try:
            await self._start()
        except Exception as error:
            self._app.events.emit(Note("start_failed", "error", "the app could not start", error=error))
            await self._sender.send(scope, problem_response(Unavailable("the service could not start")), send)
            return False
        return True

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._start()
                except Exception as error:
                    self.start_error = error
                    told = ""
                    if not self.raises_start_error:  # else it is said once, by who gets the exception
                        told = str(error)
                        self._app.events.emit(Note("start_failed", "error", told))
                    await send({"type": "lifespan.startup.failed", "message": told})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # --- requests --------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Head | None = None
        try:
            head = read_head(scope, self._settings, self._ids)
            if not head.has_body:
                request = to_request(head, scope, b"", partial(_gone, receive))
            else:
                body = await self._read(scope, head, receive)
                if body is None:
                    return  # the peer went away before it had said what it wanted
                request = to_request(head, scope, body, partial(_gone, receive))
        except RouterError as error:
            await self._refuse(scope, head, error, receive, send)
            return
        try:
            response = await self._app.handle(request)
        except Exception as error:
            self._app.events.emit(Note("handle_failed", "error", "the app raised", error=error))
            response = problem_response(RouterError(), instance=request.path, request_id=request.id)
        await self._sender.send(scope, response, send, receive, request.id)

    async def _read(self, scope: Scope, head: Head, receive: Receive) -> bytes | None:
        """Return the whole body, or None when the peer has gone."""
        limit = head.body_limit
        if self._admit is not None and not 0 < head.length <= min(SMALL, limit):
            own = await self._admit(to_request(head, scope, b""))
            limit = limit if own is None else own
        if head.length > limit:
            raise _too_large(limit)
        extensions = scope.get("extensions")
        if extensions is not None and TIMED in extensions:
            return await _read_all(head, receive, limit)
        reading = _read_all(head, receive, limit)
        done, step = first_step(reading)
        if done:
            return cast(
                "bytes | None", step
            )  # it came with its head, as most do: a timer costs more than that
        seconds = self._settings.body_timeout
        try:
            async with asyncio.timeout(seconds) as head.timer:
                return await resumed(reading, step)
        except TimeoutError:
            raise RequestTimeout(f"the request body did not arrive within {seconds:g} seconds") from None

    async def _refuse(
        self, scope: Scope, head: Head | None, error: RouterError, receive: Receive, send: Send
    ) -> None:
        """Answer a request that cannot be understood or taken, and let the connection go."""
        started = perf_counter()
        request_id = head.request_id if head is not None else self._ids.new()
        error.headers.setdefault("Connection", "close")
        response = problem_response(error, request_id=request_id)
        response = response.with_headers(("x-request-id", request_id), *SECURITY_HEADERS)
        if self._cors is not None and head is not None:  # or the page would not learn why
            response = self._cors.mark(Request(scope["method"], head.path, headers=head.headers), response)
        if head is not None and head.unread and not isinstance(error, RequestTimeout):
            await self._sender.send_early(scope, response, send, receive)
        else:
            await self._sender.send(scope, response, send)
        client = scope.get("client")
        self._app.events.emit(
            RequestDone(
                method=scope["method"],
                path=scope["path"],
                route="",
                status=error.status,
                seconds=perf_counter() - started,
                request_id=request_id,
                client=client[0] if client else "",
            )
        )


def _cors(settings: Settings) -> Cors | None:
    if not settings.cors_origins:
        return None
    from router_core.security.cors import cors_of

    return cors_of(settings)


async def _gone(receive: Receive) -> None:
    """Return when the peer has gone; only awaited once the body has been read."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except OSError:
        return  # how some frameworks say it


async def _read_all(head: Head, receive: Receive, limit: int) -> bytes | None:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        # the common case: it came in one piece
        head.unread = False
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts: list[bytes] = []
    size = 0
    start: float | None = None
    while message["type"] != "http.disconnect":
        head.unread = message.get("more_body", False)
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not head.unread:
            return b"".join(parts)
        timer = head.timer
        if timer is not None:
            start = timer.when() if start is None else start
            timer.reschedule((start or 0.0) + size * BODY_SECONDS_PER_BYTE)
        message = await receive()
    return None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body may have {limit} bytes")
