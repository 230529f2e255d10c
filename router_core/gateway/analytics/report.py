"""Sums into what is told of them: totals, rates, quantiles, errors by class, series, shares of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from router_core.gateway.analytics.histogram import RELATIVE_ERROR, quantile
from router_core.gateway.analytics.period import Period
from router_core.gateway.analytics.shelf import start_of, unpack
from router_core.gateway.analytics.sums import DeploymentSum, Key, Sum

__all__ = ["CALLERS", "Report", "Wanted", "stamp", "told"]

CALLERS: Final = frozenset({"client_error", "not_found", "context_window", "content_policy"})
"""Outcomes that are the caller's own mistake."""
_MOST: Final = 100
"""Models (agent types, workspaces, deployments) that an answer names, those with the most calls."""
_SHARES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which calls are looked at."""

    model: str = ""
    """Empty: all."""
    workspace: str | None = None
    """None: all that ``may_see`` lets through."""
    may_see: Callable[[str], bool] = field(default=lambda workspace: True)

    def fits(self, key: Key) -> bool:
        """Return whether calls of a key belong to it."""
        if self.model and key[0] != self.model:
            return False
        if self.workspace is not None:
            return key[1] == self.workspace
        return self.may_see(key[1])


class _Group:
    """Sums by outcome."""

    __slots__ = ("outcomes", "total")

    def __init__(self) -> None:
        self.total = Sum()
        self.outcomes: dict[str, int] = {}

    def add(self, outcome: str, row: Sum) -> None:
        self.total.add(row)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + row.calls


class Report:
    """Takes packed sums and says what they come to. Work for a thread: there may be much of it."""

    def __init__(self, wanted: Wanted, period: Period) -> None:
        self._wanted = wanted
        self._period = period
        self._all = _Group()
        self._by: tuple[dict[str, _Group], ...] = ({}, {}, {})
        """By model, workspace and agent type."""
        self._series: dict[int, _Group] = {}
        self._deployments: dict[str, DeploymentSum] = {}
        self.damaged = 0

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return self._all.total.calls

    def take(self, values: Mapping[str, bytes], now: float) -> None:
        """Add what was found, once; what lies outside of the period is left out."""
        steps: dict[int, list[bytes]] = {}
        for level, start, end in self._period.reads(now):
            for name, value in values.items():
                at = start_of(level, name)
                if at is not None and start <= at < end:
                    steps.setdefault(self._period.step.floor(at), []).append(value)
        whole: dict[Key, Sum] = {}
        for step, found in steps.items():
            # what processes have of one step is put together first: there is much of it, and few keys
            rows = self._step(found)
            group = self._series[step] = _Group()
            for key, row in rows.items():
                group.add(key[3], row)
            _add(whole, rows.items())
        for key, row in whole.items():
            self._all.add(key[3], row)
            for groups, name in zip(self._by, key, strict=False):
                _group(groups, name).add(key[3], row)

    def _step(self, values: Iterable[bytes]) -> dict[Key, Sum]:
        """Return what the calls of one step come to, of those that are looked at."""
        rows: dict[Key, Sum] = {}
        for value in values:
            part = unpack(value)
            if part is None:
                self.damaged += 1
                continue
            _add(rows, [each for each in part.rows if self._wanted.fits(each[0])])
            for name, each in part.deployments.items():
                if not self._wanted.model or each.model == self._wanted.model:
                    self._deployments.setdefault(name, DeploymentSum()).add(each)
        return rows

    def totals(self) -> dict[str, Any]:
        """Return what all calls together come to."""
        return told(self._all.total, self._all.outcomes)

    def models(self) -> list[dict[str, Any]]:
        """Return the models with the most calls."""
        return _named("modelId", self._by[0])

    def workspaces(self) -> list[dict[str, Any]]:
        """Return the workspaces with the most calls."""
        return _named("workspaceId", self._by[1])

    def agents(self) -> list[dict[str, Any]]:
        """Return the agent types with the most calls."""
        return _named("agentType", self._by[2])

    def series(self) -> list[dict[str, Any]]:
        """Return every step of the period, those without any call too."""
        empty = _Group()
        points = []
        for at in range(self._period.start, self._period.end, self._period.step.width):
            group = self._series.get(at, empty)
            point = told(group.total, group.outcomes)
            points.append({"timestamp": stamp(at), **{name: point[name] for name in _POINT}})
        return points

    def deployments(self) -> list[dict[str, Any]]:
        """Return how attempts went, by deployment: a call that was served at the second has two."""
        found = sorted(self._deployments.items(), key=lambda each: -sum(each[1].outcomes.values()))
        return [_deployment(name, each) for name, each in found[:_MOST]]

    def frame(self, partial: bool) -> dict[str, Any]:
        """Return what it is about."""
        period = self._period
        return {
            "timeRange": period.name or None,
            "from": stamp(period.start),
            "to": stamp(period.end),
            "resolution": period.resolution,
            "partial": partial or self.damaged > 0,
            "latencyRelativeError": RELATIVE_ERROR,
        }


_POINT: Final = ("requests", "successes", "errors", "cancelled", "successRate", "latency", "tokens", "cost")


def _add(rows: dict[Key, Sum], more: Iterable[tuple[Key, Sum]]) -> None:
    """Add sums by key; those of a new key are taken as they are."""
    for key, row in more:
        held = rows.get(key)
        if held is None:
            rows[key] = row
        else:
            held.add(row)


def _group(groups: dict[Any, _Group], name: Any) -> _Group:
    found = groups.get(name)
    if found is None:
        found = groups[name] = _Group()
    return found


def _named(title: str, groups: Mapping[str, _Group]) -> list[dict[str, Any]]:
    most = sorted(groups.items(), key=lambda each: (-each[1].total.calls, each[0]))[:_MOST]
    return [{title: name or None, **told(group.total, group.outcomes)} for name, group in most]


def told(total: Sum, outcomes: Mapping[str, int]) -> dict[str, Any]:
    """Return sums as an answer has them: milliseconds and dollars."""
    good, gone = outcomes.get("ok", 0), outcomes.get("cancelled", 0)
    judged = total.calls - gone
    return {
        "requests": total.calls,
        "successes": good,
        "errors": judged - good,
        "callerErrors": sum(count for outcome, count in outcomes.items() if outcome in CALLERS),
        "cancelled": gone,
        "successRate": round(good / judged, 6) if judged else None,
        "latency": _times(total.seconds, total.calls, total.latency),
        "timeToFirstToken": _times(total.first_seconds, total.streams, total.first),
        "tokens": {
            "prompt": total.input_tokens,
            "completion": total.output_tokens,
            "total": total.input_tokens + total.output_tokens,
        },
        "cost": total.cost / 1_000_000,
        "costMicrodollars": total.cost,
        "unpricedRequests": total.unpriced,
        "estimatedRequests": total.estimated,
        "attempts": total.tries,
        "fallbacks": total.fallbacks,
        "errorClasses": _errors(outcomes),
    }


def _errors(outcomes: Mapping[str, int]) -> list[dict[str, Any]]:
    found = [(word, count) for word, count in outcomes.items() if word not in ("ok", "cancelled")]
    return [{"class": word, "count": count} for word, count in sorted(found, key=lambda each: -each[1])]


def _times(seconds: float, count: int, counts: Mapping[int, int]) -> dict[str, Any]:
    p50, p95, p99 = (None if value is None else _ms(value) for value in quantile(counts, _SHARES))
    return {"average": _ms(seconds / count) if count else None, "p50": p50, "p95": p95, "p99": p99}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _deployment(name: str, each: DeploymentSum) -> dict[str, Any]:
    tries, good = sum(each.outcomes.values()), each.outcomes.get("ok", 0)
    judged = tries - each.outcomes.get("cancelled", 0)
    return {
        "deploymentId": name,
        "modelId": each.model or None,
        "attempts": tries,
        "successes": good,
        "successRate": round(good / judged, 6) if judged else None,
        "averageLatency": _ms(each.seconds / tries) if tries else None,
        "tokens": {"prompt": each.input_tokens, "completion": each.output_tokens},
        "cost": each.cost / 1_000_000,
        "unpricedAttempts": each.unpriced,
        "errorClasses": _errors(each.outcomes),
    }


def stamp(at: float) -> str:
    """Return a moment as ISO 8601 in UTC."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds" if at == int(at) else "milliseconds")
    return text.replace("+00:00", "Z")
