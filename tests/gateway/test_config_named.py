"""The sections of the file that take the JSON of the API, and what is new of models."""

from __future__ import annotations

import pytest

from router_core.gateway.values import AgentPreferences, ControlPolicy, Limit, Requirements
from tests.gateway.config_parts import parsed, refused, with_model

MODELS = """\
models:
- {id: m, type: text-generation, aliases: [other], clients: [{type: scripted}]}
- {id: n, type: text-generation, clients: [{type: scripted}]}
"""


def test_all_of_it() -> None:
    """By name and as a list."""
    config = parsed(
        MODELS
        + """
workspaces:
  w1: {modelRestrictions: [m], budgetLimits: {daily: 2.5}}
  w2: {}
agents:
- agentType: creative
  preferredModels: [other, n]
  requiredCapabilities: [function-calling]
  performanceRequirements: {maxLatency: 5000, minSuccessRate: 0.95, maxCostPerToken: 0.01}
rollouts:
- {id: r, model: m, canary: n}
experiments:
  e: {model: m, variants: [{name: a, modelId: m}, {name: b, modelId: n}]}
control:
  secrets: [TEAM_KEY, {name: VLLM_KEY, hosts: [VLLM.example.com]}]
  private_urls: true
"""
    )
    assert [each.id for each in config.workspaces] == ["w1", "w2"]
    assert config.workspaces[0].limits == (Limit("daily", 2_500_000),)
    assert config.agents == (
        AgentPreferences(
            "creative", ("other", "n"), (), Requirements(0.95, 5.0, 0.01, frozenset({"tools"}))
        ),
    )  # fmt: skip
    assert [each.id for each in (*config.rollouts, *config.experiments)] == ["r", "e"]
    assert config.control == ControlPolicy(
        (("TEAM_KEY", frozenset()), ("VLLM_KEY", frozenset({"vllm.example.com"}))), True
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "workspaces: {w: {budgetLimits: {dayly: 1}}}",
            "4: workspace 'w': budgetLimits.dayly: there is no such",
        ),
        ("workspaces:\n  w:\n    budgetLimits:\n      daily: -1", "7: workspace 'w': budgetLimits.daily"),
        ("workspaces: {w: 5}", "4: workspace 'w' must be a mapping"),
        ("workspaces: 5", "4: workspaces of the configuration must be a mapping by name, or a list"),
        ("workspaces: [{budgetLimits: {}}]", "4: workspace 1 has no id"),
        (
            "workspaces: {w: {modelRestrictions: [x]}}",
            "4: modelRestrictions of workspace 'w': there is",
        ),
        ("workspaces: [{id: w}, {id: w}]", "4: there is a workspace 'w' already, in line 4"),
        (
            "agents:\n  a:\n    preferredModels: [mm]",
            "5: preferredModels of agent 'a': there is no",
        ),
        (
            "agents: {a: {performanceRequirements: {minSuccessRate: 95}}}",
            "4: agent 'a': performanceRequirements",
        ),
        (
            "agents: {a: {preferredModels: [m], fallbackModels: [m]}}",
            "4: agent 'a': fallbackModels: names",
        ),
        ("rollouts: {r: {model: m, canary: x}}", "4: canary of rollout 'r': there is no model 'x'"),
        ("rollouts: {r: {model: m, canary: n, stepp: 5}}", "4: rollout 'r': stepp: there is no such field"),
        ("experiments: {e: {model: m}}", "4: experiment 'e': variants"),
        ("control: {secrets: X}", "4: secrets of control must be a list"),
        ("control: {secrets: [sk-abcdef]}", "4: secrets of control holds what is no name"),
        ("control: {secret: []}", "4: control takes no key 'secret'; did you mean 'secrets'?"),
        ("control: {private_urls: maybe}", "4: private_urls of control is 'maybe'"),
    ],
    ids=lambda value: value.partition(":")[0] if "\n" not in value else "",
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: str) -> None:
    """As everywhere in the file."""
    lines = refused(MODELS + text)
    assert len(lines) == 1
    assert lines[0].startswith(f"gw.yaml:{told}"), lines


def test_models_have_statuses_tags_and_limits() -> None:
    """Tags are those of the deployments, too."""
    model = parsed(
        with_model("status: deprecated\ntags: [a, b]\nlimits: {rateLimits: {concurrency: 5}}")
    ).models[0]
    assert (model.status, sorted(model.tags)) == ("deprecated", ["a", "b"])
    assert model.deployments[0].tags == {"a", "b"}
    assert model.limits == (Limit("concurrency", 5),)
    assert parsed(with_model("")).models[0].status == "active"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("status: on", "status of model 'm' is 'on'"),
        (
            "limits: {rateLimits: {concurency: 5}}",
            "model 'm': limits.rateLimits.concurency: there is",
        ),
        ("limits: []", "model 'm': limits: has to be an object"),
        ("tags: [a b]", "tags of model 'm': 'a b' is not one word"),
    ],
    ids=["status", "limit", "limits", "tags"],
)
def test_what_is_wrong_with_them(lines: str, told: str) -> None:
    """With the line of the field."""
    found = refused(with_model(lines))
    assert len(found) == 1
    assert found[0].startswith(f"gw.yaml:5: {told}"), found
