"""What agents of a type prefer: the JSON of it, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router_core.gateway.rules.read import members, number, refuse, text, texts
from router_core.gateway.values import AgentPreferences, Requirements

__all__ = ["ABILITIES", "agent_json", "parse_agent"]

ABILITIES: Final[Mapping[str, str]] = {
    "tools": "tools", "tool-use": "tools", "tool-calling": "tools", "function-calling": "tools",
    "function_calling": "tools", "vision": "vision", "image-input": "vision", "image-understanding": "vision",
    "json": "json", "json-mode": "json", "structured-output": "json", "structured-outputs": "json",
}  # fmt: skip
"""Words for what a call may need of a model, and ours for each."""

_FIELDS: Final = ("preferredModels", "fallbackModels", "requiredCapabilities", "performanceRequirements")
_PERFORMANCE: Final = ("maxLatency", "minSuccessRate", "maxCostPerToken")
_MAX_MODELS: Final = 100


def parse_agent(agent_type: str, data: Mapping[str, Any]) -> AgentPreferences:
    """Return the preferences that a JSON object says. Raises ValueError, beginning with the wrong field."""
    given = members(data, "", _FIELDS)
    text(agent_type, "agentType")
    preferred, fallback = (_models(given, name) for name in _FIELDS[:2])
    twice = next((name for name in fallback if name in preferred), None)
    if twice is not None:
        refuse("fallbackModels", f"names {twice!a}, which is preferred already")
    capabilities = _some(given, "requiredCapabilities")
    wanted = members(given.get("performanceRequirements", {}), "performanceRequirements", _PERFORMANCE)
    figures = {name: number(value, f"performanceRequirements.{name}") for name, value in wanted.items()}
    if figures.get("minSuccessRate", 0.0) > 1.0:
        refuse("performanceRequirements.minSuccessRate", "has to be between 0 and 1: 0.95 is 95 percent")
    requirements = Requirements(
        figures.get("minSuccessRate", 0.0), figures.get("maxLatency", 0.0) / 1000,
        figures.get("maxCostPerToken", 0.0),
        frozenset(ABILITIES.get(word.lower(), word) for word in capabilities),
    )  # fmt: skip
    return AgentPreferences(agent_type, preferred, fallback, requirements)


def agent_json(preferences: AgentPreferences) -> dict[str, Any]:
    """Return what ``parse_agent`` reads, without the type."""
    wanted = preferences.requirements
    performance = {
        "maxLatency": _plain(wanted.max_latency * 1000), "minSuccessRate": _plain(wanted.min_success_rate),
        "maxCostPerToken": _plain(wanted.max_cost_per_token),
    }  # fmt: skip
    data: dict[str, Any] = {
        "preferredModels": list(preferences.preferred),
        "fallbackModels": list(preferences.fallback),
        "requiredCapabilities": sorted(wanted.capabilities),
        "performanceRequirements": {name: value for name, value in performance.items() if value},
    }
    return {name: value for name, value in data.items() if value}


def _models(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = _some(given, name)
    if len(found) > _MAX_MODELS:
        refuse(name, f"has {len(found):,} models, at most {_MAX_MODELS} are allowed")
    return found


def _some(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a list of names; an empty one says nothing, as one that is left out."""
    return texts(given[name], name) if given.get(name, []) != [] else ()


def _plain(value: float) -> float | int:
    value = round(value, 9)
    return int(value) if value.is_integer() else value
