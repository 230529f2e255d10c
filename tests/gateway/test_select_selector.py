"""The selector: panic, the last resort, dry runs, and that filters do nothing but remove."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.call import Call
from router_core.gateway.resilience.ejection import panic
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.selector import Selector
from router_core.gateway.values import EjectionPolicy, Price, StrategyName
from tests.gateway.selecting import break_circuit, cool, deployment, make_call, select, served, standing

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)


class TestPanic:
    """Too few are healthy to believe that all the others are ill."""

    def test_below_the_threshold_health_is_ignored(self) -> None:
        """One of four is healthy: all four get calls, and the decision says so."""
        selector = select("shuffle", *(deployment(name) for name in "abcd"))
        for name in "bcd":
            standing(selector, name).probed(False, "no answer", 0.0)
        call = make_call()
        assert min(served(selector, 200, call).values()) > 20
        assert call.decision.reason == "panic"
        assert "reason=panic" in call.decision.header()
        assert call.decision.removed == ()

    def test_at_the_threshold_it_is_not(self) -> None:
        """Two of four are enough."""
        selector = select("shuffle", *(deployment(name) for name in "abcd"))
        for name in "cd":
            standing(selector, name).eject(0.0, 30.0, "slow")
        found = served(selector, 100)
        assert (found["c"], found["d"]) == (0, 0)

    def test_its_threshold_is_that_of_the_policy(self) -> None:
        """And of nothing else: with 0 there is no panic."""
        selector = select(
            "shuffle", *(deployment(name) for name in "abcd"), ejection=EjectionPolicy(panic=0.0)
        )
        for name in "bcd":
            standing(selector, name).probed(False, "no answer", 0.0)
        assert served(selector, 50)["a"] == 50

    def test_an_open_circuit_is_never_ignored_while_others_are_left(self) -> None:
        """It has seen its own calls fail: to ask it again would only spend retries."""
        selector = select("shuffle", *(deployment(name) for name in "abcd"))
        break_circuit(selector, "b", "c", "d")
        assert panic(selector.candidates, 0.0)
        call = make_call()
        assert served(selector, 50, call)["a"] == 50
        assert call.decision.reason == ""

    def test_panic_gives_up_what_is_doubtful_and_keeps_what_is_sure(self) -> None:
        """Cooldown and circuit stay."""
        selector = select("shuffle", *(deployment(name) for name in "abcde"))
        break_circuit(selector, "a", "b")
        standing(selector, "c").probed(False, "no answer", 0.0)
        standing(selector, "d").eject(0.0, 30.0, "slow")
        cool(selector, "e", 30.0)
        call = make_call()
        found = served(selector, 100, call)
        assert {name for name, count in found.items() if count} == {"c", "d"}
        assert dict(call.decision.removed) == {"a": "open_circuit", "b": "open_circuit", "e": "cooldown"}

    def test_rather_an_unhealthy_one_than_nobody(self) -> None:
        """The healthy one was tried: no panic, and still one is left that may serve."""
        selector = select("shuffle", deployment("a"), deployment("b"))
        standing(selector, "b").eject(0.0, 30.0, "slow")
        call = make_call()
        chosen = selector.pick(call, 0.0, {"a"})
        assert chosen is not None
        assert chosen.id == "b"
        assert call.decision.reason == "last_resort"
        assert call.decision.removed == (("a", "tried"),)


class TestNobodyLeft:
    """What to do then."""

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_a_lone_deployment_is_not_refused_for_ever(self, name: StrategyName) -> None:
        """Its circuit is open: nobody is picked, it is the closest, and in time it is picked again."""
        selector = select(name, deployment("a"))
        break_circuit(selector, "a")
        call = make_call()
        assert selector.pick(call, 0.0) is None
        assert (call.decision.chosen, call.decision.reason) == ("", "open_circuit")
        assert "chosen=none" in call.decision.header()
        closest = selector.closest(0.0, call)
        assert closest is not None
        assert closest.standing.begin(0.0, early=True) is not None
        back = select(name, deployment("a"))
        break_circuit(back, "a")
        chosen = back.pick(call, standing(back, "a").back_at(0.0))
        assert chosen is not None
        assert chosen.id == "a"

    def test_the_closest_is_back_first(self) -> None:
        """Of several that are out, whatever for."""
        selector = select("shuffle")
        break_circuit(selector, "a")
        cool(selector, "b", 2.0)
        cool(selector, "c", 60.0)
        assert selector.pick(make_call(), 0.0) is None
        closest = selector.closest(0.0)
        assert closest is not None
        assert closest.id == "b"
        tried = selector.closest(0.0, None, {"b"})
        assert tried is not None
        assert tried.id == "a"
        again = selector.closest(0.0, None, {"a", "b", "c"})
        assert again is not None
        assert again.id == "b"

    def test_the_closest_can_serve_the_call(self) -> None:
        """One that could not is of no use when it is back."""
        selector = select("shuffle", deployment("small", max_context_length=10), deployment("large"))
        cool(selector, "small", 1.0)
        cool(selector, "large", 60.0)
        closest = selector.closest(0.0, make_call(input_tokens=100))
        assert closest is not None
        assert closest.id == "large"

    def test_a_model_without_deployments_says_so(self) -> None:
        """Instead of failing."""
        selector = Selector(select("shuffle").model, (), rng=Random(1))
        call = make_call()
        assert selector.pick(call, 0.0) is None
        assert call.decision.reason == "no_deployments"
        assert selector.closest(0.0) is None
        assert selector.explain(call, 0.0).chosen == ""


class TestRequirements:
    """What is remembered for a set of requirements."""

    def test_strangers_cannot_fill_the_memory(self) -> None:
        """Any number of made-up tags leaves a bounded number of sets."""
        selector = select("shuffle", deployment("a", tags=frozenset({"x"})), deployment("b"))
        for number in range(2_000):
            assert selector.pick(make_call(tags=frozenset({f"t{number}"})), 0.0) is None
        assert len(selector._fitting) <= 256
        chosen = selector.pick(make_call(tags=frozenset({"x"})), 0.0)
        assert chosen is not None
        assert chosen.id == "a"

    def test_two_sets_do_not_mix(self) -> None:
        """Decisions are those of the call, not of the one before."""
        selector = select("shuffle", deployment("a", region="eu"), deployment("b"))
        for _ in range(10):
            eu, any_region = make_call(region="eu"), make_call()
            selector.pick(eu, 0.0)
            selector.pick(any_region, 0.0)
            assert eu.decision.removed == (("b", "region"),)
            assert any_region.decision.removed == ()

    def test_a_candidate_that_moves_to_another_selector_takes_no_decision_along(self) -> None:
        """A new configuration keeps the candidates that it does not change."""
        old = select("shuffle", deployment("a"))
        call = make_call()
        assert old.pick(call, 0.0) is not None
        assert call.decision.strategy == "shuffle"
        other = select("weighted", deployment("b"))
        new = Selector(other.model, (*old.candidates, *other.candidates), rng=Random(1))
        for _ in range(20):
            assert new.pick(call, 0.0) is not None
            assert (call.decision.strategy, call.decision.considered) == ("weighted", 2)
            assert old.pick(call, 0.0) is not None
            assert (call.decision.strategy, call.decision.considered) == ("shuffle", 1)


# --- whatever the world looks like --------------------------------------------------------------

WORDS = ("eu", "us", "gdpr")
SETS = st.frozensets(st.sampled_from(WORDS), max_size=2)
TRIED = st.frozensets(st.sampled_from("abcd"), max_size=4)
CALLS = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from(["chat/completions", "embeddings"]),
        "tags": SETS,
        "compliance": SETS,
        "needs": SETS,
        "region": st.sampled_from(["", *WORDS]),
        "input_tokens": st.integers(0, 200),
        "max_tokens": st.none() | st.integers(0, 50),
        "max_cost": st.none() | st.integers(0, 300),
        "sticky": st.text(max_size=3),
    }
)
DEPLOYMENTS = st.fixed_dictionaries(
    {
        "tags": SETS,
        "compliance": SETS,
        "capabilities": SETS,
        "region": st.sampled_from(["", *WORDS]),
        "weight": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "priority": st.integers(0, 2),
        "max_context_length": st.none() | st.integers(1, 200),
        "max_concurrency": st.none() | st.just(1),
        "price": st.none() | st.builds(Price, st.integers(0, 10**6), st.integers(0, 10**6)),
    }
)
STATES = st.lists(
    st.sampled_from(["fine", "circuit", "cooling", "ejected", "ill", "busy"]), min_size=4, max_size=4
)


def world(name: StrategyName, members: list[dict[str, Any]], states: list[str], seed: int) -> Selector:
    """Make a selector whose deployments are in these states."""
    selector = select(
        name, *(deployment(each, **own) for each, own in zip("abcd", members, strict=False)), seed=seed
    )
    for candidate, state in zip(selector.candidates, states, strict=False):
        if state == "circuit":
            break_circuit(selector, candidate.id)
        elif state == "cooling":
            cool(selector, candidate.id, 30.0)
        elif state == "ejected":
            candidate.standing.eject(0.0, 30.0, "slow")
        elif state == "ill":
            candidate.standing.probed(False, "no answer", 0.0)
        elif state == "busy":
            candidate.standing.begin(0.0)
    return selector


def allowed(candidate: Candidate, call: Call, tried: frozenset[str]) -> bool:
    """Say again, in other words than the filters, whether one may be asked at all."""
    own = candidate.deployment
    need = call.input_tokens + (call.max_tokens or 0)
    return (
        candidate.id not in tried
        and call.endpoint in candidate.client.ENDPOINT_TABLE
        and all(tag in own.tags for tag in call.tags)
        and all(policy in own.compliance for policy in call.compliance)
        and (not own.capabilities or all(need in own.capabilities for need in call.needs))
        and (not call.region or own.region == call.region)
        and (own.max_context_length is None or need <= own.max_context_length)
        and (call.max_cost is None or own.price is not None)
        and candidate.standing.out(0.0) in ("", "ejected", "unhealthy")
    )


@given(
    st.sampled_from(STRATEGIES), st.lists(DEPLOYMENTS, min_size=1, max_size=4), STATES, CALLS, TRIED,
    st.integers(0, 99),
)  # fmt: skip
def test_filters_only_remove_and_what_is_removed_is_never_picked(
    name: StrategyName, members: list[dict[str, Any]], states: list[str], asked: dict[str, Any],
    tried: frozenset[str], seed: int,
) -> None:  # fmt: skip
    """Kept and removed are all there are, once each, and who is chosen was kept for good reasons."""
    selector = world(name, members, states, seed)
    call = make_call(**asked)
    chosen = selector.pick(call, 0.0, tried)
    decision = call.decision
    kept, removed = set(decision.kept), {each for each, _ in decision.removed}
    assert len(decision.kept) + len(decision.removed) == len(selector.candidates) == decision.considered
    assert kept | removed == {each.id for each in selector.candidates}
    assert all(allowed(each, call, tried) for each in selector.candidates if each.id in kept)
    if chosen is None:
        assert (decision.chosen, kept) == ("", set())
        assert not any(allowed(each, call, tried) and call.max_cost is None for each in selector.candidates)
        assert decision.reason
    else:
        assert decision.chosen == chosen.id in kept
    text = decision.header()
    assert text.isascii()
    assert text.isprintable()


@given(
    st.sampled_from(STRATEGIES), st.lists(DEPLOYMENTS, min_size=1, max_size=4), STATES, CALLS, TRIED,
    st.integers(0, 99), st.integers(0, 3),
)  # fmt: skip
def test_a_dry_run_tells_the_next_pick_and_changes_nothing(
    name: StrategyName, members: list[dict[str, Any]], states: list[str], asked: dict[str, Any],
    tried: frozenset[str], seed: int, before: int,
) -> None:  # fmt: skip
    """However often it is asked, the picks after it are those of a selector that nobody asked."""
    watched, alone = (world(name, members, states, seed) for _ in range(2))
    for selector in (watched, alone):
        for _ in range(before):
            selector.pick(make_call(), 0.0)
    call = make_call(**asked)
    told = [watched.explain(call, 0.0, tried) for _ in range(2)]
    assert call.decision is None
    assert told[0] == told[1]
    assert [each.standing.inflight for each in watched.candidates] == [
        each.standing.inflight for each in alone.candidates
    ]
    for number in range(4):
        one, two = make_call(**asked), make_call(**asked)
        watched.pick(one, 0.0, tried)
        alone.pick(two, 0.0, tried)
        assert one.decision == two.decision
        if not number:
            assert (told[0].chosen, told[0].kept) == (one.decision.chosen, one.decision.kept)
            assert told[0].removed == one.decision.removed
