"""The kinds of things that can be configured: how each is read, written and told from the others.

Whoever adds a kind adds a line to the table at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.gateway.budgets.parse import parse_workspace, workspace_json
from router_core.gateway.config.agents import agent_json, parse_agent
from router_core.gateway.control.model_body import model_id_of, slug
from router_core.gateway.rules.parse import parse_rule
from router_core.gateway.rules.read import text
from router_core.gateway.trials.parse import parse_experiment, parse_rollout

__all__ = ["AGENTS", "EXPERIMENTS", "KINDS", "MODELS", "ROLLOUTS", "RULES", "WORKSPACES", "Kind"]

MODELS: Final = "models"
RULES: Final = "routingRules"
AGENTS: Final = "agentPreferences"
WORKSPACES: Final = "workspaceConfigs"
ROLLOUTS: Final = "rollouts"
EXPERIMENTS: Final = "experiments"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind."""

    name: str
    """In exports."""
    word: str
    """What one is called in messages."""
    parse: Callable[[str, Mapping[str, Any]], Any] | None
    """Id and body -> value; raises ValueError. None: models, which need more than their JSON."""
    to_json: Callable[[Any], dict[str, Any]]
    """Value -> body, without the id."""
    id_of: Callable[[Any], str]
    """Value -> id."""
    values: str
    """Where the values stand in a ``GatewayConfig``."""
    new_id: Callable[[Mapping[str, Any]], str]
    """Body -> id of a new one that comes without; raises ValueError."""
    listed: bool = True
    """Whether exports have a list of them, each with its id inside; else a mapping by id."""


def _without_id(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "id"}


def _rule_id(data: Mapping[str, Any]) -> str:
    if data.get("id") is not None:
        return text(data["id"], "id")
    return slug(text(data.get("name"), "name")) if "name" in data else _missing("name")


def _given_id(data: Mapping[str, Any]) -> str:
    return text(data["id"], "id") if data.get("id") is not None else _missing("id")


def _missing(name: str) -> str:
    raise ValueError(f"{name}: is missing")


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(MODELS, "model", None, lambda model: {}, lambda model: str(model.id), "models", model_id_of),
        Kind(
            RULES, "rule", lambda key, body: parse_rule({**body, "id": key}),
            lambda rule: _without_id(rule.to_json()), lambda rule: str(rule.key), "rules", _rule_id,
        ),
        Kind(
            AGENTS, "agent type", parse_agent, agent_json, lambda agent: str(agent.agent_type), "agents",
            _given_id, False,
        ),
        Kind(
            WORKSPACES, "workspace", parse_workspace, workspace_json, lambda workspace: str(workspace.id),
            "workspaces", _given_id, False,
        ),
        Kind(
            ROLLOUTS, "rollout", lambda key, body: parse_rollout({**body, "id": key}),
            lambda rollout: _without_id(rollout.to_json()), lambda rollout: str(rollout.id), "rollouts",
            _given_id,
        ),
        Kind(
            EXPERIMENTS, "experiment", lambda key, body: parse_experiment({**body, "id": key}),
            lambda experiment: _without_id(experiment.to_json()), lambda one: str(one.id), "experiments",
            _given_id,
        ),
    )
}  # fmt: skip
