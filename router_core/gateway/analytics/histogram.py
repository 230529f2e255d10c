"""Latencies as counts of logarithmic ranges: sums of two are the histogram of both, and quantiles of any sum
are right to within a stated share of their value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log
from typing import Final

__all__ = ["RELATIVE_ERROR", "Counts", "index_of", "joined", "quantile"]

Counts = dict[int, int]
"""Range -> how many values fell into it; ranges without any are left out."""

RELATIVE_ERROR: Final = 0.02
"""A quantile is off by this share of the true one at most, between ``_LEAST`` and ``_MOST`` seconds."""
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_SCALE: Final = 1 / log(_GAMMA)
_LEAST: Final = 1e-4
_MOST: Final = 1e5
_LOWEST: Final = ceil(log(_LEAST) * _SCALE)
_HIGHEST: Final = ceil(log(_MOST) * _SCALE)


def index_of(seconds: float) -> int:
    """Return the range of a duration; what is too short or too long to be one counts as the shortest or
    longest there is."""
    if seconds <= _LEAST:
        return _LOWEST
    if seconds >= _MOST:
        return _HIGHEST
    return ceil(log(seconds) * _SCALE)


def joined(into: Counts, more: Mapping[int, int]) -> None:
    """Add the counts of another histogram."""
    get = into.get
    for index, count in more.items():
        into[index] = get(index, 0) + count


def quantile(counts: Mapping[int, int], shares: Iterable[float]) -> list[float | None]:
    """Return the durations below which these shares (0 to 1) of the values lie; None without any value."""
    total = sum(counts.values())
    ordered = sorted(counts.items())
    found: list[float | None] = []
    for share in shares:
        rank, running = share * (total - 1), 0
        value: float | None = None
        for index, count in ordered:
            running += count
            value = _middle(index)
            if running > rank:
                break
        found.append(value)
    return found


def _middle(index: int) -> float:
    """Return the value that is equally far, by share, from both ends of a range."""
    upper: float = _GAMMA**index
    return 2 * upper / (_GAMMA + 1)
