"""Sleeping: by hand, by the provider's timer, by our own; and never under a call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router_core.gateway.lifecycle.awake import AlwaysAwake
from router_core.gateway.lifecycle.driver import Seen
from router_core.gateway.lifecycle.shared import Shared
from router_core.gateway.lifecycle.states import State
from router_core.gateway.values import EndpointSpec
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import Gateway, gateway, never, pair, passing, spec_of, until

ORDERS = ("resume", "pause", "scale-to-zero", "update")


async def ticked(one: Gateway, seconds: float, step: float = 10.0) -> None:
    """Let time pass with a tick now and then."""
    clock = one.clock
    assert isinstance(clock, FakeClock)
    while seconds > 0:
        await passing(clock, one.upkeep.tick())
        clock.advance(step)
        seconds -= step
    await passing(clock, one.upkeep.tick())


def add_stubborn(hub: HuggingFaceApi) -> None:
    """Add an endpoint that the provider refuses to put to sleep by itself."""
    hub.add("ann", "big")
    hub.fault("update", status=403, times=10**6)


async def test_by_hand(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """It stops, then it sleeps; calls wait from the order on; and who did it is written down."""
    hub.add("ann", "big")
    hub.habits.lag = 20.0
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        done = await one.lifecycle.sleep("big", who="ann")
        assert (done.state, done.error) == (State.STOPPING, "")
        assert not one.lifecycle.ready("big")
        clock.advance(10.0)
        status = (await one.lifecycle.status())["big"]
        assert (status.status, status.auto_sleep_in) == (State.STOPPING, None)
        clock.advance(20.0)
        status = (await one.lifecycle.status())["big"]
        assert status.status is State.SLEEPING
        assert status.sleep_time == 1_700_000_000
        (entry,) = one.audit("sleep")
        assert (entry["who"], entry["success"], entry["error"]) == ("ann", True, None)
        states = [(note.fields["before"], note.fields["after"]) for note in one.notes_of("endpoint_state")]
    assert states == [("unknown", "running"), ("running", "stopping"), ("stopping", "sleeping")]
    assert [each.action for each in hub.actions(*ORDERS)] == ["scale-to-zero"]


async def test_a_call_during_the_stop_wakes_it_afterwards(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """While it stops it cannot be woken: the call waits for the end of that, and for the wake."""
    hub.add("ann", "big")
    hub.habits.lag = 20.0
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        await one.lifecycle.sleep("big", who="ann", pause=True)
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
    assert [each.action for each in hub.actions(*ORDERS)] == ["pause", "resume"]


async def test_sleep_calls_a_wake_off(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Who waits for a wake is told at once when somebody puts the endpoint to sleep."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        waiting = asyncio.ensure_future(one.lifecycle.wake("big", never()))
        await until(clock, lambda: bool(hub.actions("resume")), step=0.0)
        await one.lifecycle.sleep("big", who="ann", pause=True)
        with pytest.raises(Exception, match="put to sleep"):
            await passing(clock, waiting)
        assert hub.state("big") == "paused"


async def test_what_was_woken_and_put_to_sleep_wakes_again_at_once(
    hub: HuggingFaceApi, clock: FakeClock
) -> None:
    """The order to wake of a moment ago does not stand in the way of the next one."""
    hub.add("ann", "big", state="scaledToZero")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        await passing(clock, one.lifecycle.wake("big", never()))
        await passing(clock, one.lifecycle.sleep("big", who="ann"))
        slept = clock.monotonic()
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
        assert clock.monotonic() - slept < 30.0


async def test_a_refusal_leaves_it_awake(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """When the provider does not take the order, calls go on as before and the error is told."""
    hub.add("ann", "big")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        hub.fault("scale-to-zero", status=403, body=b'{"error":"Forbidden"}')
        done = await one.lifecycle.sleep("big", who="ann")
        assert (done.state, done.error, done.status) == (
            State.RUNNING, "scale-to-zero: 403 Forbidden", 403,
        )  # fmt: skip
        assert one.lifecycle.ready("big")
        assert one.audit("sleep")[0]["error"] == done.error


async def test_what_has_no_driver_cannot_sleep(clock: FakeClock) -> None:
    """It is always awake, is never put to sleep, and has no countdown."""
    specs = [EndpointSpec("plain", "none", "https://x.example")]
    async with gateway(specs, clock) as one:
        await ticked(one, 2000.0, 100.0)
        status, detail = await one.lifecycle.status_of("plain")
        assert (status.status, status.auto_sleep_in, detail.auto_sleep_by) == (State.RUNNING, None, None)
        assert (await one.lifecycle.sleep("plain", who="ann")).status == 409
        assert one.lifecycle.ready("plain")
        assert not one.lifecycle.saw_asleep("plain")
        await one.lifecycle.wake("plain", never())


async def test_the_provider_is_told_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Its timer is set in minutes, read back, and neither repeated by another process nor at a restart."""
    hub.add("ann", "big", min_replica=1)
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big", auto_sleep=900.0)]
    for _ in range(2):
        async with pair(specs, clock, state) as (one, two):
            await ticked(one, 60.0)
            await ticked(two, 60.0)
            assert (await one.lifecycle.status_of("big"))[1].auto_sleep_by == "provider"
    (update,) = hub.actions("update")
    assert update.json == {"compute": {"scaling": {"minReplica": 0, "scaleToZeroTimeout": 15}}}
    assert not hub.actions("scale-to-zero")


async def test_what_is_set_there_already_is_left(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A timer that is as wanted is not set again."""
    hub.add("ann", "big", scale_to_zero_timeout=15)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock) as one:
        await ticked(one, 60.0)
        countdown = (await one.lifecycle.status())["big"].auto_sleep_in
    assert countdown == 840
    assert not hub.actions("update")


async def test_what_somebody_changed_there_is_left(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A timer that an operator lengthened later is not fought over, not after a restart either: ours sleeps
    the endpoint in time."""
    hub.add("ann", "big")
    state = MemoryStateStore(clock)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
        await ticked(one, 60.0)
        hub._named("big").scaling["scaleToZeroTimeout"] = 600
        await ticked(one, 60.0)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
        await ticked(one, 1000.0, 100.0)
    assert len(hub.actions("update")) == 1
    assert hub.state("big") == "scaledToZero"


async def test_our_own_timer(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Where the provider does not do it, idleness is counted here, from the last call."""
    add_stubborn(hub)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock) as one:
        await ticked(one, 500.0, 50.0)
        one.lifecycle.touch("big")
        await ticked(one, 880.0)
        status = (await one.lifecycle.status())["big"]
        assert (status.status, status.auto_sleep_in) == (State.RUNNING, 20)
        await ticked(one, 30.0)
        assert hub.state("big") == "scaledToZero"
        (entry,) = one.audit("sleep")
        assert entry["who"] == "auto-sleep"
        assert (await one.lifecycle.status())["big"].status is State.SLEEPING
        (setting,) = one.audit("auto_sleep_setting")
        assert not setting["success"]
    assert len(hub.actions("scale-to-zero")) == 1


async def test_never_under_a_call(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A stream that lasts an hour keeps it awake, and the countdown begins at its end."""
    add_stubborn(hub)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock) as one:
        one.lifecycle.touch("big")
        one.busy["big"] = 1
        await ticked(one, 3600.0, 60.0)
        assert hub.state("big") == "running"
        one.busy["big"] = 0
        await ticked(one, 840.0, 60.0)
        assert hub.state("big") == "running"
        await ticked(one, 120.0, 60.0)
    assert hub.state("big") == "scaledToZero"


async def test_activity_of_other_processes_counts(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """What one process serves, no other puts to sleep; and they write no more than twice a minute."""
    add_stubborn(hub)
    state = Counting(clock)
    specs = [spec_of(hub, "big", auto_sleep=900.0)]
    async with pair(specs, clock, state) as (one, two):
        await ticked(two, 60.0)
        before = state.puts
        for _ in range(180):
            for _ in range(100):
                one.lifecycle.touch("big")
            await ticked(two, 0.0)
            clock.advance(10.0)
        assert state.puts - before <= 1800 / 30 + 2
        assert hub.state("big") == "running"
        told = (await two.lifecycle.status())["big"]
        assert told.last_activity is not None
        assert told.last_activity >= clock.now() - 60
        await ticked(two, 960.0)
    assert hub.state("big") == "scaledToZero"


async def test_a_call_elsewhere_at_the_last_moment_counts(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Before it is put to sleep, what the others have written is read once more."""
    add_stubborn(hub)
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big", auto_sleep=885.0)]
    async with pair(specs, clock, state) as (one, two):
        await ticked(one, 870.0)
        two.lifecycle.touch("big")
        await asyncio.sleep(0.01)
        # less than half a minute after it has last read what the others say
        clock.advance(20.0)
        await passing(clock, one.upkeep.tick())
    assert not hub.actions("scale-to-zero")


async def test_without_a_loop_ticks_do_it(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Each tick is a new process, as a function on a schedule may be: it sleeps all the same."""
    add_stubborn(hub)
    state = MemoryStateStore(clock)
    for _ in range(3):
        async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
            assert hub.state("big") == "running"
            clock.advance(31.0)
            await passing(clock, one.upkeep.tick())
            await passing(clock, one.upkeep.tick())
            clock.advance(31.0)
            await passing(clock, one.upkeep.tick())
            await one.upkeep.idle()
        clock.advance(300.0)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
        await passing(clock, one.upkeep.tick())
        status = (await one.lifecycle.status())["big"]
    assert hub.state("big") == "scaledToZero"
    assert status.sleep_time is not None


async def test_two_processes_sleep_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Both find it idle at the same time; one gives the order."""
    add_stubborn(hub)
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big", auto_sleep=900.0)]
    async with pair(specs, clock, state) as (one, two):
        for _ in range(2):
            await passing(clock, asyncio.gather(one.upkeep.tick(), two.upkeep.tick()))
            clock.advance(901.0)
        await passing(clock, asyncio.gather(one.upkeep.tick(), two.upkeep.tick()))
    assert len(hub.actions("scale-to-zero")) == 1


async def test_times_are_told_by_every_process(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """One process puts it to sleep, another tells when."""
    hub.add("ann", "big")
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big")]
    async with pair(specs, clock, state) as (one, two):
        await passing(clock, one.lifecycle.status())
        clock.advance(100.0)
        await one.lifecycle.sleep("big", who="ann")
        status = (await two.lifecycle.status())["big"]
    assert (status.status, status.sleep_time) == (State.SLEEPING, 1_700_000_100)


async def test_the_loop(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """It goes on whatever fails, follows what happens at the provider, and says that it lives."""
    hub.add("ann", "big")
    async with gateway([spec_of(hub, "big")], clock) as one:
        loop = asyncio.ensure_future(one.upkeep.run())
        try:
            await until(clock, lambda: one.lifecycle.state_of("big") is State.RUNNING)
            hub.become("big", "paused")
            await until(clock, lambda: one.lifecycle.state_of("big") is State.SLEEPING, step=5.0)
            hub.down()
            await until(clock, lambda: one.lifecycle.state_of("big") is State.UNKNOWN, step=5.0)
            assert not one.lifecycle.ready("big")
            await passing(clock, clock.sleep(400.0), step=5.0)
            assert one.upkeep.ready(clock.now())
        finally:
            loop.cancel()
        clock.advance(1000.0)
        assert not one.upkeep.ready(clock.now())


async def test_one_that_fails_keeps_no_other_from_its_turn(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A fault in a driver is told, and its endpoint is unknown; the others have their turn."""
    hub.add("ann", "big")
    broken = EndpointSpec("broken", "none", "https://x.example")
    async with gateway([broken, spec_of(hub, "big")], clock) as one:
        one.lifecycle._endpoints["broken"].driver = Broken("https://x.example")
        await passing(clock, one.upkeep.tick())
        assert one.lifecycle.state_of("big") is State.RUNNING
        assert one.lifecycle.state_of("broken") is State.UNKNOWN
        assert one.lifecycle.ready("broken")
        (note,) = one.notes_of("endpoint_look_failed")
        assert isinstance(note.error, RuntimeError)


class Broken(AlwaysAwake):
    """A driver with a fault."""

    async def look(self) -> Seen:
        raise RuntimeError("a fault of ours")


class Counting(MemoryStateStore):
    """Counts what is written."""

    puts = 0

    async def put(self, key: str, value: bytes, **options: Any) -> str:
        self.puts += 1
        return await super().put(key, value, **options)


@pytest.mark.parametrize(
    "value", [b"", b"x", b"[]", b'{"last_activity": "x", "url": 5}', b'{"since": -1, "new": 1}', b"\xff"],
    ids=["empty", "text", "list", "types", "negative", "bytes"],
)  # fmt: skip
async def test_a_record_that_cannot_be_read_is_none(clock: FakeClock, value: bytes) -> None:
    """Whatever stands there is written over, not stumbled over."""
    state = MemoryStateStore(clock)
    await state.put("endpoints/record:big", value)
    shared = Shared(state, Events())
    found = await shared.read("big")
    assert found is not None
    assert (found.last_activity, found.since, found.url) == (0.0, 0.0, "")
