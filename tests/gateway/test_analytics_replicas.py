"""Replicas over one shared state: each answers for all, tenants see their own, and a dead store is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.gateway.serving import House, Reply, chat, house

CONFIG = """
models: [{id: small, type: text-generation, clients: [{id: s1, model: up, type: scripted}]}]
workspaces:
  ws-a: {}
  ws-b: {}
"""


@asynccontextmanager
async def replicas(folder: Path, **settings: Any) -> AsyncIterator[tuple[House, House]]:
    """Yield two gateways that share a state."""
    state = f"sqlite:///{folder / 'state.db'}"
    async with house(CONFIG, state=state, **settings) as one, house(CONFIG, state=state, **settings) as two:
        yield one, two


async def flushed(*houses: House) -> None:
    """Have what they have counted written."""
    for each in houses:
        await each.gateway.analytics.idle()
        await each.gateway.analytics.tick()


async def test_whoever_is_asked_answers_for_all(tmp_path: Path) -> None:
    """Sums, last calls and versions of both, from either."""
    async with replicas(tmp_path) as (one, two):
        for each, times in ((one, 2), (two, 3)):
            for _ in range(times):
                headers = {"x-router-workspace": "ws-a"}
                assert (await each.ask("/v1/chat/completions", chat("small"), headers=headers)).status == 200
        await flushed(one, two)
        for each in (one, two):
            body = (await each.ask("/api/analytics/models?timeRange=1h")).json()
            assert (body["totals"]["requests"], body["partial"]) == (5, False)
            listed = (await each.ask("/api/metrics/requests")).json()
            assert (listed["count"], listed["partial"]) == (5, False)
            overview = (await each.ask("/api/health/overview")).json()
            assert len(overview["configuration"]["replicas"]) == 2
            assert overview["configuration"]["consistent"] is True
            assert overview["traffic"]["requests"] == 5
        detailed = (await one.ask("/health/detailed")).json()
        assert detailed["dependencies"]["state"]["ok"] is True
        assert detailed["checks"]["store"]["latency_ms"] >= 0
    async with house(CONFIG, state=f"sqlite:///{tmp_path / 'state.db'}") as later:
        body = (await later.ask("/api/analytics/workspaces/ws-a?timeRange=24h")).json()
        assert body["totals"]["requests"] == 5, "they have ended properly, and left everything"
        assert len((await later.ask("/api/health/overview")).json()["configuration"]["replicas"]) == 1


async def test_a_store_that_is_away_makes_answers_partial(tmp_path: Path, monkeypatch: Any) -> None:
    """No answer hangs, none is an error, and each says what it lacks."""
    async with replicas(tmp_path) as (one, two):
        await two.ask("/v1/chat/completions", chat("small"))
        await flushed(two)
        await one.ask("/v1/chat/completions", chat("small"))
        await one.gateway.analytics.idle()

        async def hang(*_: object, **__: object) -> None:
            await asyncio.sleep(3600)

        inner = one.gateway.analytics._state._store  # type: ignore[attr-defined]
        for name in ("entries", "put", "get"):
            monkeypatch.setattr(inner, name, hang)
        body = (await one.ask("/api/analytics/models?timeRange=1h")).json()
        assert (body["totals"]["requests"], body["partial"]) == (1, True)
        listed = (await one.ask("/api/metrics/requests")).json()
        assert (listed["count"], listed["partial"]) == (1, True)
        overview = (await one.ask("/api/health/overview")).json()
        assert overview["store"] == {"status": "down", "partial": True}
        assert (await one.ask("/v1/chat/completions", chat("small"))).status == 200
        assert (await one.ask("/health")).json()["status"] == "healthy"


def asked(key: str) -> dict[str, str]:
    """Return the headers of a caller."""
    return {"authorization": f"Bearer {key}"}


PATHS = ("/api/metrics/requests", "/api/analytics/models", "/api/analytics/workspaces/ws-a",
         "/api/health/overview", "/metrics", "/health/detailed")  # fmt: skip


def same(one: Reply, other: Reply) -> bool:
    """Return whether two refusals differ in nothing but their ids and paths."""
    left, right = one.json(), other.json()
    for each in (left, right):
        each.pop("instance", None)
        each.pop("request_id", None)
    return one.status == other.status and left == right


LISTED = (
    "viewer:viewer-key-0123456789:viewer,caller:caller-key-0123456789:models:call,"
    "tenant-a:tenant-a-key-0123456789:developer@ws-a,tenant-b:tenant-b-key-0123456789:developer@ws-b"
)


async def test_reading_needs_the_scope() -> None:
    """Without a key 401, with one that may only call models 403, with the role of a viewer 200."""
    async with house(CONFIG, api_keys=LISTED) as made:
        for path in PATHS:
            assert (await made.ask(path)).status == 401
            assert (await made.ask(path, headers=asked("caller-key-0123456789"))).status == 403
            assert (await made.ask(path, headers=asked("viewer-key-0123456789"))).status == 200


async def test_tenants_see_their_own() -> None:
    """Not the calls of others, not their sums, and not whether others exist."""
    one, other = asked("tenant-a-key-0123456789"), asked("tenant-b-key-0123456789")
    async with house(CONFIG, api_keys=LISTED) as made:
        for _ in range(2):
            assert (await made.ask("/v1/chat/completions", chat("small"), headers=one)).status == 200
        assert (await made.ask("/v1/chat/completions", chat("small"), headers=other)).status == 200
        for headers, own, foreign, calls in ((one, "ws-a", "ws-b", 2), (other, "ws-b", "ws-a", 1)):
            models = (await made.ask("/api/analytics/models", headers=headers)).json()
            assert models["totals"]["requests"] == calls
            assert [each["workspaceId"] for each in models["workspaces"]] == [own]
            assert "deployments" not in models, "attempts are not told apart by tenant"
            listed = (await made.ask("/api/metrics/requests", headers=headers)).json()
            assert {each["workspaceId"] for each in listed["requests"]} == {own}
            by_name = await made.ask(f"/api/metrics/requests?workspaceId={foreign}", headers=headers)
            assert by_name.json()["requests"] == []
            overview = (await made.ask("/api/health/overview", headers=headers)).json()
            assert overview["traffic"]["requests"] == calls
            mine = await made.ask(f"/api/analytics/workspaces/{own}", headers=headers)
            assert mine.json()["totals"]["requests"] == calls
            refused = await made.ask(f"/api/analytics/workspaces/{foreign}", headers=headers)
            unknown = await made.ask("/api/analytics/workspaces/nowhere", headers=headers)
            assert refused.status == 404
            assert same(refused, unknown)
