"""The time that an analysis is about: which stretches of time are read, and into which it is divided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from router_core.gateway.analytics.shelf import DAY, HOUR, MINUTE, Level

__all__ = ["RANGES", "Period", "moment", "period_of"]

RANGES: Final[Mapping[str, int]] = {
    "1h": 3600, "6h": 6 * 3600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400, "90d": 90 * 86_400,
}  # fmt: skip
"""What a caller may ask for by name."""
DEFAULT: Final = "24h"
_SETTLED: Final = 120
"""Seconds after the end of an hour or day by which all processes have written it."""
_BY_MINUTE: Final = 2 * 3600
_BY_HOUR: Final = 7 * 86_400
_YEAR: Final = 400 * 86_400
_WORDS: Final = {"m": "minute", "h": "hour", "d": "day"}


class Period(NamedTuple):
    """From when to when, in whole steps."""

    name: str
    """The word for it; empty where two moments were given."""
    start: int
    end: int
    step: Level

    @property
    def resolution(self) -> str:
        """The word for its steps."""
        return _WORDS[self.step.letter]

    def reads(self, now: float) -> list[tuple[Level, int, int]]:
        """Return what to read: days and hours as far as all have written them, then what is finer."""
        found: list[tuple[Level, int, int]] = []
        start = self.start
        if self.step is DAY:
            start = _take(DAY, start, min(self.end, DAY.floor(now - _SETTLED)), found)
        if self.step is not MINUTE:
            start = _take(HOUR, start, min(self.end, HOUR.floor(now - _SETTLED)), found)
        _take(MINUTE, start, self.end, found)
        return found


def _take(level: Level, start: int, end: int, found: list[tuple[Level, int, int]]) -> int:
    if end > start:
        found.append((level, start, end))
    return max(start, end)


def period_of(given: Mapping[str, str], now: float) -> Period:
    """Return what a query asks for: ``timeRange``, or ``from`` and ``to``.

    Raises ValueError whose text begins with the name of the parameter that is wrong.
    """
    name = given.get("timeRange", "")
    if "from" not in given and "to" not in given:
        name = name or DEFAULT
        if name not in RANGES:
            raise ValueError(f"timeRange: must be one of {', '.join(RANGES)}, not {name[:40]!r}")
        return _whole(name, now - RANGES[name], now, RANGES[name], now)
    if name:
        raise ValueError("timeRange: give it, or from and to, not both")
    if "from" not in given:
        raise ValueError("from: is missing where to is given")
    start = moment("from", given["from"])
    end = moment("to", given["to"]) if "to" in given else now
    if start >= end:
        raise ValueError("from: must be before to, and before now")
    if now - start > _YEAR:
        raise ValueError("from: sums are kept for 400 days")
    return _whole("", start, min(end, now), end - start, now)


def moment(name: str, text: str) -> float:
    """Return seconds since the epoch of an ISO 8601 time or a number; raises ValueError naming the field."""
    try:
        at = float(text) if text.isascii() and text.replace(".", "", 1).isdigit() else _parsed(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: must be a time such as 2026-01-31T12:00:00Z, or Unix seconds") from None
    if at > _LATEST:
        raise ValueError(f"{name}: lies beyond the years that can be told")
    return max(0.0, at)


_LATEST: Final = 32_503_680_000  # the year 3000


def _parsed(text: str) -> float:
    found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _whole(name: str, start: float, end: float, seconds: float, now: float) -> Period:
    """Return the period in whole steps, the finest that are kept for so long."""
    step = DAY
    if seconds <= _BY_MINUTE and now - start <= _BY_MINUTE + 60:
        step = MINUTE
    elif seconds <= _BY_HOUR and now - start <= _BY_HOUR + 3600:
        step = HOUR
    last = step.floor(end)
    whole = last == end < now
    return Period(name, step.floor(start), last if whole else last + step.width, step)
