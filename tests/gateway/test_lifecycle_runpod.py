"""The driver for RunPod against the stand-in for its REST API, over sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.driver import ManagementError
from router_core.gateway.lifecycle.runpod import RunpodDriver
from router_core.gateway.lifecycle.states import State
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import EndpointSpec, Secret, Timeouts
from router_core.testing.clock import FakeClock
from router_core.testing.runpod_rest import RunpodRest
from tests.gateway.lifecycle_parts import PlainTransport, gateway, never, passing


@pytest.fixture
def runpod() -> Iterator[RunpodRest]:
    with RunpodRest() as runpod:
        yield runpod


class Counted(PlainTransport):
    """The stand-in counts only workers that are attached to it; here a test says how many there are."""

    def __init__(self, **workers: int) -> None:
        self.workers = workers

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, timeouts: Timeouts, deadline: float,
        stream: bool = False,
    ) -> Reply:  # fmt: skip
        if b"/health HTTP" in head:
            return Reply(200, {}, json.dumps({"jobs": {}, "workers": self.workers}).encode())
        return await super().send(origin, head, body, timeouts=timeouts, deadline=deadline)


def spec_of(runpod: RunpodRest, id_: str, **changes: Any) -> EndpointSpec:
    url = f"{runpod.endpoint_url}/{id_}/openai/v1"
    rest = runpod.environ()["RUNPOD_REST_URL"]
    return EndpointSpec("big", "runpod", url, "", "", Secret(runpod.key), rest, **changes)


@pytest.mark.parametrize(
    ("limits", "workers", "seen"),
    [
        ({"min": 0, "max": 3}, {"idle": 1}, (State.RUNNING, "flex", True)),
        ({"min": 1, "max": 3}, {"running": 1}, (State.RUNNING, "active", True)),
        ({"min": 1, "max": 3}, {"ready": 1, "initializing": 1}, (State.RUNNING, "active", True)),
        ({"min": 0, "max": 3}, {}, (State.SLEEPING, "flex", True)),
        ({"min": 0, "max": 0}, {}, (State.SLEEPING, "off", False)),
        ({"min": 1, "max": 3}, {}, (State.STARTING, "active", True)),
        ({"min": 0, "max": 3}, {"initializing": 2}, (State.STARTING, "flex", True)),
        ({"min": 0, "max": 3}, {"throttled": 2}, (State.STARTING, "flex", True)),
        ({"min": 1, "max": 3}, {"unhealthy": 1}, (State.ERROR, "active", False)),
    ],
    ids=["idle", "running", "ready", "flex", "off", "none-yet", "initializing", "throttled", "unhealthy"],
)
async def test_every_state(
    runpod: RunpodRest, clock: FakeClock, limits: dict[str, int], workers: dict[str, int], seen: Any
) -> None:
    """By the workers that are allowed and those that are there; the queue takes calls for the rest."""
    id_ = runpod.add("service", workers=limits)
    found = await RunpodDriver(spec_of(runpod, id_), Counted(**workers), clock).look()
    assert (found.state, found.sub, found.serving) == seen
    assert found.url.endswith("/openai/v1")
    assert found.timer == (None if limits["min"] else 10.0)


async def test_what_balances_load_has_no_queue(runpod: RunpodRest, clock: FakeClock) -> None:
    """A load-balancing endpoint without a worker takes no calls."""
    id_ = runpod.add("service", type="LOAD_BALANCER", workers={"min": 0, "max": 3})
    found = await RunpodDriver(spec_of(runpod, id_), Counted(), clock).look()
    assert (found.state, found.serving) == (State.SLEEPING, False)


async def test_workers_of_the_stand_in(runpod: RunpodRest, clock: FakeClock) -> None:
    """Its own /health, with the shape of the platform's, is understood."""
    id_ = runpod.add("service", workers={"min": 0, "max": 1})
    driver = RunpodDriver(spec_of(runpod, id_), PlainTransport(), clock)
    assert (await driver.look()).state is State.SLEEPING
    assert not await driver.answers()
    driver.doubt()
    assert [each.action for each in runpod.seen("get", "health")] == ["get", "health", "health"]


async def test_waking_and_sleeping(runpod: RunpodRest, clock: FakeClock) -> None:
    """One worker is kept, then none, then none is allowed, and then one again."""
    id_ = runpod.add("service", workers={"min": 0, "max": 3, "idleTimeout": 5})
    driver = RunpodDriver(spec_of(runpod, id_), Counted(), clock)

    def limits() -> tuple[int, int]:
        workers = runpod.endpoint(id_)["workers"]
        return workers["min"], workers["max"]

    await driver.wake("flex", 1)
    assert limits() == (1, 3)
    await driver.sleep(pause=False)
    assert limits() == (0, 3)
    await driver.sleep(pause=True)
    assert limits() == (0, 0)
    await driver.wake("off", 1)
    assert limits() == (1, 1)
    assert not await driver.push_timer(900.0)
    assert runpod.endpoint(id_)["workers"]["idleTimeout"] == 5


async def test_the_whole_way(runpod: RunpodRest, clock: FakeClock) -> None:
    """One that is off is woken for a call; kept awake by us, it is put to sleep by us."""
    id_ = runpod.add("service", workers={"min": 0, "max": 0})
    transport = Counted()
    spec = spec_of(runpod, id_, auto_sleep=900.0)
    async with gateway([spec], clock, transport=transport) as one:
        await passing(clock, one.upkeep.tick())
        assert not one.lifecycle.ready("big")
        one.lifecycle.begin_wake("big")
        while not runpod.seen("update"):
            await clock.sleep(0)
        transport.workers = {"idle": 1}
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
        assert (await one.lifecycle.status_of("big"))[1].auto_sleep_by == "gateway"
        clock.advance(901.0)
        await passing(clock, one.upkeep.tick())
        assert runpod.endpoint(id_)["workers"]["min"] == 0
        transport.workers = {}
        clock.advance(31.0)
        await passing(clock, one.upkeep.tick())
        assert one.lifecycle.state_of("big") is State.SLEEPING
        assert one.lifecycle.ready("big"), "its queue takes calls, and a worker starts for them"
    assert len(runpod.seen("update")) == 2


async def test_waking_what_takes_calls_asleep(runpod: RunpodRest, clock: FakeClock) -> None:
    """By hand a worker is started before the calls come, while those that come are let through."""
    id_ = runpod.add("service", workers={"min": 0, "max": 3})
    transport = Counted()
    async with gateway([spec_of(runpod, id_)], clock, transport=transport) as one:
        done = await passing(clock, one.lifecycle.order_wake("big", who="ann"))
        assert (done.state, done.error) == (State.STARTING, "")
        assert one.lifecycle.ready("big")
        transport.workers = {"idle": 1}
        await passing(clock, one.lifecycle.wake("big", never(), running=True))
        assert one.lifecycle.state_of("big") is State.RUNNING
    assert runpod.endpoint(id_)["workers"]["min"] == 1


async def test_refusals(runpod: RunpodRest, clock: FakeClock) -> None:
    """An endpoint that is not there, a wrong key, a change that was not kept."""
    id_ = runpod.add("service", workers={"min": 0, "max": 3})
    with pytest.raises(ManagementError, match="404"):
        await RunpodDriver(spec_of(runpod, "nothing"), Counted(), clock).look()
    spec = EndpointSpec("big", "runpod", "", "", id_, Secret("rpa_canary"), spec_of(runpod, id_).api_url)
    with pytest.raises(ManagementError, match="401") as caught:
        await RunpodDriver(spec, Counted(), clock).wake("flex", 1)
    assert "canary" not in str(caught.value)


async def test_an_id_alone_says_where_inference_goes(clock: FakeClock) -> None:
    """Nobody has to be asked for the address."""
    spec = EndpointSpec("big", "runpod", "", "", "abc123", Secret("k"))
    async with gateway([spec], clock) as one:
        assert one.lifecycle.url_of("big") == "https://api.runpod.ai/v2/abc123"
        assert one.lifecycle.ready("big")


@pytest.mark.parametrize("url", ["", "https://x.example", "https://api.runpod.ai/v2/", "https://["])
def test_an_endpoint_that_nobody_names(url: str) -> None:
    """Without an id it is told what to write."""
    with pytest.raises(Misconfigured, match="endpoint big: give remote"):
        RunpodDriver(EndpointSpec("big", "runpod", url), PlainTransport(), FakeClock())
