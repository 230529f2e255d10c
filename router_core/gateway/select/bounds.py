"""What the tenant of a call allows: bounds that hold for all of its calls, whatever they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from router_core.gateway.resilience.standing import Standing

__all__ = ["Bounds", "too_bad"]

_FEW: Final = 20
"""Calls below which a share of failures says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """One set of them. Compared by identity: one is made for a workspace and a configuration."""

    models: frozenset[str] = frozenset()
    """Ids of the models that may serve; empty: all."""
    regions: frozenset[str] = frozenset()
    """Where calls may be served; empty: anywhere."""
    priced: bool = False
    """Leave out deployments whose price is not known."""
    min_success_rate: float = 0.0
    max_latency: float = 0.0
    """Seconds; 0: any."""

    @property
    def measured(self) -> bool:
        """Whether they look at more than the configuration."""
        return self.priced or bool(self.min_success_rate or self.max_latency)


def too_bad(bounds: Bounds, standing: Standing, now: float) -> str:
    """Return what is wrong with how a deployment has served lately, or nothing."""
    if bounds.min_success_rate:
        good, bad, _ = standing.totals(now)
        if good + bad >= _FEW and good < bounds.min_success_rate * (good + bad):
            rate = good / (good + bad)
            return f"{rate:.1%} of its last calls succeeded, asked are {bounds.min_success_rate:.1%}"
    if bounds.max_latency and standing.latency:
        seconds = standing.load(now) / (standing.inflight + 1)
        if seconds > bounds.max_latency:
            return f"its calls take about {seconds * 1000:.0f} ms, asked are {bounds.max_latency * 1000:.0f}"
    return ""
