"""The stand-in for Hugging Face behaves as documented and as was measured at the real one.

The official client is not a dependency: what it reads of an answer is written down here instead.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from router_core.gateway.lifecycle.http import fetch
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.values import Secret
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import PlainTransport


async def ask(
    hub: HuggingFaceApi, method: str, url: str, body: Any = None, *, token: str | None = None, **headers: str
) -> Reply:
    """Send a request to the API (a path) or to a proxy (an address)."""
    url = url if "://" in url else f"{hub.api_url}/endpoint/ann{url}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    key = Secret(hub.token if token is None else token)
    return await fetch(PlainTransport(), method, url, key, body, headers=named)


def read(reply: Reply) -> Any:
    return json.loads(reply.body or b"null")


async def state(hub: HuggingFaceApi) -> str:
    found: str = read(await ask(hub, "GET", "/big"))["status"]["state"]
    return found


async def test_what_the_official_client_reads(hub: HuggingFaceApi) -> None:
    """Each member that ``InferenceEndpoint`` takes out of an answer is there, of its type."""
    hub.add("ann", "big")
    raw = read(await ask(hub, "GET", "/big"))
    assert raw["name"] == "big"
    assert raw["type"] == "authenticated"
    assert raw["healthRoute"] == "/health"
    assert {type(raw["model"][name]) for name in ("repository", "framework", "revision", "task")} == {str}
    status = raw["status"]
    assert (status["state"], status["readyReplica"], status["targetReplica"]) == ("running", 1, 1)
    assert status["url"] == hub.url("big")
    for name in ("createdAt", "updatedAt"):
        assert datetime.fromisoformat(status[name]).year == 2026
    assert set(raw["compute"]["scaling"]) >= {"minReplica", "maxReplica", "scaleToZeroTimeout"}
    listed = read(await ask(hub, "GET", ""))
    assert listed == {"items": [raw]}


async def test_only_the_key_opens_it(hub: HuggingFaceApi) -> None:
    """Without the right key nothing is told, done or woken."""
    hub.add("ann", "big", state="scaledToZero")
    for token in ("", "hf_wrong"):
        assert (await ask(hub, "GET", "/big", token=token)).status == 401
        assert (await ask(hub, "POST", "/big/resume", token=token)).status == 401
        refused = await ask(hub, "GET", f"{hub.url('big')}/health", token=token)
        assert (refused.status, read(refused)["code"]) == (401, "UNAUTHORIZED")
    assert hub.state("big") == "scaledToZero"


async def test_a_paused_endpoint_comes_back_by_resume(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Pause at once; calls are refused and wake nothing; resume goes through all states, and says already."""
    hub.add("ann", "big")
    assert read(await ask(hub, "POST", "/big/pause"))["status"]["state"] == "paused"
    refused = await ask(hub, "POST", f"{hub.url('big')}/v1/chat/completions", {}, x_scale_up_timeout="9")
    assert refused.status == 400
    assert read(refused)["error"] == "Bad Request: The endpoint is paused, ask a maintainer to restart it"
    assert await state(hub) == "paused"
    assert read(await ask(hub, "POST", "/big/resume"))["status"]["state"] == "pending"
    assert "url" not in read(await ask(hub, "GET", "/big"))["status"]
    clock.advance(1.0)
    assert await state(hub) == "initializing"
    clock.advance(3.0)
    assert await state(hub) == "running"
    again = await ask(hub, "POST", "/big/resume")
    assert (again.status, "already running" in read(again)["error"]) == (400, True)


async def test_a_request_starts_what_is_scaled_to_zero(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """503 at once and until it runs, as often as it is asked; then it answers."""
    hub.add("ann", "big")
    assert read(await ask(hub, "POST", "/big/scale-to-zero"))["status"]["state"] == "scaledToZero"
    for _ in range(3):
        reply = await ask(hub, "POST", f"{hub.url('big')}/v1/chat/completions", {"model": "x"})
        assert (reply.status, read(reply)["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert await state(hub) == "pending"
    clock.advance(4.0)
    reply = await ask(hub, "POST", f"{hub.url('big')}/v1/chat/completions", {"model": "x"})
    assert (reply.status, read(reply)["endpoint"]) == (200, "big")
    assert [each.status for each in hub.actions("inference")] == [503, 503, 503, 200]


@pytest.mark.parametrize(("asked", "status"), [("60", 200), ("2", 503)], ids=["long", "short"])
async def test_a_request_is_held(hub: HuggingFaceApi, clock: FakeClock, asked: str, status: int) -> None:
    """X-Scale-Up-Timeout holds the request until it can be answered, or for so many seconds."""
    hub.add("ann", "big", state="scaledToZero")
    held = asyncio.ensure_future(ask(hub, "GET", f"{hub.url('big')}/v1/models", x_scale_up_timeout=asked))
    while not held.done():
        await asyncio.sleep(0.002)
        clock.advance(0.25)
    assert (await held).status == status


async def test_running_before_it_is_healthy(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The API can say running while the health route does not yet."""
    hub.add("ann", "big", state="paused")
    hub.habits.unhealthy = 5.0
    await ask(hub, "POST", "/big/resume")
    clock.advance(4.0)
    assert await state(hub) == "running"
    assert (await ask(hub, "GET", f"{hub.url('big')}/health")).status == 503
    clock.advance(5.0)
    assert (await ask(hub, "GET", f"{hub.url('big')}/health")).status == 200


async def test_its_own_timer(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """scaleToZeroTimeout minutes after the last request it is scaled to zero, with minReplica 0 only."""
    hub.add("ann", "big", min_replica=1, scale_to_zero_timeout=15)
    clock.advance(3600.0)
    assert await state(hub) == "running"
    await ask(hub, "PUT", "/big", {"compute": {"scaling": {"minReplica": 0}}})
    assert await state(hub) == "updating"
    clock.advance(2.0)
    assert await state(hub) == "running"
    clock.advance(600.0)
    await ask(hub, "GET", f"{hub.url('big')}/health")
    clock.advance(899.0)
    assert await state(hub) == "running"
    clock.advance(1.0)
    assert await state(hub) == "scaledToZero"


@pytest.mark.parametrize("minutes", [14, 2881])
async def test_the_timer_has_bounds(hub: HuggingFaceApi, minutes: int) -> None:
    """15 to 2880 minutes; else the endpoint stays as it was."""
    hub.add("ann", "big", scale_to_zero_timeout=60)
    reply = await ask(hub, "PUT", "/big", {"compute": {"scaling": {"scaleToZeroTimeout": minutes}}})
    assert (reply.status, "between 15 and 2880 minutes" in read(reply)["error"]) == (400, True)
    assert hub.scaling("big")["scaleToZeroTimeout"] == 60
    assert await state(hub) == "running"


async def test_a_start_that_fails(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """It ends in ``failed`` with the reason, and calls get 503."""
    hub.add("ann", "big", state="paused")
    hub.habits.fails = "no capacity"
    await ask(hub, "POST", "/big/resume")
    clock.advance(10.0)
    status = read(await ask(hub, "GET", "/big"))["status"]
    assert (status["state"], status["message"]) == ("failed", "no capacity")
    assert (await ask(hub, "GET", f"{hub.url('big')}/health")).status == 503


async def test_deleting_and_what_is_not_there(hub: HuggingFaceApi) -> None:
    """What is deleted is gone; unknown names, orders and bodies are refused."""
    hub.add("ann", "big")
    for body in ({}, {"compute": 1}, {"compute": {"scaling": None}}):
        assert (await ask(hub, "PUT", "/big", body)).status == 400
    assert (await ask(hub, "POST", "/big/explode")).status == 404
    assert (await ask(hub, "GET", "/small")).status == 404
    assert (await ask(hub, "DELETE", "/big")).status == 202
    assert (await ask(hub, "GET", "/big")).status == 404
    assert (await ask(hub, "GET", hub.api_url)).status == 404


async def test_faults(hub: HuggingFaceApi) -> None:
    """As many requests as were asked for go wrong, and then no more."""
    hub.add("ann", "big")
    hub.fault("get", status=502, times=2)
    hub.fault("get", "garbage")
    hub.fault("get", "drop")
    assert [(await ask(hub, "GET", "/big")).status for _ in range(3)] == [502, 502, 200]
    with pytest.raises(UpstreamFailure):
        await ask(hub, "GET", "/big")
    held = hub.fault("get", "hold")
    waiting = asyncio.ensure_future(ask(hub, "GET", "/big"))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    held.released.set()
    assert (await waiting).status == 200
    hub.down()
    with pytest.raises(UpstreamFailure, match="Connect"):
        await ask(hub, "GET", "/big")
    hub.up()
    assert (await ask(hub, "GET", "/big")).status == 200


async def test_time_is_the_machine_s_by_default() -> None:
    """Without a clock it goes by the real one."""
    with HuggingFaceApi() as hub:
        hub.habits.pending = hub.habits.initializing = 0.0
        hub.add("ann", "big", state="paused")
        await ask(hub, "POST", "/big/resume")
        assert hub.state("big") == "running"
        hub.become("big", "failed")
        assert hub.state("big") == "failed"
