"""One line for each figure: ours, the other's, the ratio, and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "Skip", "median", "show"]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``ratio`` is the figure that counts; ``goal`` says from where on it is good."""

    name: str
    ours: str
    other: str
    ratio: float
    goal: float
    at_least: bool = True
    """Whether the ratio has to reach the goal (True) or to stay below it."""

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal


@dataclass(frozen=True, slots=True)
class Skip:
    """A comparison that cannot be made here, and why."""

    name: str
    reason: str


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(rows: Sequence[Row | Skip]) -> None:
    """Print the rows as a table."""
    for row in rows:
        if isinstance(row, Skip):
            print(f"  SKIPPED {row.name}: {row.reason}", flush=True)
            continue
        sign = ">=" if row.at_least else "<="
        mark = "reached" if row.reached else "MISSED"
        verdict = f"x {row.ratio:6.2f} ({sign} {row.goal:g} {mark})"
        print(f"  {row.name:<58} {row.ours:>20} | {row.other:>28} | {verdict}", flush=True)
