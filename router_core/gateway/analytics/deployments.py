"""What the attempts at deployments come to since one last looked: taken from the metrics, which count each of
them anyway, so that calls pay nothing for it."""

from __future__ import annotations

from collections.abc import Callable

from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.analytics.sums import DeploymentSum, Table
from router_core.telemetry.metrics import Counter

__all__ = ["Deployments"]


class Deployments:
    """Differences between two looks at counters that only grow."""

    __slots__ = ("_metrics", "_model_of", "_seconds", "_seen")

    def __init__(self, metrics: GatewayMetrics, model_of: Callable[[str], str]) -> None:
        """``model_of`` tells whose a deployment is."""
        self._metrics = metrics
        self._model_of = model_of
        self._seen: dict[tuple[str, ...], float] = {}
        self._seconds: dict[str, float] = {}

    def take(self, into: Table) -> None:
        """Add what is new since the last time."""
        metrics = self._metrics
        for (name, outcome), count in self._new("attempts", metrics.attempts):
            outcomes = self._sum(into, name).outcomes
            outcomes[outcome] = outcomes.get(outcome, 0) + count
            self._sum(into, name).seconds += self._passed(name)
        for (name, kind), count in self._new("tokens", metrics.tokens):
            if kind == "input":
                self._sum(into, name).input_tokens += count
            elif kind == "output":
                self._sum(into, name).output_tokens += count
        for (name,), count in self._new("cost", metrics.cost):
            self._sum(into, name).cost += count
        for (name,), count in self._new("unpriced", metrics.unpriced):
            self._sum(into, name).unpriced += count

    def _sum(self, into: Table, name: str) -> DeploymentSum:
        found = into.deployment(name)
        if not found.model:
            found.model = self._model_of(name)
        return found

    def _passed(self, name: str) -> float:
        """Return the seconds that new attempts took, once."""
        total = self._metrics.attempt_seconds.total((name,))
        passed = total - self._seconds.get(name, 0.0)
        self._seconds[name] = total
        return passed

    def _new(self, what: str, counter: Counter) -> list[tuple[tuple[str, ...], int]]:
        found = []
        for labels, value in counter.items():
            key = (what, *labels)
            count = int(value - self._seen.get(key, 0.0))
            if count:
                self._seen[key] = value
                found.append((labels, count))
        return found
