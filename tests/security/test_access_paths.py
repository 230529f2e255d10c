"""Row 4: neither a Host, nor a forwarded field, nor a path that is written oddly changes who may come in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from handlers.aws.http import HttpCalls
from handlers.local.provider import local_routes
from handlers.local.server import ServeOptions
from router_core import Router, Settings, build_app
from router_core.calls import CallService
from tests.local.tiny_app import drain, served
from tests.security.access_parts import KEYS, make_router

SETTINGS = Settings(
    jobs="memory://", blobs="memory://",
    api_keys=f"viewer:{KEYS['viewer']}:viewer,developer:{KEYS['developer']}:developer",
)  # fmt: skip

LOCAL = "Host: localhost"
FORGED = {
    "another host": ["Host: admin.internal"],
    "loopback host": ["Host: 127.0.0.1"],
    "two names": ["Host: localhost:8000@evil.example"],
    "path in host": ["Host: localhost/health"],
    "forwarded host": [LOCAL, "X-Forwarded-Host: localhost", "Forwarded: for=127.0.0.1;host=localhost"],
    "forwarded for": [LOCAL, "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"],
    "forwarded user": [LOCAL, "X-Forwarded-User: admin", "Remote-User: admin", "X-Principal: admin"],
    "original path": [
        LOCAL,
        "X-Original-URL: /health",
        "X-Rewrite-URL: /health",
        "X-Forwarded-Prefix: /health",
    ],
    "other method": [LOCAL, "X-HTTP-Method-Override: GET", "X-Method-Override: OPTIONS"],
    "scheme": [LOCAL, "X-Forwarded-Proto: https", "X-Forwarded-Port: 443"],
    "certificate": [LOCAL, 'X-Forwarded-Client-Cert: Subject="CN=admin"', "X-SSL-Client-Verify: SUCCESS"],
}

WRITTEN = r"""
    /metrics //metrics /metrics/ /metrics// /./metrics /x/../metrics /health/../metrics /health/%2e%2e/metrics
    /health/..;/metrics /health;/../metrics /metrics;x=1 /metrics;/health /metrics%00 /metrics%00/health
    /metrics%2f /%6detrics /%6Detric%73 /metrics?/health /metrics?x=/../health /METRICS /Metrics
    /health/detailed /health/detailed/ /health//detailed /HEALTH/DETAILED /health%2fdetailed
    /health/./detailed /docs/../metrics /docs/%2e%2e/metrics /docs/..%2fmetrics /docs/..%5cmetrics
    /open/../metrics /open;/metrics /open%2f..%2fmetrics /%2e/metrics /%2e%2e/metrics /metrics%20 /metrics%09
    /metrics.json /metrics%3f /metrics%23 /metrics\ /\metrics /%252e/metrics /jobs /jobs/ //jobs /jobs%3fx
    /jobs/../openapi.json/../metrics http://localhost/metrics http://evil.example/metrics
    http://localhost//metrics /items/%2e%2e%2fopen /items/..%2fopen /items/1/../../metrics
""".split()


@pytest.fixture(scope="module", params=["direct", "asgi"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Serve the routes at both doors."""
    app = build_app(make_router(), SETTINGS, extra_routes=local_routes)
    with served(app, options=ServeOptions(direct=request.param == "direct")) as number:
        yield number


def talk(port: int, line: str, *fields: str, key: str = "") -> int:
    """Send a request as it stands here; return the status."""
    more = [f"Authorization: Bearer {key}"] if key else []
    lines = [
        f"{line} HTTP/1.1",
        *(fields or [LOCAL]),
        *more,
        "Content-Length: 0",
        "Connection: close",
        "",
        "",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        return int(drain(sock).split(b" ", 2)[1])


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_no_field_gives_a_right(port: int, forged: list[str]) -> None:
    """A stranger stays one, and so does a viewer: what is judged is the route."""
    assert talk(port, "GET /metrics", *forged) in (400, 401)
    assert talk(port, "POST /items", *forged, key=KEYS["viewer"]) in (400, 403)
    assert talk(port, "PUT /special", *forged, key=KEYS["developer"]) in (400, 403)


def test_no_way_of_writing_a_path_gives_a_right(port: int) -> None:
    """Either it leads to the same route, which asks who it is, or nowhere."""
    found = {path: talk(port, f"GET {path}") for path in WRITTEN}
    assert {path: status for path, status in found.items() if status not in (400, 401, 404)} == {}
    assert found["/metrics"] == found["/%6detrics"] == found["/health/detailed"] == found["/jobs"] == 401


def test_no_way_of_writing_a_path_gives_a_viewer_more(port: int) -> None:
    """He may read; what he may not call stays closed however it is written."""
    for path in ("/items", "//items", "/items/", "/ITEMS", "/items;x", "/%69tems", "/x/../items", "/items%2f",
                 "/open/../items", "/items?x=/open", "/items%00", "http://localhost/items"):  # fmt: skip
        status = talk(port, f"POST {path}", key=KEYS["viewer"])
        assert status in (400, 403, 404, 405), (path, status)
    assert talk(port, "POST /items", key=KEYS["developer"]) == 200


@pytest.mark.parametrize("method", ["get", "Get", "TRACE", "CONNECT", "PROPFIND", "OPTIONS"])
def test_other_methods_open_nothing(port: int, method: str) -> None:
    """OPTIONS says which there are."""
    assert talk(port, f"{method} /metrics") in ((204,) if method == "OPTIONS" else (400, 405, 501))


async def test_behind_a_front_door_of_aws() -> None:
    """The path of the event is judged, and none of its other fields."""
    router = Router()
    router.get("/secret")(lambda: "secret")
    router.get("/open", public=True)(lambda: "open")
    calls = HttpCalls(CallService(router, replace(SETTINGS, jobs="none://", provider="lambda")))
    paths = [path.replace("metrics", "secret").replace("/health", "/open") for path in WRITTEN]
    for path in [one for one in paths if one.startswith("/")]:
        event = {
            "version": "2.0", "rawPath": path.partition("?")[0], "rawQueryString": "",
            "headers": {"host": "localhost", "x-forwarded-for": "127.0.0.1", "x-original-url": "/open"},
            "requestContext": {"http": {"method": "GET", "path": "/open", "sourceIp": "192.0.2.1"}},
            "isBase64Encoded": False,
        }  # fmt: skip
        answer = await calls.reply("http_v2", event, None)
        assert answer["statusCode"] in (400, 401, 404), (path, answer)
