"""What shadow rules would have done, counted beside what was done."""

from __future__ import annotations

from router_core.gateway.api.openai import OpenAIRoutes
from router_core.gateway.rules.route import RuleMatch
from router_core.gateway.rules.rule import Rule, Target
from router_core.gateway.rules.shadow import ShadowCounts
from router_core.http.message import Headers, Request
from router_core.types import Principal
from tests.gateway.serving import house
from tests.gateway.trial_parts import Place, config

RULES = """
routing_rules:
  - {name: live, targetModels: [{modelId: old}]}
  - {name: same, shadow: true, targetModels: [{modelId: old}]}
  - {name: other, shadow: true, priority: 5, targetModels: [{modelId: new}]}
"""
MODELS = {"old": "seed: 1", "new": "seed: 2"}


async def test_agreement_is_counted_by_rule() -> None:
    """A shadow rule that would have done the same agrees; of another it is said what it would have done."""
    place = Place(config(MODELS, more=RULES))
    for _ in range(3):
        await place.call(model="auto")
    await place.call(model="old")
    assert place.gateway.pipeline.shadows.report() == [
        {"rule": "other", "name": "other", "matches": 3, "agreements": 0,
         "disagreements": [{"modelId": "old", "shadowModelId": "new", "requests": 3}]},
        {"rule": "same", "name": "same", "matches": 3, "agreements": 3, "disagreements": []},
    ]  # fmt: skip
    place.gateway.pipeline.explain(place.last)
    assert place.gateway.pipeline.shadows.report()[0]["matches"] == 3, "a dry run is no call"


def test_counts_are_bounded() -> None:
    """Rules and models can be made up without end; what is counted cannot grow without end."""
    counts = ShadowCounts()
    for number in range(2500):
        counts.saw(RuleMatch(Rule(f"r{number}", (Target("m"),)), ("m",)), f"m{number}")
    one = RuleMatch(Rule("r", (Target("m"),)), ("m",))
    for number in range(2500):
        counts.saw(one, f"m{number}")
    assert len(counts.report()) <= 1000
    assert len(counts.report()[0]["disagreements"]) <= 20


async def test_a_tier_of_a_key_is_not_for_callers_to_say() -> None:
    """A header may name a tier where the key has none, and is not heard where it has one."""
    rule = "routing_rules:\n  - {name: gold, condition: {userTier: [gold]}, targetModels: [{modelId: new}]}"
    text = """
default_model: old
models:
  - {id: old, type: text-generation, clients: [{type: scripted, model: up}]}
  - {id: new, type: text-generation, clients: [{type: scripted, model: up}]}
"""
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}
    async with house(text + rule) as made:
        said = await made.ask("/v1/chat/completions", body, headers={"x-router-user-tier": "gold"})
        assert said.headers["x-router-rule"] == "gold"
        api = OpenAIRoutes(made.gateway.pipeline, made.gateway.registry)
        fields = [("content-type", "application/json"), ("x-router-user-tier", "gold")]
        request = Request("POST", "/v1/chat/completions", "", Headers(fields),
                          b'{"model": "auto", "messages": []}',
                          principal=Principal("ann", kind="key", tier="basic"))  # fmt: skip
        assert api.read("chat/completions", request).attributes.user_tier == "basic"
