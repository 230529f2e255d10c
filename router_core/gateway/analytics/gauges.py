"""Gauges of what was set by hand: how much of a budget is spent, how far a rollout has come."""

from __future__ import annotations

from typing import Final

from router_core.gateway.trials.rollout import Rollout
from router_core.gateway.trials.staging import share_of
from router_core.gateway.trials.trials import Trials
from router_core.quota.quota import Quota
from router_core.telemetry.metrics import Gauge, Metrics

__all__ = ["Gauges"]

_NAME: Final = 200
_CALLERS: Final = "caller:"
"""Of these there may be any number."""


class Gauges:
    """Looked at when the metrics are read."""

    def __init__(self, quota: Quota, trials: Trials) -> None:
        self._quota = quota
        self._trials = trials
        self.budgets = Gauge(
            "model_router_budget_used_ratio",
            "Share of a budget that is spent in its window, as far as this process knows.",
            ("subject", "limit"),
            across="max",
        )
        self.rollouts = Gauge(
            "model_router_rollout_percent", "Percent of the calls that a canary gets.", ("rollout", "status")
        )

    def join(self, metrics: Metrics) -> None:
        """Show them among the metrics of an app."""
        metrics.add(self.budgets)
        metrics.add(self.rollouts)
        metrics.before_render(self._look)

    def _look(self) -> None:
        budgets: dict[tuple[str, ...], float] = {}
        for subject, limit, spent, amount in self._quota.spent():
            if amount > 0 and not subject.startswith(_CALLERS):
                budgets[subject[:_NAME], limit] = spent / amount
        self.budgets.replace(budgets)
        shares: dict[tuple[str, ...], float] = {}
        for live in self._trials.all("rollout"):
            if live.state is not None and isinstance(live.trial, Rollout):
                shares[live.trial.id, live.state.status] = share_of(live.trial, live.state)
        self.rollouts.replace(shares)
