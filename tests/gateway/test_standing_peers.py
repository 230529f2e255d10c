"""Judging deployments against their peers, and how much may be tried again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.outcome import OK, Outcome
from router_core.gateway.resilience.budget import RetryBudget
from router_core.gateway.resilience.ejection import judge, panic
from router_core.gateway.resilience.hedge import HedgeBudget
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.values import BreakerPolicy, Deployment, EjectionPolicy

_BAD = Outcome("server_error", "retry", failure=True, status=500)
_NOW = 100.0
_POLICY = EjectionPolicy()
_NEVER = BreakerPolicy(in_a_row=0, ratio=2.0)


def _standing(name: str, good: int = 0, bad: int = 0, seconds: float = 1.0) -> Standing:
    """Return a standing with such a record, whose circuit never opens."""
    deployment = Deployment(id=name, model_id="m", type="openai", model="x")
    standing = Standing(deployment, _NEVER, lambda *_: None)
    for outcome in [OK] * good + [_BAD] * bad:
        permit = standing.begin(_NOW)
        assert permit is not None
        standing.end(permit, outcome, _NOW, seconds)
    return standing


def _ids(standings: list[Standing]) -> list[str]:
    return [each.id for each in standings]


def test_one_that_fails_more_than_its_peers_is_ejected() -> None:
    """40 % against none."""
    standings = [_standing("a", 30), _standing("b", 18, 12), _standing("c", 30)]
    assert _ids(judge(standings, _POLICY, _NOW)) == ["b"]
    assert [each.out(_NOW) for each in standings] == ["", "ejected", ""]


def test_one_that_is_slower_than_its_peers_is_ejected() -> None:
    """More than five times as slow as the median of the others, which is 1.25 s."""
    standings = [_standing("a", 30), _standing("b", 30, seconds=6.3), _standing("c", 30, seconds=1.5)]
    assert _ids(judge(standings, _POLICY, _NOW)) == ["b"]


def test_troubles_shared_by_all_eject_nobody() -> None:
    """When everybody fails alike it is not the deployments."""
    standings = [_standing(name, 10, 20, seconds=9.0) for name in "abc"]
    assert judge(standings, _POLICY, _NOW) == []


@pytest.mark.parametrize("records", [[(0, 50)], [(30, 0), (5, 14)], [(19, 0), (0, 30)]])
def test_too_little_is_known(records: list[tuple[int, int]]) -> None:
    """A lone deployment, one with too few calls, one whose only peer has too few."""
    standings = [_standing(str(number), *record) for number, record in enumerate(records)]
    assert judge(standings, _POLICY, _NOW) == []


def test_at_most_the_share_is_ejected_the_worst_first() -> None:
    """Three of five fail: two may go, and those that are out already count."""
    rates = [(50, 0), (50, 0), (50, 0), (20, 30), (10, 40)]
    standings = [_standing(name, *rate) for name, rate in zip("abcde", rates, strict=True)]
    policy = EjectionPolicy(max_share=0.2)
    assert _ids(judge(standings, policy, _NOW)) == ["e"]
    assert judge(standings, policy, _NOW + 1) == []
    assert _ids(judge(standings, EjectionPolicy(max_share=0.4), _NOW + 2)) == ["d"]


def test_half_of_two_is_one_and_half_of_one_is_none() -> None:
    """Rounded down, so that the last one stays."""
    standings = [_standing("a", 30), _standing("b", 0, 30)]
    assert _ids(judge(standings, _POLICY, _NOW)) == ["b"]
    assert judge(standings[1:], _POLICY, _NOW + 60) == []


def test_it_comes_back_and_is_judged_by_new_calls() -> None:
    """Its old record does not eject it a second time."""
    standings = [_standing("a", 30), _standing("b", 0, 30), _standing("c", 30)]
    judge(standings, _POLICY, _NOW)
    assert standings[1].out(_NOW + 29) == "ejected"
    assert judge(standings, _POLICY, _NOW + 31) == []
    assert standings[1].out(_NOW + 31) == ""


def test_a_policy_may_be_switched_off() -> None:
    """Then nothing is judged."""
    standings = [_standing("a", 30), _standing("b", 0, 30)]
    assert judge(standings, EjectionPolicy(enabled=False), _NOW) == []


def test_one_that_both_fails_and_is_slow_is_ejected_once() -> None:
    """Two reasons take one place."""
    standings = [_standing(name, 30) for name in "abc"] + [_standing("d", 10, 20, seconds=9.0)]
    assert _ids(judge(standings, _POLICY, _NOW)) == ["d"]


def test_panic() -> None:
    """With too few healthy ones health is not believed; busy and cooling ones are healthy."""
    standings = [_standing(name) for name in "abc"]
    candidates = [SimpleNamespace(standing=each) for each in standings]
    assert not panic(candidates, _NOW)
    standings[0].probed(False, "x", _NOW)
    assert not panic(candidates, _NOW)
    standings[1].eject(_NOW, 30.0, "x")
    assert panic(candidates, _NOW)
    assert not panic(candidates, _NOW, 0.3)
    assert not panic([], _NOW)
    permit = standings[2].begin(_NOW)
    assert permit is not None
    standings[2].end(permit, Outcome("rate_limited", "retry", cooldown=9.0), _NOW, 0.1)
    assert not panic(candidates[2:], _NOW)
    assert panic(candidates[:1], _NOW)


# --- budgets -------------------------------------------------------------------------------------


class _Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def test_retries_are_a_share_of_the_calls() -> None:
    """A thousand calls that all fail three times over make two hundred retries, the floor's in advance."""
    clock = _Clock()
    budget = RetryBudget(0.2, 10.0, clock)
    made = 0
    for _ in range(1000):
        budget.call()
        made += sum(budget.allowed() for _ in range(3))
    assert 198 <= made <= 201
    assert (budget.spent, budget.denied) == (made, 3000 - made)


def test_the_floor_lets_a_quiet_process_retry() -> None:
    """Ten a second whatever the traffic, and no more saved up over an hour."""
    clock = _Clock()
    budget = RetryBudget(0.2, 10.0, clock)
    assert sum(budget.allowed() for _ in range(50)) == 10
    clock.now += 0.5
    assert sum(budget.allowed() for _ in range(50)) == 5
    clock.now += 3600
    assert sum(budget.allowed() for _ in range(50)) == 10


def test_the_larger_allowance_counts_not_the_sum() -> None:
    """A hundred calls a second for a minute: twenty retries a second, not thirty."""
    clock = _Clock()
    budget = RetryBudget(0.2, 10.0, clock)
    made = 0
    for _ in range(6000):
        clock.now += 0.01
        budget.call()
        made += budget.allowed()
    assert 1195 <= made <= 1201


def test_what_calls_save_up_is_bounded() -> None:
    """A day of good traffic does not pay for a storm of retries."""
    budget = RetryBudget(0.2, 0.0, _Clock())
    for _ in range(100_000):
        budget.call()
    assert sum(budget.allowed() for _ in range(1000)) == 100


def test_no_share_and_no_floor_is_no_retry() -> None:
    """Both at zero switch retries off."""
    budget = RetryBudget(0.0, 0.0, _Clock())
    budget.call()
    assert not budget.allowed()
    budget.follow(1.0, 0.0)
    budget.call()
    assert budget.allowed()
    assert not budget.allowed()


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=200), st.floats(0, 1), st.floats(0, 20))
def test_the_budget_is_never_exceeded(steps: list[tuple[bool, float]], ratio: float, floor: float) -> None:
    """Whatever the order: no more than both allowances together."""
    clock = _Clock()
    budget = RetryBudget(ratio, floor, clock)
    calls = 0
    for is_call, wait in steps:
        clock.now += wait
        if is_call:
            budget.call()
            calls += 1
        else:
            budget.allowed()
    assert budget.spent <= ratio * calls + floor * (clock.now - 10.0) + max(floor, 1.0) + 1e-6


def test_hedges_are_a_share_of_the_calls_of_a_model() -> None:
    """One in twenty, and ten saved up at most."""
    budget = HedgeBudget(0.05)
    made = 0
    for _ in range(1000):
        budget.call()
        made += budget.allowed()
    assert 49 <= made <= 50
    for _ in range(100_000):
        budget.call()
    assert sum(budget.allowed() for _ in range(100)) == 10
    assert budget.denied == 1000 - made + 90
