"""What became of the calls of the last minute, in buckets of constant size."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["BUCKETS", "Totals", "Window"]

BUCKETS: Final = 10


class Totals(NamedTuple):
    """Sums over a window."""

    good: int
    bad: int
    seconds: float
    """Of the good calls, all together."""


class Window:
    """A sliding window: the bucket being filled lies in plain attributes, the older ones in a ring."""

    __slots__ = ("_bad", "_ends", "_good", "_ring", "_seconds", "_width")

    def __init__(self, length: float) -> None:
        self._width = max(length, 0.001) / BUCKETS
        self._ends = 0.0
        self._ring: list[Totals] = []
        self._good = self._bad = 0
        self._seconds = 0.0

    def good(self, seconds: float, now: float) -> None:
        """Count a call that succeeded."""
        if now >= self._ends:
            self._turn(now)
        self._good += 1
        self._seconds += seconds

    def bad(self, now: float) -> None:
        """Count a call that failed."""
        if now >= self._ends:
            self._turn(now)
        self._bad += 1

    def totals(self, now: float) -> Totals:
        """Sum it up as of now."""
        if now >= self._ends:
            self._turn(now)
        good, bad, seconds = self._good, self._bad, self._seconds
        for each in self._ring:
            good += each.good
            bad += each.bad
            seconds += each.seconds
        return Totals(good, bad, seconds)

    def clear(self) -> None:
        """Forget everything."""
        self._ring.clear()
        self._good = self._bad = 0
        self._seconds = 0.0

    def _turn(self, now: float) -> None:
        """Begin the bucket that ``now`` is in, and drop those that have left the window."""
        passed = int((now - self._ends) / self._width) + 1
        if passed >= BUCKETS:
            self.clear()
            self._ends = now + self._width
            return
        self._ring.append(Totals(self._good, self._bad, self._seconds))
        self._ring.extend([Totals(0, 0, 0.0)] * (passed - 1))
        del self._ring[: -(BUCKETS - 1)]
        self._good = self._bad = 0
        self._seconds = 0.0
        self._ends += passed * self._width
