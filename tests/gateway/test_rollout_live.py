"""Rollouts on real calls: a regression is taken back, a good canary takes over, orders are obeyed."""

from __future__ import annotations

import random

import pytest

from router_core.errors import Conflict, NotFound
from router_core.gateway.select.bounds import Bounds
from router_core.gateway.trials.tally import Tally
from router_core.gateway.values import GatewayConfig
from router_core.types import Principal
from tests.gateway.calling import make_call
from tests.gateway.trial_parts import FAILING, GOOD, Place, config, rollout


async def test_a_canary_that_fails_is_taken_back_before_many_saw_it() -> None:
    """Half of the canary's calls fail: it is rolled back by itself, fewer than 5 % of all calls fell to it,
    and every caller was answered."""
    place = Place(config(FAILING, rollout(startShare=20)))
    await place.trials.tick()
    await place.calls(1500, tick_every=100)
    assert place.status() == "rolled_back"
    assert 0 < place.arms["r/canary"] < 0.05 * 1500
    assert place.failed == 0
    state = place.trials.get("r", "rollout").state
    assert state is not None
    assert "maxErrorRateIncrease" in state.decisions[-1].why
    assert state.decisions[-1].figures["canary"]["errors"] > 0
    assert place.notes() == ["rollout_started", "rollout_rolled_back"]
    await place.call()
    assert place.last.trial == ""


async def test_a_canary_that_refuses_all_is_taken_back() -> None:
    """Refusals are the caller's mistake, but where only the canary finds so many of them it is the canary."""
    made = config({"old": "seed: 1", "new": "fail_status: 400"}, rollout(startShare=20))
    place = Place(made)
    await place.trials.tick()
    await place.calls(800, tick_every=50)
    assert place.status() == "rolled_back"
    assert place.arms["r/canary"] < 0.05 * 800


async def test_a_canary_that_is_slow_is_taken_back() -> None:
    """A canary that takes twice as long is rolled back before 5 % of the calls of a run fell to it."""
    place = Place(config(GOOD, rollout(startShare=5, rollback={"maxLatencyIncrease": 0.5})))
    await place.trials.tick()
    live, draws = place.trials.get("r", "rollout"), Slow()
    seen = 0
    for number in range(5000):
        call = make_call("chat/completions", {"model": "old", "messages": []})
        call.sticky = f"user {number}"
        arm = live.arm_of(call)
        if arm < 0:
            break
        seen += arm
        live.count(arm, Tally.answered, draws.one(number) * (2.0 if arm else 1.0), 100, 10)
    await place.trials.tick()
    assert place.status() == "rolled_back"
    assert 0 < seen < 0.05 * 5000
    state = live.state
    assert state is not None
    assert "maxLatencyIncrease" in state.decisions[-1].why


class Slow:
    """Latencies as models have them: most of them near a tenth of a second, some much longer."""

    def __init__(self) -> None:
        self._rng = random.Random(3)

    def one(self, number: int) -> float:
        """Return seconds."""
        return 0.1 * self._rng.lognormvariate(0.0, 0.4)


async def test_a_good_canary_takes_over() -> None:
    """Stage by stage, each no sooner than its time and its calls allow; in the end all calls are its own."""
    place = Place(config(GOOD, rollout(stages=[20, 50])))
    await place.trials.tick()
    await place.calls(200)
    await place.trials.tick()
    assert place.notes() == ["rollout_started"], "the time of the stage is not over"
    place.clock.at += 61
    await place.trials.tick()
    assert place.notes()[-1] == "rollout_advanced"
    place.clock.at += 61
    await place.trials.tick()
    assert place.notes()[-1] == "rollout_held", "the second stage has had no calls"
    await place.calls(100)
    await place.trials.tick()
    assert place.status() == "promoted"
    place.arms.clear()
    served = await place.call()
    assert place.arms == {"r/canary": 1}
    assert served is not None
    assert dict(served.headers)["x-router-trial"] == "r/canary"
    assert dict(served.headers)["x-router-model"] == "new"


async def test_who_was_on_the_canary_stays_there() -> None:
    """A share that grows only takes; the same user falls to the same arm, call by call."""
    place = Place(config(GOOD, rollout(stages=[10, 40, 80], strategy="manual")))
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    users = [f"user {number}" for number in range(400)]
    before: set[str] = set()
    for share in (10, 40, 80):
        there = set()
        for user in users:
            await place.call(user)
            if place.last.trial == "r/canary":
                there.add(user)
        assert before <= there
        assert abs(len(there) / len(users) - share / 100) < 0.08
        before = there
        if share < 80:
            await place.trials.order(live, "advance", "ann")
    assert [each.by for each in live.state.decisions] == ["gateway", "ann", "ann"] if live.state else False


@pytest.mark.parametrize(("by", "arms"), [("session", 2), ("user", 1), ("principal", 1)])
async def test_what_keeps_calls_together_is_said(by: str, arms: int) -> None:
    """Calls of one key without a session: drawn one by one, unless the key is to keep them together."""
    place = Place(config(GOOD, rollout(startShare=50, stickyBy=by)))
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    found = set()
    for number in range(40):
        call = make_call("chat/completions", {"model": "old", "messages": []})
        call.principal, call.request_id = Principal("service", kind="key"), f"request-{number}"
        found.add(live.arm_of(call))
    assert len(found) == arms
    call = make_call("chat/completions", {"model": "old", "messages": [], "user": "ann"})
    call.sticky, call.request_id = "ann", "one"
    again = make_call("chat/completions", {"model": "old", "messages": [], "user": "ann"})
    again.sticky, again.request_id = "ann", "two"
    if by != "principal":
        assert live.arm_of(call) == live.arm_of(again)


async def test_orders_are_carried_out_or_refused() -> None:
    """Pause holds the share, resume goes on, rollback ends, and what does not fit is a conflict."""
    place = Place(config(GOOD, rollout(stages=[50, 100], minRequests=1)))
    live = place.trials.get("r", "rollout")
    await place.trials.order(live, "pause", "ann")
    await place.calls(20)
    place.clock.at += 1000
    await place.trials.tick()
    assert place.status() == "paused"
    assert place.arms["r/canary"] > 0
    with pytest.raises(Conflict):
        await place.trials.order(live, "pause", "ann")
    await place.trials.order(live, "resume", "ann")
    await place.trials.order(live, "rollback", "ann")
    with pytest.raises(Conflict):
        await place.trials.order(live, "advance", "ann")
    await place.trials.order(live, "resume", "ann")
    assert place.status() == "running"
    assert live.seen["canary"].n == 0, "it has begun anew"
    await place.trials.order(live, "promote", "ann")
    assert live.state is not None
    told = [(each.action, each.by) for each in live.state.decisions]
    assert told == [("started", "gateway"), ("paused", "ann"), ("resumed", "ann"), ("rolled_back", "ann"),
                    ("started", "ann"), ("promoted", "ann")]  # fmt: skip
    with pytest.raises(NotFound):
        place.trials.get("r", "experiment")


async def test_another_canary_begins_anew_and_other_criteria_do_not() -> None:
    """A configuration that changes what is tried starts from the first stage; one that changes limits goes
    on, with what was counted."""
    models = GOOD | {"newer": "seed: 3"}
    place = Place(config(models, rollout(stages=[50, 100])))
    await place.trials.tick()
    await place.calls(20)
    live = place.trials.get("r", "rollout")
    await place.trials.order(live, "advance", "ann")
    place.gateway.apply(config(models, rollout(stages=[50, 100], minRequests=7)))
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    assert live.state is not None
    assert live.state.stage == 1
    assert live.seen["canary"].n > 0
    place.gateway.apply(config(models, rollout(stages=[50, 100], canary="newer")))
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    assert live.state is not None
    assert live.state.stage == 0
    assert live.seen["canary"].n == 0
    place.gateway.apply(config(models, rollout(enabled=False)))
    place.arms.clear()
    await place.calls(3)
    assert place.arms == {"": 3}


async def test_a_rule_names_both_models() -> None:
    """The stages stand in the place of the rule's own split, and after a rollback all go to its first."""
    rules = (
        "routing_rules:\n  - {name: all, targetModels: [{modelId: old}, {modelId: new}],"
        " trafficSplit: {primary: 10, canary: 90}}"
    )
    made = config(GOOD, rollout(model=None, canary=None, rule="all", stages=[30, 100]), more=rules)
    place = Place(made)
    await place.trials.tick()
    for number in range(200):
        await place.call(f"user {number}", model="auto")
    assert 0.2 < place.arms["r/canary"] / 200 < 0.4
    assert place.last.rule == "all"
    await place.trials.order(place.trials.get("r", "rollout"), "rollback", "ann")
    for number in range(30):
        served = await place.call(f"user {number}", model="auto")
        assert served is not None
        assert dict(served.headers)["x-router-model"] == "old"


async def test_a_stream_is_judged_at_its_end() -> None:
    """A stream counts once, when it is over, with the tokens of all of it."""
    place = Place(config(GOOD, rollout(startShare=100)))
    await place.trials.tick()
    served = await place.call(stream=True)
    live = place.trials.get("r", "rollout")
    assert served is not None
    assert live.seen["canary"].n == 0
    assert not isinstance(served.body, bytes)
    async for _ in served.body:
        pass
    assert live.seen["canary"].n == 1
    assert live.seen["canary"].sums["tokens"].mean > 0


async def test_a_rule_with_other_targets_begins_anew() -> None:
    """The models of a rule are what is tried: with others everything is counted from nothing."""

    def made(second: str) -> GatewayConfig:
        rule = f"routing_rules:\n  - {{name: all, targetModels: [{{modelId: old}}, {{modelId: {second}}}]}}"
        trial = rollout(model=None, canary=None, rule="all", stages=[50, 100])
        return config(GOOD | {"newer": "seed: 3"}, trial, more=rule)

    place = Place(made("new"))
    await place.trials.tick()
    await place.trials.order(place.trials.get("r", "rollout"), "advance", "ann")
    place.gateway.apply(made("newer"))
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    assert live.arms == ("old", "newer")
    assert live.state is not None
    assert live.state.stage == 0


async def test_a_workspace_is_not_led_to_a_model_that_it_may_not_use() -> None:
    """What a workspace may use stands above every rollout: its calls take no part."""
    place = Place(config(GOOD, rollout(startShare=100)))
    await place.trials.tick()
    served = await place.call(bounds=Bounds(frozenset({"old"})))
    assert served is not None
    assert dict(served.headers)["x-router-model"] == "old"
    assert place.last.trial == ""
    await place.call(bounds=Bounds(frozenset({"old", "new"})))
    assert place.last.trial == "r/canary"
