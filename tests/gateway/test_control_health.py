"""Reports of health: an opinion that leaves deployments out, for a while, in all processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router_core.errors import StoreError
from router_core.gateway.control.reports import HealthReports, parse_report
from router_core.gateway.control.upkeep import LookFirst
from router_core.gateway.gateway import Gateway
from router_core.http.message import Headers, Request
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.stores.state_memory import MemoryStateStore
from router_core.testing.clock import FakeClock
from router_core.wiring import build_app
from tests.gateway.config_parts import parsed
from tests.gateway.control_parts import Breaking, Plane
from tests.gateway.serving import chat, house

FILE = """
models:
- {id: m, type: text-generation, clients: [{type: scripted, id: d1}, {type: scripted, id: d2}]}
"""


class Place:
    """A process with reports, on a clock that stands."""

    def __init__(self, state: Any, clock: FakeClock) -> None:
        self.plane = Plane(state, FILE, clock=clock)
        self.clock = clock
        snapshot = self.plane.registry
        self.reports = HealthReports(lambda: state, lambda: snapshot.snapshot.models, clock, clock.monotonic)

    def out(self) -> list[str]:
        """Why each deployment is out."""
        now = self.clock.monotonic()
        candidates = self.plane.registry.snapshot.models["m"].candidates
        for each in candidates:
            each.standing.tidy(now)
        return [each.standing.out(now) for each in candidates]

    async def report(self, **data: Any) -> None:
        """Report on the model."""
        await self.reports.put("m", parse_report(data, self.clock.now(), "ann"))


async def test_who_is_said_to_be_ill_is_left_out_everywhere_and_for_a_while() -> None:
    """Until the report runs out, or somebody takes it back; what is measured stays as it is."""
    clock = FakeClock()
    state = MemoryStateStore(clock)
    here, there = Place(state, clock), Place(state, clock)
    await here.report(status="unhealthy", detail="region down", ttl=100)
    assert (here.out(), there.out()) == (["unhealthy"] * 2, ["", ""])
    await there.reports.look()
    assert there.out() == ["unhealthy"] * 2
    standing = here.plane.registry.snapshot.models["m"].candidates[0].standing
    standing.probed(True, "answered 200", clock.monotonic())
    assert here.out() == ["unhealthy"] * 2  # the probe does not know better
    clock.advance(99)
    await there.reports.look()
    assert there.out() == ["unhealthy"] * 2
    clock.advance(2)
    assert (here.out(), there.out()) == (["", ""], ["", ""])
    assert here.reports.of("m") == []
    await here.report(status="unhealthy", ttl=100)
    await there.reports.look()
    await here.report(status="healthy")
    await there.reports.look()
    assert (here.out(), there.out()) == (["", ""], ["", ""])
    names = [note.name for note in there.plane.notes if "reported" in note.name]
    assert (
        names == ["deployment_reported_unhealthy", "deployment_reported_healthy"] * 2 * 2 or len(names) == 8
    )


async def test_one_endpoint_of_several() -> None:
    """Is left out alone."""
    clock = FakeClock()
    place = Place(MemoryStateStore(clock), clock)
    await place.report(status="unhealthy", endpointId="d2")
    assert place.out() == ["", "unhealthy"]
    await place.report(status="degraded", endpointId="d2")
    assert place.out() == ["", ""]


async def test_without_the_store_what_was_said_holds_until_it_runs_out() -> None:
    """And nothing new can be said."""
    clock = FakeClock()
    state = Breaking(MemoryStateStore(clock))
    place = Place(state, clock)
    await place.report(status="unhealthy", ttl=50)
    state.away = True
    await place.reports.look()
    assert place.out() == ["unhealthy"] * 2
    with pytest.raises(StoreError):
        await place.report(status="healthy")
    assert place.out() == ["unhealthy"] * 2
    clock.advance(51)
    await place.reports.look()
    assert place.out() == ["", ""]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "status"), ({"status": "ill"}, "status"), ({"status": 5}, "status"),
        ({"status": "healthy", "errorRate": 1.5}, "errorRate"),
        ({"status": "healthy", "availability": 101}, "availability"),
        ({"status": "healthy", "responseTime": -1}, "responseTime"),
        ({"status": "healthy", "responseTime": "fast"}, "responseTime"),
        ({"status": "healthy", "ttl": 4000}, "ttl"), ({"status": "healthy", "detail": ""}, "detail"),
        ({"status": "healthy", "statsu": 1}, "statsu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_reports_that_cannot_be(data: dict[str, Any], field: str) -> None:
    """Name their field."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        parse_report(data, 1.0, "ann")


async def test_calls_go_elsewhere_and_to_the_ill_when_nobody_else_is_left() -> None:
    """An opinion is no circuit: a model is never refused for it."""
    async with house(FILE) as made:
        body = {"status": "unhealthy", "endpointId": "d1"}
        told = (await made.ask("/api/models/m/health", body)).json()
        assert [each["reason"] for each in told["deployments"]] == ["unhealthy", None]
        for _ in range(8):
            reply = await made.ask("/v1/chat/completions", chat())
            assert (reply.status, reply.headers["x-router-deployment"]) == (200, "d2")
        told = (await made.ask("/api/models/m/health", {"status": "unhealthy"})).json()
        assert (told["status"], told["source"], told["errorRate"]) == ("unhealthy", "measured", 0)
        assert (await made.ask("/v1/chat/completions", chat())).status == 200
        wrong = await made.ask("/api/models/m/health", {"status": "healthy", "endpointId": "zz"})
        assert (wrong.status, wrong.json()["errors"][0]["field"]) == (400, "endpointId")
        assert (await made.ask("/api/models/zz/health", {"status": "healthy"})).status == 404
        assert (await made.ask("/api/models/zz/health")).status == 404


async def test_a_frozen_process_looks_at_its_calls() -> None:
    """At most once a second; one that has a loop does not look at calls any more."""
    clock = FakeClock()
    state = MemoryStateStore(clock)
    writer = Plane(state, FILE, clock=clock)
    gateway = Gateway(parsed(FILE), state=state, clock=clock)
    router = Router()
    router.include_router(gateway.router)
    app = build_app(router, Settings(jobs="memory://", blobs="memory://"), clock=clock)
    await app.start(background=False)
    assert isinstance(gateway.pipeline.admission, LookFirst)
    assert gateway.admission is None or gateway.pipeline.admission.inner is gateway.admission
    body = {"name": "x", "provider": "scripted", "modelType": "chat", "capabilities": [], "parameters": {},
            "status": "active", "tags": [], "endpoints": []}  # fmt: skip
    await writer.put("models", "late", body)
    call = gateway.pipeline.admission
    assert not gateway.control.due
    clock.advance(1.5)
    assert gateway.control.due
    await _asked(app, "m")
    assert "late" in gateway.registry.snapshot.models
    await writer.put("models", "later", body)
    await _asked(app, "m")
    assert "later" not in gateway.registry.snapshot.models
    clock.advance(1.5)
    await _asked(app, "m")
    assert "later" in gateway.registry.snapshot.models
    gateway._look_beside()
    assert gateway.pipeline.admission is gateway.admission is not call
    await app.stop(0)


async def _asked(app: Any, model: str) -> None:
    body = json.dumps(chat(model)).encode()
    headers = Headers([("content-type", "application/json")])
    answer = await app.handle(Request("POST", "/v1/chat/completions", "", headers, body))
    assert answer.status == 200
