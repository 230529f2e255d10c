"""Mounted in real frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from handlers.local.asgi import AsgiApp
from handlers.local.provider import build
from router_core import Router, Settings, build_app
from router_core.http.message import Request, Response
from tests.local.tiny_app import Chunks, TinyApp, echo


async def get(app: Any, path: str, **kwargs: Any) -> httpx.Response:
    """Send one request into an ASGI app."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path, **kwargs)


def hosts(ai: AsgiApp) -> list[Any]:
    """Return the app mounted at /ai in two frameworks."""
    api = FastAPI()
    api.mount("/ai", ai)
    return [api, Starlette(routes=[Mount("/ai", ai)])]


@pytest.mark.parametrize("which", [0, 1])
async def test_the_prefix_of_the_mount_is_not_part_of_the_path(which: int) -> None:
    """Plain and percent-encoded paths alike; paths outside the mount are the host's."""
    app = TinyApp({("GET", "/echo"): echo, ("GET", "/"): echo, ("GET", "/a b"): echo})
    host = hosts(AsgiApp(app))[which]
    assert (await get(host, "/ai/echo?x=1")).json()["path"] == "/echo"
    assert (await get(host, "/ai/a%20b")).json()["path"] == "/a b"
    assert (await get(host, "/ai/")).json()["path"] == "/"
    assert (await get(host, "/ai/nothing")).json()["code"] == "not_found"
    assert (await get(host, "/ai/ai/echo")).json()["code"] == "not_found"
    assert "code" not in (await get(host, "/echo")).json() if which == 0 else True
    assert app.life == ["start"]


async def test_the_host_can_run_its_life() -> None:
    """``FastAPI(lifespan=ai.lifespan)`` starts and drains what is mounted."""
    app = TinyApp()
    ai = AsgiApp(app)
    api = FastAPI(lifespan=ai.lifespan)
    api.mount("/ai", ai)
    async with api.router.lifespan_context(api):
        assert app.life == ["start"]
        assert (await get(api, "/ai/echo")).status_code == 200
    assert app.life == ["start", "stop"]


async def test_the_page_and_runpods_routes_are_there_when_mounted() -> None:
    """As the page about serving says: ``build`` gives them, ``build_app`` does not."""
    for make, status in ((build, 200), (build_app, 404)):
        ai = AsgiApp(make(Router(), Settings(jobs="memory://", blobs="memory://")))
        api = FastAPI(lifespan=ai.lifespan)
        api.mount("/ai", ai)
        async with api.router.lifespan_context(api):
            for path in ("/ai/docs", "/ai/docs/app.js", "/ai/v2/any/health"):
                assert (await get(api, path)).status_code == status, path


async def test_a_root_path_of_the_server_is_respected() -> None:
    """``uvicorn --root-path /api`` behind a proxy that strips nothing."""
    app = TinyApp()
    transport = httpx.ASGITransport(AsgiApp(app), root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/api/echo")).json()["path"] == "/echo"
        assert (await client.get("/apiecho")).status_code == 404


async def test_streams_pass_through_a_host_with_middleware() -> None:
    """Starlette's middleware wraps receive and send; a reader that leaves is still noticed."""
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    streams: list[Chunks] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    async def answer(_request: Request) -> Response:
        streams.append(Chunks(endless()))
        return Response(200, (), streams[-1])

    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    ai = AsgiApp(TinyApp({("GET", "/s"): answer}))
    host = Starlette(routes=[Mount("/ai", ai)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=passing)])
    left = asyncio.Event()
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) > 3:
            left.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/ai/s",
        "raw_path": b"/ai/s", "query_string": b"", "root_path": "", "scheme": "http", "client": None,
        "server": None, "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    await asyncio.wait_for(host(scope, receive, send), 60)
    assert streams[0].closed.is_set()
