"""How many second copies of slow calls a model may send."""

from __future__ import annotations

from typing import Final

__all__ = ["HedgeBudget"]

_SAVED: Final = 10.0
"""Hedges that calls can save up for later at most: when everything gets slow at once, this is all."""


class HedgeBudget:
    """A share of the calls of one model. Every hedge is a retry too: ask the retry budget as well, last."""

    __slots__ = ("_saved", "_share", "denied", "spent")

    def __init__(self, max_share: float) -> None:
        self._share = max_share
        self._saved = 0.0
        self.spent = 0
        """Hedges ever allowed."""
        self.denied = 0
        """Hedges ever refused."""

    def call(self) -> None:
        """Count a call (not its retries or hedges)."""
        saved = self._saved + self._share
        self._saved = saved if saved < _SAVED else _SAVED

    def allowed(self) -> bool:
        """Take one hedge; False when the share is used up."""
        if self._saved < 1.0:
            self.denied += 1
            return False
        self._saved -= 1.0
        self.spent += 1
        return True
