"""Experiments on real calls: a verdict that holds, guardrails, what is tainted, scores of callers."""

from __future__ import annotations

import pytest

from router_core.errors import Conflict
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.trials.collect import judge_call
from router_core.gateway.trials.concluding import found
from router_core.gateway.trials.tally import Tally
from router_core.stores.state_memory import MemoryStateStore
from router_core.types import ANONYMOUS
from tests.gateway.trial_parts import Breakable, Moved, Place, config, experiment, gone

GOOD = {"old": "seed: 1", "new": "seed: 2"}
WORSE = {"old": "seed: 1", "new": "fail_rate: 0.15, fail_status: 400, seed: 2"}


async def judged(place: Place) -> None:
    """Make calls until the experiment is over, 2000 at most."""
    await place.trials.tick()
    for _ in range(20):
        await place.calls(100)
        await place.trials.tick()
        if place.status("e") != "running":
            return


async def test_a_worse_variant_is_found() -> None:
    """A model that refuses one call in seven loses against one that takes all; calls then take no part."""
    place = Place(config(WORSE, experiment()))
    await judged(place)
    assert place.status("e") == "concluded"
    live = place.trials.get("e", "experiment")
    assert live.state is not None
    assert live.state.winner == "a"
    assert live.state.least_p["b"] <= 0.05
    assert place.notes("experiment_") == ["experiment_started", "experiment_concluded"]
    await place.call()
    assert place.last.trial == ""


async def test_a_better_variant_is_promoted() -> None:
    """Where the verdict is to promote, all calls go to the winner from then on."""
    models = {"old": WORSE["new"], "new": "seed: 2"}
    place = Place(config(models, experiment(onVerdict="promote")))
    await judged(place)
    assert place.status("e") == "promoted"
    place.arms.clear()
    await place.calls(20)
    assert place.arms == {"e/b": 20}


async def test_equals_are_told_to_be_equal_or_nothing() -> None:
    """Two sound models are never told apart, however often one looks."""
    place = Place(config(GOOD, experiment(minDetectableEffect=0.2)))
    await place.trials.tick()
    await place.calls(800, tick_every=40)
    live = place.trials.get("e", "experiment")
    assert live.state is not None
    assert live.state.winner in ("", "a")
    assert found(live.trial, live.state, live.seen).compared[0].finding in ("undecided", "equivalent")  # type: ignore[arg-type]


async def test_arms_get_their_weights_and_keep_their_callers() -> None:
    """A weight of three gets three quarters; who comes again falls to the same arm."""
    variants = [{"name": "a", "modelId": "old", "weight": 3}, {"name": "b", "modelId": "new"}]
    place = Place(config(GOOD, experiment(variants=variants)))
    await place.trials.tick()
    arms = {}
    for number in range(400):
        await place.call(f"user {number}")
        arms[number] = place.last.trial
    assert 0.68 < list(arms.values()).count("e/a") / 400 < 0.82
    for number in range(0, 400, 20):
        await place.call(f"user {number}")
        assert place.last.trial == arms[number]


async def test_a_guardrail_ends_it_without_a_verdict() -> None:
    """A variant that fails ends the experiment before there is a verdict, and soon."""
    models = {"old": "seed: 1", "new": "fail_status: 500"}
    guards = {"maxErrorRateIncrease": 0.1}
    place = Place(config(models, experiment(guardrails=guards, minSamples=5000)))
    await place.trials.tick()
    await place.calls(200)
    assert place.arms["e/b"] < 40
    await place.trials.tick()
    assert place.status("e") == "stopped"
    assert place.failed == 0
    live = place.trials.get("e", "experiment")
    assert live.state is not None
    assert live.state.decisions[-1].why.startswith("a guardrail: maxErrorRateIncrease")


async def test_time_ends_it() -> None:
    """An experiment without a verdict ends when its time is over."""
    place = Place(config(GOOD, experiment(maxDurationSeconds=3600)))
    await place.trials.tick()
    place.clock.at += 3601
    await place.trials.tick()
    assert place.status("e") == "stopped"


async def test_conditions_choose_the_calls() -> None:
    """An experiment on a condition takes ``auto`` calls for which it holds; others go by the rules."""
    rules = "routing_rules:\n  - {name: all, targetModels: [{modelId: old}]}"
    made = config(GOOD, experiment(model=None, condition={"contentLength": {"min": 1}}), more=rules)
    place = Place(made)
    await place.trials.tick()
    await place.call(model="auto")
    assert place.last.trial == ""
    assert place.last.rule == "all"
    held = config(GOOD, experiment(model=None, condition={"contentLength": {"max": 1}}), more=rules)
    place = Place(held)
    await place.trials.tick()
    await place.call(model="auto")
    assert place.last.trial in ("e/a", "e/b")
    assert place.last.rule == ""
    await place.trials.order(place.trials.get("e", "experiment"), "stop", "ann")
    await place.call(model="auto")
    assert (place.last.trial, place.last.rule) == ("", "all")


async def test_orders_start_and_stop() -> None:
    """Stopped, it takes no calls; started again, it counts from nothing; what does not fit is a conflict."""
    place = Place(config(GOOD, experiment()))
    live = place.trials.get("e", "experiment")
    with pytest.raises(Conflict):
        await place.trials.order(live, "start", "ann")
    await place.calls(10)
    assert sum(each.n for each in live.seen.values()) == 10
    await place.trials.order(live, "stop", "ann")
    with pytest.raises(Conflict):
        await place.trials.order(live, "stop", "ann")
    place.arms.clear()
    await place.calls(3)
    assert place.arms == {"": 3}
    await place.trials.order(live, "start", "ann")
    assert sum(each.n for each in live.seen.values()) == 0
    place.gateway.apply(config(GOOD, experiment(enabled=False)))
    with pytest.raises(Conflict):
        await place.trials.order(place.trials.get("e", "experiment"), "start", "ann")


async def test_scores_find_their_arm() -> None:
    """A score counts for the arm of its call, once; that of a call which others served is found by them."""
    store, made = MemoryStateStore(Moved()), config(GOOD, experiment(metric="score"))
    one, two = Place(made, store), Place(made, store)
    for each in (one, two):
        await each.trials.tick()
    await one.call("user 1")
    arm, request = one.last.trial.partition("/")[2], one.last.request_id
    here, there = (each.trials.get("e", "experiment") for each in (one, two))
    assert await two.trials.score(there, request, 4.5, ANONYMOUS) == "left"
    assert await two.trials.score(there, request, 4.5, ANONYMOUS) == "given"
    await one.trials.tick()
    await two.trials.tick()
    assert here.seen[arm].sums["score"].mean == there.seen[arm].sums["score"].mean == 4.5
    assert await one.trials.score(here, request, 1.0, ANONYMOUS) == "given"
    await one.call("user 2")
    assert await one.trials.score(here, one.last.request_id, 2.0, ANONYMOUS) == "counted"
    assert sum(each.sums["score"].n for each in here.seen.values()) == 2


async def test_a_store_that_is_away_takes_no_arm_from_anybody() -> None:
    """Calls go on in their arms and are counted once the store is back."""
    store = Breakable(MemoryStateStore(Moved()))
    place = Place(config(GOOD, experiment()), store)
    await place.trials.tick()
    with gone(store):
        await place.calls(30)
        await place.trials.tick()
    assert "" not in place.arms
    await place.trials.tick()
    other = Place(config(GOOD, experiment()), store)
    await other.trials.tick()
    assert sum(each.n for each in other.trials.get("e", "experiment").seen.values()) == 30


def made(*attempts: tuple[str, str]) -> Call:
    """Return a call with attempts of (model, outcome)."""
    call = Call("chat/completions", "old")
    call.attempts = [
        Attempt(number, model, f"{model}-1", 0.0, outcome=outcome,
                usage=Usage(3, 4) if outcome == "ok" else None, cost=5 if outcome == "ok" else 0)
        for number, (model, outcome) in enumerate(attempts, 1)
    ]  # fmt: skip
    return call


# attempts of (model, outcome); counted, errors, refused, cancelled, tainted, answers in the figures
JUDGED: list[tuple[list[tuple[str, str]], tuple[int, int, int, int, int, int]]] = [
    ([("new", "ok")], (1, 0, 0, 0, 0, 1)),
    ([("new", "server_error"), ("new", "ok")], (1, 1, 0, 0, 0, 1)),
    ([("new", "server_error"), ("old", "ok")], (1, 1, 0, 0, 1, 0)),
    ([("new", "server_error")], (1, 1, 0, 0, 0, 0)),
    ([("new", "client_error")], (1, 0, 1, 0, 0, 0)),
    ([("new", "context_window"), ("old", "ok")], (1, 0, 1, 0, 1, 0)),
    ([("new", "cancelled"), ("new", "ok")], (1, 0, 0, 0, 0, 1)),
    ([("new", "cancelled")], (0, 0, 0, 1, 0, 0)),
    ([("old", "ok")], (0, 0, 0, 0, 1, 0)),
    ([("old", "ok"), ("new", "ok")], (1, 0, 0, 0, 1, 0)),
    ([], (0, 0, 0, 0, 1, 0)),
]


@pytest.mark.parametrize(("attempts", "wanted"), JUDGED, ids=range(len(JUDGED)))
def test_what_a_call_says_about_its_arm(
    attempts: list[tuple[str, str]], wanted: tuple[int, int, int, int, int, int]
) -> None:
    """The model's own tries count, whoever helped; calls that others had a part in are in no figure."""
    tally = Tally()
    judge_call(tally, made(*attempts), "new", 0.5)
    figures = tally.sums["latency"]
    counts = (tally.n, tally.errors, tally.refused, tally.cancelled, tally.tainted, int(figures.n))
    assert counts == wanted
    assert tally.sums["tokens"].sum == 7 * figures.n
    assert tally.sums["cost"].sum == (5 * figures.n)
