"""What every adapter has to get right: the same requests through it and straight into the core.

Subclass ``AdapterContract`` in your tests, with a fixture ``call``: an async function from a ``Call`` to
an ``Answer``, through your adapter, to an app made by ``contract_app()``:

    class TestMyAdapter(AdapterContract):
        @pytest.fixture
        async def call(self):
            app = contract_app()
            await app.start()
            yield MyAdapter(app).call
            await app.stop(1)

Each case is answered by ``App.handle`` as well; status, content type, headers that matter and body have to be
equal, ids and times aside. An adapter that cannot do something lists it in ``skip`` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import pytest

from router_core.app import App
from router_core.binding.params import Cookie, Form, Header
from router_core.errors import HTTPError
from router_core.http.media import File
from router_core.http.message import Headers, Request, Response
from router_core.jobs.context import JobProgress
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.wiring import build_app

__all__ = ["CASES", "AdapterContract", "Answer", "Call", "contract_app"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: ``path`` as it stands on the wire (percent-encoded), the query without ``?``."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out of the adapter; a stream is collected whole, header names are lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for key, value in self.headers if key.lower() == name]


Send = Callable[[Call], Awaitable[Answer]]

_JSON: Final = (("content-type", "application/json"),)
_FORM: Final = (("content-type", "application/x-www-form-urlencoded"),)
_PARTS: Final = (("content-type", "multipart/form-data; boundary=b"),)
_UPLOAD: Final = (
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"content-type: application/x-thing\r\n\r\n\x00\xff\r\n\x01\r\n--b--\r\n"
)

CASES: Final[Mapping[str, Call]] = {
    "json": Call("POST", "/add", headers=_JSON, body=b'{"a": 1, "b": 2}'),
    "json coerced": Call("POST", "/add", headers=_JSON, body=b'{"a": "1", "b": 2}'),
    "value missing": Call("POST", "/add", headers=_JSON, body=b'{"a": 1}'),
    "value wrong": Call("POST", "/add", headers=_JSON, body=b'{"a": [], "b": "x"}'),
    "no json": Call("POST", "/add", headers=_JSON, body=b"{"),
    "not utf-8": Call("POST", "/add", headers=_JSON, body=b'{"a": "\xff"}'),
    "empty body": Call("POST", "/add", headers=_JSON),
    "no content type": Call("POST", "/add", body=b'{"a": 1, "b": 2}'),
    "unknown path": Call("GET", "/nowhere"),
    "wrong method": Call("DELETE", "/add"),
    "query list": Call("GET", "/words", "word=a&word=b%20c&word=%C3%A9"),
    "query twice": Call("GET", "/one", "n=1&n=2"),
    "query empty": Call("GET", "/one", "n="),
    "query plus": Call("GET", "/words", "word=a+b"),
    "path value": Call("GET", "/items/caf%C3%A9%20noir"),
    "header and cookies": Call(
        "GET", "/who", headers=(("x-name", "ann"), ("cookie", "sid=1; theme=dark")),
    ),
    "form": Call("POST", "/form", headers=_FORM, body=b"name=a+b&count=3"),
    "upload": Call("POST", "/upload", headers=_PARTS, body=_UPLOAD),
    "upload cut": Call("POST", "/upload", headers=_PARTS, body=_UPLOAD[:-12]),
    "text preferred": Call("GET", "/words", "word=a", (("accept", "text/plain"),)),
    "bytes": Call("GET", "/bytes"),
    "nothing": Call("DELETE", "/nothing"),
    "head": Call("HEAD", "/one", "n=1"),
    "two cookies set": Call("GET", "/cookies"),
    "author's error": Call("GET", "/teapot"),
    "unexpected error": Call("GET", "/broken"),
    "ndjson": Call("GET", "/count", "to=3"),
    "sse": Call("GET", "/count", "to=3", (("accept", "text/event-stream"),)),
    "job awaited": Call("POST", "/double", "sync=true", _JSON, b'{"n": 21}'),
    "job accepted": Call("POST", "/double", "", _JSON, b'{"n": 21}'),
    "job refused": Call("POST", "/double", "", _JSON, b'{"n": "x"}'),
    "job failed": Call("POST", "/fail", "sync=true", _JSON, b"{}"),
    "respond-async": Call("POST", "/add", "", (*_JSON, ("prefer", "respond-async")), b'{"a": 1, "b": 2}'),
    "unknown job": Call("GET", "/jobs/0123456789abcdef"),
    "job id of nobody": Call("GET", "/jobs/..%2e"),
    "health": Call("GET", "/health"),
}  # fmt: skip


def contract_router() -> Router:
    """Return the service that the cases are made for."""
    router = Router()

    @router.post("/add")
    async def add(a: int, b: int) -> int:
        return a + b

    @router.get("/words")
    def words(word: list[str]) -> str:
        return "|".join(word)

    @router.get("/one")
    def one(n: int) -> int:
        return n

    @router.get("/items/{name}")
    def item(name: str) -> dict[str, str]:
        return {"name": name}

    @router.get("/who")
    def who(
        name: Annotated[str, Header("x-name")], sid: Annotated[str, Cookie()], theme: Annotated[str, Cookie()]
    ) -> list[str]:
        return [name, sid, theme]

    _add_bodies(router)
    _add_failures_and_jobs(router)
    return router


def _add_bodies(router: Router) -> None:
    @router.post("/form")
    def form(name: Annotated[str, Form()], count: Annotated[int, Form()]) -> dict[str, Any]:
        return {"name": name, "count": count}

    @router.post("/upload")
    def upload(file: File) -> File:
        return file

    @router.get("/bytes")
    def raw() -> bytes:
        return bytes(range(256))

    @router.delete("/nothing", status=204)
    def nothing() -> None:
        return None

    @router.get("/cookies")
    def cookies() -> Response:
        return Response(
            200, (("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/plain")), b"x"
        )


def _add_failures_and_jobs(router: Router) -> None:
    @router.get("/teapot")
    def teapot() -> None:
        raise HTTPError(418, "no tea", headers={"X-Pot": "short"})

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    @router.get("/count")
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @router.route("/double")
    def double(job_progress: JobProgress, n: int) -> int:
        job_progress.update(0.5, "half way")
        return 2 * n

    @router.route("/fail")
    async def fail() -> None:
        raise HTTPError(409, "not now")


def contract_app() -> App:
    """Return a new app of that service, with its records in memory; start and stop it around the tests."""
    return build_app(contract_router(), Settings(jobs="memory://", blobs="memory://", trusted_hosts="*"))


_VOLATILE: Final = re.compile(rb"[0-9a-f]{32}|\d{4}-\d\d-\d\dT[0-9:.]+Z|\"(?:attempt|progress)\":[0-9.]+")
_STATES: Final = re.compile(rb'"status":"(?:queued|running|succeeded)"')
_EQUAL: Final = (
    "content-type",
    "allow",
    "set-cookie",
    "x-pot",
    "preference-applied",
    "x-content-type-options",
)


class AdapterContract:
    """The suite; see the module."""

    skip: ClassVar[Mapping[str, str]] = {}
    """Case -> why this adapter cannot do it."""

    @pytest.fixture
    def call(self) -> Send:
        """Return the way through the adapter."""
        raise NotImplementedError("give the suite a fixture `call`")

    @pytest.mark.parametrize("name", list(CASES))
    async def test_the_adapter_answers_like_the_core(self, call: Send, name: str) -> None:
        """Status, headers that matter and body are those of ``App.handle``."""
        if name in self.skip:
            pytest.skip(self.skip[name])
        app = contract_app()
        await app.start()
        try:
            wanted = await _straight(app, CASES[name])
        finally:
            await app.stop(1)
        got = await call(CASES[name])
        assert got.status == wanted.status, got.body
        for header in _EQUAL:
            assert got.all(header) == wanted.all(header), header
        assert bool(got.all("location")) == bool(wanted.all("location"))
        if CASES[name].method != "HEAD":
            if "job" in name or name == "respond-async":
                assert _plain(got.body) == _plain(wanted.body)
            else:
                assert _VOLATILE.sub(b"~", got.body) == _VOLATILE.sub(b"~", wanted.body)


def _plain(body: bytes) -> bytes:
    """Leave out what depends on how far a job has come when its record is read."""
    body = _STATES.sub(b'"status":"~"', _VOLATILE.sub(b"~", body))
    return re.sub(rb'"(?:started_at|finished_at|expires_at)":"~",?|"metrics":\{[^}]*\},?', b"", body)


async def _straight(app: App, call: Call) -> Answer:
    from urllib.parse import unquote

    path = unquote(call.path, errors="strict")
    headers = Headers([("host", "localhost"), *call.headers])
    response = await app.handle(Request(call.method, path, call.query, headers, call.body))
    body = response.body
    if not isinstance(body, bytes):
        body = b"".join([chunk async for chunk in body])
    return Answer(response.status, tuple((key.lower(), value) for key, value in response.headers), body)
