"""Calls that nobody serves: what their callers are told, how they are counted, and what the log says."""

from __future__ import annotations

import logging

import pytest

from router_core.errors import Unavailable
from router_core.gateway.accounting.journal import ModelCall
from router_core.telemetry.lines import to_fields
from tests.gateway.serving import House, chat, house

_MODELS = """
models:
  - id: paid
    type: text-generation
    fallbacks: [vectors-not, other]
    deployments:
      - {id: p1, type: scripted, price: {input: 0, output: 0}, args: {fail_status: 429, retry_after: "7"}}
  - id: vectors-not
    type: text-generation
    deployments:
      - {id: v1, type: scripted, max_context_length: 1}
  - id: other
    type: text-generation
    deployments:
      - {id: o1, type: scripted, price: {input: 1000000, output: 1000000}}
  - id: vectors
    type: text-embeddings-inference
    deployments:
      - {id: e1, type: scripted}
routing_rules:
  - name: "Créatif → grand"
    condition: {agentType: [creative]}
    targetModels: [{modelId: other}]
"""


def _counted(place: House) -> dict[tuple[str, ...], float]:
    """Return the calls by model and outcome."""
    found = {}
    for line in place.app.metrics.render().splitlines():
        if line.startswith("model_router_requests_total{"):
            labels, _, count = line.partition("{")[2].rpartition("} ")
            found[tuple(part.partition("=")[2].strip('"') for part in labels.split(","))] = float(count)
    return found


async def test_a_refusal_says_why_in_its_headers() -> None:
    """As an answer does: the decision and how many were tried."""
    async with house(_MODELS) as place:
        answer = await place.ask("/v1/chat/completions", chat("other"), headers={"x-router-tags": "eu"})
    assert answer.status == 422
    assert answer.headers["x-router-attempts"] == "0"
    assert "removed=o1:tags" in answer.headers["x-router-decision"]


async def test_a_refused_call_is_not_counted_as_cancelled() -> None:
    """Each by its model and with a word that tells whose fault it was."""
    async with house(_MODELS) as place:
        await place.ask("/v1/chat/completions", chat("other"), headers={"x-router-tags": "eu"})
        await place.ask("/v1/chat/completions", chat("vectors-not"))
        await place.ask("/v1/chat/completions", chat("vectors"))
        await place.ask("/v1/chat/completions", chat("nobody"))
        await place.ask("/v1/chat/completions", chat("auto"))
        counted = _counted(place)
    assert counted == {
        ("other", "client_error"): 1,
        ("vectors-not", "context_window"): 1,
        ("vectors", "client_error"): 1,
        ("unknown", "not_found"): 1,
        ("unknown", "client_error"): 1,
    }


async def test_the_wait_is_that_of_the_first_to_be_back() -> None:
    """A caller who waits as long as it is told is not refused again for the same reason; and where waiting
    helps with the model that was asked for, its fallbacks' refusals do not hide that."""
    async with house(_MODELS) as place:
        cheap = {"x-router-max-cost": "0.01"}
        first = await place.ask("/v1/chat/completions", chat("paid"), headers=cheap)
        again = await place.ask("/v1/chat/completions", chat("paid"), headers=cheap)
        counted = _counted(place)
    assert (first.status, first.headers["retry-after"]) == (429, "7")
    assert (again.status, again.headers["retry-after"], again.json()["code"]) == (429, "7", "rate_limited")
    assert counted[("paid", "rate_limited")] == 2
    assert "model=paid" in again.headers["x-router-decision"]
    assert "removed=p1:cooldown" in again.headers["x-router-decision"]


async def test_what_is_left_alone_for_another_reason_is_no_rate_limit() -> None:
    """A caller that is told to slow down, though it is not too fast, would look for the fault with itself."""
    text = _MODELS.replace('fail_status: 429, retry_after: "7"', 'fail_status: 503, retry_after: "7"')
    async with house(text) as place:
        cheap = {"x-router-max-cost": "0.01"}
        await place.ask("/v1/chat/completions", chat("paid"), headers=cheap)
        again = await place.ask("/v1/chat/completions", chat("paid"), headers=cheap)
    assert (again.status, again.headers["retry-after"]) == (503, "7")
    assert again.json()["code"] == "no_deployment_available"


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "1"), (2.0, "2"), (2.2, "3"), (2.8, "3")])
def test_who_comes_back_as_told_is_not_early(seconds: float, told: str) -> None:
    """Retry-After counts whole seconds: rounded up."""
    assert Unavailable("busy", retry_after=seconds).headers["Retry-After"] == told


async def test_a_rule_is_told_in_header_record_and_log() -> None:
    """By its name, which a header holds as far as it can."""
    async with house(_MODELS) as place:
        place.app.events.subscribe(lambda event: None, lambda level: level >= logging.INFO)
        headers = {"x-router-agent-type": "creative"}
        answer = await place.ask("/v1/chat/completions", chat("auto"), headers=headers)
        [record] = place.gateway.ledger.recent()
        [line] = [to_fields(each) for each in place.seen if isinstance(each, ModelCall)]
    assert answer.status == 200
    assert answer.headers["x-router-rule"] == "Cr_atif _ grand"
    assert record.rule == line["rule"] == "Créatif → grand"
