"""CORS: what pages of other sites are told, on every door and in errors."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from handlers.aws.http import HttpCalls
from handlers.local.provider import local_routes
from router_core import App, Router, Settings, build_app
from router_core.calls import CallService
from router_core.errors import Misconfigured
from router_core.gateway.api import wishes
from router_core.http.message import Headers, Request, Response
from router_core.security.cors import Cors, cors_of
from tests.local.tiny_app import drain, served

KEY = "0123456789abcdef-cors"
WISHES = {each for each in re.findall(r"x-router-[a-z-]*[a-z]", wishes.__doc__ or "") if each != "x-router"}
APP, OTHER = "https://app.example.com", "https://evil.example"
FIELDS = (
    "access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods",
    "access-control-allow-headers", "access-control-max-age", "access-control-expose-headers",
    "access-control-allow-private-network",
)  # fmt: skip

router = Router()


@router.get("/items/{item_id}")
def read(item_id: str) -> str:
    """Read one."""
    return item_id


@router.put("/items/{item_id}")
def write(item_id: str) -> str:
    """Write one."""
    return item_id


@router.post("/work")
def work() -> str:
    """Do it."""
    return "done"


def service(origins: str = APP, **settings: Any) -> App:
    """Return a service that lets pages in."""
    given = Settings(
        host="0.0.0.0", jobs="memory://", blobs="memory://", cors_origins=origins, api_keys=f"me:{KEY}",
        **settings,
    )  # fmt: skip
    return build_app(router, given, extra_routes=local_routes)


async def ask(app: App, method: str, path: str, origin: str = APP, **headers: str) -> Response:
    """Send what a browser sends for a page."""
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if origin:
        fields.append(("origin", origin))
    return await app.handle(Request(method, path, headers=Headers(fields)))


async def preflight(app: App, path: str, method: str = "PUT", origin: str = APP, **headers: str) -> Response:
    """Send what a browser sends before a request of a page."""
    return await ask(app, "OPTIONS", path, origin, access_control_request_method=method, **headers)


def told(response: Response) -> Mapping[str, str]:
    """Return what an answer says of CORS."""
    return {name: value for name in FIELDS if (value := response.header(name)) is not None}


async def test_without_the_setting_nothing_is_said() -> None:
    """The default: an OPTIONS is answered with the methods, and no page may read anything."""
    app = service("")
    answer = await preflight(app, "/work", "POST")
    assert (answer.status, answer.header("allow"), told(answer)) == (204, "OPTIONS, POST", {})
    assert answer.header("vary") is None
    assert (await ask(app, "POST", "/work", x_api_key=KEY)).status == 403
    assert "cors" not in app.parts.stack.layers


async def test_a_preflight_tells_the_methods_of_its_path() -> None:
    """Nobody has to say who he is for it, and it does not run anything."""
    app = service()
    answer = await preflight(app, "/items/7", access_control_request_headers="content-type,x-api-key")
    assert answer.status == 204
    assert answer.header("access-control-allow-methods") == "GET, HEAD, OPTIONS, PUT"
    allowed = (answer.header("access-control-allow-headers") or "").split(", ")
    assert {"authorization", "content-type", "x-api-key", "prefer", "idempotency-key"} <= set(allowed)
    assert answer.header("access-control-allow-origin") == APP
    assert answer.header("access-control-max-age") == "600"
    assert (answer.header("vary") or "").startswith("Origin, Access-Control-Request-Method")
    assert answer.header("access-control-allow-credentials") is None
    other = await preflight(app, "/work", "POST")
    assert other.header("access-control-allow-methods") == "OPTIONS, POST"
    assert (await preflight(app, "/nowhere")).status == 404


STRANGERS = (
    OTHER, "null", f"{APP}.evil.example", "http://app.example.com", f"{APP}:444", f"{APP}/", " ",
)  # fmt: skip


@pytest.mark.parametrize("origin", STRANGERS)
async def test_another_page_is_told_nothing(origin: str) -> None:
    """No field of CORS; its writes are refused as ever, and caches are told that it depends."""
    app = service()
    answer = await preflight(app, "/items/7", origin=origin)
    assert (answer.status, told(answer)) == (204, {})
    assert (answer.header("vary") or "").startswith("Origin")
    read = await ask(app, "GET", "/items/7", origin, x_api_key=KEY)
    assert (read.status, told(read), read.header("vary")) == (200, {}, "Origin")
    written = await ask(app, "PUT", "/items/7", origin, x_api_key=KEY)
    assert (written.status, told(written)) == (403, {})


async def test_a_page_that_is_named_may_read_and_write() -> None:
    """Errors too, or it would not know what went wrong; names are matched without regard to case."""
    app = service()
    for method in ("GET", "PUT"):
        for origin in (APP, APP.upper()):
            answer = await ask(app, method, "/items/7", origin, x_api_key=KEY)
            assert answer.status == 200
            assert answer.header("access-control-allow-origin") == origin
            assert "x-request-id" in (answer.header("access-control-expose-headers") or "")
            assert answer.header("vary") == "Origin"
    for path, status in (("/items/7", 401), ("/nowhere", 404)):
        refused = await ask(app, "GET", path)
        assert (refused.status, refused.header("access-control-allow-origin")) == (status, APP)


async def test_who_sends_no_origin_is_told_that_it_matters() -> None:
    """Or a cache would give a page what it kept for somebody else."""
    app = service()
    answer = await ask(app, "GET", "/items/7", "", x_api_key=KEY)
    assert (told(answer), answer.header("vary")) == ({}, "Origin")


async def test_every_page() -> None:
    """Without credentials; the answer is the same for all, and no way into a private network."""
    app = service("*")
    for origin in (OTHER, "null", ""):
        answer = await ask(app, "GET", "/items/7", origin, x_api_key=KEY)
        assert answer.header("access-control-allow-origin") == "*"
        assert answer.header("access-control-allow-credentials") is None
        assert answer.header("vary") is None
    assert (await ask(app, "POST", "/work", OTHER, x_api_key=KEY)).status == 200
    answer = await preflight(app, "/work", "POST", OTHER, access_control_request_private_network="true")
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("access-control-allow-private-network") is None


async def test_credentials_and_a_private_network_are_for_pages_that_are_named() -> None:
    """With the origin itself, never with the star."""
    app = service(f"{APP},https://b.example", cors_credentials=True, cors_headers="X-Own, x-more")
    answer = await preflight(app, "/work", "POST", access_control_request_private_network="true")
    assert answer.header("access-control-allow-origin") == APP
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.header("access-control-allow-private-network") == "true"
    assert {"x-own", "x-more"} <= set((answer.header("access-control-allow-headers") or "").split(", "))
    assert (await preflight(app, "/work")).header("access-control-allow-private-network") is None
    read = await ask(app, "GET", "/items/7", "https://b.example", x_api_key=KEY)
    assert read.header("access-control-allow-credentials") == "true"


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com.evil.example", False),
        ("https://*.example.com", "https://evil.example/.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("chrome-extension://*", "https://abcdef", False),
        ("https://app.example.com:8443", "https://app.example.com", False),
        ("http://[::1]:3000", "http://[::1]:3000", True),
    ],
)
def test_what_a_pattern_lets_in(pattern: str, origin: str, allowed: bool) -> None:
    """A star is one or more labels of a name, and no other character of an address."""
    assert Cors([pattern]).allows(origin) is allowed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cors_origins": "*", "cors_credentials": True}, "cannot be together"),
        ({"cors_origins": "https://*", "cors_credentials": True}, "cannot be together"),
        ({"cors_origins": f"{APP}/"}, "without a path"),
        ({"cors_origins": "app.example.com"}, "an origin is written"),
        ({"cors_origins": "null"}, "an origin is written"),
        ({"cors_origins": "https://a*.example.com"}, "an origin is written"),
        ({"cors_origins": APP, "cors_headers": "*"}, "no name of a header field"),
        ({"cors_origins": APP, "cors_headers": "a b"}, "no name of a header field"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    """At the start: every page together with credentials most of all."""
    with pytest.raises(Misconfigured, match=said):
        cors_of(Settings(**settings))


async def test_a_large_preflight_is_answered_like_any() -> None:
    """An adapter that asks before it reads a body is let go on."""
    app = service()
    headers = Headers([("origin", APP), ("access-control-request-method", "PUT")])
    assert await app.admit(Request("OPTIONS", "/work", headers=headers)) is None


def test_both_doors_answer_alike() -> None:
    """Below ASGI as well."""
    lines = [
        b"OPTIONS /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: %b\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        b"POST /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: %b\r\n"
        b"Content-Length: 0\r\nX-API-Key: "
        + KEY.encode() + b"\r\n\r\n",
        b"GET /%%6eowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: %b\r\n\r\n",
    ]  # fmt: skip
    answers = []
    with served(service()) as port:
        for line in lines:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(line % APP.encode())
                answers.append(drain(sock))
    assert [answer.split(b" ")[1] for answer in answers] == [b"204", b"200", b"404"]
    for answer in answers:
        assert b"access-control-allow-origin: %b\r\n" % APP.encode() in answer


def test_a_page_learns_why_its_body_was_not_taken() -> None:
    """Also where it was refused before anything was asked."""
    head = b"POST /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: %b\r\nOrigin: %b\r\n"
    with served(service(max_body_bytes=100)) as port:
        for length in (101, 70_000):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(head % (KEY.encode(), APP.encode()) + b"Content-Length: %d\r\n\r\n" % length)
                sock.sendall(b"x" * length)
                answer = drain(sock)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"access-control-allow-origin: %b\r\n" % APP.encode() in answer


async def test_a_function_answers_alike() -> None:
    """Behind a front door of AWS."""
    plain = Router()
    plain.post("/work")(work)
    settings = Settings(host="0.0.0.0", cors_origins=APP, jobs="none://")
    calls = HttpCalls(CallService(plain, settings))
    headers = {"origin": APP, "host": "x", "access-control-request-method": "POST"}
    event = {
        "version": "2.0", "rawPath": "/work", "rawQueryString": "", "headers": headers,
        "requestContext": {"http": {"method": "OPTIONS", "path": "/work", "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": False,
    }  # fmt: skip
    answer = await calls.reply("http_v2", event, None)
    assert answer["statusCode"] == 204
    assert answer["headers"]["access-control-allow-origin"] == APP
    event["requestContext"]["http"]["method"] = "POST"  # type: ignore[index]
    answer = await calls.reply("http_v2", event, None)
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, "done")
    assert answer["headers"]["access-control-allow-origin"] == APP


async def test_a_function_tells_why_it_did_not_take_a_body() -> None:
    """Also what the adapter refuses before the service is asked."""
    plain = Router()
    plain.post("/work")(work)
    settings = Settings(host="0.0.0.0", cors_origins=APP, jobs="none://", max_body_bytes=10)
    calls = HttpCalls(CallService(plain, settings))
    event = {
        "version": "2.0", "rawPath": "/work", "rawQueryString": "", "headers": {"origin": APP, "host": "x"},
        "requestContext": {"http": {"method": "POST", "path": "/work", "sourceIp": "192.0.2.1"}},
        "body": "x" * 11, "isBase64Encoded": False,
    }  # fmt: skip
    answer = await calls.reply("http_v2", event, None)
    assert answer["statusCode"] == 413
    assert answer["headers"]["access-control-allow-origin"] == APP


async def test_a_page_speaks_to_a_gateway() -> None:
    """With OpenAI's client, which says things of itself, and with all that calls may say and are told."""
    sent = {"x-stainless-os", "x-stainless-retry-count", *WISHES}
    told = {"x-router-model", "x-router-trial", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests"}
    app = service()
    answer = await ask(app, "OPTIONS", "/work", access_control_request_method="POST")
    allowed = dict(answer.headers)["access-control-allow-headers"].split(", ")
    assert sent <= set(allowed)
    answer = await ask(app, "POST", "/work", authorization=f"Bearer {KEY}")
    assert told <= set(dict(answer.headers)["access-control-expose-headers"].split(", "))
