"""Health routes: cheap when asked by anybody, detailed for operators, honest when something is down."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from router_core.errors import StoreError
from router_core.http.message import Request, Response
from router_core.jobs.job import State
from router_core.jobs.store import StoreStats
from router_core.telemetry.health import Health
from router_core.telemetry.metrics import Metrics

ASK = Request("GET", "/health")


def content(response: Response) -> Any:
    """Return the JSON of an answer."""
    assert isinstance(response.body, bytes)
    assert response.header("cache-control") == "no-store"
    return json.loads(response.body)


def health(*, ok: bool = True, stats: Any = None) -> Health:
    """Return the routes of a service that is well or not."""

    async def ready() -> dict[str, Any]:
        return {
            "ready": ok,
            "checks": {"store": {"ok": ok, "reason": "secret path"}, "sweeper": {"ok": True}},
        }

    return Health(ready, Metrics(), stats, "demo", "1.2")


async def test_live_is_200_whatever_else_is_down() -> None:
    """Restarting this process would not mend a store."""
    answer = await health(ok=False).live(ASK)
    body = content(answer)
    assert datetime.fromisoformat(body.pop("timestamp")).tzinfo is not None
    assert (answer.status, body) == (200, {"status": "healthy", "service": "demo", "version": "1.2"})


async def test_ready_and_not_ready() -> None:
    """503 with the names of what fails, and no more than the names."""
    ready = content(await health().readiness(ASK))
    assert ready.pop("timestamp").endswith("Z")
    assert ready == {"status": "ready", "service": "demo", "version": "1.2"}
    answer = await health(ok=False).readiness(ASK)
    assert (answer.status, answer.header("retry-after")) == (503, "1")
    body = content(answer)
    assert (body["status"], body["reasons"]) == ("not_ready", ["store"])
    assert "secret" not in str(body)


async def test_a_check_that_raises_is_not_ready() -> None:
    """It is no 500."""

    def broken() -> dict[str, Any]:
        raise OSError("secret path")

    answer = await Health(broken, Metrics()).readiness(ASK)
    assert (answer.status, content(answer)["reasons"]) == (503, ["readiness"])


async def test_detailed_shows_queues_and_ages() -> None:
    """What an operator asks first."""

    async def stats() -> StoreStats:
        return StoreStats({("/p", State.QUEUED): 3, ("/p", State.RUNNING): 1}, time.time() - 5)

    body = content(await health(stats=stats).detailed(ASK))
    assert body["jobs"] == {"/p": {"queued": 3, "running": 1}}
    assert 4.9 < body["oldest_queued_s"] < 60
    assert body["checks"]["store"]["ok"] is True
    assert body["status"] == "ready"


async def test_details_say_how_long_dependencies_take() -> None:
    """Those without which a service goes on are told beside its own judgement, and do not change it."""

    async def quick() -> None:
        return

    async def away() -> None:
        raise StoreError("no answer")

    routes = health()
    routes.beside.update(state=away, cache=quick)
    body = content(await routes.detailed(ASK))
    assert body["status"] == "ready"
    assert body["dependencies"]["cache"]["ok"] is True
    assert body["dependencies"]["cache"]["latency_ms"] >= 0
    assert body["dependencies"]["state"]["reason"] == "no answer"


async def test_metrics_with_the_store_up_and_down() -> None:
    """Queue depth while it answers; a gauge, not an error, while it does not."""
    up = True

    async def stats() -> StoreStats:
        if not up:
            raise OSError
        return StoreStats({("/p", State.QUEUED): 3})

    routes = health(stats=stats)
    first = await routes.exposition(ASK)
    up = False
    second = await routes.exposition(ASK)
    assert isinstance(first.body, bytes)
    assert isinstance(second.body, bytes)
    assert b'router_jobs{route="/p",state="queued"} 3\n' in first.body
    assert b"router_store_up 1\n" in first.body
    assert b"router_store_up 0\n" in second.body
    assert second.status == 200
    assert (first.header("content-type") or "").startswith("text/plain; version=0.0.4")
