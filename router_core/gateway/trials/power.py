"""How many calls an experiment needs, and how long that takes."""

from __future__ import annotations

from math import ceil, inf, sqrt
from typing import Final

from router_core.gateway.trials.msprt import half_width

__all__ = ["MOST", "needed", "seconds_left"]

MOST: Final = 10**9
"""Calls of an arm beyond which nobody waits."""


def needed(
    variance: float, effect: float, alpha: float, power: float, *, other: float | None = None,
    ratio: float = 1.0,
) -> int:  # fmt: skip
    """Return the samples of the control with which an effect is found with a probability of ``power``.

    ``other`` is the variance of the variant, ``ratio`` how many samples that gets for each of the control's.
    It is when the interval is expected to keep off 0 even if the estimate is unlucky: a plain test that is
    looked at once would need less, one that is looked at all the time would be wrong.
    """
    from statistics import NormalDist  # calls do not need it, and a cold start would wait for it

    spread = variance + (variance if other is None else other) / ratio
    if effect <= 0.0 or ratio <= 0.0:
        return MOST
    z = NormalDist().inv_cdf(power)

    def enough(n: float) -> bool:
        error = spread / n
        return half_width(error, effect * effect, alpha) + z * sqrt(error) <= effect

    low, high = 1.0, 2.0
    while not enough(high):
        low, high = high, high * 2
        if high > MOST:
            return MOST
    while high - low > max(0.5, 1e-6 * high):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return ceil(high)


def seconds_left(wanted: int, have: float, running: float) -> float | None:
    """Return how long it takes until there are so many samples, at the pace until now; None: nobody knows."""
    if have >= wanted:
        return 0.0
    if have <= 0 or running <= 0.0 or wanted >= MOST:
        return None
    left = (wanted - have) * running / have
    return left if left < inf else None
