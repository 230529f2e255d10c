"""Time as a value that is passed in, so that tests can move it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "rfc3339"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Three ways to ask for time."""

    def now(self) -> float:
        """Return wall-clock seconds since the epoch (UTC); may jump when the machine's clock is set."""

    def monotonic(self) -> float:
        """Return seconds that never go back and that count time spent suspended."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a fake clock returns when its time has been moved far enough."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Return ``time.time()``."""
        return time.time()

    def monotonic(self) -> float:
        """Return CLOCK_BOOTTIME where there is one: CLOCK_MONOTONIC stops while the machine is suspended,
        which would make a worker believe that it still owns a lease that ended meanwhile."""
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(seconds)


def rfc3339(at: float, timespec: str = "seconds") -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, cut off after ``timespec`` and not rounded."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
