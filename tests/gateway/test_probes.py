"""Probes: who is asked, when, what the answer means, and who is left alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from router_core.gateway.clients.probe import METRICS, MODELS, Probe
from router_core.gateway.outcome import OK
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.values import EjectionPolicy, HealthPolicy, Price
from tests.gateway.ledger_parts import make_ledger
from tests.gateway.probe_parts import DOWN, FAILED, Place, place, replied


async def test_who_is_well_stays_so() -> None:
    """Asked in each interval, with some jitter, and marked up."""
    world = Place(place())
    await world.begin()
    assert world.standing("a").probe_ok is True
    for _ in range(5):
        await world.round()
    assert len(world["a"].asked) == 6
    assert world.standing("a").out(world.now) == ""
    assert world.told == []


async def test_two_failures_mark_down_and_one_success_up() -> None:
    """The second opinion is asked for soon; an upstream that is down is asked until it is back."""
    world = Place(place())
    world["a"].says = DOWN
    await world.begin()
    assert world.standing("a").out(world.now) == ""
    await world.round(3.1)
    assert world.standing("a").out(world.now) == "unhealthy"
    assert world.standing("a").probe_ok is False
    assert "refused" in world.standing("a").probe_detail
    await world.round(5.0)
    assert len(world["a"].asked) == 2  # no hurry any more
    for _ in range(5):
        await world.round()
        assert world.standing("a").out(world.now) == "unhealthy"
    world["a"].says = replied()
    await world.round()
    assert world.standing("a").out(world.now) == ""
    assert world.told == ["deployment_unhealthy", "deployment_healthy"]


async def test_failures_with_success_between_them_are_forgiven() -> None:
    """Only those in a row count."""
    world = Place(place())
    await world.begin()
    for says in (DOWN, replied(), DOWN, replied(), DOWN):
        world["a"].says = says
        await world.round()
    assert world.standing("a").out(world.now) == ""


@pytest.mark.parametrize(
    "says",
    [
        replied(500), replied(502), replied(503), replied(504), replied(408),
        DOWN, UpstreamFailure("timeout", "first_byte"), UpstreamFailure("tls", "tls"), TimeoutError(),
    ],
    ids=["500", "502", "503", "504", "408", "refused", "timeout", "tls", "given up"],
)  # fmt: skip
async def test_what_speaks_against_an_upstream(says: Exception) -> None:
    """No answer, or one that says that it cannot."""
    world = Place(place())
    world["a"].says = says
    await world.begin()
    await world.round()
    assert world.standing("a").out(world.now) == "unhealthy"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_a_wrong_probe_is_reported_once(status: int) -> None:
    """It answers, so it is up; what is wrong is said once, and again when it is something else."""
    world = Place(place())
    world["a"].says = replied(status)
    await world.begin()
    for _ in range(4):
        await world.round()
    assert world.standing("a").out(world.now) == ""
    assert world.told == ["probe_misconfigured"]
    assert str(status) in world.notes[0].message
    world["a"].says = replied(418)
    await world.round()
    assert world.told == ["probe_misconfigured"] * 2


async def test_being_asked_too_often_is_no_illness() -> None:
    """Nor a mistake of the configuration."""
    world = Place(place())
    world["a"].says = replied(429)
    await world.begin()
    await world.round()
    assert world.standing("a").out(world.now) == ""
    assert world.told == []


async def test_a_client_with_a_flaw_harms_nobody() -> None:
    """It is reported once; the others are asked, and so is it again."""
    world = Place(place("a"), place("b"))
    world["a"].says = RuntimeError("a bug")
    await world.begin()
    await world.round()
    assert world.standing("a").out(world.now) == ""
    assert len(world["a"].asked) == len(world["b"].asked) == 2
    assert world.told == ["probe_misconfigured"]


async def test_calls_that_went_well_are_enough() -> None:
    """Who has served well since the last look is not asked; who has failed, or does nothing, is."""
    world = Place(place())
    await world.begin()
    for _ in range(3):
        world.serve("a", OK, 5)
        await world.round()
    assert len(world["a"].asked) == 1
    world.serve("a", OK, 5)
    world.serve("a", FAILED)
    await world.round()
    assert len(world["a"].asked) == 2
    await world.round()
    assert len(world["a"].asked) == 3


async def test_calls_that_hang_tell_nothing() -> None:
    """They were started, but none has ended."""
    world = Place(place())
    await world.begin()
    world.standing("a").begin(world.now)
    await world.round()
    assert len(world["a"].asked) == 2


async def test_a_failed_probe_is_followed_up_whatever_calls_say() -> None:
    """Otherwise a second opinion might never be heard."""
    world = Place(place())
    world["a"].says = DOWN
    await world.begin()
    world.serve("a", OK)
    await world.round(3.1)
    assert len(world["a"].asked) == 2


async def test_one_upstream_is_never_asked_twice_at_once() -> None:
    """A probe that hangs is waited for, while the others go on."""
    world = Place(place("a"), place("b"))
    world["a"].gate.clear()
    world.now += 1
    await world.prober.tick()
    for _ in range(5):
        world.now += 15
        await world.prober.tick()
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(world["a"].asked) == 1
    assert len(world["b"].asked) > 3
    world["a"].gate.set()
    await world.prober.idle()
    assert world["a"].most_at_once == 1


async def test_probes_are_few_at_once() -> None:
    """Whoever is due has to wait for a place; all of them get one."""
    world = Place(*(place(f"d{n}") for n in range(30)), at_once=4)
    world.now += 1
    await world.prober.tick()
    world.now += 3
    for each in world.upstreams.values():
        each.gate.clear()
    await world.prober.tick()
    await asyncio.sleep(0)
    assert sum(each.at_once for each in world.upstreams.values()) == 4
    for each in world.upstreams.values():
        each.gate.set()
    await world.prober.idle()
    assert all(len(each.asked) == 1 for each in world.upstreams.values())


async def test_probes_are_spread() -> None:
    """Not all in one moment, neither at the start nor later."""
    world = Place(*(place(f"d{n}") for n in range(40)))
    await world.prober.tick()
    assert sum(len(each.asked) for each in world.upstreams.values()) == 0
    for _ in range(20):
        await world.round(0.1)
    first = sum(len(each.asked) for each in world.upstreams.values())
    assert first == 40
    counts = []
    for _ in range(12):
        before = sum(len(each.asked) for each in world.upstreams.values())
        await world.round(1.0)
        counts.append(sum(len(each.asked) for each in world.upstreams.values()) - before)
    assert sum(counts) >= 38
    assert max(counts) <= 25


async def test_deployments_at_one_place_are_asked_once() -> None:
    """Fifty models of one provider with one key are one probe, and its result is that of all."""
    same = [place(f"d{n}", base_url="http://one.test/v1", model=f"m{n}") for n in range(50)]
    other = place("other", base_url="http://one.test/v1", headers=(("x-project", "2"),))
    world = Place(*same, other)
    for each in world.upstreams.values():
        each.says = DOWN
    await world.begin()
    await world.round()
    assert sum(len(each.asked) for each in world.upstreams.values()) == 4
    assert all(world.standing(each.id).out(world.now) == "unhealthy" for each in same)


async def test_scripted_deployments_are_asked_each() -> None:
    """They are different upstreams, though they have no address at all."""
    world = Place(place("a", "scripted", base_url=""), place("b", "scripted", base_url=""))
    await world.begin()
    assert (len(world["a"].asked), len(world["b"].asked)) == (1, 1)


@pytest.mark.parametrize(
    "deployment",
    [place(health=HealthPolicy(interval=0)), place(health=HealthPolicy(interval=-1))],
    ids=["off", "negative"],
)
async def test_probes_that_are_off(deployment: object) -> None:
    """An interval of 0 says so."""
    world = Place(deployment)  # type: ignore[arg-type]
    await world.begin()
    await world.round(100)
    assert world["a"].asked == []


@pytest.mark.parametrize("probe", [None, Probe("GET", "", "none")], ids=["none", "kind none"])
async def test_without_a_free_probe_nobody_is_asked(probe: Probe | None) -> None:
    """Money is spent on request alone."""
    world = Place(place("a", "azure"), probe=probe)
    await world.begin()
    await world.round(100)
    assert (world["a"].asked, world["a"].calls) == ([], [])


# -- endpoints that can be asleep --------------------------------------------------------------------------


async def test_who_sleeps_is_not_woken() -> None:
    """Nor held to have failed: it must be possible to choose it, so that a call wakes it."""
    awake = {"gpu": True}
    world = Place(place(endpoint="gpu"), ready=lambda name: awake[name])
    world["a"].says = DOWN
    await world.begin()
    world.serve("a", FAILED)
    await world.round()
    await world.round()
    assert world.standing("a").out(world.now) == "unhealthy"
    asked = len(world["a"].asked)
    awake["gpu"] = False
    await world.round()
    assert world.standing("a").out(world.now) == ""
    for _ in range(3):
        world.serve("a", FAILED)
        await world.round()
    assert len(world["a"].asked) == asked


async def test_who_may_fall_asleep_is_not_kept_awake() -> None:
    """While nobody calls it, it is not asked either; when calls fail, it is."""
    world = Place(place(endpoint="gpu"), ready=lambda name: True)
    world["a"].metrics = METRICS
    await world.begin()
    await world.round(100)
    world.serve("a", OK)
    await world.round()
    assert world["a"].asked == []
    world.serve("a", FAILED)
    await world.round()
    assert world["a"].asked == ["/health"]


# -- how busy it is ----------------------------------------------------------------------------------------


async def test_the_queue_is_read_also_while_calls_go_well() -> None:
    """That is when it matters; it is 0 again when nobody knows."""
    world = Place(place())
    world["a"].metrics = METRICS
    world["a"].metrics_say = replied(200, b'vllm:num_requests_waiting{model_name="x"} 5.0\n')
    await world.begin()
    assert world.standing("a").queue == 5
    world.serve("a", OK)
    await world.round()
    assert world["a"].asked == ["/health", "/metrics", "/metrics"]
    world["a"].metrics_say = DOWN
    await world.round()
    assert world.standing("a").queue == 0
    assert world.standing("a").out(world.now) == ""


async def test_metrics_that_are_not_there_are_not_asked_for_again() -> None:
    """Until the configuration changes; and they speak against nobody."""
    world = Place(place())
    world["a"].metrics = METRICS
    await world.begin()
    for _ in range(3):
        await world.round()
    assert world["a"].asked.count("/metrics") == 1
    assert world.standing("a").probe_ok is True
    assert world.told == []


# -- probes that cost money ---------------------------------------------------------------------------------

BILLED = HealthPolicy(billed=True)


@pytest.mark.parametrize(
    ("type_", "kind", "endpoint", "limit"),
    [
        ("openai", "text-generation", "chat/completions", {"max_completion_tokens": 128}),
        ("azure", "image-text-to-text", "chat/completions", {"max_completion_tokens": 128}),
        ("anthropic", "text-generation", "chat/completions", {"max_tokens": 16}),
        ("tei", "text-embeddings-inference", "embeddings", {}),
        ("generic", "text-classification", "rerank", {}),
    ],
)
async def test_the_smallest_call_of_each_kind(
    type_: str, kind: str, endpoint: str, limit: dict[str, int]
) -> None:
    """With the limit in the words that the newest models take."""
    world = Place(place("a", type_, health=BILLED), probe=None, kind=kind)
    await world.begin()
    (call,) = world["a"].calls
    assert call.endpoint == endpoint
    body = json.loads(call.body)
    assert {name: value for name, value in body.items() if name.startswith("max_")} == limit
    assert len(call.body) < 200
    assert call.fields is not None
    assert set(call.fields) == set(body)
    assert world.standing("a").probe_ok is True


@pytest.mark.parametrize("kind", ["automatic-speech-recognition", "text-to-image"])
async def test_no_call_is_small_enough(kind: str) -> None:
    """For sound and pictures."""
    world = Place(place("a", "openai", health=BILLED), probe=None, kind=kind)
    await world.begin()
    assert world["a"].calls == []


async def test_what_is_free_is_preferred() -> None:
    """Billed or not."""
    world = Place(place(health=BILLED), probe=MODELS)
    await world.begin()
    assert (world["a"].calls, world["a"].asked) == ([], ["/v1/models"])


async def test_billed_probes_are_booked_and_rare() -> None:
    """On a principal of their own; at most one a minute."""
    ledger = make_ledger()
    world = Place(
        place("a", "openai", health=BILLED, price=Price(1_000_000, 1_000_000)), probe=None, ledger=ledger
    )
    usage = b'{"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}'
    world["a"].says = replied(200, usage)
    await world.begin()
    for _ in range(3):
        await world.round()
    (record,) = ledger.recent()
    assert (record.principal, record.cost, record.probe) == ("gateway-probe", 10, True)
    await world.round(60)
    assert len(world["a"].calls) == 2


async def test_how_a_billed_probe_ends() -> None:
    """Failures count as those of free ones do; wrong credentials are reported; a limit is no illness."""
    world = Place(place("a", "openai", health=BILLED), probe=None, ledger=make_ledger())
    world["a"].says = DOWN
    await world.begin()
    await world.round(80)
    assert world.standing("a").out(world.now) == "unhealthy"
    world["a"].says = replied(401, b'{"error":{"message":"no"}}')
    await world.round(80)
    assert world.standing("a").out(world.now) == ""
    assert world.told == ["deployment_unhealthy", "deployment_healthy", "probe_misconfigured"]
    world["a"].says = replied(429, b'{"error":{"message":"slow down"}}')
    await world.round(80)
    assert world.standing("a").out(world.now) == ""


# -- the whole -----------------------------------------------------------------------------------------------


async def test_a_new_configuration_is_followed() -> None:
    """Who is gone is not asked any more, who is new is asked soon, and who stays keeps what is known."""
    world = Place(place("a"), place("b"))
    world["a"].says = world["b"].says = DOWN
    await world.begin()
    world.apply(place("a"), place("c"))
    gone = world.standing("b")
    await world.round(0.0)
    await world.round(3.1)
    assert world.standing("a").out(world.now) == "unhealthy"
    assert len(world["c"].asked) == 1
    assert gone.probe_ok is None
    assert len(world.prober._watches) == len(world.prober._due) == 2


async def test_one_that_is_gone_while_it_is_asked() -> None:
    """Its probe ends, and no other follows."""
    world = Place(place("a"))
    old = world["a"]
    await world.prober.tick()
    world.now += 3
    old.gate.clear()
    await world.prober.tick()
    await asyncio.sleep(0)
    world.apply()
    await world.prober.tick()
    old.gate.set()
    await world.prober.idle()
    await world.round(100)
    assert len(old.asked) == 1
    assert world.prober._due == []


async def test_a_probe_that_was_wrong_is_tried_anew_after_a_change() -> None:
    """A new key makes a new client, and what was said of the old one is forgotten."""
    world = Place(place())
    world["a"].says = replied(401)
    await world.begin()
    world.upstreams.clear()
    world.apply(replace(place()))
    world["a"].says = replied(401)
    await world.round(0.0)
    await world.round()
    assert world.told == ["probe_misconfigured"] * 2


async def test_outliers_are_ejected() -> None:
    """By the judgement of ``resilience.ejection``, in the interval of the policy."""
    world = Place(*(place(name) for name in "abc"), ejection=EjectionPolicy(minimum=5, interval=5.0))
    await world.begin()
    for name in "abc":
        world.serve(name, OK, 10)
    for _ in range(10):
        world.serve("c", FAILED)
        world.serve("c", OK)
    await world.round(1.0)
    assert world.standing("c").out(world.now) == ""
    await world.round(5.0)
    assert world.standing("c").out(world.now) == "ejected"


async def test_the_loop_lives_until_it_is_cancelled() -> None:
    """A snapshot with a flaw is reported, and the loop goes on; the end takes its probes with it."""
    world = Place(place())
    world["a"].gate.clear()
    assert world.prober.ready(0.0)
    world.snapshot, good = object(), world.snapshot
    loop = asyncio.create_task(world.prober.run())
    await asyncio.sleep(0)
    assert world.told == ["probes_tick_failed"]
    world.snapshot = good
    await world.prober.tick()
    world.now += 3
    await world.prober.tick()
    await asyncio.sleep(0)
    assert world["a"].at_once == 1
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert world["a"].at_once == 0
    assert world.prober.ready(0.0)
    world.now += 100
    assert not world.prober.ready(0.0)
