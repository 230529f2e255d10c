"""The REST API of analytics over a gateway that serves scripted models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from router_core.gateway.analytics.report import Wanted
from router_core.types import Principal
from tests.gateway.serving import House, chat, house

CONFIG = """
models:
  - id: small
    type: text-generation
    aliases: [tiny]
    clients:
      - {id: s1, model: up, type: scripted, args: {}}
  - id: broken
    type: text-generation
    clients:
      - {id: b1, model: up, type: scripted, args: {fail_every: 1, fail_status: 500}}
"""
OF_A = {"x-router-workspace": "ws-a", "x-router-agent-type": "creative"}


@pytest.fixture
async def made() -> AsyncIterator[House]:
    """Yield a gateway without loops."""
    async with house(CONFIG) as gateway:
        yield gateway


async def test_a_call_is_in_all_views(made: House) -> None:
    """One good call, one that fails, one of a stream: counted once each, everywhere."""
    await made.ask("/v1/chat/completions", chat("tiny"), headers=OF_A)
    await made.ask("/v1/chat/completions", chat("broken"))
    await made.ask("/v1/chat/completions", chat("small", stream=True), headers=OF_A)
    body = (await made.ask("/api/analytics/models?timeRange=1h")).json()
    assert body["totals"]["requests"] == 3
    assert (body["totals"]["successes"], body["totals"]["errors"]) == (2, 1)
    assert body["totals"]["successRate"] == pytest.approx(2 / 3, abs=1e-5)
    assert {each["modelId"]: each["requests"] for each in body["models"]} == {"small": 2, "broken": 1}
    assert body["totals"]["timeToFirstToken"]["p50"] is not None
    assert body["partial"] is False
    assert sum(point["requests"] for point in body["timeSeries"]) == 3
    assert {each["deploymentId"] for each in body["deployments"]} == {"s1", "b1"}
    assert body["totals"]["errorClasses"] == [{"class": "server_error", "count": 1}]
    one = (await made.ask("/api/analytics/models?timeRange=1h&modelId=tiny")).json()
    assert (one["modelId"], one["totals"]["requests"]) == ("small", 2)
    mine = (await made.ask("/api/analytics/workspaces/ws-a?timeRange=7d")).json()
    assert (mine["totals"]["requests"], mine["resolution"]) == (2, "hour")
    assert [each["agentType"] for each in mine["agentTypes"]] == ["creative"]


async def test_requests_are_listed_and_paged(made: House) -> None:
    """The latest first; a cursor goes on exactly where the page ended."""
    for _ in range(5):
        await made.ask("/v1/chat/completions", chat("small"), headers=OF_A)
    await made.ask("/v1/chat/completions", chat("broken"))
    whole = (await made.ask("/api/metrics/requests")).json()
    assert [each["status"] for each in whole["requests"]] == ["error", *["success"] * 5]
    assert whole["nextCursor"] is None
    seen, cursor = [], ""
    while True:
        page = (await made.ask(f"/api/metrics/requests?limit=4{cursor}")).json()
        seen += [each["requestId"] for each in page["requests"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == [each["requestId"] for each in whole["requests"]]
    one = (await made.ask("/api/metrics/requests?status=error&modelId=broken")).json()
    assert [each["outcome"] for each in one["requests"]] == ["server_error"]
    assert one["requests"][0]["attempts"] >= 1
    mine = (await made.ask("/api/metrics/requests?workspaceId=ws-a&limit=2")).json()
    assert {each["agentType"] for each in mine["requests"]} == {"creative"}
    assert mine["requests"][0]["usage"]["totalTokens"] > 0


WRONG = {
    "/api/analytics/models?timeRange=2y": "timeRange",
    "/api/analytics/models?timerange=24h": "timerange",
    "/api/analytics/models?from=yesterday": "from",
    "/api/analytics/models?to=2026-01-01T00:00:00Z": "from",
    "/api/analytics/models?from=1e400&to=2": "from",
    "/api/analytics/models?from=20&to=10": "from",
    "/api/analytics/models?from=1": "from",
    "/api/analytics/models?timeRange=1h&timeRange=6h": "timeRange",
    "/api/analytics/models?timeRange=1h&from=0": "timeRange",
    "/api/analytics/workspaces/a?timeRange=0": "timeRange",
    "/api/metrics/requests?limit=0": "limit",
    "/api/metrics/requests?limit=1001": "limit",
    "/api/metrics/requests?limit=%C2%B2": "limit",
    "/api/metrics/requests?status=fine": "status",
    "/api/metrics/requests?since=never": "since",
    "/api/metrics/requests?cursor=xyz": "cursor",
    "/api/metrics/requests?cursor=x:y": "cursor",
    "/api/metrics/requests?%FF=1": "query",
    "/api/health/overview?x=1": "x",
}


async def test_what_cannot_be_asked_is_named(made: House) -> None:
    """400 with the parameter's name, never 500."""
    for path, name in WRONG.items():
        answer = await made.ask(path)
        assert answer.status == 400, path
        assert answer.json()["errors"][0]["loc"] == ["query", name]
        assert answer.json()["detail"].startswith(f"{name}: ")


async def test_what_does_not_exist(made: House) -> None:
    """404 for a model or workspace that nobody has heard of; zeros for a model without calls."""
    assert (await made.ask("/api/analytics/models?modelId=nope")).status == 404
    assert (await made.ask("/api/analytics/workspaces/nope")).status == 404
    empty = (await made.ask("/api/analytics/models?modelId=small")).json()
    assert empty["totals"]["requests"] == 0
    assert empty["totals"]["successRate"] is None
    assert empty["totals"]["latency"] == {"average": None, "p50": None, "p95": None, "p99": None}
    assert len(empty["timeSeries"]) == 25


async def test_the_overview_tells_how_all_stands(made: House) -> None:
    """Ill models make it degraded; it names versions, circuits and the last minutes' errors."""
    first = (await made.ask("/api/health/overview")).json()
    assert (first["status"], first["models"]["healthy"]) == ("healthy", 2)
    assert (first["traffic"]["requests"], first["traffic"]["errorRate"]) == (0, None)
    for _ in range(6):
        await made.ask("/v1/chat/completions", chat("broken"))
    body = (await made.ask("/api/health/overview")).json()
    assert body["status"] == "degraded"
    worst = body["deployments"]["items"][0]
    assert (worst["deploymentId"], worst["circuit"], worst["status"]) == ("b1", "open", "unhealthy")
    assert body["traffic"]["errorRate"] == 1.0
    assert body["configuration"]["consistent"] is True
    assert len(body["configuration"]["replicas"]) == 1
    assert body["store"] == {"status": "up", "partial": False}


def test_a_restricted_caller_sees_his_workspaces() -> None:
    """What he may not enter is not added up for him either."""
    wanted = Wanted(may_see=Principal("p", workspaces=frozenset({"a"})).may_enter)
    keys: list[Any] = [("m", "a", "x", "ok"), ("m", "b", "x", "ok"), ("m", "", "x", "ok")]
    assert [wanted.fits(key) for key in keys] == [True, False, False]
