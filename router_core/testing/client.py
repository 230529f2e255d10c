"""Call an app in its own process, without sockets: for tests of services and of adapters.

with TestClient(router) as client:
    assert client.get("/hello", query={"name": "ann"}).value == "hello ann"
    assert client.connect().predict(text="x").result() == ...

async with TestClient(router) as client:
    response = await client.post("/predict", json={"text": "x"})
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ClassVar, Final, Self
from urllib.parse import unquote, urlencode, urlsplit

import pydantic_core

from router_core.app import App
from router_core.client.aio import AsyncClient
from router_core.client.connect import open_client
from router_core.client.files import as_upload
from router_core.client.multipart import Multipart, Part
from router_core.client.portal import Facade, Portal, forward, iterated
from router_core.client.retry import Retry
from router_core.client.sync import Client
from router_core.client.transport import Call, Reply
from router_core.http.message import Headers, Request, Response
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.types import new_id

__all__ = ["AppTransport", "AsyncTestClient", "TestClient", "TestResponse"]

_HOST: Final = "localhost"
_NOTHING: Final = object()
Body = bytes | str | None


@dataclass(frozen=True, slots=True)
class TestResponse(Response):
    """An answer with its whole body read."""

    __test__: ClassVar[bool] = False

    @property
    def content(self) -> bytes:
        """The body."""
        return self.body if isinstance(self.body, bytes) else b""

    @property
    def value(self) -> Any:
        """The body decoded as JSON."""
        return pydantic_core.from_json(self.content)


class AppTransport:
    """Carries the calls of a client straight into ``App.handle``."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def send(self, call: Call) -> Reply:
        """Answer a call."""
        parts = urlsplit(call.url)
        body = (
            call.body
            if isinstance(call.body, bytes)
            else b"".join([chunk async for chunk in call.body.chunks()])
        )
        names = {name.lower() for name, _ in call.headers}
        pairs = [(name.lower(), value) for name, value in call.headers]
        pairs += [("host", parts.netloc)] if "host" not in names else []
        if body and "content-length" not in names:
            pairs.append(("content-length", str(len(body))))
        request = Request(
            call.method, unquote(parts.path) or "/", parts.query, Headers(pairs), body,
            id=new_id(), client="127.0.0.1",
        )  # fmt: skip
        return _AppReply(await self._app.handle(request))

    async def aclose(self) -> None:
        """Leave the app as it is."""


class _AppReply:
    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = Headers(response.headers)
        self._body = response.body

    async def chunks(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            yield self._body
            return
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        closing = getattr(self._body, "aclose", None)
        if closing is not None:
            await closing()


class AsyncTestClient:
    """The client inside ``async with TestClient(...)``; the app runs in the test's own event loop."""

    __test__ = False

    def __init__(self, app: App, headers: Mapping[str, str], api_key: str | None) -> None:
        self.app = app
        self._headers = dict(headers)
        self._api_key = api_key
        if api_key:
            self._headers.setdefault("authorization", f"Bearer {api_key}")
        self._transport = AppTransport(app)

    async def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        headers: Mapping[str, str] | None = None, json: Any = _NOTHING, body: Body = None,
        form: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None,
    ) -> TestResponse:  # fmt: skip
        """Send a request and read the whole answer; errors are answers, too."""
        reply = await self._send(method, path, query, headers, json, body, form, files)
        try:
            content = b"".join([chunk async for chunk in reply.chunks()])
        finally:
            await reply.aclose()
        return TestResponse(reply.status, reply.headers.items_list(), content)

    async def get(self, path: str, /, **options: Any) -> TestResponse:
        """Send GET; the options are those of ``request``."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, /, **options: Any) -> TestResponse:
        """Send POST."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, /, **options: Any) -> TestResponse:
        """Send PUT."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, /, **options: Any) -> TestResponse:
        """Send PATCH."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, /, **options: Any) -> TestResponse:
        """Send DELETE."""
        return await self.request("DELETE", path, **options)

    async def stream(
        self, method: str, path: str, *, query: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        headers: Mapping[str, str] | None = None, json: Any = _NOTHING, body: Body = None,
        form: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """Send a request and return the body piece by piece; closing early is a client that goes away."""
        reply = await self._send(method, path, query, headers, json, body, form, files)
        try:
            async for chunk in reply.chunks():
                yield chunk
        finally:
            await reply.aclose()

    def connect(self, *, retry: Retry | None = None) -> AsyncClient:
        """Return the client library over this app."""
        return open_client(
            f"http://{_HOST}", api_key=self._api_key, headers=self._headers, retry=retry,
            transport=AppTransport(self.app),
        )  # fmt: skip

    async def _send(
        self, method: str, path: str, query: Mapping[str, Any] | Iterable[tuple[str, Any]],
        headers: Mapping[str, str] | None, json: Any, body: Body, form: Mapping[str, Any] | None,
        files: Mapping[str, Any] | None,
    ) -> Reply:  # fmt: skip
        pairs = list({**self._headers, **(headers or {})}.items())
        content: bytes | Multipart = body.encode() if isinstance(body, str) else body or b""
        kind = ""
        if json is not _NOTHING:
            content, kind = pydantic_core.to_json(json), "application/json"
        elif files is not None:
            parts = [Part(name, str(value).encode()) for name, value in (form or {}).items()]
            content = Multipart([*parts, *[Part(name, as_upload(value)) for name, value in files.items()]])
            kind = content.content_type
        elif form is not None:
            content, kind = urlencode(form, doseq=True).encode(), "application/x-www-form-urlencoded"
        if kind and not any(name.lower() == "content-type" for name, _ in pairs):
            pairs.append(("content-type", kind))
        text = urlencode(dict(query) if isinstance(query, Mapping) else list(query), doseq=True)
        mark = "&" if "?" in path else "?"
        return await self._transport.send(
            Call(method, f"http://{_HOST}{path}{mark + text if text else ''}", tuple(pairs), content)
        )


class TestClient(Facade[AsyncTestClient]):
    """Calls an app without sockets; ``with`` starts it and stops it, and so does ``async with``.

    A router is wired up with stores in memory unless ``settings`` say otherwise.
    """

    __test__ = False

    def __init__(
        self, served: App | Router, *, settings: Settings | None = None, api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        app = served if isinstance(served, App) else _app(served, settings)
        super().__init__(AsyncTestClient(app, headers or {}, api_key), Portal())
        self.app = app

    request = forward(AsyncTestClient.request)
    get = forward(AsyncTestClient.get)
    post = forward(AsyncTestClient.post)
    put = forward(AsyncTestClient.put)
    patch = forward(AsyncTestClient.patch)
    delete = forward(AsyncTestClient.delete)
    stream = iterated(AsyncTestClient.stream)

    def connect(self, *, retry: Retry | None = None) -> Client:
        """Return the client library over this app."""
        return Client(self._wrapped.connect(retry=retry), self._portal)

    def __enter__(self) -> Self:
        self._portal.run(self.app.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._portal.run(self.app.stop(_GRACE))
        finally:
            self._portal.close()

    async def __aenter__(self) -> AsyncTestClient:
        await self.app.start()
        return self._wrapped

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.app.stop(_GRACE)


_GRACE: Final = 2.0
"""Seconds that jobs still running at the end of a test get."""


def _app(router: Router, settings: Settings | None) -> App:
    from router_core.wiring import build_app

    return build_app(router, settings or replace(Settings(), jobs="memory://", blobs="memory://"))
