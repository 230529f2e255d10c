"""Check the clock that tests move."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router_core.clock import Clock
from router_core.testing.clock import FakeClock


async def test_sleepers_wake_when_time_has_come() -> None:
    """In order, and not before."""
    clock = FakeClock()
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.ensure_future(sleeper(seconds)) for seconds in (3, 1, 2)]
    await asyncio.sleep(0)
    assert clock.sleepers == 3
    await clock.pass_time(2.5, step=0.5)
    assert woken == [1, 2]
    await clock.pass_time(1)
    await asyncio.gather(*tasks)
    assert woken == [1, 2, 3]
    assert clock.sleepers == 0


async def test_another_thread_may_move_it() -> None:
    """And the sleeper wakes in its own loop."""
    clock = FakeClock()
    task = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    thread = threading.Thread(target=clock.advance, args=(5,))
    thread.start()
    await asyncio.wait_for(task, 5)
    await asyncio.to_thread(thread.join)


async def test_a_jump_moves_the_wall_clock_alone() -> None:
    """Nobody wakes, and monotonic time stands."""
    clock: FakeClock = FakeClock()
    as_clock: Clock = clock
    wall, steady = as_clock.now(), as_clock.monotonic()
    task = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    clock.jump(-3600)
    await asyncio.sleep(0)
    assert clock.now() == wall - 3600
    assert clock.monotonic() == steady
    assert not task.done()
    task.cancel()
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
