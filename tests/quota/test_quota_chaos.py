"""Four processes on a store that fails in every way: what was spent is booked once, and nothing stays."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from router_core.errors import StoreError
from router_core.quota.cap import Cap
from router_core.quota.quota import Exceeded, Quota, Taken
from router_core.state import Entry
from tests.quota.quota_parts import Quick, Shared

BUDGET = 40_000
CAPS = (Cap("daily", BUDGET, "budget", "day"), Cap("concurrency", 300, "concurrency"))


class Faulty(Shared):
    """Fails before or after what it is asked to do, and takes its time."""

    def __init__(self, clock: Quick, rng: random.Random) -> None:
        super().__init__(clock)
        self.rng = rng
        self.faults = 0.0

    async def get(self, key: str) -> Entry | None:
        """Answer, or not."""
        await self._linger()
        self._fail()
        return await super().get(key)

    async def put(self, key: str, value: bytes, **conditions: Any) -> str:
        """Write or not, and say so or not."""
        await self._linger()
        self._fail()
        version = await super().put(key, value, **conditions)
        await self._linger()
        self._fail()
        return version

    async def _linger(self) -> None:
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)

    def _fail(self) -> None:
        if self.rng.random() < self.faults:
            raise StoreError("away")


class World:
    """Four processes, their calls, and what these have really cost."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = Quick()
        self.store = Faulty(self.clock, self.rng)
        self.quotas = [Quota(self.store, clock=self.clock, rng=self.rng) for _ in range(4)]
        self.spent = self.refused = self.failed = 0

    async def call(self, quota: Quota) -> None:
        """Make one call, which costs as much as was thought or less, or whose caller leaves."""
        want = self.rng.randint(1, 300)
        found = quota.take("s", CAPS, (want, 1))
        try:
            taken = found if isinstance(found, Taken) else await found
        except Exceeded:
            self.refused += 1
            return
        except StoreError:
            self.failed += 1
            return
        try:
            for _ in range(self.rng.randrange(6)):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            taken.release()
            raise
        cost = self.rng.randint(0, want)
        self.spent += cost
        taken.settle((cost, 1))

    async def burst(self, count: int) -> None:
        """Make many calls at once; some leave."""
        tasks = [asyncio.create_task(self.call(self.rng.choice(self.quotas))) for _ in range(count)]
        for task in tasks:
            if self.rng.random() < 0.1:
                for _ in range(self.rng.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for quota in self.quotas:
            await quota.tick()
        self.clock.advance(self.rng.choice([0.1, 0.5, 2.0]))


async def played(seed: int, bursts: int) -> World:
    """Play one world to its end, and look at what is left."""
    world = World(seed)
    loops = [asyncio.create_task(quota.run()) for quota in world.quotas]
    await asyncio.sleep(0)
    for _ in range(bursts):
        world.store.faults = world.rng.choice([0.0, 0.0, 0.05, 0.4])
        await world.burst(40)
    world.store.faults = 0.0
    for _ in range(3):
        for quota in world.quotas:
            await quota.tick()
            await quota.idle()
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    money, seats = await world.quotas[0].standing("s", CAPS)
    assert money.spent == world.spent <= BUDGET
    assert (money.reserved, seats.reserved) == (0, 0)
    return world


@pytest.mark.parametrize("seed", range(4))
async def test_every_cost_is_booked_once(seed: int) -> None:
    """Whatever the store did: the account says exactly what calls have cost."""
    world = await played(seed, 25)
    assert world.spent > 0


async def test_the_worlds_are_worth_looking_at() -> None:
    """Some calls are refused in them, and some fail because the store does."""
    world = await played(11, 40)
    assert world.refused > 0
    assert world.failed > 0


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
async def test_many_worlds(part: int) -> None:
    """The same, for longer."""
    for seed in range(100 + part * 20, 120 + part * 20):
        await played(seed, 60)
