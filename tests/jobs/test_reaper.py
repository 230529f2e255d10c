"""The reaper: jobs of vanished workers are taken back, and nothing stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pydantic_core
import pytest

from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.reaper import Reaper
from router_core.jobs.store import Moved
from router_core.jobs.watch import WatchedStore
from router_core.telemetry.events import Note
from tests.jobs.serving import ANN, Bench, until


class Troubled(WatchedStore):
    """A store that fails when told to."""

    deaf = False
    """Whether it cannot even list."""
    bad: frozenset[str] = frozenset()
    """Rows that cannot be written."""
    error: type[Exception] = StoreError

    async def overdue(self, limit: int = 100) -> Sequence[Job]:
        """List, or fail."""
        if self.deaf:
            raise self.error("no answer")
        return await self.inner.overdue(limit)

    async def move(self, job_id: str, move: Any) -> Moved:
        """Write, or fail."""
        if job_id in self.bad:
            raise self.error("this row is damaged")
        return await super().move(job_id, move)


def reaper_of(bench: Bench) -> tuple[Reaper, Troubled]:
    """Return a reaper and its store."""
    store = Troubled(bench.inner, bench.hub, bench.events)
    reaper = Reaper(
        store=store, routes=bench.routes, clock=bench.clock, settings=bench.settings, events=bench.events,
        dispatcher=bench.queue, draw=lambda: 0.5,
    )  # fmt: skip
    return reaper, store


def names(bench: Bench) -> list[str]:
    """Return what was reported."""
    return [event.name for event in bench.seen if isinstance(event, Note)]


async def _running(bench: Bench) -> Job:
    return await bench.claim((await bench.submit()).job.id)


async def _state(bench: Bench, job: Job) -> Job:
    return await bench.service.get(job.id, ANN)


async def test_a_live_lease_is_left_alone() -> None:
    """Only what has ended is taken."""
    bench = Bench()
    job = await _running(bench)
    reaper, _ = reaper_of(bench)
    bench.clock.advance(29)
    await reaper.tick()
    assert (await _state(bench, job)).state is State.RUNNING


async def test_a_vanished_worker_costs_one_crash() -> None:
    """The job is retried after a backoff, the attempt is in its history, and the queue is told."""
    bench = Bench()
    job = await _running(bench)
    reaper, _ = reaper_of(bench)
    bench.clock.advance(31)
    bench.queue.told.clear()
    await reaper.tick()
    after = await _state(bench, job)
    assert (after.state, after.crash_count, after.attempt, after.reason) == (State.RETRYING, 1, 1, "rescued")
    assert after.not_before == bench.clock.now() + 1.0
    (attempt,) = pydantic_core.from_json(after.attempts)
    assert (attempt["outcome"], attempt["error"]["type"]) == ("rescued", "WorkerLost")
    assert bench.queue.told == [job.id]
    assert "job_rescued" in names(bench)


async def test_the_third_crash_ends_a_job_and_a_stale_worker_stays_out() -> None:
    """It is probably what kills them: failed(lost). The old fences write nothing."""
    bench = Bench()
    job = await _running(bench)
    fences = [job]
    reaper, _ = reaper_of(bench)
    for _ in range(2):
        bench.clock.advance(31)
        await reaper.tick()
        bench.clock.advance(60)
        fences.append(await bench.claim(job.id))
    bench.clock.advance(31)
    await reaper.tick()
    after = await _state(bench, job)
    assert (after.state, after.reason, after.crash_count) == (State.FAILED, "lost", 3)
    assert pydantic_core.from_json(after.error)["retryable"] is False
    for fence in fences:
        move = moves.succeed(fence.fence, now=bench.clock.now(), retention=60, attempts=b"", result=b"1")
        assert not (await bench.store.move(job.id, move)).applied


async def test_a_cancelling_job_whose_worker_vanished_is_cancelled() -> None:
    """Nobody is left to acknowledge."""
    bench = Bench()
    job = await _running(bench)
    await bench.service.cancel(job.id, ANN)
    reaper, _ = reaper_of(bench)
    bench.clock.advance(31)
    await reaper.tick()
    assert (await _state(bench, job)).state is State.CANCELLED


async def test_a_worker_that_came_back_keeps_its_job() -> None:
    """The write repeats what was seen: epoch and an ended lease."""
    bench = Bench()
    job = await _running(bench)
    reaper, store = reaper_of(bench)
    bench.clock.advance(31)
    seen = await bench.inner.overdue()

    async def stale(limit: int = 100) -> Sequence[Job]:
        return list(seen)

    store.overdue = stale  # type: ignore[method-assign]
    await bench.inner.renew([job.fence], 30)
    await reaper.tick()
    assert (await _state(bench, job)).state is State.RUNNING


async def test_one_damaged_row_does_not_keep_the_others_from_being_reached() -> None:
    """Even 120 of them, which is more than a page: 10 good ones behind them are rescued, and it is ready."""
    bench = Bench(queue_size=1000)
    jobs = [await _running(bench) for _ in range(130)]
    reaper, store = reaper_of(bench)
    store.bad, store.error = frozenset(job.id for job in jobs[:120]), RuntimeError
    bench.clock.advance(31)
    await reaper.tick()
    states = [(await _state(bench, job)).state for job in jobs]
    assert states == [State.RUNNING] * 120 + [State.RETRYING] * 10
    assert names(bench).count("reaper_row_failed") == 120
    assert reaper.last_success_at == bench.clock.now()


@pytest.mark.parametrize("error", [StoreError, RuntimeError, KeyError])
async def test_the_loop_lives_through_a_store_that_is_down_and_says_so(error: type[Exception]) -> None:
    """Unready after three ticks without success, ready again with the first that works."""
    bench = Bench()
    job = await _running(bench)
    reaper, store = reaper_of(bench)
    loop = asyncio.create_task(reaper.run())
    await until(lambda: reaper.last_success_at)
    assert reaper.ready(bench.clock.now())
    store.deaf, store.error = True, error
    await bench.clock.pass_time(40)
    assert not reaper.ready(bench.clock.now())
    assert names(bench).count("reaper_tick_failed") >= 6
    store.deaf = False
    await bench.clock.pass_time(6)
    assert reaper.ready(bench.clock.now())
    assert (await _state(bench, job)).state is State.RETRYING
    assert not loop.done()
    loop.cancel()


async def test_readiness_fails_when_the_loop_is_gone() -> None:
    """A cancelled task leaves no pulse."""
    bench = Bench()
    reaper, _ = reaper_of(bench)
    loop = asyncio.create_task(reaper.run())
    await until(lambda: reaper.last_success_at)
    loop.cancel()
    bench.clock.advance(14)
    assert reaper.ready(bench.clock.now())
    bench.clock.advance(2)
    assert not reaper.ready(bench.clock.now())


async def test_setting_the_clock_of_the_machine_changes_nothing_about_readiness() -> None:
    """Readiness counts passed time, not wall-clock time."""
    bench = Bench()
    reaper, _ = reaper_of(bench)
    await reaper.tick()
    for jump in (3600, -7200):
        bench.clock.jump(jump)
        assert reaper.ready(bench.clock.now())


async def test_a_kill_is_recovered_from_within_45_seconds() -> None:
    """Lease, tick and backoff together, with the longest draw."""
    bench = Bench()
    job = await _running(bench)
    reaper, _ = reaper_of(bench)
    reaper._draw = lambda: 1.0
    loop = asyncio.create_task(reaper.run())
    start = bench.clock.now()
    await bench.clock.pass_time(37)
    loop.cancel()
    after = await _state(bench, job)
    assert after.state is State.RETRYING
    assert after.not_before - start <= 45
