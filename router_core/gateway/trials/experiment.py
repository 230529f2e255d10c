"""An experiment as a value: several models serve the same calls, and one figure tells which is best."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Final, Literal

from router_core.gateway.rules.rule import Condition, condition_json
from router_core.gateway.trials.criteria import Criteria
from router_core.gateway.trials.rollout import StickyBy
from router_core.records import dataclass

__all__ = ["METRICS", "RELATIVE", "Experiment", "Metric", "Variant", "wants_more"]

Metric = Literal["successRate", "latency", "cost", "tokens", "score"]
METRICS: Final[tuple[Metric, ...]] = ("successRate", "latency", "cost", "tokens", "score")
RELATIVE: Final = frozenset({"latency", "cost", "tokens"})
"""Metrics whose smallest effect of interest is a share of what the control has."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm."""

    name: str
    model_id: str
    weight: float = 1.0
    """Its share of the calls, relative to the others."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment."""

    id: str
    variants: tuple[Variant, ...]
    """The first is the control, with which each of the others is compared."""
    model: str = ""
    """The model whose calls take part. Empty: ``auto`` calls for which ``condition`` holds."""
    condition: Condition | None = None
    metric: Metric = "successRate"
    alpha: float = 0.05
    """Probability that a difference is found where there is none, however often anybody looks, and over all
    variants together."""
    power: float = 0.8
    """Of the estimate of how long it takes."""
    min_samples: int = 100
    """Judged calls of each arm before anything is said."""
    min_effect: float = 0.05
    """The smallest difference that is of interest (``minDetectableEffect``): of latency, cost and tokens as a
    share of the control's mean, else as it is."""
    guardrails: Criteria = field(default_factory=Criteria)
    """What no variant may exceed beside the control: when that is certain enough, the experiment ends."""
    max_duration: float = 0.0
    """Seconds after which it ends without a verdict; 0: never."""
    on_verdict: Literal["report", "promote"] = "report"
    """``promote``: all calls go to the winner."""
    sticky_by: StickyBy = "session"
    enabled: bool = True
    kind: ClassVar[Literal["experiment"]] = "experiment"

    def to_json(self) -> dict[str, Any]:
        """Return what ``parse_experiment`` reads: reading it back gives an equal experiment."""
        data: dict[str, Any] = {"id": self.id}
        if self.model:
            data["model"] = self.model
        if self.condition is not None:
            data["condition"] = condition_json(self.condition)
        data["variants"] = [
            {"name": each.name, "modelId": each.model_id, "weight": each.weight} for each in self.variants
        ]
        return data | {
            "metric": self.metric, "alpha": self.alpha, "power": self.power, "minSamples": self.min_samples,
            "minDetectableEffect": self.min_effect, "guardrails": self.guardrails.to_json(),
            "maxDurationSeconds": self.max_duration, "onVerdict": self.on_verdict,
            "stickyBy": self.sticky_by, "enabled": self.enabled,
        }  # fmt: skip


def wants_more(metric: str) -> bool:
    """Return whether more of a metric is better."""
    return metric in ("successRate", "score")
