"""The REST API of endpoints: the JSON of the specification, statuses, rights, and the document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from router_core import Settings
from router_core.gateway.api.endpoints import endpoints_router
from router_core.gateway.lifecycle.states import State
from router_core.gateway.values import EndpointSpec
from router_core.testing.client import AsyncTestClient, TestClient
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import Gateway, gateway, passing, spec_of

ADMIN, READER = "admin-key-0123456789abcdef0123456789", "reader-key-0123456789abcdef012345678"
MEMBERS = ["status", "url", "last_activity", "wake_time", "sleep_time", "auto_sleep_in"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=1_694_567_900.0)


@asynccontextmanager
async def served(
    specs: list[EndpointSpec], clock: FakeClock, **settings: Any
) -> AsyncIterator[tuple[AsyncTestClient, Gateway]]:
    async with gateway(specs, clock) as one:
        keys = replace(Settings(), jobs="memory://", blobs="memory://", **settings)
        async with TestClient(endpoints_router(one.lifecycle), settings=keys) as client:
            yield client, one


def two(hub: HuggingFaceApi, **states: str) -> list[EndpointSpec]:
    """Return the configuration of a big and a small endpoint."""
    for name, state in states.items():
        hub.add("ann", f"model-{name}", state=state, scale_to_zero_timeout=15)
    return [
        replace(spec_of(hub, f"model-{name}", auto_sleep=900.0), name=name.removeprefix("b"))
        for name in states
    ]


async def test_the_status_of_all(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The JSON of the specification, member for member: whole seconds, and nulls that are there."""
    async with served(two(hub, b120b="running", b20b="scaledToZero"), clock) as (client, one):
        one.lifecycle.touch("120b")
        clock.advance(50.0)
        found = await client.get("/api/endpoints/status")
    assert found.status == 200
    assert found.value == {
        "success": True,
        "endpoints": {
            "120b": {
                "status": "running", "url": hub.url("model-b120b"), "last_activity": 1694567900,
                "wake_time": None, "sleep_time": None, "auto_sleep_in": 850,
            },
            "20b": {
                "status": "sleeping", "url": hub.url("model-b20b"), "last_activity": None,
                "wake_time": None, "sleep_time": None, "auto_sleep_in": None,
            },
        },
    }  # fmt: skip
    assert [list(each) for each in found.value["endpoints"].values()] == [MEMBERS] * 2


async def test_the_status_of_one(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The same members, and beside them what the provider says; an unknown name is a 404."""
    async with served(two(hub, b120b="paused"), clock) as (client, one):
        found = await client.get("/api/endpoints/status/120b")
        missing = await client.get("/api/endpoints/status/70b")
        assert [entry["who"] for entry in one.audit("status")] == ["anonymous"]
    assert found.value["success"] is True
    assert found.value["name"] == "120b"
    assert list(found.value["endpoint"]) == MEMBERS
    assert found.value["detail"] == {
        "provider": "huggingface", "sub_status": "paused", "last_known": "sleeping",
        "message": "Endpoint is paused", "ready": False, "inference_url": hub.url("model-b120b"),
        "in_flight": 0, "auto_sleep_by": "provider",
    }  # fmt: skip
    assert (missing.status, missing.value["code"]) == (404, "not_found")


async def test_waking_one(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """202 while it starts, 200 when it runs; the order is given before the answer."""
    async with served(two(hub, b120b="paused"), clock) as (client, one):
        first = await client.post("/api/endpoints/wake/120b")
        assert len(hub.actions("resume")) == 1
        again = await client.post("/api/endpoints/wake/120b")
        ready = await passing(clock, client.post("/api/endpoints/wake/120b", query={"wait": 60}))
        after = await client.post("/api/endpoints/wake/120b")
        assert one.lifecycle.ready("120b")
        assert all(entry["success"] for entry in one.audit("wake"))
        assert len(one.audit("wake")) == 4
    assert (first.status, first.value) == (202, {"success": True, "name": "120b", "status": "starting"})
    assert again.status == 202
    assert (ready.status, ready.value) == (200, {"success": True, "name": "120b", "status": "running"})
    assert after.status == 200
    assert len(hub.actions("resume")) == 1


async def test_waiting_in_vain(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Still starting when the wait is over: 202. A start that fails meanwhile: 502, and why."""
    async with served(two(hub, b120b="paused", b20b="paused"), clock) as (client, _):
        late = await client.post("/api/endpoints/wake/120b", query={"wait": 0.02})
        hub.habits.fails = "no capacity"
        failed = await passing(clock, client.post("/api/endpoints/wake/20b", query={"wait": 60}))
    assert (late.status, late.value["status"]) == (202, "starting")
    assert failed.status == 502
    assert failed.value["detail"] == "endpoint 20b: its provider says that it failed: no capacity"


async def test_waking_all(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Each has a result of its own, and one that fails spoils no other."""
    specs = two(hub, b120b="paused", b20b="running", b7b="paused")
    async with served(specs, clock) as (client, _):
        hub.fault("resume", status=403, body=b'{"error":"Forbidden"}')
        some = await client.post("/api/endpoints/wake")
    told = some.value["endpoints"]
    assert (some.status, some.value["success"]) == (202, False)
    assert told["20b"] == {"success": True, "status": "running", "error": None}
    assert sorted((told[name]["success"], told[name]["error"]) for name in ("120b", "7b")) == [
        (False, "resume: 403 Forbidden"), (True, None),
    ]  # fmt: skip


async def test_sleeping(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """200 when it sleeps, 202 while it stops, all or one, and paused where that is asked for."""
    async with served(two(hub, b120b="running", b20b="running"), clock) as (client, _):
        one = await client.post("/api/endpoints/sleep/120b", query={"pause": "true"})
        hub.habits.lag = 10.0
        both = await client.post("/api/endpoints/sleep")
        clock.advance(20.0)
        status = await client.get("/api/endpoints/status")
    assert (one.status, one.value) == (200, {"success": True, "name": "120b", "status": "sleeping"})
    assert both.status == 202
    assert both.value["endpoints"]["20b"] == {"success": True, "status": "stopping", "error": None}
    assert both.value["endpoints"]["120b"]["success"] is False, "what is paused cannot be scaled to zero"
    assert status.value["endpoints"]["20b"]["status"] == "sleeping"
    assert status.value["endpoints"]["20b"]["sleep_time"] == 1694567900


async def test_a_provider_that_refuses(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """502 as problem+json with the reason and without a key; 409 for what nobody can put to sleep."""
    specs = [*two(hub, b120b="running"), EndpointSpec("plain", "none", "https://x.example")]
    async with served(specs, clock) as (client, _):
        hub.fault("scale-to-zero", status=403, body=b'{"error":"Forbidden"}')
        refused = await client.post("/api/endpoints/sleep/120b")
        plain = await client.post("/api/endpoints/sleep/plain")
        awake = await client.post("/api/endpoints/wake/plain")
    assert refused.status == 502
    assert refused.header("content-type") == "application/problem+json"
    assert refused.value["detail"] == "endpoint 120b: scale-to-zero: 403 Forbidden"
    assert refused.value["success"] is False
    assert hub.token not in str(refused.content)
    assert plain.status == 409
    assert (awake.status, awake.value["status"]) == (200, "running")


async def test_a_provider_that_is_away(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The status is answered, as unknown and with the times as known; orders are a 502."""
    async with served(two(hub, b120b="running"), clock) as (client, one):
        one.lifecycle.touch("120b")
        await client.get("/api/endpoints/status")
        hub.down()
        clock.advance(10.0)
        status = await passing(clock, client.get("/api/endpoints/status"))
        asleep = await passing(clock, client.post("/api/endpoints/sleep"))
        assert one.lifecycle.ready("120b")
    assert (status.status, status.value["success"]) == (200, True)
    told = status.value["endpoints"]["120b"]
    assert (told["status"], told["last_activity"], told["auto_sleep_in"]) == ("unknown", 1694567900, None)
    assert asleep.status == 502
    assert asleep.value["success"] is False


@pytest.mark.parametrize("slow", ["get"])
async def test_a_provider_that_hangs(hub: HuggingFaceApi, clock: FakeClock, slow: str) -> None:
    """Many who ask share one look."""
    async with served(two(hub, b120b="running"), clock) as (client, _):
        held = hub.fault(slow, "hold")
        asked = [asyncio.ensure_future(client.get("/api/endpoints/status")) for _ in range(10)]
        await asyncio.sleep(0.02)
        held.released.set()
        found = await asyncio.gather(*asked)
        found.append(await client.get("/api/endpoints/status"))
    assert {each.value["endpoints"]["120b"]["status"] for each in found} == {"running"}
    assert len(hub.actions("get")) == 1


@pytest.mark.parametrize(
    ("path", "query"),
    [("wake/120b", {"wait": "-1"}), ("wake/120b", {"wait": "x"}), ("wake", {"wait": "1e9"}),
     ("wake/120b", {"wait": "nan"}), ("sleep/120b", {"pause": "maybe"})],
)  # fmt: skip
async def test_bad_values(hub: HuggingFaceApi, clock: FakeClock, path: str, query: dict[str, str]) -> None:
    """They are a 422, and nothing is done."""
    async with served(two(hub, b120b="paused"), clock) as (client, _):
        found = await client.post(f"/api/endpoints/{path}", query=query)
    assert (found.status, found.value["code"]) == (422, "validation_failed")
    assert not hub.actions("resume", "pause", "scale-to-zero")


@pytest.mark.parametrize(
    "name", ["70b", "..", "a%2Fb", "é", "x" * 3000], ids=["other", "up", "slash", "e", "long"]
)
async def test_names_that_nobody_knows(hub: HuggingFaceApi, clock: FakeClock, name: str) -> None:
    """Every route answers them with 404."""
    async with served(two(hub, b120b="paused"), clock) as (client, _):
        for method, path in (("GET", "status"), ("POST", "wake"), ("POST", "sleep")):
            assert (await client.request(method, f"/api/endpoints/{path}/{name}")).status == 404
    assert not hub.actions("resume", "pause", "scale-to-zero")


async def test_no_endpoints_at_all(clock: FakeClock) -> None:
    """Nothing to tell and nothing to do is a success."""
    async with served([], clock) as (client, _):
        for method, path in (("GET", "status"), ("POST", "wake"), ("POST", "sleep")):
            found = await client.request(method, f"/api/endpoints/{path}")
            assert (found.status, found.value) == (200, {"success": True, "endpoints": {}})


async def test_rights(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Who may read may not wake or sleep; the right is named in the document; who did it is written down."""
    keys = f"boss:{ADMIN}:endpoints:manage,reader:{READER}:read"
    async with served(two(hub, b120b="paused"), clock, api_keys=keys) as (client, one):
        reader = {"authorization": f"Bearer {READER}"}
        assert (await client.get("/api/endpoints/status")).status == 401
        assert (await client.get("/api/endpoints/status", headers=reader)).status == 200
        for path in ("wake", "wake/120b", "sleep", "sleep/120b"):
            assert (await client.post(f"/api/endpoints/{path}")).status == 401
            assert (await client.post(f"/api/endpoints/{path}", headers=reader)).status == 403
        assert not hub.actions("resume", "pause", "scale-to-zero")
        admin = {"authorization": f"Bearer {ADMIN}"}
        assert (await client.post("/api/endpoints/wake/120b", headers=admin)).status == 202
        assert one.audit("wake")[0]["who"] == "boss"


async def test_endpoints_are_for_those_who_may_enter_every_workspace(
    hub: HuggingFaceApi, clock: FakeClock
) -> None:
    """They serve the calls of all: no tenant's operator puts them to sleep, or wakes what others pay for."""
    keys = f"bound:{ADMIN}:operator@ws-a"
    async with served(two(hub, b20b="running"), clock, api_keys=keys) as (client, one):
        headers = {"authorization": f"Bearer {ADMIN}"}
        for path in ("wake", "sleep", "wake/20b", "sleep/20b"):
            refused = await client.post(f"/api/endpoints/{path}", headers=headers)
            assert (refused.status, refused.value["code"]) == (403, "every_workspace"), path
        assert (await client.get("/api/endpoints/status", headers=headers)).status == 200
        assert one.lifecycle.state_of("20b") is State.RUNNING


async def test_the_document(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Each route has a summary, its answers, and its tag."""
    async with served(two(hub, b120b="paused"), clock) as (client, _):
        document = (await client.get("/openapi.json")).value
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/api/endpoints")}
    assert sorted(paths) == [
        "/api/endpoints/sleep", "/api/endpoints/sleep/{name}", "/api/endpoints/status",
        "/api/endpoints/status/{name}", "/api/endpoints/wake", "/api/endpoints/wake/{name}",
    ]  # fmt: skip
    for item in paths.values():
        for operation in item.values():
            assert operation["summary"].endswith(".")
            assert operation["tags"] == ["endpoints"]
            assert "200" in operation["responses"]
    assert set(paths["/api/endpoints/wake"]["post"]["responses"]) >= {"200", "202", "4XX", "5XX"}
    status = document["components"]["schemas"]["EndpointStatus"]
    assert list(status["properties"]) == MEMBERS
