"""How limits by the minute stand, in the headers that clients of OpenAI know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_core.quota.quota import Taken

__all__ = ["told"]

_NAMES: Final = ("requests", "tokens")
_FULL: Final = "62s"
"""After how long at most all of it is there again, if nothing is used meanwhile."""


def told(held: Sequence[Taken], now: float) -> tuple[tuple[str, str], ...]:
    """Return limit, remaining and reset of requests and tokens: of several limits, the one that leaves the
    least. As far as this process knows: others may have used some of it."""
    headers: tuple[tuple[str, str], ...] = ()
    for name in _NAMES:
        least = None
        for taken in held:
            for line in taken.lines:
                if line.cap.name == name:
                    remaining = line.remaining
                    if least is None or remaining < least[1]:
                        least = (line.amount, remaining)
        if least is not None:
            headers += (
                (f"x-ratelimit-limit-{name}", str(least[0])),
                (f"x-ratelimit-remaining-{name}", str(least[1])),
                (f"x-ratelimit-reset-{name}", _FULL if least[1] < least[0] else "0s"),
            )
    return headers
