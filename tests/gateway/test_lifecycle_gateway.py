"""Endpoints that sleep behind the whole gateway: calls of callers, over sockets to the stand-in."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from router_core.gateway import Gateway
from router_core.gateway.config import parse_config
from router_core.testing.client import AsyncTestClient, TestClient, TestResponse
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import passing

CONFIG = """
endpoints:
  - name: big
    driver: huggingface
    url: https://endpoints.huggingface.co/ann/endpoints/big
    api_url: {api}
    token: {token}
models:
  - id: big
    type: text-generation
    deployments: [{{id: one, type: huggingface, endpoint: big, key: {token}, model: tgi}}]
"""


def gateway_of(hub: HuggingFaceApi, clock: FakeClock) -> Gateway:
    text = CONFIG.format(api=hub.api_url, token=hub.token)
    return Gateway(parse_config(text, "gateway.yaml", {}), clock=clock)


async def hundred(client: AsyncTestClient) -> list[TestResponse]:
    """Make 100 calls at once."""
    body = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
    return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(100)))


@pytest.mark.parametrize(("state", "orders"), [("scaledToZero", 0), ("paused", 1)])
async def test_a_hundred_calls_to_a_sleeping_endpoint(
    hub: HuggingFaceApi, clock: FakeClock, state: str, orders: int
) -> None:
    """Each is answered, and one of them woke the endpoint: by one resume or by one knock."""
    hub.add("ann", "big", state=state, scale_to_zero_timeout=15)
    gateway = gateway_of(hub, clock)
    async with TestClient(gateway.router) as client:
        answers = await passing(clock, hundred(client))
    assert Counter(each.status for each in answers) == {200: 100}
    knocks = sum("x-scale-up-timeout" in each.headers for each in hub.actions("health"))
    assert (len(hub.actions("resume")), knocks) == (orders, 1 - orders)
    assert len(hub.actions("inference")) == 100


async def test_it_falls_asleep_unseen(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Scaled to zero by the provider: the calls that find out are answered all the same."""
    hub.add("ann", "big", scale_to_zero_timeout=15)
    gateway = gateway_of(hub, clock)
    async with TestClient(gateway.router) as client:
        await passing(clock, hundred(client))
        hub.become("big", "scaledToZero")
        clock.advance(6.0)
        answers = await passing(clock, hundred(client))
        status = (await client.get("/api/endpoints/status")).value["endpoints"]["big"]
    assert Counter(each.status for each in answers) == {200: 100}
    found = Counter(each.status for each in hub.actions("inference"))
    assert found[200] == 200
    assert 1 <= found[503] <= 100
    assert status["status"] == "running"
    assert status["auto_sleep_in"] > 800
