"""The order of the layers and what each of them lets through."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from router_core.errors import (
    HTTPError,
    Misconfigured,
    NotFound,
    QueueFull,
    RouterError,
    StoreError,
    Unauthorized,
    ValidationFailed,
)
from router_core.http.message import Headers, Request, Response
from router_core.middleware.gates import allowed_hosts, is_loopback
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.middleware.stack import Stack, build_stack
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note, RequestDone
from router_core.types import Principal


class OneRoute:
    """A table that knows /x."""

    def __init__(self, **route: Any) -> None:
        defaults: dict[str, Any] = {"key": "/x", "public": False, "realm": "", "scopes": (), "kind": "call"}
        defaults["any_caller"] = True
        defaults["max_body_bytes"] = None
        defaults["meta"] = {}
        self.route = SimpleNamespace(**{**defaults, **route})
        self.params: Mapping[str, str] = {}

    def match(self, method: str, path: str) -> Any:
        """Return the match."""
        if path != "/x":
            raise NotFound()
        return SimpleNamespace(route=self.route, path_params=self.params)


class Doorman:
    """Knows one password."""

    def __init__(self, *scopes: str) -> None:
        self.asked = 0
        self._scopes = frozenset(scopes)

    async def authenticate(self, request: Request) -> Principal:
        """Return the guest."""
        self.asked += 1
        if request.headers.get("authorization") != "open":
            raise Unauthorized(headers={"WWW-Authenticate": "Bearer"})
        return Principal("guest", self._scopes, "api_key")


class Bench:
    """A stack with everything around it."""

    def __init__(self, answer: Any = None, table: OneRoute | None = None, **more: Any) -> None:
        self.events = Events()
        self.seen: list[Any] = []
        self.events.subscribe(self.seen.append)
        self.requests: list[Request] = []
        self._answer = Response.json({"fine": True}) if answer is None else answer
        settings = more.pop("settings", Settings(host="0.0.0.0"))
        self.stack: Stack = build_stack(
            settings=settings, table=table or OneRoute(), dispatch=self._dispatch, events=self.events, **more
        )

    async def _dispatch(self, request: Request, route: Any) -> Response:
        self.requests.append(request)
        if isinstance(self._answer, BaseException):
            raise self._answer
        answer: Response = self._answer
        return answer

    async def ask(self, method: str = "GET", path: str = "/x", **headers: str) -> Response:
        """Send one request."""
        fields = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
        return await self.stack.handle(Request(method, path, headers=fields))

    def notes(self) -> list[str]:
        """Names of the notes."""
        return [event.name for event in self.seen if isinstance(event, Note)]


def body(response: Response) -> Any:
    """Return the JSON of an answer."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_the_order_is_fixed() -> None:
    """As the head of the file says; what is not configured is absent."""
    assert Bench(authenticator=Doorman(), settings=Settings()).stack.layers == (
        "record", "headers", "errors", "host", "origin", "match", "authenticate", "scopes", "dispatch",
    )  # fmt: skip
    assert Bench().stack.layers == ("record", "headers", "errors", "origin", "match", "dispatch")


# --- record --------------------------------------------------------------------------------------


async def test_every_answer_is_recorded_once_with_its_route() -> None:
    """Also those that no route gave."""
    bench = Bench()
    await bench.ask()
    await bench.ask(path="/nowhere")
    done = [event for event in bench.seen if isinstance(event, RequestDone)]
    assert [(event.route, event.status) for event in done] == [("/x", 200), ("", 404)]
    assert all(event.request_id and event.seconds >= 0 for event in done)


async def test_the_request_id_is_the_callers_if_it_is_well_formed() -> None:
    """It reaches the function, the answer and the record alike."""
    bench = Bench()
    response = await bench.ask(x_request_id="trace-1")
    assert response.header("x-request-id") == "trace-1"
    assert bench.requests[0].id == "trace-1"
    response = await bench.ask(x_request_id="bad id")
    assert response.header("x-request-id") not in ("bad id", "", None)


async def test_an_id_that_the_adapter_gave_is_kept() -> None:
    """A platform knows its requests by names of its own."""
    bench = Bench()
    request = Request("GET", "/x", headers=Headers([("x-request-id", "other")]), id="platform-7")
    assert (await bench.stack.handle(request)).header("x-request-id") == "platform-7"


async def test_a_job_answer_is_recorded_with_its_job() -> None:
    """The id comes from where the answer points."""
    bench = Bench(Response(202, (("location", "/jobs/abc123"),), b"{}"))
    await bench.ask("POST")
    assert bench.seen[-1].job_id == "abc123"


async def test_a_stream_is_recorded_when_it_has_ended() -> None:
    """With its size; once, though it is closed as well."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    bench = Bench(Response(200, (), chunks()))
    response = await bench.ask()
    assert bench.seen == []
    assert not isinstance(response.body, bytes)
    assert [chunk async for chunk in response.body] == [b"ab", b"c"]
    await response.body.aclose()  # type: ignore[attr-defined]
    assert [(event.bytes_out, event.disconnected) for event in bench.seen] == [(3, False)]


async def test_a_stream_that_is_closed_early_is_recorded_as_left() -> None:
    """The reader went away."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    bench = Bench(Response(200, (), chunks()))
    response = await bench.ask()
    assert not isinstance(response.body, bytes)
    await response.body.__anext__()
    await response.body.aclose()  # type: ignore[attr-defined]
    assert [(event.bytes_out, event.disconnected) for event in bench.seen] == [(2, True)]


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/x", "/nowhere"])
async def test_answers_and_errors_carry_security_headers(path: str) -> None:
    """All of them."""
    response = await Bench().ask(path=path)
    for name, value in SECURITY_HEADERS:
        assert response.header(name) == value


async def test_an_answer_may_bring_its_own_policy() -> None:
    """Once, in whatever case."""
    bench = Bench(Response(200, (("Content-Security-Policy", "default-src 'self'"),), b""))
    response = await bench.ask()
    policies = [value for name, value in response.headers if name.lower() == "content-security-policy"]
    assert policies == ["default-src 'self'"]
    assert response.header("x-content-type-options") == "nosniff"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (HTTPError(418, "teapot"), 418, "http_error"),
        (
            ValidationFailed(errors=[{"loc": ["query", "a"], "msg": "m", "type": "t"}]),
            422,
            "validation_failed",
        ),
        (QueueFull(retry_after=7), 429, "queue_full"),
        (StoreError("down"), 503, "store_unavailable"),
    ],
)
async def test_raised_errors_become_problems(error: RouterError, status: int, code: str) -> None:
    """With status, code, headers and the id of the request."""
    response = await Bench(error).ask(x_request_id="r1")
    problem = body(response)
    assert (response.status, problem["code"], problem["request_id"]) == (status, code, "r1")
    assert problem["instance"] == "/x"
    if isinstance(error, QueueFull):
        assert response.header("Retry-After") == "7"
    assert response.header("content-type") == "application/problem+json"


async def test_a_store_that_is_away_is_one_line_of_each_request() -> None:
    """A warning without a traceback: nothing is broken here, and there may be thousands of them."""
    error = StoreError("down")
    error.__cause__ = ConnectionError("secret")
    bench = Bench(error)
    assert (await bench.ask()).status == 503
    (note,) = [event for event in bench.seen if isinstance(event, Note)]
    assert (note.name, note.level, note.message, note.error) == ("request_error", "warning", "down", None)
    assert (note.fields["cause"], note.fields["route"]) == ("ConnectionError", "/x")


@pytest.mark.parametrize("error", [KeyError("secret"), Misconfigured("secret"), RecursionError("secret")])
async def test_an_unknown_error_tells_nothing(error: Exception) -> None:
    """Its text and traceback go to the log only."""
    bench = Bench(error)
    response = await bench.ask()
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body
    note = next(event for event in bench.seen if isinstance(event, Note))
    assert note.error is error
    assert note.fields["route"] == "/x"


async def test_the_authors_handlers_answer_by_the_nearest_class() -> None:
    """Sync and async, with an answer, a problem, a value, or nothing."""

    class Base(Exception):
        pass

    class Special(Base):
        pass

    async def on_base(request: Request, error: Exception) -> Response:
        return Response.text(f"{request.path} {error}", 409)

    handlers: dict[type[BaseException], Any] = {
        Base: on_base,
        LookupError: lambda request, error: HTTPError(410, "gone away"),
        ValueError: lambda request, error: {"sorry": str(error)},
        NotFound: lambda request, error: Response.text("my own 404", 404),
        TypeError: lambda request, error: None,
    }
    assert (await Bench(Special("s"), exception_handlers=handlers).ask()).body == b"/x s"
    assert (await Bench(KeyError("k"), exception_handlers=handlers).ask()).status == 410
    answer = await Bench(ValueError("v"), exception_handlers=handlers).ask()
    assert (answer.status, body(answer)) == (500, {"sorry": "v"})
    assert (await Bench(exception_handlers=handlers).ask(path="/no")).body == b"my own 404"
    assert body(await Bench(TypeError("t"), exception_handlers=handlers).ask())["code"] == "internal_error"


async def test_a_handler_that_fails_is_500_and_noted() -> None:
    """The error that counts is the new one."""

    def broken(request: Request, error: Exception) -> Response:
        raise ZeroDivisionError

    bench = Bench(ValueError(), exception_handlers={ValueError: broken})
    assert (await bench.ask()).status == 500
    assert bench.notes() == ["unhandled_error"]


# --- host ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:9", 200), ("[::1]:8000", 200),
        ("LOCALHOST", 200), ("[::1]", 200), ("[localhost]x", 400), ("[", 400),
        ("evil.example", 400), ("localhost.evil.example", 400), ("127.0.0.1.evil.example:80", 400), ("", 400),
        ("evil.example:localhost", 400), ("[::1].evil", 400),
    ],
)  # fmt: skip
async def test_a_loopback_service_answers_to_loopback_names_only(host: str, status: int) -> None:
    """A page whose name was rebound to 127.0.0.1 gets nothing, on any path."""
    bench = Bench(settings=Settings())
    assert (await bench.ask(host=host)).status == status
    assert (await bench.ask(path="/nowhere", host=host)).status == (404 if status == 200 else 400)
    assert (await bench.ask(host=host)).status == status, "the second time is judged alike"


async def test_trusted_hosts() -> None:
    """Names, and subdomains by a leading dot; without the setting a public bind takes any name."""
    bench = Bench(settings=Settings(host="0.0.0.0", trusted_hosts="api.example.com, .svc.example"))
    assert (await bench.ask(host="api.example.com:443")).status == 200
    assert (await bench.ask(host="a.svc.example")).status == 200
    assert (await bench.ask(host="svc.example.evil")).status == 400
    assert (await bench.ask(host="localhost")).status == 400
    assert (await Bench().ask(host="anything.example")).status == 200
    assert allowed_hosts(Settings(trusted_hosts="*")) == frozenset()
    assert allowed_hosts(Settings(provider="lambda")) == frozenset()


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False),
     ("", False), ("localhost.evil", False), ("10.0.0.1", False), ("::", False)],
)  # fmt: skip
def test_is_loopback(host: str, is_it: bool) -> None:
    """Only what cannot be reached from outside."""
    assert is_loopback(host) is is_it


# --- origin --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),
        ("POST", {"origin": "http://localhost:8000"}, 200),
        ("POST", {"origin": "HTTP://LOCALHOST:8000"}, 200),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://localhost:9999"}, 403),
        ("POST", {"origin": ""}, 403),
        ("POST", {"origin": "http://[bad"}, 403),
        ("POST", {"sec_fetch_site": "cross-site"}, 403),
        ("POST", {"sec_fetch_site": "same-origin"}, 200),
        ("DELETE", {"origin": "http://evil.example"}, 403),
        ("GET", {"origin": "http://evil.example"}, 200),
    ],
)
async def test_foreign_pages_may_not_write(method: str, headers: dict[str, str], status: int) -> None:
    """What a browser says about where a request comes from is believed."""
    assert (await Bench().ask(method, host="localhost:8000", **headers)).status == status


async def test_the_public_address_is_an_origin_of_ours() -> None:
    """Behind a proxy that changes the Host."""
    bench = Bench(settings=Settings(host="0.0.0.0", server_url="https://ai.example"))
    assert (await bench.ask("POST", host="internal", origin="https://ai.example")).status == 200


@pytest.mark.parametrize(
    ("trusted", "origin", "status"),
    [
        ("https://app.example, https://b.example:8443", "https://app.example", 200),
        ("https://app.example, https://b.example:8443", "https://B.example:8443", 200),
        ("https://app.example", "http://app.example", 403),
        ("https://app.example", "https://app.example.evil", 403),
        ("https://app.example", "https://app.example:444", 403),
        ("https://app.example", "null", 403),
        ("https://*", "https://any.example", 200),
        ("https://*", "http://any.example", 403),
        ("*", "http://any.example", 200),
    ],
)
async def test_pages_of_trusted_origins_may_write(trusted: str, origin: str, status: int) -> None:
    """Those that something in front answers with CORS headers: by name, scheme and port."""
    bench = Bench(settings=Settings(host="0.0.0.0", trusted_origins=trusted))
    assert (await bench.ask("POST", host="ai.example", origin=origin)).status == status
    assert (await bench.ask("POST", host="ai.example", sec_fetch_site="cross-site")).status == 403


@pytest.mark.parametrize(
    "trusted", ["app.example", "https://app.example/", "https://app.example/x", "https://*.example"]
)
def test_a_trusted_origin_that_no_browser_sends_is_refused(trusted: str) -> None:
    """At the start: it would only look as if it were trusted."""
    with pytest.raises(Misconfigured, match="ROUTER_TRUSTED_ORIGINS"):
        Bench(settings=Settings(trusted_origins=trusted))


# --- authentication and scopes -------------------------------------------------------------------


async def test_a_stranger_is_401_before_the_function() -> None:
    """And before scopes are spoken of."""
    bench = Bench(table=OneRoute(scopes=("admin",)), authenticator=Doorman())
    response = await bench.ask()
    assert response.status == 401
    assert response.header("WWW-Authenticate") == "Bearer"
    assert bench.requests == []


async def test_the_caller_reaches_the_function() -> None:
    """With path parameters; the adapter's request is not changed."""
    table = OneRoute()
    table.params = {"id": "7"}
    bench = Bench(table=table, authenticator=Doorman("read"))
    request = Request("GET", "/x", headers=Headers([("Authorization", "open")]), body=b"b", id="i")
    assert (await bench.stack.handle(request)).status == 200
    seen = bench.requests[0]
    assert (seen.principal.id, dict(seen.path_params), seen.body, seen.id) == (
        "guest",
        {"id": "7"},
        b"b",
        "i",
    )
    assert request.principal.kind == "anonymous"
    assert bench.seen[-1].principal == "guest"


async def test_scopes_of_the_route_are_required() -> None:
    """All of them; ``*`` holds every one."""
    table = OneRoute(scopes=("read", "write"))
    response = await Bench(table=table, authenticator=Doorman("read")).ask(authorization="open")
    assert (response.status, body(response)["code"]) == (403, "scope_missing")
    for held in (("read", "write"), ("*",)):
        bench = Bench(table=table, authenticator=Doorman(*held))
        assert (await bench.ask(authorization="open")).status == 200


async def test_a_public_route_is_served_to_a_stranger_without_rights() -> None:
    """Nobody is asked who they are, and nobody gets the rights of the local owner."""
    doorman = Doorman()
    bench = Bench(table=OneRoute(public=True), authenticator=doorman)
    assert (await bench.ask()).status == 200
    assert doorman.asked == 0
    assert not bench.requests[0].principal.may("anything")
    bench = Bench(table=OneRoute(public=True, scopes=("admin",)), authenticator=doorman)
    assert (await bench.ask()).status == 403


# --- admit ---------------------------------------------------------------------------------------


async def test_admit_judges_without_the_body() -> None:
    """As ``handle`` would, without dispatch and without a record."""
    bench = Bench(table=OneRoute(max_body_bytes=5), authenticator=Doorman())
    with pytest.raises(Unauthorized):
        await bench.stack.admit(Request("POST", "/x"))
    with pytest.raises(NotFound):
        await bench.stack.admit(Request("POST", "/nowhere"))
    admitted = Request("POST", "/x", headers=Headers([("authorization", "open")]))
    assert await bench.stack.admit(admitted) == 5
    assert bench.requests == []
    assert bench.seen == []


async def test_a_route_may_add_members_to_its_problems() -> None:
    """Clients of an API that a route stands in for find the error where they look for it."""

    def members(error: RouterError) -> dict[str, Any]:
        return {"error": {"message": error.detail, "code": error.code}}

    bench = Bench(NotFound("no such model"), OneRoute(meta={"problem_members": members}))
    problem = body(await bench.ask())
    assert problem["error"] == {"message": "no such model", "code": "not_found"}
    assert problem["status"] == 404
