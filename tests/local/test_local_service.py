"""The local service as ``serve`` wires it: closed by default, observable, honest while it drains."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from handlers.local.provider import build
from router_core import JobProgress, Router
from router_core.app import App
from router_core.http.message import Headers, Request, Response
from router_core.settings import Settings

KEY = "0123456789abcdef"
OPEN_PATHS = {"/health", "/health/ready", "/openapi.json"}


def make_router() -> Router:
    """Return a service with one route of each kind."""
    router = Router()

    @router.get("/items/{item_id}")
    def item(item_id: int) -> int:
        return item_id

    @router.route("/work")
    def work(job_progress: JobProgress, n: int) -> int:
        job_progress.update(0.5, "half")
        return n * 2

    @router.get("/admin", scopes=["admin"])
    def admin() -> str:
        return "secret"

    return router


def settings(**more: Any) -> Settings:
    """Return settings that leave nothing behind."""
    return Settings(**{"jobs": "memory://", "blobs": "memory://", "drain_grace": 1.0, **more})


async def ask(app: App, method: str, path: str, body: object = None, **headers: str) -> Response:
    """Send one request."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    data = b"" if body is None else json.dumps(body).encode()
    if data:
        fields["content-type"] = "application/json"
    path, _, query = path.partition("?")
    return await app.handle(Request(method, path, query, headers=Headers(fields.items()), body=data))


def content(response: Response) -> Any:
    """Return the JSON of an answer."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """Return a running app with two keys."""
    running = build(make_router(), settings(api_keys=f"root:{KEY}r,reader:{KEY}u:read"))
    await running.start()
    yield running
    await running.stop()


async def test_every_route_asks_who_is_there(app: App) -> None:
    """All but the few that probes and browsers need, generated from the table of routes."""
    closed = 0
    for route in app.routes:
        path = route.path.split("{")[0] + ("1" if "{" in route.path else "")
        for method in route.methods:
            response = await ask(app, method, path)
            if route.public:
                assert route.path in OPEN_PATHS or route.path.startswith("/docs"), route.path
                assert response.status not in (401, 403)
            elif "{" not in route.path:
                closed += 1
                assert response.status == 401, (method, route.path)
                assert response.header("www-authenticate")
    assert closed >= 5


async def test_a_wrong_key_is_worth_as_little_as_none(app: App) -> None:
    """On reads, writes and the product's own routes."""
    for method, path in (("GET", "/items/1"), ("POST", "/work"), ("GET", "/jobs"), ("GET", "/metrics")):
        assert (await ask(app, method, path, x_api_key="wrong-wrong-wrong")).status == 401


async def test_scopes_hold_on_routes(app: App) -> None:
    """Who may everything may this, who may read may not."""
    assert (await ask(app, "GET", "/admin", authorization=f"Bearer {KEY}r")).status == 200
    assert (await ask(app, "GET", "/admin", authorization=f"Bearer {KEY}u")).status == 403


async def test_jobs_belong_to_the_key_that_made_them(app: App) -> None:
    """Another caller learns nothing of them, not even that they exist."""
    made = content(await ask(app, "POST", "/work?sync=true", {"n": 4}, x_api_key=f"{KEY}r"))
    assert made == 8
    (job,) = content(await ask(app, "GET", "/jobs", x_api_key=f"{KEY}r"))["jobs"]
    assert content(await ask(app, "GET", "/jobs", x_api_key=f"{KEY}u"))["jobs"] == []
    unknown = await ask(app, "GET", "/jobs/" + "0" * 32, x_api_key=f"{KEY}u")
    foreign = await ask(app, "GET", f"/jobs/{job['job_id']}", x_api_key=f"{KEY}u")
    assert (unknown.status, foreign.status) == (404, 404)
    ours, theirs = content(unknown), content(foreign)
    for own in ("request_id", "instance"):
        ours.pop(own)
        theirs.pop(own)
    assert ours == theirs


async def test_metrics_follow_requests_and_jobs(app: App) -> None:
    """Under the names of routes, never under those of callers or jobs."""
    parser = pytest.importorskip("prometheus_client.parser", reason="the official parser judges the text")
    key = {"x_api_key": f"{KEY}r"}
    await ask(app, "GET", "/items/7", **key)
    await ask(app, "GET", "/nowhere-7", **key)
    await ask(app, "POST", "/work?sync=true", {"n": 1}, **key)
    answer = await ask(app, "GET", "/metrics", **key)
    assert isinstance(answer.body, bytes)
    text = answer.body.decode()
    found = {
        (
            sample.name,
            sample.labels.get("route"),
            sample.labels.get("status") or sample.labels.get("state"),
        ): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["router_requests_total", "/items/{item_id}", "200"] == 1
    assert found["router_requests_total", "", "404"] == 1
    assert found["router_job_moves_total", "/work", "succeeded"] == 1
    assert found["router_job_run_seconds_count", "/work", None] == 1
    assert found["router_ready", None, None] == 1
    assert "nowhere-7" not in text
    assert "root" not in text


async def test_draining_shows_and_refuses() -> None:
    """Readiness turns 503 and names the reason; reading goes on, submitting does not."""
    app = build(make_router(), settings())
    await app.start()
    assert (await ask(app, "GET", "/health/ready")).status == 200
    await app.drain(1.0)
    answer = await ask(app, "GET", "/health/ready")
    assert answer.status == 503
    assert "draining" in content(answer)["reasons"]
    assert (await ask(app, "GET", "/health")).status == 200
    assert (await ask(app, "GET", "/items/1")).status == 200
    refused = await ask(app, "POST", "/work", {"n": 1})
    assert (refused.status, content(refused)["code"]) == (503, "draining")
    assert refused.header("retry-after")
    await app.stop()


async def test_details_are_there_for_operators(app: App) -> None:
    """Checks by name and jobs by route."""
    body = content(await ask(app, "GET", "/health/detailed", x_api_key=f"{KEY}r"))
    assert body["status"] == "ready"
    assert body["checks"]["store"]["ok"] is True
    assert "uptime_s" in body
