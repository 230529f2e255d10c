"""Does an arm keep to its criteria: for certain not (evidence), or as far as the figures say."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isfinite
from typing import Any, Final

from router_core.gateway.trials.binomial import bounds, latency_above, latency_below
from router_core.gateway.trials.criteria import CRITERIA, Criteria
from router_core.gateway.trials.msprt import difference
from router_core.gateway.trials.tally import Tally
from router_core.records import dataclass

__all__ = ["P95", "Breach", "breaches", "figures", "shortfalls"]

P95: Final = 0.95
_FEW: Final = 30
"""Calls with a price below which their mean cost says nothing for certain."""
_FEW_LATENCIES: Final = 10
_COST_EFFECT: Final = 0.2
_LATENCY_EFFECT: Final = 0.5
"""Sizes of effects that the tests are best at: a fifth of the cost; two thirds more of time."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A criterion that is exceeded, for certain enough."""

    criterion: str
    """Its name on the wire."""
    text: str


def breaches(criteria: Criteria, baseline: Tally, canary: Tally, alpha: float) -> tuple[Breach, ...]:
    """Return what a canary exceeds. However often one asks, and however many criteria there are, one that
    exceeds nothing is found guilty with a probability of ``alpha`` at most."""
    asked = sum(getattr(criteria, name) is not None for name, _, _ in CRITERIA)
    if not asked or not canary.n:
        return ()
    share = alpha / asked
    found = (*_errors(criteria, baseline, canary, share), *_latency(criteria, baseline, canary, share),
             *_cost(criteria, baseline, canary, share))  # fmt: skip
    return tuple(found)


def _errors(criteria: Criteria, baseline: Tally, canary: Tally, alpha: float) -> Iterator[Breach]:
    most = criteria.max_error_rate
    if most is not None and canary.error_rate > most:
        low, _ = bounds(canary.errors, canary.n, alpha)
        if low > most:
            told = f"it fails at least {low:.1%} of its calls ({canary.errors} of {canary.n}),"
            yield Breach("maxErrorRate", f"{told} allowed are {most:.1%}")
    most = criteria.max_error_rate_increase
    if most is not None and canary.bad_rate > baseline.bad_rate + most:
        low, _ = bounds(canary.bad, canary.n, alpha / 2)
        _, high = bounds(baseline.bad, baseline.n, alpha / 2)
        if low > high + most:
            told = f"it fails or refuses at least {low:.1%} of its calls ({canary.bad} of {canary.n}),"
            yield Breach("maxErrorRateIncrease", f"{told} the baseline at most {high:.1%}")


def _latency(criteria: Criteria, baseline: Tally, canary: Tally, alpha: float) -> Iterator[Breach]:
    most = criteria.max_latency_p95
    if most is not None:
        low = latency_above(canary, P95, alpha)
        if low > most:
            yield Breach("maxLatencyP95", f"its p95 is at least {_ms(low)}, allowed are {_ms(most)}")
    most = criteria.max_latency_increase
    if most is None:
        return
    slower = _slower(baseline, canary, alpha / 2)
    if slower > 1.0 + most:
        text = f"its calls typically take at least {slower:.2f} times as long as the baseline's"
        yield Breach("maxLatencyIncrease", text)
        return
    low = latency_above(canary, P95, alpha / 4)
    high = latency_below(baseline, P95, alpha / 4) if low else 0.0
    if low > high * (1.0 + most):
        text = f"its p95 is at least {_ms(low)}, that of the baseline at most {_ms(high)}"
        yield Breach("maxLatencyIncrease", text)


def _slower(baseline: Tally, canary: Tally, alpha: float) -> float:
    """Return how many times as long the calls of a canary certainly take, by the mean of the logarithms: a
    model that has become slower is so at all of its calls, which a quantile alone takes long to tell."""
    before, now = baseline.sums["log_latency"], canary.sums["log_latency"]
    if min(before.n, now.n) < _FEW_LATENCIES:
        return 0.0
    return exp(difference(before, now, _LATENCY_EFFECT, alpha, unit=1.0).low)


def _cost(criteria: Criteria, baseline: Tally, canary: Tally, alpha: float) -> Iterator[Breach]:
    most = criteria.max_cost_increase
    before, now = baseline.sums["cost"], canary.sums["cost"]
    if most is None or min(before.n, now.n) < _FEW:
        return
    compared = difference(before, now, _COST_EFFECT * before.mean, alpha, factor=1.0 + most)
    if compared.low > 0.0:
        text = f"a call costs {_dollars(now.mean)}, at the baseline {_dollars(before.mean)}"
        yield Breach("maxCostIncrease", text)


def shortfalls(criteria: Criteria, baseline: Tally, canary: Tally) -> tuple[str, ...]:
    """Return in words which criteria the figures as they are do not meet."""
    return tuple(_short_alone(criteria, canary)) + tuple(_short_beside(criteria, baseline, canary))


def _short_alone(criteria: Criteria, canary: Tally) -> Iterator[str]:
    most = criteria.max_error_rate
    if most is not None and canary.error_rate > most:
        yield f"maxErrorRate: it fails {canary.error_rate:.1%} of its calls, allowed are {most:.1%}"
    most, p95 = criteria.max_latency_p95, canary.quantile(P95)
    if most is not None and p95 is not None and p95 > most:
        yield f"maxLatencyP95: its p95 is {_ms(p95)}, allowed are {_ms(most)}"


def _short_beside(criteria: Criteria, baseline: Tally, canary: Tally) -> Iterator[str]:
    most = criteria.max_error_rate_increase
    if most is not None and canary.bad_rate > baseline.bad_rate + most:
        both = f"it fails or refuses {canary.bad_rate:.1%} of its calls, the baseline {baseline.bad_rate:.1%}"
        yield f"maxErrorRateIncrease: {both}"
    most, p95, before = criteria.max_latency_increase, canary.quantile(P95), baseline.quantile(P95)
    if most is not None and p95 is not None and before is not None and p95 > before * (1.0 + most):
        yield f"maxLatencyIncrease: its p95 is {_ms(p95)}, that of the baseline {_ms(before)}"
    elif most is not None and _typical(canary) > _typical(baseline) * (1.0 + most) > 0.0:
        typical = f"{_ms(_typical(canary))}, those of the baseline {_ms(_typical(baseline))}"
        yield f"maxLatencyIncrease: its calls typically take {typical}"
    most, cost, usual = criteria.max_cost_increase, canary.sums["cost"].mean, baseline.sums["cost"].mean
    if most is not None and usual and cost > usual * (1.0 + most):
        yield f"maxCostIncrease: a call costs {_dollars(cost)}, at the baseline {_dollars(usual)}"


def figures(tally: Tally) -> dict[str, Any]:
    """Return what is known of an arm as JSON: milliseconds, dollars."""
    p50, p95, cost = tally.quantile(0.5), tally.quantile(P95), tally.sums["cost"]
    return {
        "requests": tally.n, "errors": tally.errors, "refused": tally.refused, "tainted": tally.tainted,
        "cancelled": tally.cancelled, "errorRate": round(tally.error_rate, 6),
        "latencyP50": None if p50 is None else round(p50 * 1000, 3),
        "latencyP95": None if p95 is None else round(p95 * 1000, 3),
        "meanCost": round(cost.mean / 1e6, 9) if cost.n else None,
        "meanTokens": round(tally.sums["tokens"].mean, 3) if tally.sums["tokens"].n else None,
    }  # fmt: skip


def _typical(tally: Tally) -> float:
    moments = tally.sums["log_latency"]
    return exp(moments.mean) if moments.n else 0.0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if isfinite(seconds) else "unknown"


def _dollars(micros: float) -> str:
    return f"{micros / 1e6:.6f} dollars"
