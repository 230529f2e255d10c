"""When a call may be sent again, and how long to wait before."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from router_core.client.errors import BadAnswer, CannotConnect, ConnectionCut, TlsFailed
from router_core.errors import Conflict, RateLimited, RouterError, Unavailable

__all__ = ["NO_RETRY", "Retry"]

_REFUSED: Final = frozenset({425, 429, 503})
"""The service says itself that it has not taken the call."""
_UNCLEAR: Final = frozenset({408, 502, 504})
"""Somebody in between gave up; the service may have acted."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long to try.

    Calls are repeated when nothing was sent or the service refused (429, 503). After a cut connection or a
    502 or 504 the service may have acted, so only a call that is harmless to repeat is: a GET, or a job
    submitted under an idempotency key.
    """

    attempts: int = 6
    """Tries, not retries."""
    total: float = 60.0
    """Seconds after which no further try begins."""
    base: float = 0.25
    """Seconds; the wait before try n+1 is drawn between 0 and ``base * 2**n`` (full jitter)."""
    cap: float = 8.0
    """Seconds; the longest drawn wait."""
    patience: float = 30.0
    """Seconds; a ``Retry-After`` longer than this is passed on to the caller as the error that it is."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.monotonic

    def may(self, error: RouterError, *, repeatable: bool) -> bool:
        """Return whether the same call may be sent again after this error."""
        if isinstance(error, TlsFailed):
            return False  # the certificate will be the same
        if isinstance(error, CannotConnect) or error.status in _REFUSED:
            return True
        if isinstance(error, Conflict):
            # the first try under this key is still being recorded
            return repeatable and "retry-after" in error.headers
        if isinstance(error, ConnectionCut):
            return repeatable
        return repeatable and error.status in _UNCLEAR and not isinstance(error, BadAnswer)

    def wait(self, error: RouterError, tries: int, started: float) -> float | None:
        """Return how long to wait after try number ``tries``; None means give up."""
        if tries >= self.attempts:
            return None
        asked = _asked(error)
        if asked > self.patience:
            return None
        drawn = random.uniform(0.0, min(self.cap, self.base * 2.0**tries))  # noqa: S311 - jitter, not a secret
        seconds = asked + drawn
        return None if self.now() - started + seconds > self.total else seconds


def _asked(error: RouterError) -> float:
    if isinstance(error, (RateLimited, Unavailable)):
        return error.retry_after if "retry-after" in error.headers else 0.0
    return 1.0 if isinstance(error, Conflict) else 0.0


NO_RETRY: Final = Retry(attempts=1)
