"""Security headers on every kind of answer, and what may not be kept by browsers and caches."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from handlers.aws.http import HttpCalls
from handlers.local.provider import local_routes
from handlers.local.server import ServeOptions
from router_core import Router, Settings, build_app
from router_core.calls import CallService
from tests.local.tiny_app import drain, served
from tests.security.access_parts import KEYS, ask, make_router, service

HEADERS = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}  # fmt: skip
HSTS = "strict-transport-security"
ASKED = {
    "a result": "GET /open", "an error": "GET /metrics", "a page": "GET /docs", "nowhere": "GET /nowhere",
    "a method": "DELETE /open", "options": "OPTIONS /open", "head": "HEAD /open",
    "a refused path": "GET /%ff", "a refused length": "GET /open?" + "x" * 40_000,
    "a stream": "GET /words",
}  # fmt: skip


def get(port: int, line: str) -> tuple[int, dict[str, list[str]]]:
    """Send a request; return the status and all header fields."""
    raw = f"{line} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEYS['ann']}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(raw.encode())
        head = drain(sock).partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    found: dict[str, list[str]] = {}
    for field in head[1:]:
        name, _, value = field.partition(":")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return int(head[0].split(" ")[1]), found


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "asgi"])
@pytest.mark.parametrize("url", ["", "https://api.example.com"], ids=["plain", "tls"])
def test_every_answer_of_the_server_carries_them_once(direct: bool, url: str) -> None:
    """Of both doors; that it is reached by TLS is said where it is."""
    settings = Settings(jobs="memory://", blobs="memory://", api_keys=f"ann:{KEYS['ann']}", server_url=url)
    app = build_app(make_router(), settings, extra_routes=local_routes)
    with served(app, options=ServeOptions(direct=direct)) as port:
        answers = {name: get(port, line) for name, line in ASKED.items()}
    for name, (status, found) in answers.items():
        for header, value in HEADERS.items():
            assert found.get(header) == [value], (name, status, header)
        assert len(found["content-security-policy"]) == 1
        assert "frame-ancestors 'none'" in found["content-security-policy"][0]
        if status != 431:  # refused before it was known what was asked
            assert found.get(HSTS) == (["max-age=31536000"] if url else None), name


async def test_a_function_says_that_it_is_reached_by_tls() -> None:
    """Once, behind a front door that is."""
    router = Router()
    router.get("/open", public=True)(lambda: "open")
    settings = Settings(jobs="none://", provider="lambda", server_url="https://api.example.com")
    calls = HttpCalls(CallService(router, settings))
    event: dict[str, Any] = {
        "version": "2.0", "rawPath": "/open", "rawQueryString": "", "headers": {"host": "localhost"},
        "requestContext": {"http": {"method": "GET", "path": "/open", "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": False,
    }  # fmt: skip
    answer = await calls.reply("http_v2", event, None)
    assert answer["headers"][HSTS] == "max-age=31536000"
    assert answer["headers"]["x-frame-options"] == "DENY"


async def test_nothing_secret_is_kept_by_a_cache() -> None:
    """Keys as they are made, the audit log, and what operators read."""
    async with service() as app:
        made = await ask(app, "POST", "/api/keys", "admin", json.dumps({"roles": ["viewer"]}).encode())
        assert made.status == 201, made.body
        listed = [await ask(app, "GET", path, "admin") for path in ("/api/keys", "/api/audit", "/metrics",
                                                                     "/health/detailed")]  # fmt: skip
    for answer in (made, *listed):
        assert answer.headers["cache-control"] == "no-store"
