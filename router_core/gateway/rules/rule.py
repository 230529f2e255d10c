"""A routing rule as a value: when it holds, and which models a call then goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "ANYTHING", "DAYS", "Condition", "ContentLength", "Rule", "Target", "TimeOfDay", "TrafficSplit",
    "condition_json",
]  # fmt: skip

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class ContentLength:
    """Characters of the prompt, both ends included; None: no such end."""

    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A window of each day, by the clock on the wall of a time zone."""

    start: int = 0
    """Minute of the day, included."""
    end: int = 1440
    """Minute of the day, not included; not after ``start``: the window ends on the next day."""
    timezone: str = "UTC"
    days: frozenset[int] = frozenset()
    """On which it begins, Monday being 0; empty: on all. 22:00 to 06:00 on Friday lasts into Saturday."""


@dataclass(frozen=True, slots=True)
class Condition:
    """When a rule holds: all that is said must. A list holds when the call has one of its values."""

    agent_type: tuple[str, ...] = ()
    """Empty, here and below: nothing is asked."""
    request_type: tuple[str, ...] = ()
    workspace_id: tuple[str, ...] = ()
    user_tier: tuple[str, ...] = ()
    content_length: ContentLength | None = None
    time_of_day: TimeOfDay | None = None
    tags: tuple[str, ...] = ()
    custom: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Key -> values; every key has to hold. Numbers and booleans are their JSON text: ``1.5``, ``true``."""


ANYTHING: Final = Condition()


@dataclass(frozen=True, slots=True)
class Target:
    """A model that a rule sends calls to."""

    model_id: str
    weight: float = 1.0
    """Its share, relative to the other targets; 0: tried only when others failed."""
    fallback_order: int = 1
    """When the drawn target fails, the others are tried from the lowest on."""


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Percent of the calls that go first to the targets in order of fallback. Stands above the weights."""

    primary: float = 100.0
    canary: float = 0.0
    experimental: float = 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    targets: tuple[Target, ...]
    """In order of fallback."""
    condition: Condition = ANYTHING
    split: TrafficSplit | None = None
    priority: int = 0
    """The highest decides; of equals, the one that stands first."""
    enabled: bool = True
    id: str = ""
    shadow: bool = False
    """Matched and reported, but never decides: to try a rule on real traffic."""

    @property
    def key(self) -> str:
        """What it is called in reports, and what its split hangs on: its id, or its name without one."""
        return self.id or self.name

    def to_json(self) -> dict[str, Any]:
        """Return what ``parse_rule`` reads: reading it back gives an equal rule."""
        data: dict[str, Any] = {"id": self.id} if self.id else {}
        data |= {"name": self.name, "condition": condition_json(self.condition)}
        data["targetModels"] = [
            {"modelId": each.model_id, "weight": each.weight, "fallbackOrder": each.fallback_order}
            for each in self.targets
        ]
        if self.split is not None:
            data["trafficSplit"] = {
                "primary": self.split.primary,
                "canary": self.split.canary,
                "experimental": self.split.experimental,
            }
        return data | {"priority": self.priority, "enabled": self.enabled, "shadow": self.shadow}


def condition_json(condition: Condition) -> dict[str, Any]:
    """Return what ``parse_condition`` reads."""
    data: dict[str, Any] = {
        name: list(values)
        for name, values in (
            ("agentType", condition.agent_type),
            ("requestType", condition.request_type),
            ("workspaceId", condition.workspace_id),
            ("userTier", condition.user_tier),
            ("tags", condition.tags),
        )
        if values
    }
    if (length := condition.content_length) is not None:
        ends = {"min": length.min, "max": length.max}
        data["contentLength"] = {name: value for name, value in ends.items() if value is not None}
    if (window := condition.time_of_day) is not None:
        data["timeOfDay"] = _window(window)
    if condition.custom:
        data["custom"] = {key: list(values) for key, values in condition.custom}
    return data


def _window(window: TimeOfDay) -> Mapping[str, Any]:
    data: dict[str, Any] = {
        "start": f"{window.start // 60:02}:{window.start % 60:02}",
        "end": f"{window.end // 60:02}:{window.end % 60:02}",
        "timezone": window.timezone,
    }
    return data | ({"days": [DAYS[day] for day in sorted(window.days)]} if window.days else {})
