"""The rate limit of callers whose processes are many: what one of them lets through the others know of.

Callers with a key are counted in the shared state, by the engine that counts for workspaces: usually a
process takes from what it holds, and nobody waits. Addresses are not: strangers must not be able to have
something written there, so each process counts them by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from router_core.clock import Clock
from router_core.quota.cap import RATE, Cap
from router_core.quota.quota import Exceeded, Quota, Taken
from router_core.security.rate_limit import Rate, rate_headers
from router_core.state import StateStore

__all__ = ["SharedMeter"]

_ROOM: Final = "rate"


class SharedMeter:
    """Counts what callers do in all processes together."""

    def __init__(self, rate: Rate, state: StateStore, clock: Clock) -> None:
        self.quota = Quota(state, clock=clock, room=_ROOM)
        """Has to run beside the calls."""
        self._rate = rate
        self._clock = clock
        self._low = -(-rate.most // 5)
        # without the store each process goes by what it has counted itself: requests are not to fail with it
        self._caps = (Cap("requests", rate.most, RATE, max(1, int(rate.seconds * 1000)), "open"),)

    def take(self, key: str) -> int | Awaitable[int]:
        """Count one, as ``Meter.take`` does; an awaitable says that the store has to be asked."""
        try:
            taken = self.quota.take(key, self._caps)
        except Exceeded as error:
            raise self._refusal(error) from None
        return self._left(taken) if isinstance(taken, Taken) else self._asked(taken)

    async def _asked(self, coming: Awaitable[Taken]) -> int:
        try:
            return self._left(await coming)
        except Exceeded as error:
            raise self._refusal(error) from None

    def _left(self, taken: Taken) -> int:
        line = taken.lines[0]
        taken.settle()
        left = max(0, line.rest - line.unwritten)
        return -1 if left >= self._low else left

    def _refusal(self, error: Exceeded) -> Exceeded:
        rate = self._rate
        error.detail = f"this is more than {rate.most} requests in {rate.seconds:g} seconds"
        error.headers.update(rate_headers(rate, 0, error.retry_after, self._clock.now()))
        return error
