"""Shares of calls, judged as often as one likes: exact from the first call on, for rare events too.

A mixture of likelihood ratios over a Beta prior is a martingale under the true share, so that with
probability 1 - alpha it never reaches 1 / alpha, whenever anybody looks (Ville's inequality): Robbins (1970),
Statistical methods related to the law of the iterated logarithm; Howard, Ramdas, McAuliffe, Sekhon (2021),
Time-uniform, nonparametric, nonasymptotic confidence sequences, Annals of Statistics 49(2). Quantiles: what
lies above a latency is a share of the calls, and that of the true quantile is known; Howard, Ramdas (2022),
Sequential estimation of quantiles with applications to A/B testing and best-arm identification, Bernoulli.
"""

from __future__ import annotations

from math import inf, lgamma, log
from typing import Final

from router_core.gateway.trials.tally import LATENCY_BINS, Tally, edge

__all__ = ["bounds", "evidence", "latency_above", "latency_below"]

_PRIOR: Final = 0.5
"""Jeffreys': loses little anywhere, and least where shares are near 0 or 1, as those of failures are."""
_PRIOR_LOG: Final = 2 * lgamma(_PRIOR) - lgamma(2 * _PRIOR)
_STEPS: Final = 40


def evidence(hits: float, n: float, share: float) -> float:
    """Return the logarithm of the evidence against a true share; log(1 / alpha) refutes it."""
    misses = n - hits
    if (share <= 0.0 and hits) or (share >= 1.0 and misses):
        return inf
    mixed = lgamma(_PRIOR + hits) + lgamma(_PRIOR + misses) - lgamma(2 * _PRIOR + n) - _PRIOR_LOG
    if hits:
        mixed -= hits * log(share)
    if misses:
        mixed -= misses * log(1.0 - share)
    return mixed


def bounds(hits: float, n: float, alpha: float) -> tuple[float, float]:
    """Return the ends of the confidence sequence of a share: all shares that are not refuted."""
    if not n:
        return 0.0, 1.0
    limit, seen = log(1.0 / alpha), hits / n
    low = 0.0 if not hits else _where(hits, n, limit, 0.0, seen)
    high = 1.0 if hits >= n else _where(hits, n, limit, 1.0, seen)
    return low, high


def _where(hits: float, n: float, limit: float, out: float, within: float) -> float:
    """Return where, between a refuted share and one that is not, the evidence reaches the limit."""
    for _ in range(_STEPS):
        middle = (out + within) / 2
        if evidence(hits, n, middle) >= limit:
            out = middle
        else:
            within = middle
    return out


def latency_above(tally: Tally, quantile: float, alpha: float) -> float:
    """Return the largest latency that the true quantile is certain to lie above; 0: nothing is certain."""
    n, limit, above = sum(tally.latencies.values()), log(1.0 / alpha), 0
    for place in sorted(tally.latencies, reverse=True):
        above += tally.latencies[place]  # those that took as long as this bin begins, at least
        if above / n > 1.0 - quantile and evidence(above, n, 1.0 - quantile) >= limit:
            return edge(place)
    return 0.0


def latency_below(tally: Tally, quantile: float, alpha: float) -> float:
    """Return the smallest latency that the true quantile is certain to lie below; inf: nothing is certain."""
    n, limit = sum(tally.latencies.values()), log(1.0 / alpha)
    above, found = 0, inf
    if not n or evidence(0, n, 1.0 - quantile) < limit:
        return inf
    for place in sorted(tally.latencies, reverse=True):
        if place == LATENCY_BINS - 1 or evidence(above, n, 1.0 - quantile) < limit:
            break
        found = edge(place + 1)
        above += tally.latencies[place]
        if above / n >= 1.0 - quantile:
            break
    return found
