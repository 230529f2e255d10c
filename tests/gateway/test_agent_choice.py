"""What agents prefer where no rule decides, and what is said about models that are not good enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router_core.errors import HTTPError
from router_core.gateway.call import Attributes, Call
from router_core.gateway.config.load import parse_config
from router_core.gateway.outcome import Outcome
from router_core.gateway.values import AgentPreferences, GatewayConfig, Requirements
from tests.gateway.trial_parts import Place, experiment, rollout

MODELS = """
default_model: plain
models:
  - {id: plain, type: text-generation, clients: [{id: p1, type: scripted, model: up}]}
  - id: dear
    type: text-generation
    clients:
      - {id: d1, type: scripted, model: up, capabilities: [tools],
         price: {input: 20, output: 60}}
  - id: cheap
    type: text-generation
    clients:
      - {id: c1, type: scripted, model: up, capabilities: [tools, vision],
         price: {input: 1, output: 2}}
  - {id: vectors, type: text-embeddings-inference, clients: [{id: v1, type: scripted, model: up}]}
"""


def made(*agents: AgentPreferences, rules: str = "") -> GatewayConfig:
    """Return the configuration with preferences."""
    return replace(parse_config(MODELS + rules, "gateway.yaml", {}), agents=agents)


def agent(*preferred: str, fallback: tuple[str, ...] = (), **asked: Any) -> AgentPreferences:
    """Return preferences of creative agents."""
    return AgentPreferences("creative", preferred, fallback, Requirements(**asked))


def call(agent_type: str = "creative", **more: Any) -> Call:
    """Return an ``auto`` call of an agent."""
    asked = Call("chat/completions", "auto", attributes=Attributes(agent_type=agent_type), request_id="r")
    for name, value in more.items():
        setattr(asked, name, value)
    return asked


def asked(place: Place, agent_type: str = "creative") -> dict[str, Any]:
    """Return the explanation of a call."""
    return place.gateway.pipeline.explain(call(agent_type))


def test_the_preferred_model_is_asked_then_the_fallback() -> None:
    """In the order of the preferences; other agents get the default."""
    place = Place(made(agent("dear", fallback=("cheap",))))
    told = asked(place)
    assert told["models"] == ["dear", "cheap"]
    assert (told["model"], told["rule"], told["agent"]["removed"]) == ("dear", None, [])
    assert asked(place, "legal")["models"] == ["plain"]
    assert asked(place, "legal")["agent"] is None


def test_a_rule_stands_before_preferences() -> None:
    """Where a rule holds the preferences are not asked."""
    rule = "\nrouting_rules:\n  - {name: all, targetModels: [{modelId: cheap}]}\n"
    told = asked(Place(made(agent("dear"), rules=rule)))
    assert (told["models"], told["rule"], told["agent"]) == (["cheap"], "all", None)


def test_what_is_not_good_enough_is_left_out_with_a_reason() -> None:
    """Capabilities, price, type and a model that does not exist: each has its word."""
    wanted = agent(
        "dear", "vectors", "gone", fallback=("cheap",), max_cost_per_token=1e-5,
        capabilities=frozenset({"text-generation", "vision"}),
    )  # fmt: skip
    told = asked(Place(made(wanted)))["agent"]
    assert told["models"] == ["cheap"]
    reasons = {each["modelId"]: each["reason"] for each in told["removed"]}
    assert reasons == {"dear": "capabilities", "vectors": "endpoint", "gone": "unknown"}
    dear = asked(Place(made(agent("dear", "cheap", max_cost_per_token=1e-5))))["agent"]
    assert dear["removed"][0]["reason"] == "cost"
    assert "0.00006" in dear["removed"][0]["detail"]
    unpriced = asked(Place(made(agent("plain", "cheap", max_cost_per_token=1.0))))["agent"]
    assert unpriced["removed"][0]["reason"] == "unpriced"


def test_a_model_that_is_switched_off_is_left_out() -> None:
    """Inactive models and those in maintenance serve no agent."""
    config = made(agent("dear", "cheap"))
    off = tuple(replace(each, status="maintenance") if each.id == "dear" else each for each in config.models)
    told = asked(Place(replace(config, models=off)))["agent"]
    assert told["models"] == ["cheap"]
    assert told["removed"][0]["reason"] == "inactive"


def observed(place: Place, deployment: str, good: int, bad: int, seconds: float) -> None:
    """Let a deployment have served calls, a moment ago."""
    standing = place.gateway.standings.find(deployment)
    assert standing is not None
    now = place.gateway.pipeline._time()
    ended = [Outcome("ok", "done")] * good + [Outcome("client_error", "stop", failure=True)] * bad
    for outcome in ended[::2] + ended[1::2]:
        permit = standing.begin(now)
        assert permit is not None
        standing.end(permit, outcome, now, seconds)


def test_measured_quality_removes_unless_nobody_is_left() -> None:
    """A model that fails too often, or is too slow, comes after the others; alone it is better than none."""
    place = Place(made(agent("dear", "cheap", min_success_rate=0.95)))
    observed(place, "d1", 30, 5, 0.1)
    told = asked(place)["agent"]
    assert told["models"] == ["cheap"]
    assert told["removed"][0]["reason"] == "success_rate"
    slow = Place(made(agent("dear", max_latency=0.05)))
    observed(slow, "d1", 5, 0, 2.0)
    told = asked(slow)["agent"]
    assert (told["models"], told["reason"]) == (["dear"], "last_resort")
    assert told["removed"][0]["reason"] == "latency"


def test_what_nobody_can_do_is_refused_and_what_is_absent_is_not() -> None:
    """A requirement that no model meets is an error that says why; preferences for models that are not here
    say nothing, so that the default serves."""
    with pytest.raises(HTTPError, match="what this agent requires") as caught:
        Place(made(agent("dear", capabilities=frozenset({"vision"})))).gateway.pipeline.explain(call())
    assert caught.value.status == 422
    assert caught.value.extra["agent"]["removed"][0]["reason"] == "capabilities"
    assert asked(Place(made(agent("gone"))))["models"] == ["plain"]


async def test_calls_go_where_the_explanation_says() -> None:
    """A call of the agent is served by its model, with the capabilities asked of the deployment too."""
    place = Place(made(agent("cheap", capabilities=frozenset({"text-generation", "vision"}))))
    served = await place.call(model="auto")
    assert served is not None
    assert dict(served.headers)["x-router-model"] == "plain", "it names no agent"
    one = place.last
    again = Call("chat/completions", "auto", body=one.body, fields=one.fields, started=one.started,
                 attributes=Attributes(agent_type="creative"))  # fmt: skip
    served = await place.gateway.pipeline.serve(again)
    assert dict(served.headers)["x-router-model"] == "cheap"
    assert again.needs == {"vision"}


def test_a_trial_of_the_preferred_model_takes_the_calls_of_agents() -> None:
    """Whatever led to a model, a trial of it decides who serves."""
    config = replace(made(agent("dear")), experiments=(experiment(model="dear", variants=[
        {"name": "a", "modelId": "dear"}, {"name": "b", "modelId": "cheap"},
    ]),), rollouts=(rollout(model="plain", canary="cheap"),))  # fmt: skip
    place = Place(config)
    assert asked(place)["trial"] is None, "nobody knows how it stands yet"
