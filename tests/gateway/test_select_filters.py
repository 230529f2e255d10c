"""Filters: each removes for its own reason, with a word and with words."""

from __future__ import annotations

from typing import Any

import pytest

from router_core.gateway.select.filters import ASSUMED_OUTPUT, estimate, foremost
from router_core.gateway.values import Deployment, Price, StrategyName
from tests.gateway.selecting import (
    Embedder,
    break_circuit,
    cool,
    deployment,
    make_call,
    select,
    standing,
)

SHUFFLE: StrategyName = "shuffle"

DOLLAR = Price(1_000_000, 1_000_000)

STATIC: list[tuple[str, Deployment, dict[str, Any], str]] = [
    ("context_window", deployment("x", max_context_length=100), {"input_tokens": 90, "max_tokens": 11},
     "it holds 100 tokens, the call needs 101"),
    ("capabilities", deployment("x", capabilities=frozenset({"tools"})),
     {"needs": frozenset({"tools", "vision"})}, "it lacks vision"),
    ("tags", deployment("x", tags=frozenset({"fast"})), {"tags": frozenset({"fast", "eu"})}, "eu"),
    ("region", deployment("x", region="us-east-1"), {"region": "eu"}, "it is in us-east-1"),
    ("region", deployment("x"), {"region": "eu"}, "unknown region"),
    ("compliance", deployment("x", compliance=frozenset({"gdpr"})),
     {"compliance": frozenset({"gdpr", "hipaa"})}, "hipaa"),
    ("budget", deployment("x", price=DOLLAR), {"max_cost": 99, "input_tokens": 90, "max_tokens": 10}, "100"),
    ("unpriced", deployment("x"), {"max_cost": 10**9}, "price is not known"),
]  # fmt: skip
FITTING: list[tuple[Deployment, dict[str, Any]]] = [
    (deployment("x", max_context_length=100), {"input_tokens": 90, "max_tokens": 10}),
    (deployment("x"), {"input_tokens": 10**9}),
    (deployment("x"), {"needs": frozenset({"vision"})}),
    (deployment("x", tags=frozenset({"a", "b"})), {"tags": frozenset({"a"})}),
    (deployment("x", region="eu"), {"region": "eu"}),
    (deployment("x", region="EU-West-3"), {"region": "eu-west"}),
    (deployment("x", compliance=frozenset({"gdpr", "hipaa"})), {"compliance": frozenset({"gdpr"})}),
    (deployment("x", price=DOLLAR), {"max_cost": 100, "input_tokens": 90, "max_tokens": 10}),
]


@pytest.mark.parametrize(("reason", "removed", "asked", "words"), STATIC)
def test_what_does_not_fit_is_removed_with_a_reason(
    reason: str, removed: Deployment, asked: dict[str, Any], words: str
) -> None:
    """Alone it leaves nobody, and the decision says why in both ways."""
    selector = select(SHUFFLE, removed)
    call = make_call(**asked)
    assert selector.pick(call, 0.0) is None
    assert call.decision.removed == (("x", reason),)
    assert call.decision.reason == reason
    assert not call.decision.passing
    [said] = call.decision.explain()["candidates"]
    assert said["kept"] is False
    assert words in said["detail"]
    assert selector.closest(0.0, call) is None


@pytest.mark.parametrize(("kept", "asked"), FITTING)
def test_what_fits_or_is_not_known_to_misfit_is_kept(kept: Deployment, asked: dict[str, Any]) -> None:
    """To the last token and micro-dollar."""
    selector = select(SHUFFLE, kept)
    assert selector.pick(make_call(**asked), 0.0) is not None
    assert selector.pick(make_call(**asked), 0.0, ("another",)) is not None


def test_a_region_is_not_one_that_begins_alike() -> None:
    """Europe is not ``eu-`` cut anywhere."""
    assert select(SHUFFLE, deployment("x", region="europe")).pick(make_call(region="eu"), 0.0) is None


def test_an_endpoint_that_a_client_does_not_have_removes_it() -> None:
    """Its table decides."""
    selector = select(SHUFFLE, deployment("a"), deployment("e"), clients={"e": Embedder})
    call = make_call(endpoint="embeddings")
    for _ in range(20):
        chosen = selector.pick(call, 0.0)
        assert chosen is not None
        assert chosen.id == "e"
    assert call.decision.removed == (("a", "endpoint"),)


def test_a_call_that_names_no_endpoint_asks_for_none() -> None:
    """To get any client of a model."""
    assert select(SHUFFLE, deployment("a")).pick(make_call(endpoint=""), 0.0) is not None


def test_state_removes_with_the_words_of_the_standing() -> None:
    """Circuit, cooldown, ejection, probe, concurrency."""
    names = ("open", "cool", "ejected", "ill", "busy", "fine")
    selector = select(
        SHUFFLE, *(deployment(name, max_concurrency=1 if name == "busy" else None) for name in names)
    )
    break_circuit(selector, "open")
    cool(selector, "cool", 30.0)
    standing(selector, "ejected").eject(0.0, 30.0, "slow")
    standing(selector, "ill").probed(False, "refused", 0.0)
    standing(selector, "busy").begin(0.0)
    call = make_call()
    chosen = selector.pick(call, 1.0)
    assert chosen is not None
    assert chosen.id == "fine"
    assert dict(call.decision.removed) == {
        "open": "open_circuit",
        "cool": "cooldown",
        "ejected": "ejected",
        "ill": "unhealthy",
        "busy": "busy",
    }


def test_what_was_tried_is_not_tried_again() -> None:
    """Until nobody is left."""
    selector = select(SHUFFLE)
    tried: list[str] = []
    for _ in range(3):
        chosen = selector.pick(make_call(), 0.0, tried)
        assert chosen is not None
        assert chosen.id not in tried
        tried.append(chosen.id)
    call = make_call()
    assert selector.pick(call, 0.0, tried) is None
    assert call.decision.reason == "tried"


class TestEstimate:
    """What a call is expected to cost."""

    def test_it_is_rounded_up(self) -> None:
        """One token at a dollar for a million is a whole micro-dollar, and never nothing."""
        assert estimate(Price(1, 0), make_call(input_tokens=1)) == 1
        assert estimate(DOLLAR, make_call(input_tokens=3, max_tokens=4)) == 7

    def test_a_request_may_have_a_price(self) -> None:
        """Whatever its size."""
        assert estimate(Price(request=500), make_call(input_tokens=10)) == 500

    def test_without_a_limit_some_output_is_assumed(self) -> None:
        """And none at all where nothing is written."""
        assert estimate(Price(0, 1_000_000), make_call()) == ASSUMED_OUTPUT
        assert estimate(Price(0, 1_000_000), make_call(endpoint="embeddings", max_tokens=9)) == 0

    def test_a_limit_of_nothing_is_a_limit(self) -> None:
        """Zero is not the same as none."""
        assert estimate(Price(0, 1_000_000), make_call(max_tokens=0)) == 0
        assert select(SHUFFLE, deployment("x", price=DOLLAR)).pick(make_call(max_cost=0), 0.0) is None
        assert select(SHUFFLE, deployment("x", price=Price())).pick(make_call(max_cost=0), 0.0) is not None


def test_prices_come_from_whom_was_named() -> None:
    """The configured price is what a selector goes by only when nobody else is asked."""
    asked: list[str] = []

    def price_of(each: Deployment) -> Price | None:
        asked.append(each.id)
        return Price(0, 0, None, 7)

    selector = select(SHUFFLE, deployment("x"), price_of=price_of)
    assert selector.pick(make_call(), 0.0) is not None
    assert asked == []
    assert selector.pick(make_call(max_cost=7), 0.0) is not None
    assert selector.pick(make_call(max_cost=6), 0.0) is None
    assert selector.cost(deployment("x"), make_call()) == 7


def test_the_word_for_nobody_left_is_the_most_hopeful() -> None:
    """One that only has to wait says so, though another would never fit."""
    selector = select(SHUFFLE, deployment("small", max_context_length=1), deployment("large"))
    break_circuit(selector, "large")
    call = make_call(input_tokens=100)
    assert selector.pick(call, 0.0) is None
    assert dict(call.decision.removed) == {"small": "context_window", "large": "open_circuit"}
    assert call.decision.reason == "open_circuit"
    assert call.decision.passing
    closest = selector.closest(0.0, call)
    assert closest is not None
    assert closest.id == "large"
    assert foremost(()) == "no_deployments"


def test_long_lists_of_what_is_missing_are_cut() -> None:
    """A caller can send any number of tags of any length."""
    call = make_call(tags=frozenset(f"{number:03}" * 200 for number in range(500)))
    assert select(SHUFFLE, deployment("x")).pick(call, 0.0) is None
    assert len(call.decision.explain()["candidates"][0]["detail"]) < 1_000
