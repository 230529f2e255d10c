"""The in-process queue: the store is the queue, dispatch is only a wake-up."""

from __future__ import annotations

import asyncio

from router_core.jobs.job import State
from tests.jobs.running import bench_of, route_of, running


async def quick() -> int:
    """Return something."""
    return 1


def test_abilities() -> None:
    """It can do everything, and keeps no job outside the record store."""
    abilities = bench_of(route_of(quick)).dispatcher.abilities
    assert all((abilities.delay, abilities.priority, abilities.cancel, abilities.stream))
    assert not abilities.external


async def test_dispatch_wakes_the_pool() -> None:
    """A dispatched job starts without waiting for the next look at the store."""
    async with running(route_of(quick), poll=60.0) as bench:
        await asyncio.sleep(0)
        for _ in range(20):
            assert (await bench.until(await bench.submit("/quick"), seconds=10)).state is State.SUCCEEDED


async def test_dispatch_before_start_and_of_unknown_routes() -> None:
    """A wake-up that comes early or for a route of another service does no harm."""
    bench = bench_of(route_of(quick), poll=60.0)
    job = await bench.add(bench.job("/quick"))
    await bench.dispatcher.start(bench.runner.run)
    assert (await bench.until(job.id, seconds=10)).state is State.SUCCEEDED
    bench.pool.wake("/elsewhere")
    await bench.dispatcher.stop(1.0)
    await bench.dispatcher.stop(1.0)


async def test_what_is_claimed_goes_to_run() -> None:
    """``start`` hands claimed jobs to the function it was given."""
    bench = bench_of(route_of(quick))
    seen: list[str] = []

    async def run(job: object) -> None:
        seen.append(type(job).__name__)
        await bench.runner.run(job)  # type: ignore[arg-type]

    await bench.dispatcher.start(run)
    await bench.until(await bench.submit("/quick"))
    await bench.dispatcher.stop(1.0)
    assert seen == ["Job"]
