"""How many requests somebody may make in a window that slides: counted in this process.

It slides in thirty steps, so that a count is at most as many numbers however many requests there were. What
was used is forgotten up to a thirtieth of the window too late and never too early: nobody makes twice as many
by waiting for a boundary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil
from time import time
from typing import Final

from router_core.errors import RateLimited
from router_core.records import dataclass
from router_core.settings import Settings

__all__ = ["DEFAULT_MAX", "DEFAULT_WINDOW_MS", "Meter", "Rate", "rate_headers", "rate_of"]

DEFAULT_MAX: Final = 1000
DEFAULT_WINDOW_MS: Final = 900_000
_MOST_KEYS: Final = 50_000
"""Callers that are counted at once; of more, those who have done nothing for longest are forgotten."""
_POLICY: Final = "default"
_PARTS: Final = 30


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in any stretch of so many seconds."""

    most: int
    seconds: float


def rate_of(settings: Settings) -> Rate | None:
    """Return the limit of the settings; None without one. Each of the two has a default beside the other."""
    most, window = settings.rate_limit_max, settings.rate_limit_window_ms
    if not most and not window:
        return None
    return Rate(most or DEFAULT_MAX, (window or DEFAULT_WINDOW_MS) / 1000)


class _Count:
    """The requests of one caller: how many in each part of the window, and all of them."""

    __slots__ = ("parts", "total", "turn")

    def __init__(self) -> None:
        self.parts: deque[list[float]] = deque()
        """When it is forgotten, and how many; the last one is that of this moment."""
        self.total = 0
        self.turn = 0.0
        """When the next part begins."""


class Meter:
    """Counts what each of many callers does, for one event loop."""

    __slots__ = ("_counts", "_keys", "_low", "_time", "_width", "rate")

    def __init__(self, rate: Rate, *, clock: Callable[[], float] = time, keys: int = _MOST_KEYS) -> None:
        self.rate = rate
        self._time = clock
        self._keys = keys
        self._low = -(-rate.most // 5)
        self._width = rate.seconds / _PARTS
        self._counts: dict[str, _Count] = {}

    def take(self, key: str) -> int:
        """Count one. Returns how many are left where that is less than a fifth, else -1.

        Raises RateLimited, and counts nothing, where there is none left: a caller who keeps on asking does
        not wait any longer for that.
        """
        now = self._time()
        count = self._counts.get(key)
        if count is None or now >= count.turn:
            count = self._turned(key, count, now)
        left = self.rate.most - count.total - 1
        if left < 0:
            raise self._refusal(count, now)
        count.total += 1
        count.parts[-1][1] += 1
        return -1 if left >= self._low else left

    def check(self, key: str) -> None:
        """Raise RateLimited where nothing is left, without counting."""
        count = self._counts.get(key)
        if count is None:
            return
        now = self._time()
        if now >= count.turn:
            count = self._turned(key, count, now)
        if count.total >= self.rate.most:
            raise self._refusal(count, now)

    def headers(self, left: int) -> tuple[tuple[str, str], ...]:
        """Return what an answer says of how many are left."""
        return tuple(rate_headers(self.rate, left, self.rate.seconds, self._time()).items())

    def _turned(self, key: str, count: _Count | None, now: float) -> _Count:
        """Begin another part of the window, and forget those that it has left."""
        if count is None:
            if len(self._counts) >= self._keys:
                self._forget(now)
            count = _Count()
        else:
            del self._counts[key]  # so that those who did nothing for longest come first
        parts = count.parts
        while parts and parts[0][0] <= now:
            count.total -= int(parts.popleft()[1])
        if parts and not parts[-1][1]:
            parts.pop()
        count.turn = (now // self._width + 1) * self._width
        parts.append([count.turn + self.rate.seconds, 0])
        self._counts[key] = count
        return count

    def _forget(self, now: float) -> None:
        """Let go of those who did nothing lately, and of a tenth of the others if that is not enough."""
        over = now - self.rate.seconds
        for key in [key for key, count in self._counts.items() if count.turn <= over]:
            del self._counts[key]
        for key in list(self._counts)[: len(self._counts) - self._keys * 9 // 10]:
            del self._counts[key]

    def _refusal(self, count: _Count, now: float) -> RateLimited:
        wait = count.parts[0][0] - now
        error = RateLimited(
            f"this is more than {self.rate.most} requests in {self.rate.seconds:g} seconds",
            retry_after=wait, code="rate_limited",
        )  # fmt: skip
        error.headers.update(rate_headers(self.rate, 0, wait, now))
        return error


def rate_headers(rate: Rate, left: int, wait: float, now: float) -> dict[str, str]:
    """Return the fields of the IETF draft, and those that clients knew before it."""
    return {
        "ratelimit-policy": f'"{_POLICY}";q={rate.most};w={ceil(rate.seconds)}',
        "ratelimit": f'"{_POLICY}";r={left};t={ceil(wait)}',
        "x-ratelimit-limit": str(rate.most),
        "x-ratelimit-remaining": str(left),
        "x-ratelimit-reset": str(ceil(now + wait)),
    }
