"""The JSON of rollouts and experiments: what is read, what is refused, and where the message points."""

from __future__ import annotations

import re
from typing import Any

import pytest

from router_core.gateway.trials.criteria import Criteria
from router_core.gateway.trials.experiment import Experiment, Variant
from router_core.gateway.trials.parse import parse_experiment, parse_rollout
from router_core.gateway.trials.rollout import ROLLBACK, SUCCESS, Rollout

ROLLOUT: dict[str, Any] = {
    "id": "gpt-5",
    "model": "gpt-4",
    "canary": "gpt-5",
    "strategy": "exponential",
    "startShare": 1,
    "step": 3,
    "intervalSeconds": 60,
    "minRequests": 50,
    "success": {"maxErrorRate": 0.05, "maxLatencyP95": 2000},
    "rollback": {"maxErrorRateIncrease": 0.1, "maxLatencyIncrease": 0.5, "maxCostIncrease": 1},
    "alpha": 0.01,
    "stickyBy": "user",
    "enabled": False,
}
EXPERIMENT: dict[str, Any] = {
    "id": "tone",
    "condition": {"agentType": ["creative"], "custom": {"team": "red"}},
    "variants": [
        {"name": "control", "modelId": "gpt-4", "weight": 2},
        {"name": "claude", "modelId": "claude-3"},
    ],
    "metric": "score",
    "alpha": 0.01,
    "power": 0.9,
    "minSamples": 200,
    "minDetectableEffect": 0.5,
    "guardrails": {"maxErrorRateIncrease": 0.05},
    "maxDurationSeconds": 86400,
    "onVerdict": "promote",
    "stickyBy": "principal",
    "enabled": True,
}


def test_a_rollout_says_all_that_its_json_says() -> None:
    """Every field arrives, latencies in seconds, and the value writes the JSON that it was read from."""
    rollout = parse_rollout(ROLLOUT)
    assert (rollout.model, rollout.canary, rollout.sticky_by) == ("gpt-4", "gpt-5", "user")
    assert rollout.success == Criteria(max_error_rate=0.05, max_latency_p95=2.0)
    assert rollout.rollback.max_cost_increase == 1
    assert rollout.shares == (1, 3, 9, 27, 81, 100)
    assert parse_rollout(rollout.to_json()) == rollout


def test_an_experiment_says_all_that_its_json_says() -> None:
    """Every field arrives, and the value writes the JSON that it was read from."""
    experiment = parse_experiment(EXPERIMENT)
    assert experiment.variants == (Variant("control", "gpt-4", 2.0), Variant("claude", "claude-3", 1.0))
    assert experiment.condition is not None
    assert experiment.condition.custom == (("team", ("red",)),)
    assert (experiment.min_effect, experiment.max_duration, experiment.power) == (0.5, 86400, 0.9)
    assert parse_experiment(experiment.to_json()) == experiment


def test_what_is_left_out_is_careful() -> None:
    """Without criteria a rollout still has some; it grows by tens to all of the calls."""
    rollout = parse_rollout({"id": "r", "model": "a", "canary": "b"})
    assert rollout == Rollout("r", "a", "b")
    assert (rollout.success, rollout.rollback) == (SUCCESS, ROLLBACK)
    assert rollout.shares == (5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100)
    exponential = parse_rollout({"id": "r", "model": "a", "canary": "b", "strategy": "exponential"})
    assert exponential.shares == (5, 10, 20, 40, 80, 100)


def test_stages_may_be_written_out_or_be_of_a_rule() -> None:
    """Stages stand for themselves and may end before all calls; a rule names both models."""
    rollout = parse_rollout({"id": "r", "rule": "creative", "stages": [1, 10, 50], "rollback": {}})
    assert rollout.shares == (1, 10, 50)
    assert (rollout.model, rollout.canary) == ("", "")
    assert not rollout.rollback
    assert parse_rollout(rollout.to_json()) == rollout


def test_tiny_steps_make_no_endless_stages() -> None:
    """A step of nearly nothing ends at the most stages there may be, the last being all calls."""
    rollout = parse_rollout({"id": "r", "model": "a", "canary": "b", "startShare": 0.01, "step": 0.01})
    assert len(rollout.shares) == 100
    assert rollout.shares[-1] == 100


def test_an_experiment_needs_no_more_than_variants() -> None:
    """Two variants of a model are an experiment on its success rate."""
    two = [{"name": "a", "modelId": "m"}, {"name": "b", "modelId": "n"}]
    experiment = parse_experiment({"id": "e", "model": "m", "variants": two})
    assert experiment == Experiment("e", (Variant("a", "m"), Variant("b", "n")), "m")
    assert not experiment.guardrails


BAD_ROLLOUTS: list[tuple[dict[str, Any], str]] = [
    ({"id": None}, "id: is missing"),
    ({"id": "a/b"}, "id: has to be up to 64"),
    ({"id": "x" * 65}, "id: has to be up to 64"),
    ({"id": 7}, "id: has to be a string"),
    ({"canary": None}, "canary: is missing"),
    ({"canary": "gpt-4"}, "canary: is the model"),
    ({"rule": "r"}, "model: is that of the rule"),
    ({"strategy": "fast"}, "strategy: 'fast' is not known; there are linear"),
    ({"startShare": 0}, "startShare: has to be between 0.01 and 100"),
    ({"startShare": 101}, "startShare: has to be between"),
    ({"startShare": "5"}, "startShare: has to be a number"),
    ({"step": 1}, "step: is the factor of an exponential"),
    ({"stages": [5, 10]}, "startShare: is not looked at beside stages"),
    ({"intervalSeconds": -1}, "intervalSeconds: has to be between 0"),
    ({"minRequests": 0}, "minRequests: has to be between 1"),
    ({"minRequests": float("nan")}, "minRequests: has to be a whole number"),
    ({"success": {"maxErrorRate": 2}}, "success.maxErrorRate: has to be between 0 and 1"),
    ({"success": {"maxErrorrates": 1}}, "success.maxErrorrates: there is no such field; did you mean maxErr"),
    ({"rollback": []}, "rollback: has to be an object"),
    ({"alpha": 0.9}, "alpha: has to be between"),
    ({"stickyBy": "cookie"}, "stickyBy: 'cookie' is not known; there are session, user, principal"),
    ({"enabled": 1}, "enabled: has to be true or false"),
    ({"canaryModel": "x"}, "canaryModel: there is no such field"),
]


@pytest.mark.parametrize(("change", "told"), BAD_ROLLOUTS, ids=range(len(BAD_ROLLOUTS)))
def test_what_is_wrong_with_a_rollout_is_named(change: dict[str, Any], told: str) -> None:
    """The message begins with the path of the field."""
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        parse_rollout(ROLLOUT | change)
    assert str(caught.value).startswith(told)


BAD_STAGES: list[tuple[Any, str]] = [
    ([], "stages: has to be a list"),
    (5, "stages: has to be a list"),
    ([5, 5], "stages[1]: is 5, which is not above 5"),
    ([5, 101], "stages[1]: has to be between"),
    (list(range(1, 102)), "stages: has 101 stages"),
]


@pytest.mark.parametrize(("stages", "told"), BAD_STAGES, ids=range(len(BAD_STAGES)))
def test_stages_rise(stages: Any, told: str) -> None:
    """Stages that stand still, fall or are too many are refused."""
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        parse_rollout({"id": "r", "model": "a", "canary": "b", "stages": stages})
    assert str(caught.value).startswith(told)


ONE = {"name": "a", "modelId": "m"}
BAD_EXPERIMENTS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, "id: has to be printable"),
    ({"variants": None}, "variants: is missing"),
    ({"variants": [ONE]}, "variants: has to be a list of 2 to 20"),
    ({"variants": [ONE] * 21}, "variants: has to be a list of 2 to 20"),
    ({"variants": [ONE, ONE]}, "variants[1].name: 'a' is a variant already"),
    ({"variants": [ONE, ONE | {"name": "b"}]}, "variants[1].modelId: 'm' is a variant already"),
    ({"variants": [ONE, {"name": "b"}]}, "variants[1].modelId: is missing"),
    ({"variants": [ONE, {"name": "b", "modelId": "n", "weight": 0}]}, "variants[1].weight: has to be"),
    ({"variants": [ONE, {"name": "a b", "modelId": "n"}]}, "variants[1].name: has to be up to 64"),
    ({"variants": [ONE, "b"]}, "variants[1]: has to be an object"),
    ({"model": "m"}, "model: or condition has to be given"),
    ({"condition": None}, "model: or condition has to be given"),
    ({"condition": {"agentTypes": ["x"]}}, "condition.agentTypes: there is no such field; did you mean"),
    ({"metric": "joy"}, "metric: 'joy' is not known; there are successRate, latency, cost"),
    ({"metric": "successRate", "minDetectableEffect": 2}, "minDetectableEffect: has to be between"),
    ({"minSamples": 5}, "minSamples: has to be between 10"),
    ({"power": 1}, "power: has to be between"),
    ({"guardrails": {"maxLatency": 5}}, "guardrails.maxLatency: there is no such field; did you mean maxLat"),
    ({"maxDurationSeconds": 1e12}, "maxDurationSeconds: has to be between"),
    ({"onVerdict": "deploy"}, "onVerdict: 'deploy' is not known; there are report, promote"),
]


@pytest.mark.parametrize(("change", "told"), BAD_EXPERIMENTS, ids=range(len(BAD_EXPERIMENTS)))
def test_what_is_wrong_with_an_experiment_is_named(change: dict[str, Any], told: str) -> None:
    """The message begins with the path of the field."""
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        parse_experiment(EXPERIMENT | change)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("data", [None, [], "x", 5, {}], ids=["null", "list", "text", "number", "empty"])
def test_what_is_no_object_is_refused(data: Any) -> None:
    """Whatever it is, the answer is a ValueError."""
    with pytest.raises(ValueError, match=r".+: "):
        parse_rollout(data)
    with pytest.raises(ValueError, match=r".+: "):
        parse_experiment(data)
