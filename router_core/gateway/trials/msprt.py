"""Differences of means, judged as often as one likes: the mixture sequential probability ratio test.

A plain test that is looked at again and again finds a difference in the end where there is none. Here the
likelihood ratio of every possible effect is mixed over a normal prior of variance tau^2; its inverse is a
p-value that stays valid at any time, whatever made one look: Robbins (1970); Johari, Pekelis, Walsh (2015),
Always valid inference: bringing sequential analysis to A/B testing, arXiv:1512.04922; Johari, Koomen,
Pekelis, Walsh (2017), Peeking at A/B tests, KDD. The interval is what that test does not refute: Howard,
Ramdas, McAuliffe, Sekhon (2021), Annals of Statistics 49(2); with variances that are estimated it is
asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024), Time-uniform central limit theory and
asymptotic confidence sequences, Annals of Statistics 52(6)), which is why nothing is said before a number of
samples. A difference of proportions is one of means of zeros and ones.
"""

from __future__ import annotations

from math import exp, inf, log, sqrt
from typing import Final

from router_core.gateway.trials.tally import Moments
from router_core.records import dataclass

__all__ = ["Difference", "difference", "half_width", "log_ratio", "p_value"]

_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger the mean of one arm is than that of another."""

    effect: float
    low: float
    high: float
    """Ends of the confidence sequence."""
    p: float
    """Always valid: below alpha, the arms differ."""


def log_ratio(effect: float, variance: float, tau2: float) -> float:
    """Return the logarithm of the mixture likelihood ratio against no effect; ``variance`` is that of the
    estimate."""
    if variance <= 0.0:
        return 0.0 if effect == 0.0 else inf
    spread = variance + tau2
    return 0.5 * log(variance / spread) + tau2 * effect * effect / (2.0 * variance * spread)


def p_value(effect: float, variance: float, tau2: float) -> float:
    """Return the p-value of this moment; the smallest one of all moments is valid, too."""
    return min(1.0, exp(-min(700.0, max(0.0, log_ratio(effect, variance, tau2)))))


def half_width(variance: float, tau2: float, alpha: float) -> float:
    """Return how far the ends of the confidence sequence lie from the estimate."""
    if variance <= 0.0:
        return 0.0
    spread = variance + tau2
    return sqrt(2.0 * variance * spread / tau2 * (log(1.0 / alpha) + 0.5 * log(spread / variance)))


def difference(
    control: Moments, variant: Moments, tau: float, alpha: float, *, factor: float = 1.0, unit: float = 0.0
) -> Difference:
    """Compare the means of two arms, that of the control times ``factor``; ``tau`` is the size of effects
    that the test is best at finding, ``unit`` of figures whose nought means nothing (0: it does)."""
    effect = variant.mean - factor * control.mean
    if control.n < 2 or variant.n < 2:
        return Difference(effect, -inf, inf, 1.0)
    one, other = _variance(control, unit), _variance(variant, unit)
    variance = other / variant.n + factor * factor * one / control.n
    tau2 = max(tau * tau, _LEAST * _LEAST)
    half = half_width(variance, tau2, alpha)
    return Difference(effect, effect - half, effect + half, p_value(effect, variance, tau2))


def _variance(moments: Moments, unit: float) -> float:
    """Return the variance as if one more value had come that lies a mean (or a unit) away: what has always
    been the same may still not be (a model that has not failed yet), and sums of floats are not exact."""
    one = unit or moments.mean or 1.0
    return (moments.variance * (moments.n - 1) + one * one * moments.n / (moments.n + 1)) / moments.n
