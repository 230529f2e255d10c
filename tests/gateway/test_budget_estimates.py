"""What is reserved for a call: at the price of whoever may serve it, for all that it may write."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router_core.gateway.accounting.prices import Prices, Tariff
from router_core.gateway.accounting.tokens import estimate_input
from router_core.gateway.api.openai import OpenAIRoutes
from router_core.gateway.budgets.plan import Plan, Rates
from router_core.gateway.call import Call
from router_core.gateway.config.load import parse_config
from router_core.gateway.json import max_tokens_of, prompts_of, read_fields
from router_core.gateway.select.filters import estimate
from router_core.gateway.values import Deployment, Limit, Price
from router_core.http.message import Headers, Request
from tests.gateway.serving import chat, house
from tests.gateway.test_prices import Book, Model

PATH = "/v1/chat/completions"
MODELS = """
models:
  - {id: m, type: text-generation, fallbacks: [n], clients: [{type: scripted, model: a}], aliases: [known]}
  - {id: n, type: text-generation, context_fallbacks: [o], clients: [{type: scripted, model: b}]}
  - {id: o, type: text-generation, fallbacks: [m], clients: [{type: scripted, model: c}]}
  - {id: p, type: text-generation, clients: [{type: scripted, model: d}]}
"""
PRICES = {"a": Price(1), "b": Price(2), "c": Price(3), "d": Price(4)}


@pytest.mark.parametrize(
    ("more", "input_price"),
    [
        ("", 3),
        ("rollouts: [{id: r, model: known, canary: p}]", 4),
        ("rollouts: [{id: r, model: known, canary: p, enabled: false}]", 3),
        ("experiments: [{id: e, model: m, variants: [{name: a, modelId: m}, {name: b, modelId: p}]}]", 4),
    ],
    ids=["fallbacks-of-fallbacks", "canary", "canary-that-is-off", "variant"],
)
def test_the_dearest_who_may_serve_counts(more: str, input_price: int) -> None:
    """Else a canary, or who stands in for a stand-in, overdraws a budget."""
    rates = Rates(lambda deployment: PRICES.get(deployment.model))
    rates.follow(parse_config(MODELS + more, "x", {}))
    assert [rates.of(name, 0)[0] for name in ("m", "known")] == [input_price, input_price]


def test_each_choice_is_paid_for() -> None:
    """``n`` answers of 50 tokens are 50 ``n`` tokens, of the limits and of what the caller allows."""
    call = Call("chat/completions", "m", input_tokens=100, max_tokens=50, choices=4)
    assert Plan("s", [Limit("tokens", 10_000)]).wants(call, (0, 0, 0)) == [300]
    assert Plan("s", [Limit("daily", 10_000)]).wants(call, (1_000_000, 2_000_000, 0)) == [500]
    assert estimate(Price(1_000_000, 2_000_000), call) == 500


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [("one", 1), (["one"], 1), (["a", "b", "c"], 3), ([[1, 2], [3]], 2), ([1, 2, 3], 1), ([], 1), ([{}], 1)],
    ids=["text", "one", "three", "tokens-of-two", "tokens-of-one", "none", "wrong"],
)
def test_each_prompt_is_answered(prompt: Any, answers: int) -> None:
    """A thousand prompts in one body cost a thousand answers, each as many times as is asked for."""
    assert prompts_of(read_fields(json.dumps({"prompt": prompt}).encode())) == answers


async def test_each_prompt_is_answered_as_often_as_is_asked_for() -> None:
    """So many answers does a call of ``completions`` pay for; a chat has no such field."""
    body = {"model": "m", "prompt": ["a", "b", "c"], "n": 2}
    async with house(MODELS) as made:
        routes = OpenAIRoutes(made.gateway.pipeline, made.gateway.registry)
        for endpoint, answers in (("completions", 6), ("chat/completions", 2)):
            headers = Headers([("content-type", "application/json")])
            request = Request("POST", "/v1", headers=headers, body=json.dumps(body).encode())
            assert routes.read(endpoint, request).choices == answers


def test_what_is_billed_by_time_is_reserved_for() -> None:
    """Sound has no price by tokens: with nothing reserved a budget that is used up would let all of it in."""
    rates = Rates(Prices(Book({"whisper-1": Model(Tariff(None, hour=360_000))})).reserved)
    rates.follow(parse_config(WHISPER, "x", {}))
    call = Call("audio/transcriptions", "w", body=b"x" * 7_200_000)
    estimate_input(call)
    plan = Plan("s", [Limit("daily", 10_000_000)])
    assert plan.wants(call, rates.of("w", 0)) == [360_000]
    call.input_tokens = 0
    assert plan.wants(call, rates.of("w", 0)) == [1]
    assert plan.wants(call, (0, 0, 0)) == [0]


WHISPER = """
models:
  - {id: w, type: automatic-speech-recognition, clients: [
       {type: openai, model: whisper-1, args: {api_key: sk-tests-only}}]}
"""


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_largest_limit_of_tokens_counts(name: str) -> None:
    """A small one that the upstream does not know must not hide a large one that it goes by."""
    said = {"max_tokens": 1, "max_completion_tokens": 1, "max_output_tokens": 1, name: 500}
    assert max_tokens_of(read_fields(json.dumps(said).encode())) == 500


@pytest.mark.parametrize("more", [{"n": 4}, {"n": 2, "best_of": 4}], ids=["n", "best_of"])
async def test_a_real_call_reserves_for_all_its_choices(more: dict[str, Any]) -> None:
    """Four answers of ten tokens, a dollar for a million; what cannot be a number of answers is refused."""
    text = """
models:
  - {id: m, type: text-generation, clients: [
       {type: scripted, model: x, price: {output: 1}, args: {latency: 30}}]}
workspaces: {acme: {budgetLimits: {daily: 1}}}
"""
    headers = {"x-router-workspace": "acme"}
    async with house(text) as made:
        task = asyncio.create_task(made.ask(PATH, chat(max_tokens=10, **more), headers=headers))
        for _ in range(100_000):
            await asyncio.sleep(0)
            if made.in_flight():
                break
        (limit,) = (await made.ask("/api/workspaces/acme/budget")).json()["limits"]
        assert limit["reserved"] == pytest.approx(0.00004)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        refused = await made.ask(PATH, {**chat(), **dict.fromkeys(more, 0)}, headers=headers)
        assert refused.status == 400


AUTO = """
default_model: cheap
models:
  - {id: cheap, type: text-generation, clients: [{type: scripted, model: a, price: {request: 0.00001},
     args: {fail_status: 503}}]}
  - {id: dear, type: text-generation, clients: [{type: scripted, model: b, price: {request: 0.00008}}]}
  - {id: other, type: text-generation, clients: [{type: scripted, model: c, price: {request: 0.00009}}]}
workspaces:
  acme: {budgetLimits: {daily: 0.0001}}
"""
RULE = "routing_rules: [{name: all, targetModels: [{modelId: cheap}, {modelId: dear}]}]"
AGENT = "agents: [{agentType: coder, preferredModels: [cheap], fallbackModels: [dear]}]"


@pytest.mark.parametrize(("more", "agent"), [(RULE, ""), (AGENT, "coder")], ids=["rule", "agent"])
async def test_the_dearest_that_a_rule_or_an_agent_may_come_to_is_reserved(more: str, agent: str) -> None:
    """Where the first model is away, the second one is paid out of what was reserved: one call fits."""
    headers = {"x-router-workspace": "acme", "x-router-agent-type": agent}
    async with house(AUTO + more) as made:
        answers = [
            made.ask(PATH, chat("auto"), headers={k: v for k, v in headers.items() if v}) for _ in range(5)
        ]
        statuses = sorted(each.status for each in await asyncio.gather(*answers))
        told = (await made.ask("/api/workspaces/acme/budget")).json()["limits"]
        assert statuses == [200, 429, 429, 429, 429]
        assert [each["spent"] for each in told] == [pytest.approx(0.00008)]


def test_prices_of_several_models_are_worked_out_once() -> None:
    """They are the highest of each, remembered for as long as those of one."""
    asked = []

    def price_of(deployment: Deployment) -> Price | None:
        asked.append(deployment.model)
        return PRICES.get(deployment.model)

    rates = Rates(price_of)
    rates.follow(parse_config(MODELS, "x", {}))
    assert rates.of_all(("m", "p"), 0.0)[0] == 4
    before = len(asked)
    assert rates.of_all(("m", "p"), 59.0)[0] == 4
    assert len(asked) == before
    assert rates.of_all(("m", "n"), 0.0)[0] == 3
