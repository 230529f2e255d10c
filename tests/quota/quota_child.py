"""A process of its own for the tests of limits.

Usage: python quota_child.py MODE PATH; it says what it has done, line by line.
"""

from __future__ import annotations

import asyncio
import os
import sys

from router_core.clock import SystemClock
from router_core.quota.cap import Cap
from router_core.quota.quota import Exceeded, Quota, Taken
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.telemetry.events import Events

BUDGET = (Cap("daily", 10, "budget", "day"),)
SEATS = (Cap("concurrency", 2, "concurrency"),)
MUCH = (Cap("daily", 2000, "budget", "day"),)


def say(text: str) -> None:
    """Write a line in one system call."""
    os.write(1, f"{text}\n".encode())


async def tried(quota: Quota, caps: tuple[Cap, ...]) -> int:
    """Return whether a call was let through."""
    try:
        found = quota.take("s", caps, 1)
        taken = found if isinstance(found, Taken) else await found
    except Exceeded:
        return 0
    await asyncio.sleep(0)
    taken.settle()
    return 1


async def race(quota: Quota, caps: tuple[Cap, ...], count: int) -> None:
    """Try so many calls at once, when told to."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    say(str(sum(await asyncio.gather(*(tried(quota, caps) for _ in range(count))))))


async def hold(quota: Quota) -> None:
    """Take all there is, and never end."""
    found = quota.take("s", SEATS, 2)
    if not isinstance(found, Taken):
        await found
    say("held")
    await asyncio.Event().wait()


async def main(mode: str, path: str) -> None:
    """Do as told."""
    clock = SystemClock()
    store = GuardedStateStore(SqliteStateStore(path, clock), clock, Events(), patience=60.0)
    quota = Quota(store, clock=clock)
    if quota._keeper is not None:
        quota._keeper.lease = 3.0
        quota._keeper.patience = 60.0
    loop = asyncio.create_task(quota.run())
    if mode == "hold":
        await hold(quota)
    await race(quota, BUDGET if mode == "race" else MUCH, 50 if mode == "race" else 700)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
