"""What the tests of limits share: a store that counts and fails as told, and ways to take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from router_core.errors import StoreError
from router_core.quota.cap import Cap
from router_core.quota.quota import Exceeded, Quota, Taken
from router_core.state import Entry
from router_core.stores.state_memory import MemoryStateStore
from router_core.testing.clock import FakeClock

__all__ = ["Quick", "Shared", "take", "taken", "tried"]


class Quick(FakeClock):
    """Short rests do not wait: their time is over at once."""

    async def sleep(self, seconds: float) -> None:
        """Move the time, or wait until it is moved."""
        if seconds >= 0.2:
            await super().sleep(seconds)
            return
        self.advance(seconds)
        await asyncio.sleep(0)


class Shared(MemoryStateStore):
    """A store that other processes see, as far as anybody can tell."""

    multi_process = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked = 0
        self.away = False
        self.lose = 0
        """Writes to come that happen although they seem to fail."""
        self.hold: asyncio.Event | None = None
        """Writes wait for it."""

    async def get(self, key: str) -> Entry | None:
        """Count it."""
        self._count()
        return await super().get(key)

    async def put(self, key: str, value: bytes, **conditions: Any) -> str:
        """Count it, and fail as told."""
        self._count()
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        version = await super().put(key, value, **conditions)
        if self.lose:
            self.lose -= 1
            raise StoreError("the answer is lost")
        return version

    def _count(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreError("away", retry_after=3)


async def take(
    quota: Quota, caps: Sequence[Cap], amount: int | Sequence[int] = 1, subject: str = "s"
) -> Taken:
    """Take, waiting for the store where that is needed."""
    found = quota.take(subject, caps, amount)
    return found if isinstance(found, Taken) else await found


def taken(quota: Quota, caps: Sequence[Cap], amount: int | Sequence[int] = 1) -> Taken:
    """Take without waiting."""
    found = quota.take("s", caps, amount)
    assert isinstance(found, Taken)
    return found


async def tried(quota: Quota, caps: Sequence[Cap], amount: int = 1) -> int:
    """Return 1 for a call that was let through, and has cost what was thought; 0 for one that was not."""
    try:
        (await take(quota, caps, amount)).settle()
    except Exceeded:
        return 0
    return 1
