"""Waking: once for everybody, across callers and processes, and what becomes of it when things go wrong."""

from __future__ import annotations

import asyncio

import pytest

from router_core.clock import SystemClock
from router_core.errors import NotFound, StoreError
from router_core.gateway.lifecycle.endpoints import WakeFailed
from router_core.gateway.lifecycle.states import State
from router_core.gateway.lifecycle.words import says_asleep
from router_core.state import Entry
from router_core.stores.state_memory import MemoryStateStore
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import Gateway, gateway, never, pair, passing, spec_of, until

ORDERS = ("resume", "pause", "scale-to-zero", "update")


def knocks(hub: HuggingFaceApi) -> int:
    """Count the requests that were sent to wake."""
    return sum("x-scale-up-timeout" in each.headers for each in hub.actions("health"))


async def found_asleep(one: Gateway, name: str = "big") -> None:
    assert one.lifecycle.saw_asleep(name)
    assert not one.lifecycle.ready(name)


async def test_a_hundred_calls_wake_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """100 concurrent calls to a sleeping endpoint are one request that wakes, and all go on."""
    hub.add("ann", "big", state="scaledToZero")
    async with gateway([spec_of(hub, "big")], clock) as one:
        assert one.lifecycle.ready("big"), "a process that has just begun lets the first call find out"
        await found_asleep(one)
        calls = [one.lifecycle.wake("big", never()) for _ in range(100)]
        await passing(clock, asyncio.gather(*calls))
        assert one.lifecycle.ready("big")
        assert one.lifecycle.state_of("big") is State.RUNNING
        assert knocks(hub) == 1
        assert not hub.actions(*ORDERS)
        (entry,) = one.audit("wake")
    assert entry["success"]
    assert (entry["operation"], entry["endpoint"], entry["who"]) == ("wake", "big", "traffic")
    assert entry["timestamp"] >= 1_700_000_000


async def test_two_processes_wake_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Two processes on one state store send one request that wakes between them."""
    hub.add("ann", "big", state="scaledToZero")
    hub.habits.lag = 5.0
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big")]
    async with pair(specs, clock, state) as (one, two):
        await found_asleep(one)
        await found_asleep(two)
        calls = [each.lifecycle.wake("big", never()) for each in (one, two) for _ in range(50)]
        await passing(clock, asyncio.gather(*calls))
        assert one.lifecycle.ready("big")
        assert two.lifecycle.ready("big")
        details = sorted(entry["detail"] for each in (one, two) for entry in each.audit("wake"))
    assert knocks(hub) == 1
    assert details == ["another process wakes it", "ordered"]


async def test_what_is_paused_is_resumed(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A paused endpoint needs one resume and no knock at its door."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        await passing(clock, one.lifecycle.wake("big", never()))
    assert [each.action for each in hub.actions(*ORDERS)] == ["resume"]
    assert knocks(hub) == 0


async def test_the_second_try_resumes(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Scaled to zero, and the knock moves nothing: after a minute the endpoint is resumed."""
    hub.add("ann", "big", state="scaledToZero")
    hub.habits.lag = 1e6
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        waiting = asyncio.ensure_future(one.lifecycle.wake("big", never()))
        await until(clock, lambda: bool(hub.actions("resume")))
        hub.become("big", "running")
        await passing(clock, waiting)
    assert knocks(hub) == 1
    assert len(hub.actions("resume")) == 1


async def test_already_running_is_a_success(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A 400 "already running" to a resume is what was wanted."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        driver = one.lifecycle._endpoints["big"].driver
        hub.become("big", "running")
        await driver.wake("paused", 1)
    assert hub.actions("resume")[0].status == 400


async def test_nobody_waits_longer_than_the_timeout(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """After ``wake_timeout`` all callers are let go, the endpoint is still starting, and later it serves."""
    hub.add("ann", "big", state="paused")
    hub.habits.initializing = 600.0
    async with gateway([spec_of(hub, "big", wake_timeout=300.0)], clock) as one:
        await found_asleep(one)
        began = clock.monotonic()
        calls = [one.lifecycle.wake("big", never()) for _ in range(10)]
        ended = await passing(clock, asyncio.gather(*calls, return_exceptions=True), step=5.0)
        assert [type(each) for each in ended] == [WakeFailed] * 10
        assert 300.0 <= clock.monotonic() - began <= 320.0
        assert one.lifecycle.state_of("big") is State.STARTING
        with pytest.raises(WakeFailed, match="within 300 s") as caught:
            await one.lifecycle.wake("big", never())
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"]
        await until(clock, lambda: one.lifecycle.ready("big"), step=5.0)
        assert one.audit("wake")[-1]["error"] == "it did not start within 300 s"
    assert len(hub.actions("resume")) == 1


async def test_a_call_waits_no_longer_than_its_deadline(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A deadline of a call ends its wait, not the wake."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        with pytest.raises(WakeFailed, match="still starting"):
            await one.lifecycle.wake("big", asyncio.get_running_loop().time() - 1.0)
        await passing(clock, one.lifecycle.wake("big", never()))
    assert len(hub.actions("resume")) == 1


async def test_who_goes_away_cancels_nothing(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Callers that hang up leave the wake to those that stay, even the one that began it."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        calls = [asyncio.ensure_future(one.lifecycle.wake("big", never())) for _ in range(10)]
        await asyncio.sleep(0.01)
        for call in calls[:9]:
            call.cancel()
        await passing(clock, calls[9])
        assert all(call.cancelled() for call in calls[:9])
        assert one.lifecycle.ready("big")
    assert len(hub.actions("resume")) == 1


async def test_a_failed_endpoint_fails_its_callers_at_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """What the provider calls failed is an error, its callers are told, and it is not asked all the time."""
    hub.add("ann", "big", state="paused")
    hub.habits.fails = "no capacity"
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        with pytest.raises(WakeFailed, match="no capacity"):
            await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.state_of("big") is State.ERROR
        looks = len(hub.actions("get"))
        for _ in range(20):
            with pytest.raises(WakeFailed):
                await one.lifecycle.wake("big", never())
        assert len(hub.actions("get")) == looks
    assert len(hub.actions("resume")) == 1


async def test_the_management_api_is_down(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Without the API calls flow; and what is found asleep is woken at its own door."""
    hub.add("ann", "big", state="scaledToZero")
    async with gateway([spec_of(hub, "big")], clock) as one:
        hub.down()
        status = await passing(clock, one.lifecycle.status())
        assert status["big"].status is State.UNKNOWN
        assert one.lifecycle.ready("big")
        await found_asleep(one)
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
        assert one.lifecycle.state_of("big") is State.RUNNING
    assert not hub.actions("get", *ORDERS)


async def test_down_for_good_is_unknown_and_no_error(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A paused endpoint whose API is down cannot be woken: a timeout, and the state is unknown."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big", wake_timeout=60.0)], clock) as one:
        await passing(clock, one.lifecycle.status())
        assert not one.lifecycle.ready("big")
        hub.down()
        with pytest.raises(WakeFailed, match="within 60 s"):
            await passing(clock, one.lifecycle.wake("big", never()), step=2.0)
        assert one.lifecycle.state_of("big") is State.UNKNOWN
        entry = one.audit("wake")[0]
        assert not entry["success"]
        assert hub.token not in str([note.fields for note in one.notes])
        hub.up()
        # time enough for the circuit breaker of the API, and for the wake that nobody waits for to end
        await passing(clock, clock.sleep(120.0), step=2.0)
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")


async def test_a_refusal_ends_the_wake(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A key that may not resume is told to the callers at once; the lease is given back."""
    hub.add("ann", "big", state="paused")
    state = MemoryStateStore(clock)
    async with gateway([spec_of(hub, "big")], clock, state) as one:
        await found_asleep(one)
        hub.fault("resume", status=403, body=b'{"error":"Forbidden"}')
        with pytest.raises(WakeFailed, match="resume: 403 Forbidden"):
            await passing(clock, one.lifecycle.wake("big", never()))
        assert await state.get("endpoints/wake:big") is None
        clock.advance(20.0)
        await passing(clock, one.lifecycle.wake("big", never()))


async def test_another_takes_over_from_one_that_died(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A process dies with the lease and without having given the order: after the lease another gives it."""
    hub.add("ann", "big", state="paused")
    state = MemoryStateStore(clock)
    await state.put("endpoints/wake:big", b"one that died", if_absent=True, ttl=60.0)
    async with gateway([spec_of(hub, "big")], clock, state) as two:
        await found_asleep(two)
        began = clock.monotonic()
        await passing(clock, two.lifecycle.wake("big", never()))
        assert clock.monotonic() - began >= 60.0
    assert len(hub.actions("resume")) == 1


async def test_a_process_that_starts_during_a_wake_joins_it(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A restart while an endpoint starts: no second order, the new process waits for the same start."""
    hub.add("ann", "big", state="paused")
    state = MemoryStateStore(clock)
    async with gateway([spec_of(hub, "big")], clock, state) as one:
        await found_asleep(one)
        one.lifecycle.begin_wake("big")
        await until(clock, lambda: bool(hub.actions("resume")), step=0.0)
    async with gateway([spec_of(hub, "big")], clock, state) as two:
        await found_asleep(two)
        await passing(clock, two.lifecycle.wake("big", never()))
        assert two.lifecycle.ready("big")
    assert len(hub.actions("resume")) == 1


class BrokenStore(MemoryStateStore):
    """Answers nothing."""

    async def get(self, key: str) -> Entry | None:
        raise StoreError("down")

    async def put(
        self, key: str, value: bytes, *, if_version: str | None = None, if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:  # fmt: skip
        raise StoreError("down")


async def test_without_the_store_each_process_goes_on_alone(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A state store that is down keeps nothing from being woken, once in this process, and is told once."""
    hub.add("ann", "big", state="scaledToZero")
    hub.habits.lag = 8.0
    async with gateway([spec_of(hub, "big")], clock, BrokenStore(clock)) as one:
        await found_asleep(one)
        calls = [one.lifecycle.wake("big", never()) for _ in range(20)]
        await passing(clock, asyncio.gather(*calls))
        one.lifecycle.touch("big")
        await passing(clock, one.upkeep.tick())
        told = [note for note in one.notes if note.name == "endpoint_store_down"]
    assert knocks(hub) == 1
    assert len(told) == 1


async def test_with_neither_store_nor_api_it_is_woken_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Nobody says that the order was taken, and it is not given again at every look."""
    hub.add("ann", "big", state="scaledToZero")
    hub.habits.lag = 40.0
    hub.down()
    async with gateway([spec_of(hub, "big")], clock, BrokenStore(clock)) as one:
        await found_asleep(one)
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
    assert knocks(hub) == 1


async def test_nobody_waits_so_nothing_is_woken_again(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """What sleeps when the wake has timed out stays asleep until the next call."""
    hub.add("ann", "big", state="paused")
    hub.habits.lag = 1e6
    async with gateway([spec_of(hub, "big", wake_timeout=100.0)], clock) as one:
        await found_asleep(one)
        with pytest.raises(WakeFailed):
            await passing(clock, one.lifecycle.wake("big", never()), step=2.0)
        orders = len(hub.actions("resume"))
        await passing(clock, clock.sleep(300.0), step=5.0)
        assert len(hub.actions("resume")) == orders
        assert not one.lifecycle.ready("big")


async def test_on_the_machine_s_own_clock() -> None:
    """The same without a clock of the test's: deadlines and looks go by real time."""
    with HuggingFaceApi() as hub:
        hub.habits.pending, hub.habits.initializing = 0.01, 0.1
        hub.add("ann", "big", state="paused")
        async with gateway([spec_of(hub, "big")], SystemClock()) as one:
            await found_asleep(one)
            with pytest.raises(WakeFailed):
                await one.lifecycle.wake("big", asyncio.get_running_loop().time() + 0.02)
            await asyncio.gather(*(one.lifecycle.wake("big", never()) for _ in range(20)))
            assert one.lifecycle.ready("big")
        assert len(hub.actions("resume")) == 1


async def test_a_busy_endpoint_is_not_asleep(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A 503 of an endpoint that was just seen to run is load; some time later it is looked into."""
    hub.add("ann", "big")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        assert one.lifecycle.ready("big")
        assert not one.lifecycle.saw_asleep("big")
        assert one.lifecycle.ready("big")
        clock.advance(6.0)
        await found_asleep(one)
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.ready("big")
    assert not hub.actions(*ORDERS)
    assert len(hub.actions("health")) == 2, "and its health is asked again"


async def test_a_paused_endpoint_says_so(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Paused behind our back: its own word counts at once, and another 400 is the caller's."""
    hub.add("ann", "big")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await passing(clock, one.lifecycle.status())
        assert not one.lifecycle.found_asleep("big", 400, b'{"error":"bad prompt"}')
        assert not one.lifecycle.found_asleep("big", 503, b"")
        assert one.lifecycle.ready("big")
        assert one.lifecycle.found_asleep("big", 400, b'{"error":"Bad Request: The endpoint is paused, ..."}')
        assert not one.lifecycle.ready("big")


async def test_begin_wake_holds_nobody_up(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A big model wakes in the background while a small one serves."""
    hub.add("ann", "big", state="paused")
    async with gateway([spec_of(hub, "big")], clock) as one:
        await found_asleep(one)
        for _ in range(10):
            one.lifecycle.begin_wake("big")
        await until(clock, lambda: one.lifecycle.ready("big"))
        one.lifecycle.begin_wake("big")
    assert len(hub.actions("resume")) == 1


async def test_names_that_nobody_knows(clock: FakeClock) -> None:
    """They are ready, as there is nothing to wait for; waking one is a 404."""
    async with gateway([], clock) as one:
        assert one.lifecycle.ready("nobody")
        assert one.lifecycle.url_of("nobody") == ""
        assert not one.lifecycle.saw_asleep("nobody")
        one.lifecycle.touch("nobody")
        for work in (one.lifecycle.wake("nobody", never()), one.lifecycle.sleep("nobody", who="ann")):
            with pytest.raises(NotFound):
                await work


async def test_a_console_address_is_resolved_first(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The address of the console names the endpoint; where inference goes is learnt before the first call."""
    hub.add("ann", "big")
    url = "https://endpoints.huggingface.co/ann/endpoints/big"
    async with gateway([spec_of(hub, "big", url=url, namespace="", remote="")], clock) as one:
        assert one.lifecycle.url_of("big") == ""
        assert not one.lifecycle.ready("big")
        await passing(clock, one.lifecycle.wake("big", never()))
        assert one.lifecycle.url_of("big") == hub.url("big")
        assert (await one.lifecycle.status())["big"].url == url
        assert hub.actions("get")[0].name == "big"


async def test_an_address_learnt_by_another_process(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """A process that begins while the API is down calls where another was told that the endpoint is."""
    hub.add("ann", "big")
    url = "https://endpoints.huggingface.co/ann/endpoints/big"
    state = MemoryStateStore(clock)
    specs = [spec_of(hub, "big", url=url, namespace="", remote="")]
    async with gateway(specs, clock, state) as one:
        for _ in range(2):
            clock.advance(31.0)
            await passing(clock, one.upkeep.tick())
    hub.down()
    async with gateway(specs, clock, state) as two:
        assert not two.lifecycle.ready("big")
        await passing(clock, two.lifecycle.wake("big", never()))
        assert two.lifecycle.url_of("big") == hub.url("big")
        assert two.lifecycle.ready("big")


async def test_a_process_that_stops_gives_its_lease_back(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Stopped while the order is on its way: another need not wait for the lease to end."""
    hub.add("ann", "big", state="paused")
    state = MemoryStateStore(clock)
    held = hub.fault("resume", "hold")
    async with gateway([spec_of(hub, "big")], clock, state) as one:
        await found_asleep(one)
        waiting = asyncio.ensure_future(one.lifecycle.wake("big", never()))
        await until(clock, lambda: held.times == 0, step=0.0)
        assert await state.get("endpoints/wake:big") is not None
        await one.lifecycle.aclose()
        with pytest.raises(WakeFailed, match="stops"):
            await waiting
        assert await state.get("endpoints/wake:big") is None
        held.released.set()


async def test_a_new_configuration_keeps_what_has_not_changed(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """After a reload an endpoint is known as before; one that changed begins anew, its waiters are let go."""
    for name in ("big", "small"):
        hub.add("ann", name, state="paused")
    big, small = spec_of(hub, "big"), spec_of(hub, "small")
    async with gateway([big, small], clock) as one:
        await passing(clock, one.lifecycle.status())
        waiting = asyncio.ensure_future(one.lifecycle.wake("small", never()))
        await asyncio.sleep(0.01)
        one.lifecycle.apply([spec_of(hub, "big"), spec_of(hub, "small", wake_timeout=1.0)])
        assert one.lifecycle.state_of("big") is State.SLEEPING
        assert one.lifecycle.state_of("small") is State.UNKNOWN
        with pytest.raises(WakeFailed, match="configuration"):
            await passing(clock, waiting)
        one.lifecycle.apply([])
        assert one.lifecycle.names == ()


@pytest.mark.parametrize(
    ("status", "body", "asleep"),
    [
        (503, b"", True),
        (400, b'{"error":"Bad Request: The endpoint is paused, ask a maintainer to restart it"}', True),
        (409, b'{"code":"ENDPOINT_PAUSED","detail":"Endpoint is paused (max_workers=0)."}', True),
        (400, b'{"error":"bad prompt"}', False),
        (409, b"", False),
        (502, b"endpoint is paused", False),
    ],
    ids=["503", "hf-paused", "runpod-paused", "400", "409", "502"],
)
def test_what_endpoints_answer_that_are_not_running(status: int, body: bytes, asleep: bool) -> None:
    """The answers of an endpoint that sleeps are told from others."""
    assert says_asleep(status, body) is asleep
