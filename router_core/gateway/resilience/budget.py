"""How many retries a process may make: a share of its calls, so that a failing upstream is not buried."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["RetryBudget"]

_SAVED: Final = 100.0
"""Retries that calls can save up for later at most."""


class RetryBudget:
    """Two buckets. Calls fill the one with ``ratio`` each, time fills the other with ``floor`` a second.

    A retry needs a token in either and is taken off both: so the larger of the two allowances counts, not
    their sum, and retries that the floor paid for in advance are earned back by later calls.
    """

    __slots__ = ("_at", "_earned", "_floor", "_ratio", "_time", "_timed", "denied", "spent")

    def __init__(self, ratio: float, floor: float, time: Callable[[], float] = monotonic) -> None:
        self._ratio = ratio
        self._time = time
        self._floor = floor
        self._earned = 0.0
        self._timed = floor
        self._at = time()
        self.spent = 0
        """Retries ever allowed."""
        self.denied = 0
        """Retries ever refused."""

    def call(self) -> None:
        """Count a call (not its retries)."""
        earned = self._earned + self._ratio
        self._earned = earned if earned < _SAVED else _SAVED

    def allowed(self) -> bool:
        """Take one retry; False when there is none left."""
        now = self._time()
        passed, self._at = max(now - self._at, 0.0), now
        self._timed = min(self._timed + passed * self._floor, max(self._floor, 1.0) if self._floor else 0.0)
        if self._earned < 1.0 and self._timed < 1.0:
            self.denied += 1
            return False
        self._earned = max(self._earned - 1.0, -self._floor)
        self._timed = max(self._timed - 1.0, 0.0)
        self.spent += 1
        return True

    def follow(self, ratio: float, floor: float) -> None:
        """Go by another policy from now on."""
        self._ratio, self._floor = ratio, floor
