"""An attempt that is not the owner any more changes nothing; one whose answers are unclear ends once."""

from __future__ import annotations

import asyncio
import json

import pytest

from router_core.jobs import moves
from router_core.jobs.context import JobContext
from router_core.jobs.job import State
from router_core.testing.clock import FakeClock
from tests.jobs.running import Bench, Switchable, bench_of, eventually, route_of


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
@pytest.mark.parametrize("times", [1, 3])
async def test_unclear_answers_are_resolved(when: str, times: int) -> None:
    """C3: whether or not a failed write took effect, the outcome is recorded exactly once."""
    store = Switchable()

    async def quick() -> int:
        return 5

    bench = bench_of(route_of(quick), store=store)
    job = (await bench.store.add(bench.job("/quick"))).job
    claimed = await bench.claim(job.id)
    setattr(store, when, times)
    await bench.runner.run(claimed)
    record = await bench.record(job.id)
    assert (record.state, record.result) == (State.SUCCEEDED, b"5")
    assert len(json.loads(record.attempts)) == 1
    assert bench.runner.fenced == 0


async def test_unclear_retry_is_not_written_twice() -> None:
    """A retry whose answer was lost leaves one attempt in the history and one retry."""
    store = Switchable()

    async def fail() -> None:
        raise ValueError("no")

    bench = bench_of(route_of(fail, max_attempts=5), store=store)
    job = (await bench.store.add(bench.job("/fail"))).job
    claimed = await bench.claim(job.id)
    store.fail_after = 1
    await bench.runner.run(claimed)
    record = await bench.record(job.id)
    assert (record.state, record.attempt, len(json.loads(record.attempts))) == (State.RETRYING, 1, 1)


async def test_store_that_stays_away_ends_with_the_lease() -> None:
    """A store that never answers is asked until the lease is over, then the outcome is thrown away."""
    store = Switchable()

    async def quick() -> int:
        return 5

    bench = bench_of(route_of(quick), store=store, lease=0.3, heartbeat=0.1)
    job = (await bench.store.add(bench.job("/quick"))).job
    claimed = await bench.claim(job.id)
    store.fail_before = 10_000
    await bench.runner.run(claimed)
    assert bench.runner.fenced == 1
    assert bench.noted("fenced")
    assert not bench.runner.active


async def zombie(bench: Bench, write: str) -> None:
    """Let an attempt be overtaken by another one; then let it write in some way."""
    job = (await bench.store.add(bench.job("/work", write=write))).job
    old = await bench.claim(job.id)
    running_ = asyncio.create_task(bench.runner.run(old))
    await eventually(lambda: job.id in STARTED)
    assert isinstance(bench.clock, FakeClock)
    bench.clock.advance(31)
    now = bench.clock.now()
    rescued = await bench.store.move(
        job.id,
        moves.rescue(old, now=now, retention=60, not_before=now, attempts=b"", error=b"", lost=False),
    )
    assert rescued.applied
    new = await bench.claim(job.id)
    await bench.store.move(
        job.id, moves.succeed(new.fence, now=now, retention=60, attempts=b"", result=b'"new"')
    )
    before = await bench.record(job.id)
    STARTED[job.id].set()
    await running_
    assert await bench.record(job.id) == before


STARTED: dict[str, asyncio.Event] = {}


async def work(job: JobContext, write: str) -> str:
    """Wait to be overtaken, then write."""
    STARTED[job.job_id] = asyncio.Event()
    await STARTED[job.job_id].wait()
    if write == "step":
        await job.once("x", lambda: 1)
    if write == "event":
        job.log("old")
    if write == "progress":
        job.progress.update(0.9, "old")
    if write == "error":
        raise ValueError("old")
    return "old"


@pytest.mark.parametrize("write", ["result", "error", "event", "progress", "step"])
async def test_zombie_is_refused(write: str) -> None:
    """100 of 100: an attempt that was overtaken changes nothing, whatever it writes, and is counted."""
    bench = bench_of(route_of(work), clock=FakeClock())
    bench.runner._subscribe = None  # as if the new owner were another process
    for _ in range(20 if write in ("event", "progress", "step") else 100):
        await zombie(bench, write)
    assert bench.runner.fenced == len(bench.noted("fenced")) >= 20
    assert not bench.runner.active


async def test_overtaken_attempt_in_the_same_process_is_stopped() -> None:
    """A rescue that happens in this process stops the old attempt at once."""
    clock = FakeClock()
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    bench = bench_of(route_of(wait), clock=clock)
    job = (await bench.store.add(bench.job("/wait"))).job
    old = await bench.claim(job.id)
    task = asyncio.create_task(bench.runner.run(old))
    await eventually(lambda: bench.runner.active and bench.runner.active[job.id].phase == "working")
    clock.advance(31)
    now = clock.now()
    rescue = moves.rescue(old, now=now, retention=60, not_before=now, attempts=b"", error=b"", lost=False)
    assert (await bench.store.move(job.id, rescue)).applied
    await bench.claim(job.id)
    await task
    assert stopped.is_set()
    assert (await bench.record(job.id)).state is State.RUNNING
