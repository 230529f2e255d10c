"""Leave an endpoint alone that keeps failing, and ask it again now and then."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from router_core.clock import Clock

__all__ = ["Breaker", "Breakers"]

_FAILURES: Final = 5
"""Failures in a row that open the breaker."""
_FIRST: Final = 30.0
_LONGEST: Final = 600.0
_KEPT: Final = 1000
"""Endpoints remembered; of more the ones longest unused are forgotten."""
_DISABLED: Final = 24 * 3600.0
"""Seconds for which a 410 is remembered."""


class Breaker:
    """Counts failures in a row of one endpoint. Open: nobody asks. Half-open: one asks for all."""

    __slots__ = ("_clock", "_draw", "_failures", "_open_until", "in_flight")

    def __init__(self, clock: Clock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._failures = 0
        self._open_until = 0.0
        self.in_flight = 0

    def closed_until(self) -> float:
        """Return for how many more seconds nobody may ask; 0 or less: now."""
        return self._open_until - self._clock.monotonic() if self._open_until else 0.0

    def enter(self) -> bool:
        """Take the right to ask. Half-open, there is one such right, and it comes back with ``leave``."""
        if self._failures >= _FAILURES and self.in_flight:
            return False
        self.in_flight += 1
        return True

    def leave(self, success: bool | None) -> None:
        """Give the right back; None says nothing about the endpoint."""
        self.in_flight -= 1
        if success is None:
            return
        if success:
            self._failures, self._open_until = 0, 0.0
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            wait = min(_LONGEST, _FIRST * 2.0 ** min(self._failures - _FAILURES, 10))
            self._open_until = self._clock.monotonic() + wait * (0.8 + 0.4 * self._draw())


class Breakers:
    """One breaker for each endpoint: scheme, host, port and path, but not the query.

    A 410 is about one URL exactly: behind another query there may be another subscriber.
    """

    def __init__(self, clock: Clock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._known: OrderedDict[str, Breaker] = OrderedDict()
        self._disabled: OrderedDict[str, float] = OrderedDict()

    def of(self, url: str) -> Breaker:
        """Return the breaker of a URL."""
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"
        breaker = self._known.get(key)
        if breaker is None:
            breaker = self._known[key] = Breaker(self._clock, self._draw)
            self._forget()
        self._known.move_to_end(key)
        return breaker

    def disable(self, url: str) -> None:
        """Remember that nobody listens there any more."""
        self._disabled[url] = self._clock.monotonic() + _DISABLED
        self._disabled.move_to_end(url)
        if len(self._disabled) > _KEPT:
            self._disabled.popitem(last=False)

    def disabled(self, url: str) -> bool:
        """Return whether the URL has asked to be left alone."""
        return self._disabled.get(url, 0.0) > self._clock.monotonic()

    def _forget(self) -> None:
        if len(self._known) > _KEPT:
            idle = [key for key, breaker in self._known.items() if not breaker.in_flight]
            for key in idle[: len(self._known) - _KEPT]:
                del self._known[key]
