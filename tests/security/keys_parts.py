"""What the tests of keys share: a store that can be counted, stopped and broken, and requests."""

from __future__ import annotations

import asyncio
from typing import Any

from router_core.errors import StoreError
from router_core.http.message import Headers, Request
from router_core.security.api_keys import ApiKeys
from router_core.security.authenticators import Callers
from router_core.security.known_keys import KnownKeys
from router_core.security.stored_keys import KeyRoom
from router_core.state import Entry
from router_core.stores.state_memory import MemoryStateStore
from router_core.testing.clock import FakeClock

__all__ = ["House", "WatchedState", "asking"]


class WatchedState(MemoryStateStore):
    """Counts reads and writes, and fails when it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.gets: list[str] = []
        self.puts: list[str] = []
        self.down = False
        self.slow: asyncio.Event | None = None

    async def get(self, key: str) -> Entry | None:
        """Read, where the store is there."""
        self.gets.append(key)
        if self.slow is not None:
            await self.slow.wait()
        if self.down:
            raise StoreError("it is away")
        return await super().get(key)

    async def put(self, key: str, value: bytes, **options: Any) -> str:
        """Write, where the store is there."""
        self.puts.append(key)
        if self.down:
            raise StoreError("it is away")
        return await super().put(key, value, **options)


class House:
    """One state, and two processes that know keys by it."""

    def __init__(self, setting: str = "", **options: Any) -> None:
        self.clock = FakeClock()
        self.state = WatchedState(self.clock)
        self.room = KeyRoom(self.state, self.clock)
        self.known = KnownKeys(self.room, self.clock, **options)
        self.elsewhere = KnownKeys(self.room, self.clock, **options)
        keys = ApiKeys.from_setting(setting) if setting else None
        self.callers = Callers(keys, self.known)

    async def make(self, **wishes: Any) -> tuple[str, str]:
        """Make a key and return its id and itself."""
        _, made = await self.room.create({"roles": ("developer",), **wishes}, "tests")
        return made.id, made.key

    async def who(self, key: str) -> str:
        """Return who comes with a key."""
        return (await self.callers.authenticate(asking(key))).id

    async def settle(self) -> None:
        """Let what goes on beside the calls end."""
        for _ in range(10):
            await asyncio.sleep(0)


def asking(key: str = "", **headers: str) -> Request:
    """Return a request with a key, or other headers."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if key:
        pairs.append(("authorization", f"Bearer {key}"))
    return Request("GET", "/", headers=Headers(pairs))
