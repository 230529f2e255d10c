"""Endpoints that sleep, as callers of the whole gateway see them: who answers meanwhile, and who waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from router_core.gateway import Gateway
from router_core.gateway.config import parse_config
from router_core.gateway.environment import from_environment
from router_core.testing.client import AsyncTestClient, TestClient, TestResponse
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from router_core.testing.runpod_rest import RunpodRest
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import Behaviour, ok
from router_core.testing.upstream_openai import openai_chat
from router_core.testing.upstream_wire import Seen
from tests.gateway.lifecycle_parts import passing, until

CONFIG = """
endpoints:
  - {{name: big, driver: huggingface, namespace: ann, remote: big, url: '{url}', api_url: '{api}',
     token: {token}, wake_timeout: 300}}
models:
  - id: big
    type: text-generation
    routing_strategy: priority
    total_timeout: 3600
    {model}
    clients:
      {extra}
      - {{id: one, type: huggingface, endpoint: big, api_key: {token}, model: tgi, priority: 2{more}}}
  - id: small
    type: text-generation
    clients: [{{id: two, model: s, type: scripted, args: {{{small}}}}}]
"""
BIG, SMALL = ("big", "one"), ("small", "two")


@pytest.fixture
def hub(hub: HuggingFaceApi) -> HuggingFaceApi:
    """Hugging Face, where the big model sleeps; it needs a minute and a half to start."""
    hub.habits.pending, hub.habits.initializing = 30.0, 60.0
    hub.add("ann", "big", state="scaledToZero", scale_to_zero_timeout=15)
    return hub


def gateway_of(
    hub: HuggingFaceApi, clock: FakeClock, *, model: str = "wake_fallback: small",
    small: str = "reply: small", extra: str = "", more: str = "",
) -> Gateway:  # fmt: skip
    text = CONFIG.format(
        url=hub.url("big"), api=hub.api_url, token=hub.token, model=model, small=small, extra=extra, more=more
    )
    return Gateway(parse_config(text, "gateway.yaml", {}), clock=clock)


async def ask(client: AsyncTestClient, model: str = "big", **more: Any) -> TestResponse:
    """Make one call."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return await client.post("/v1/chat/completions", json=body, **more)


def headers_of(answer: TestResponse) -> dict[str, str]:
    """Return the headers, names in lower case."""
    return {name.lower(): value for name, value in answer.headers}


def served_by(answer: TestResponse) -> tuple[str, str]:
    """Return the model and the deployment that answered."""
    headers = headers_of(answer)
    return headers["x-router-model"], headers["x-router-deployment"]


@pytest.mark.parametrize("known", [False, True], ids=["found out by the call", "known to sleep"])
async def test_the_small_model_answers_while_the_big_one_wakes(
    hub: HuggingFaceApi, clock: FakeClock, known: bool
) -> None:
    """No caller waits, one wake goes on beside them, and then the big model answers again."""
    async with TestClient(gateway_of(hub, clock).router) as client:
        if known:
            await client.get("/api/endpoints/status")
        began = clock.monotonic()
        answers = await passing(clock, asyncio.gather(*(ask(client) for _ in range(20))))
        assert clock.monotonic() - began < 5.0, "nobody waits for the big one"
        assert Counter(served_by(each) for each in answers) == {SMALL: 20}
        assert {headers_of(each)["x-router-fallback-from"] for each in answers} == {"big"}
        await until(clock, lambda: hub.state("big") == "running")
        await clock.pass_time(10.0)
        await until(clock, lambda: bool(hub.actions("health")) and hub.actions("health")[-1].status == 200)
        assert served_by(await passing(clock, ask(client))) == BIG
    knocks = sum("x-scale-up-timeout" in each.headers for each in hub.actions("health"))
    assert (knocks, hub.actions("resume")) == (int(known), []), "a call that found it asleep has woken it"


@pytest.mark.parametrize("known", [False, True], ids=["found out by the call", "known to sleep"])
async def test_a_call_waits_when_the_small_model_fails(
    hub: HuggingFaceApi, clock: FakeClock, known: bool
) -> None:
    """Nobody stands in for the big model, so its wake is what is left."""
    async with TestClient(gateway_of(hub, clock, small="fail_status: 500").router) as client:
        if known:
            await client.get("/api/endpoints/status")
        answers = await passing(clock, asyncio.gather(*(ask(client) for _ in range(5))))
    assert Counter(served_by(each) for each in answers) == {BIG: 5}


@pytest.mark.parametrize("small", ["reply: small", "fail_status: 500"], ids=["stands in", "fails too"])
async def test_one_awake_that_fails_does_not_hide_one_asleep(
    hub: HuggingFaceApi, clock: FakeClock, small: str
) -> None:
    """Of two deployments of the big model one is down, the other sleeps: that is no end of the call."""
    extra = "- {id: zero, type: scripted, model: s, priority: 1, args: {fail_status: 500}}"
    async with TestClient(gateway_of(hub, clock, small=small, extra=extra).router) as client:
        await client.get("/api/endpoints/status")
        answer = await passing(clock, ask(client))
    assert served_by(answer) == (SMALL if small == "reply: small" else BIG)


@pytest.mark.parametrize("model", ["", "wake_fallback: small"], ids=["alone", "the small one fails"])
async def test_who_waits_in_vain_is_told_when_to_come_back(
    hub: HuggingFaceApi, clock: FakeClock, model: str
) -> None:
    """After the wake timeout: 503, ``endpoint_not_ready``, Retry-After; OpenAI's error inside."""
    hub.habits.initializing = 1e6
    async with TestClient(gateway_of(hub, clock, model=model, small="fail_status: 500").router) as client:
        began = clock.monotonic()
        answers = await passing(clock, asyncio.gather(*(ask(client) for _ in range(10))), step=2.0)
        took = clock.monotonic() - began
    assert 300.0 <= took < 330.0
    for answer in answers:
        assert answer.status == 503
        assert answer.value["code"] == answer.value["error"]["code"] == "endpoint_not_ready"
        assert float(headers_of(answer)["retry-after"]) > 0


async def test_the_proxy_can_hold_the_call_instead(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """``scale_up_timeout``: the call itself wakes the endpoint, and is answered when that has started."""
    more = ", args: {scale_up_timeout: 600}"
    async with TestClient(gateway_of(hub, clock, model="", more=more).router) as client:
        answer = await passing(clock, ask(client), always=True, step=1.0)
    assert served_by(answer) == BIG
    (seen,) = hub.actions("inference")
    assert seen.headers["x-scale-up-timeout"] == "600"
    assert hub.actions("resume") == []


async def test_an_endpoint_that_never_does_what_its_provider_says(
    hub: HuggingFaceApi, clock: FakeClock
) -> None:
    """It is called running and healthy, and answers every call as if it were paused: few calls, one error."""
    hub.become("big", "running")
    body = b'{"error":"Bad Request: The endpoint is paused, ask a maintainer to restart it"}'
    hub.fault("inference", status=400, times=10_000, body=body)
    async with TestClient(gateway_of(hub, clock, model="").router) as client:
        answer = await passing(clock, ask(client))
    assert answer.status == 503
    assert len(hub.actions("inference")) <= 6


async def test_calls_go_on_without_the_management_api(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """What ran is called; what sleeps is woken at its own door."""
    hub.down()
    async with TestClient(gateway_of(hub, clock, model="").router) as client:
        asleep = await passing(clock, asyncio.gather(*(ask(client) for _ in range(20))))
        assert Counter(each.status for each in asleep) == {200: 20}
        awake = await passing(clock, asyncio.gather(*(ask(client) for _ in range(20))))
        status = (await passing(clock, client.get("/api/endpoints/status"))).value
    assert Counter(each.status for each in awake) == {200: 20}
    assert status["endpoints"]["big"]["status"] in ("unknown", "running")


# -- the variables of the specification, and nothing else --------------------------------------------------


async def test_two_variables_and_a_key_make_both_models(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """HF_BASE_URL_120B, HF_BASE_URL_20B, HUGGINGFACE_API_KEY: the small one stands in, then both answer."""
    hub.add("ann", "small", scale_to_zero_timeout=15)
    page = "https://endpoints.huggingface.co/ann/endpoints/"
    environ = {
        "HF_BASE_URL_120B": f"{page}big", "HF_BASE_URL_20B": f"{page}small", "HUGGINGFACE_API_KEY": hub.token,
    }  # fmt: skip
    config = from_environment(environ)
    places = tuple(replace(each, api_url=hub.api_url) for each in config.endpoints)
    gateway = Gateway(replace(config, endpoints=places), environ=environ, clock=clock)
    async with TestClient(gateway.router) as client:
        before = (await client.get("/api/endpoints/status")).value
        stood_in = await passing(clock, ask(client, "120b"))
        woken = await passing(clock, client.post("/api/endpoints/wake/120b", query={"wait": 600}))
        answers = {name: await passing(clock, ask(client, name)) for name in ("120b", "20b")}
        after = (await client.get("/api/endpoints/status")).value
        listed = (await client.get("/v1/models")).value
    assert headers_of(stood_in)["x-router-model"] == "20b"
    assert woken.value == {"success": True, "name": "120b", "status": "running"}
    assert {name: headers_of(each)["x-router-model"] for name, each in answers.items()} == {
        "120b": "120b", "20b": "20b",
    }  # fmt: skip
    assert [each["id"] for each in listed["data"]] == ["120b", "20b"]
    assert before["endpoints"]["120b"] == {
        "status": "sleeping", "url": f"{page}big", "last_activity": None, "wake_time": None,
        "sleep_time": None, "auto_sleep_in": None,
    }  # fmt: skip
    found = after["endpoints"]
    members = ["status", "url", "last_activity", "wake_time", "sleep_time", "auto_sleep_in"]
    assert (list(after), list(found)) == (["success", "endpoints"], ["120b", "20b"])
    assert all(list(each) == members for each in found.values())
    assert {name: each["status"] for name, each in found.items()} == {"120b": "running", "20b": "running"}
    assert found["120b"]["last_activity"] >= found["120b"]["wake_time"] > 1_700_000_000
    assert found["120b"]["sleep_time"] is None
    assert 850 <= found["120b"]["auto_sleep_in"] <= 900


# -- RunPod ------------------------------------------------------------------------------------------------

RUNPOD = """
endpoints:
  - {{name: pod, driver: runpod, remote: {id}, url: '{url}', api_url: '{rest}', token: {key}}}
models:
  - id: big
    type: text-generation
    clients: [{{id: one, type: runpod, endpoint: pod, model: m, args: {{api_key: {key}}}}}]
"""


def endpoint_of(runpod: RunpodRest) -> tuple[str, Upstream]:
    """Return the id of an endpoint that may have no workers, and what serves it when it has one."""
    id_ = runpod.add("service", workers={"min": 0, "max": 0})

    def script(seen: Seen) -> Behaviour:
        kept = runpod.endpoint(id_)["workers"]
        if seen.path.endswith("/health"):
            return ok({"jobs": {}, "workers": {"idle": kept["min"]}})
        if not kept["max"]:
            return ok({"status": 409, "title": "Endpoint paused", "code": "ENDPOINT_PAUSED"}, code=409)
        return openai_chat("Hi!")

    return id_, Upstream(script)


@pytest.mark.parametrize("known", [False, True], ids=["found out by the calls", "known to be off"])
async def test_an_endpoint_of_runpod_that_is_off(clock: FakeClock, known: bool) -> None:
    """A hundred calls: one order to keep a worker, and all of them are answered."""
    with RunpodRest() as runpod:
        id_, upstream = endpoint_of(runpod)
        async with upstream:
            url, rest = f"{upstream.url}/v2/{id_}/openai/v1", runpod.environ()["RUNPOD_REST_URL"]
            config = parse_config(RUNPOD.format(id=id_, url=url, rest=rest, key=runpod.key), "g.yaml", {})
            async with TestClient(Gateway(config, clock=clock).router) as client:
                if known:
                    await client.get("/api/endpoints/status")
                answers = await passing(clock, asyncio.gather(*(ask(client) for _ in range(100))))
                status = (await client.get("/api/endpoints/status")).value["endpoints"]["pod"]
        assert Counter(each.status for each in answers) == {200: 100}
        assert status["status"] == "running"
        updates = [each.json for each in runpod.requests if each.action == "update"]
        assert updates == [{"workers": {"min": 1, "max": 1}}]
