"""A service that answers calls before its jobs are put together answers everything as the whole app does."""

from __future__ import annotations

import asyncio
import re

import pytest

from router_core import Depends, Router, Settings, build_app
from router_core.calls import CallService
from router_core.http.message import Headers, Request
from router_core.telemetry.events import Events, RequestDone

SETTINGS = Settings(jobs="memory://", blobs="memory://", trusted_hosts="*", max_body_bytes=100)
made: list[str] = []


def connection() -> str:
    """Make something that is shared by the whole service."""
    made.append("made")
    return f"connection {len(made)}"


def _router() -> Router:
    router = Router()

    @router.get("/who")
    async def who(shared: str = Depends(connection, scope="app")) -> str:
        return shared

    @router.post("/add")
    async def add(a: int, b: int) -> int:
        return a + b

    return router


def _request(method: str, path: str, *headers: tuple[str, str], body: bytes = b"") -> Request:
    return Request(method, path, "", Headers([("content-type", "application/json"), *headers]), body, "id")


_CASES = [
    _request("GET", "/who"), _request("HEAD", "/who"), _request("DELETE", "/who"),
    _request("GET", "/nowhere"),
    _request("OPTIONS", "/add"), _request("POST", "/add", body=b'{"a": 1, "b": 2}'),
    _request("POST", "/add", body=b"{"), _request("GET", "/health"), _request("GET", "/openapi.json"),
    _request("GET", "/jobs"), _request("GET", "/jobs/0123456789abcdef"),
    _request("POST", "/add", ("origin", "https://other.example"), body=b"{}"),
]  # fmt: skip


def _timeless(body: object) -> object:
    """Return a body without the moment that health answers say."""
    return re.sub(rb'"timestamp":"[^"]*"', b"", body) if isinstance(body, bytes) else body


@pytest.mark.parametrize("request_", _CASES, ids=lambda r: f"{r.method} {r.path}")
async def test_every_answer_is_that_of_the_whole_app(request_: Request) -> None:
    """Calls, mistakes, documents, jobs; in whatever order they come."""
    made.clear()
    app, calls = build_app(_router(), SETTINGS), CallService(_router(), SETTINGS)
    await app.start(background=False)
    await calls.start()
    wanted = await app.handle(request_)
    made.clear()
    got = await calls.handle(request_)
    assert (got.status, got.headers) == (wanted.status, wanted.headers)
    assert _timeless(got.body) == _timeless(wanted.body)
    await calls.stop()
    await app.stop(0)


async def test_the_wish_for_a_job_goes_to_the_whole_app() -> None:
    """It takes it; dependencies and reports are shared with the calls."""
    made.clear()
    events, seen = Events(), []
    events.subscribe(lambda event: seen.append(event) if isinstance(event, RequestDone) else None)
    calls = CallService(_router(), SETTINGS, events=events)
    await calls.start()
    assert (await calls.handle(_request("GET", "/who"))).body == b'"connection 1"'
    wish = _request("POST", "/add", ("prefer", "respond-async"), body=b'{"a": 1, "b": 2}')
    assert (await calls.handle(wish)).status == 202
    synchronous = _request("GET", "/who", ("prefer", "handling=strict"))
    assert (await calls.handle(synchronous)).body == b'"connection 1"'
    assert made == ["made"]
    assert [event.status for event in seen] == [200, 202, 200]
    assert len({id(app) for app in await asyncio.gather(calls.whole(), calls.whole())}) == 1
    await calls.stop()


async def test_a_body_is_judged_before_it_is_looked_at() -> None:
    """By the route of the call, or by the whole app."""
    calls = CallService(_router(), SETTINGS)
    await calls.start()
    assert await calls.admit(_request("POST", "/add")) is None
    assert await calls.admit(_request("GET", "/health")) is None
    await calls.stop()
    await calls.stop()
