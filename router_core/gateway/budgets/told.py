"""How limits by the minute stand, in the headers that clients of OpenAI know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_core.quota.quota import Taken

__all__ = ["Told"]

_NAMES: Final = ("requests", "tokens")
_FULL: Final = "62s"
"""After how long at most all of it is there again, if nothing is used meanwhile."""
_STEPS: Final = 64
_KEPT: Final = 4096

Headers = tuple[tuple[str, str], ...]
_State = tuple[int, ...]


class Told:
    """Headers by what they say.

    What remains is rounded down to a sixty-fourth of the limit, so that the same headers are told again and
    again: a server need not encode them anew for each answer.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[_State, Headers] = {}

    def headers(self, held: Sequence[Taken]) -> Headers:
        """Return limit, remaining and reset of requests and tokens: of several limits, the one that leaves
        the least. As far as this process knows: others may have used some of it."""
        requests = tokens = -1
        of_requests = of_tokens = 0
        for taken in held:
            for line in taken.lines:
                if not line.rate:
                    continue
                amount = line.amount
                step = amount // _STEPS or 1
                remaining = line.remaining // step * step
                if line.cap.name == "requests":
                    if requests < 0 or remaining < requests:
                        requests, of_requests = remaining, amount
                elif tokens < 0 or remaining < tokens:
                    tokens, of_tokens = remaining, amount
        state = (of_requests, requests, of_tokens, tokens)
        known = self._kept.get(state)
        if known is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            known = self._kept[state] = _written(state)
        return known


def _written(state: _State) -> Headers:
    headers: Headers = ()
    for name, amount, remaining in zip(_NAMES, state[::2], state[1::2], strict=True):
        if remaining >= 0:
            headers += (
                (f"x-ratelimit-limit-{name}", str(amount)),
                (f"x-ratelimit-remaining-{name}", str(remaining)),
                (f"x-ratelimit-reset-{name}", _FULL if remaining < amount else "0s"),
            )
    return headers
