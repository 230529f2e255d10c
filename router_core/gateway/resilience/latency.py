"""Recent latency that rises at once and falls slowly."""

from __future__ import annotations

from math import exp
from typing import Final

__all__ = ["AT_ONCE", "PeakEwma"]

_TAU: Final = 10.0
_TAU_MAX: Final = 60.0
AT_ONCE: Final = 0.001
"""Seconds in which nothing fades that could be seen."""


class PeakEwma:
    """A moving average of seconds that takes over every new peak whole.

    It fades with time, so that a deployment which nobody asks any more because it was slow once gets asked
    again: within 10 s to a third, or within twice the latency where that is longer (a minute at most).
    """

    __slots__ = ("at", "value")

    def __init__(self) -> None:
        self.value = 0.0
        """Seconds as of the last observation; 0: nothing observed yet."""
        self.at = 0.0
        """When that was."""

    def observe(self, seconds: float, now: float) -> None:
        """Take one more call into account."""
        value = self.value
        if seconds >= value:
            self.value = seconds
        else:
            tau = _TAU if value < 5.0 else min(2.0 * value, _TAU_MAX)
            keep = exp((self.at - now) / tau)
            if keep < 1.0:
                self.value = seconds + (value - seconds) * keep
        self.at = now

    def read(self, now: float) -> float:
        """Return the seconds, faded by the time since the last observation."""
        value = self.value
        idle = now - self.at
        if idle < AT_ONCE or not value:
            return value
        return value * exp(-idle / (_TAU if value < 5.0 else min(2.0 * value, _TAU_MAX)))
