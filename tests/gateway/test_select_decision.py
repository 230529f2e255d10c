"""What a decision says of itself: in a header, and as JSON."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from router_core.gateway.select.decision import Decision
from router_core.gateway.select.filters import Removal
from router_core.gateway.values import StrategyName
from tests.gateway.selecting import break_circuit, deployment, make_call, select

NASTY = "a\r\nset-cookie: x=1;,=\t\x00é😀\ud800"


def test_the_header_says_who_and_why() -> None:
    """In one line that a person can read."""
    selector = select("round_robin", deployment("turbo/1"), deployment("turbo/2"))
    break_circuit(selector, "turbo/1")
    call = make_call()
    assert selector.pick(call, 0.0) is not None
    assert call.decision.header() == (
        "model=m; chosen=turbo/2; strategy=round_robin; considered=2; removed=turbo/1:open_circuit"
    )
    assert call.decision.under("night shift").header().endswith("; rule=night_shift")


def test_the_usual_decision_is_made_once() -> None:
    """Calls for which nothing is wrong share it, header and all."""
    selector = select("shuffle", deployment("a"))
    one, two = make_call(), make_call()
    selector.pick(one, 0.0)
    selector.pick(two, 5.0)
    assert one.decision is two.decision
    assert one.decision.header() is two.decision.header()


def test_nothing_in_a_name_gets_out_of_the_header() -> None:
    """Names come from configurations and from rules that callers may write."""
    decision = Decision(NASTY, "shuffle", NASTY, (NASTY,), (Removal(NASTY, "tags", NASTY),), NASTY)
    text = decision.header()
    assert text.isascii()
    assert text.isprintable()
    fields = dict(part.split("=") for part in text.split("; "))
    assert fields.keys() == {"model", "chosen", "strategy", "considered", "removed", "rule"}
    assert fields["model"] == "a__set-cookie__x_1________"


def test_the_header_stays_short() -> None:
    """With long names, and many of them."""
    removals = tuple(Removal(f"{number}" * 500, "tags", "x" * 500) for number in range(300))
    text = Decision("m" * 5_000, "shuffle", "", (), removals, "r" * 5_000).header()
    assert len(text) < 1_000
    assert ",+292;" in text


def test_the_explanation_is_json_with_every_candidate() -> None:
    """Those that were kept, those that were not and why."""
    selector = select("shuffle", deployment("a"), deployment("b", region="eu"))
    call = make_call(region="eu")
    selector.pick(call, 0.0)
    assert json.loads(json.dumps(call.decision.explain())) == {
        "model": "m",
        "strategy": "shuffle",
        "chosen": "b",
        "considered": 2,
        "rule": None,
        "reason": None,
        "candidates": [
            {"id": "b", "kept": True, "chosen": True},
            {
                "id": "a",
                "kept": False,
                "chosen": False,
                "reason": "region",
                "detail": "it is in an unknown region",
            },
        ],
    }


FIGURES: dict[StrategyName, dict[str, Any]] = {
    "shuffle": {},
    "round_robin": {"turn": 0},
    "weighted": {"weight": 2.0},
    "least_busy": {"inflight": 1, "queue": 0, "weight": 2.0},
    "latency": {"load": 1_000_000.0, "inflight": 1},
    "cheapest": {"cost_microdollars": None},
    "priority": {"priority": 3},
    "sticky": {"weight": 2.0},
}


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_a_dry_run_shows_what_the_strategy_goes_by(name: StrategyName) -> None:
    """For every candidate, those that were removed too."""
    selector = select(name, deployment("a", weight=2.0, priority=3))
    selector.candidates[0].standing.begin(0.0)
    decision = selector.explain(make_call(), 0.0)
    assert decision.figures == {"a": FIGURES[name]}
    [said] = json.loads(json.dumps(decision.explain()))["candidates"]
    assert said == {"id": "a", "kept": True, "chosen": True, **FIGURES[name]}


def test_a_sticky_key_shows_its_ranking() -> None:
    """The least is chosen; a weight of nothing has no rank."""
    selector = select("sticky", deployment("a"), deployment("b"), deployment("c", weight=0.0))
    decision = selector.explain(make_call(sticky="someone"), 0.0)
    ranks = {each: figures["rank"] for each, figures in decision.figures.items()}
    assert ranks["c"] is None
    assert decision.chosen == min("ab", key=lambda each: ranks[each])
    json.dumps(decision.explain(), allow_nan=False)
