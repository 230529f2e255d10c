"""How long an upstream asked to be left alone, in every form that upstreams write it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz
from typing import Final

__all__ = ["LONGEST", "cooldown_of", "retry_after"]

LONGEST: Final = 86_400.0
"""Seconds; whatever is longer is read as this, and policies cap it much lower."""

_MAX_CHARS: Final = 64
_EPOCH: Final = 1_000_000_000.0
"""A reset above this is a date in Unix seconds (milliseconds above a thousand times this), not a wait."""
_NUMBER: Final = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|ns|h|m|s|d)", re.ASCII)
_UNITS: Final = {
    "d": 86_400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}

_LIMITS: Final = ("requests", "tokens", "input-tokens", "output-tokens")
_RESETS: Final = (
    ("x-ratelimit-reset", "x-ratelimit-remaining"), ("ratelimit-reset", "ratelimit-remaining"),
    *((f"x-ratelimit-reset-{name}", f"x-ratelimit-remaining-{name}") for name in _LIMITS),
    *((f"anthropic-ratelimit-{name}-reset", f"anthropic-ratelimit-{name}-remaining") for name in _LIMITS),
)  # fmt: skip
"""Header that says when a limit is full again, and the one that says how much of it is left."""


def retry_after(value: str, now_epoch: float) -> float | None:
    """Return the seconds of a Retry-After header; None for what is none (garbage, negative numbers).

    Seconds may have decimals; dates come in the three formats of HTTP and in that of ISO 8601. What is past
    is 0, what is longer than a day is a day.
    """
    text = value.strip()
    if not text or len(text) > _MAX_CHARS:
        return None
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    date = _date(text)
    return None if date is None else _bounded(max(date - now_epoch, 0.0))


def cooldown_of(headers: Mapping[str, str], now_epoch: float) -> float | None:
    """Return for how long an answer asks to be left alone; None when it says nothing.

    ``retry-after-ms`` before ``retry-after`` before the resets of rate limits. Dates are taken against the
    answer's own ``date``, so that a wrong clock on either side does no harm.
    """
    ms = headers.get("retry-after-ms")
    if ms is not None and len(ms) <= _MAX_CHARS and _NUMBER.fullmatch(ms.strip()):
        found = _bounded(float(ms) / 1000.0)
        if found is not None:
            return found
    value = headers.get("retry-after")
    if value is not None:
        theirs = _date(headers.get("date", ""))
        found = retry_after(value, now_epoch if theirs is None else theirs)
        if found is not None:
            return found
    return _reset_of(headers, now_epoch)


def _reset_of(headers: Mapping[str, str], now_epoch: float) -> float | None:
    """Return the longest wait for a limit that is used up; with none known to be, the shortest of all."""
    spent: list[float] = []
    others: list[float] = []
    for reset, remaining in _RESETS:
        value = headers.get(reset)
        seconds = None if value is None else _reset(value.strip(), now_epoch)
        if seconds is not None:
            (spent if headers.get(remaining, "").strip() == "0" else others).append(seconds)
    if spent:
        return max(spent)
    return min(others, default=None)


def _reset(text: str, now_epoch: float) -> float | None:
    """Return the seconds of a rate limit's reset: ``12``, ``6m0s``, ``120ms``, Unix time, or a date."""
    if not text or len(text) > _MAX_CHARS:
        return None
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH * 1000:
            number /= 1000
        return _bounded(max(number - now_epoch, 0.0) if number >= _EPOCH else number)
    parts = _DURATION.findall(text)
    if parts and "".join(amount + unit for amount, unit in parts) == text:
        return _bounded(sum(float(amount) * _UNITS[unit] for amount, unit in parts))
    date = _date(text)
    return None if date is None else _bounded(max(date - now_epoch, 0.0))


def _bounded(seconds: float) -> float | None:
    if math.isnan(seconds) or seconds < 0:
        return None
    return min(seconds, LONGEST)


def _date(text: str) -> float | None:
    """Return a date as Unix seconds."""
    if not text or len(text) > _MAX_CHARS:
        return None
    try:
        if text[:4].isdecimal():
            moment = datetime.fromisoformat(text)
            return moment.timestamp() if moment.tzinfo else moment.replace(tzinfo=UTC).timestamp()
        parsed = parsedate_tz(text)
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError, IndexError, TypeError, OSError):
        return None
