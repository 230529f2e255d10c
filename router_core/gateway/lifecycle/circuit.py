"""Leave a management API alone that keeps failing, but never for long: somebody may wait for a wake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Circuit"]

_FAILURES: Final = 4
"""Failures in a row that open it."""
_FIRST: Final = 10.0
_LONGEST: Final = 60.0


class Circuit:
    """Counts failures in a row. Open: nobody asks. Half-open: one asks for all."""

    __slots__ = ("_asking", "_draw", "_failures", "_open_until")

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._failures = 0
        self._open_until = 0.0
        self._asking = 0

    def closed_for(self, now: float) -> float | None:
        """Return None when somebody may ask, else for how many seconds (about) nobody may."""
        if self._failures < _FAILURES or (now >= self._open_until and not self._asking):
            return None
        return max(1.0, self._open_until - now)

    def begin(self) -> None:
        """Note that somebody asks."""
        self._asking += 1

    def end(self, well: bool | None, now: float) -> None:
        """Note how that went; None says nothing about the API."""
        self._asking -= 1
        if well is None:
            return
        self._failures = 0 if well else self._failures + 1
        if self._failures >= _FAILURES:
            pause = min(_LONGEST, _FIRST * 2.0 ** min(self._failures - _FAILURES, 10))
            self._open_until = now + pause * (0.8 + 0.4 * self._draw())
