"""What is known of one arm: sums that can be added up over processes, and from which all figures come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any, Final

__all__ = ["LATENCY_BINS", "METRIC_SUMS", "Moments", "Tally", "bin_of", "edge"]

METRIC_SUMS: Final = ("latency", "log_latency", "cost", "tokens", "score")
"""What there are sums of: seconds, their logarithms, micro-dollars, tokens both ways, what callers posted."""
_STEPS: Final = 1.0 / log(1.05)
_LEAST: Final = 0.001
"""Seconds; what is quicker counts as this."""
_LEAST_LOG: Final = log(_LEAST)
LATENCY_BINS: Final = 300
"""Each 5 % wider than the one before, from a millisecond to half an hour."""
_COUNTS: Final = ("n", "errors", "refused", "cancelled", "tainted")
_MOST: Final = 1e300


def bin_of(seconds: float) -> int:
    """Return the bin of the histogram that a latency falls into."""
    return _bin(log(max(seconds, _LEAST)))


def _bin(logarithm: float) -> int:
    return min(LATENCY_BINS - 1, int((logarithm - _LEAST_LOG) * _STEPS))


def edge(place: int) -> float:
    """Return the seconds at which a bin begins; the next one's are where it ends."""
    return exp(place / _STEPS) / 1000.0 if place else 0.0


class Moments:
    """Count, sum and sum of squares of one figure."""

    __slots__ = ("n", "square", "sum")

    def __init__(self, n: float = 0, total: float = 0.0, square: float = 0.0) -> None:
        self.n = n
        self.sum = total
        self.square = square

    def add(self, value: float) -> None:
        """Take one value."""
        self.n += 1
        self.sum += value
        self.square += value * value

    @property
    def mean(self) -> float:
        """Return the mean, 0 of nothing."""
        return self.sum / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """Return the estimated variance, 0 of less than two values."""
        if self.n < 2:
            return 0.0
        return max(0.0, (self.square - self.sum * self.sum / self.n) / (self.n - 1))


class Tally:
    """Sums of one arm. Adding a call is a few additions: it happens on the way of calls."""

    __slots__ = ("cancelled", "errors", "latencies", "n", "refused", "sums", "tainted")

    def __init__(self) -> None:
        self.n = 0
        """Calls that were judged: those for which the arm's model was asked, and its callers waited."""
        self.errors = 0
        """Of these, those of which a try failed, also where another try or another model saved them."""
        self.refused = 0
        """Of these, those that it took for the caller's mistake."""
        self.cancelled = 0
        """Calls whose caller went away; they are not judged."""
        self.tainted = 0
        """Calls that another model had a part in: no figure but ``errors`` and ``refused`` knows them."""
        self.latencies: dict[int, int] = {}
        """Bin -> calls that were answered well."""
        self.sums = {name: Moments() for name in METRIC_SUMS}

    def answered(self, seconds: float, cost: int | None, tokens: int) -> None:
        """Take a call that was answered well by the arm's model, which nobody else had a part in."""
        self.n += 1
        logarithm = log(max(seconds, _LEAST))
        place = _bin(logarithm)
        self.latencies[place] = self.latencies.get(place, 0) + 1
        sums = self.sums
        sums["latency"].add(seconds)
        sums["log_latency"].add(logarithm)
        sums["tokens"].add(tokens)
        if cost is not None:
            sums["cost"].add(cost)

    def add(self, other: Tally) -> None:
        """Take all that another one has."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for place, count in other.latencies.items():
            self.latencies[place] = self.latencies.get(place, 0) + count
        for name, moments in other.sums.items():
            mine = self.sums[name]
            mine.n += moments.n
            mine.sum += moments.sum
            mine.square += moments.square

    @property
    def bad(self) -> int:
        """Return the calls that did not get what they asked for, for whatever reason."""
        return self.errors + self.refused

    @property
    def error_rate(self) -> float:
        """Return the share of calls that the model failed."""
        return self.errors / self.n if self.n else 0.0

    @property
    def bad_rate(self) -> float:
        """Return the share of calls that did not get what they asked for."""
        return self.bad / self.n if self.n else 0.0

    def quantile(self, share: float) -> float | None:
        """Return the latency that this share of the well answered calls stays below; None of nothing."""
        rank, seen = share * sum(self.latencies.values()), 0
        for place in sorted(self.latencies):
            seen += self.latencies[place]
            if seen >= rank:
                return edge(place + 1)
        return None

    def moments(self, metric: str) -> Moments:
        """Return what a metric is estimated from."""
        if metric == "successRate":
            good = float(self.n - self.bad)
            return Moments(self.n, good, good)
        return self.sums[metric]

    def to_json(self) -> dict[str, Any]:
        """Return what ``read`` reads."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "latencies": {str(place): count for place, count in self.latencies.items()},
            "sums": {name: [each.n, each.sum, each.square] for name, each in self.sums.items()},
        }

    @classmethod
    def read(cls, data: object) -> Tally:
        """Return what was written. What is no tally, or a part that is none, counts as nothing."""
        tally = cls()
        given = data if isinstance(data, Mapping) else {}
        for name in _COUNTS:
            setattr(tally, name, int(_figure(given.get(name))))
        latencies = given.get("latencies")
        for key, count in (latencies if isinstance(latencies, Mapping) else {}).items():
            if isinstance(key, str) and key.isdecimal() and int(key) < LATENCY_BINS:
                tally.latencies[int(key)] = int(_figure(count))
        sums = given.get("sums")
        for name, moments in (sums if isinstance(sums, Mapping) else {}).items():
            if name in tally.sums and isinstance(moments, list) and len(moments) == 3:
                tally.sums[name] = Moments(*(_figure(each, least=-_MOST) for each in moments))
        return tally

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """Return all of them together."""
        found = cls()
        for each in tallies:
            found.add(each)
        return found


def _figure(value: object, least: float = 0.0) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= _MOST
    return value if good else 0.0  # type: ignore[return-value]
