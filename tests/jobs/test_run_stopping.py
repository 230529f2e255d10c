"""Stopping what runs: cancel, timeout, release, fencing, and who wins when things happen at once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from router_core.jobs import moves
from router_core.jobs.context import JobContext
from router_core.jobs.execution import Stop
from router_core.jobs.job import State
from tests.jobs.running import Switchable, bench_of, eventually, route_of, running


class Gate:
    """Something that functions wait at, on the loop and in threads."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = threading.Event()
        self.loop = asyncio.get_running_loop()

    def in_thread(self) -> None:
        """Wait in a thread."""
        self.loop.call_soon_threadsafe(self.entered.set)
        assert self.open.wait(110)


# --- cancel


async def test_cancel_of_an_async_job_is_prompt() -> None:
    """An async function is cancelled at once, without a wait for its grace, and may tidy up."""
    started, tidied = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            tidied.set()

    async with running(route_of(wait), grace=3600.0) as bench:
        job_id = await bench.submit("/wait")
        await started.wait()
        await bench.cancel(job_id)
        record = await bench.until(job_id)
        assert (record.state, record.reason, record.result) == (State.CANCELLED, "cancel", b"")
        assert tidied.is_set()


async def test_cooperative_cancel_in_a_thread() -> None:
    """A sync function sees ``cancelled`` and stops by ``check``, which ``except Exception`` does not hide."""
    started = threading.Event()

    def work(job: JobContext) -> None:
        while True:
            try:
                started.set()
                job.check()
                time.sleep(0.002)
            except Exception:  # noqa: S112 - what a careless handler does
                continue

    async with running(route_of(work), grace=30.0) as bench:
        job_id = await bench.submit("/work")
        await asyncio.to_thread(started.wait)
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED


async def test_thread_that_ignores_cancel_keeps_its_slot() -> None:
    """The record is cancelled after the grace time; the slot stays taken until the thread returns."""
    gate = Gate()

    def stuck() -> None:
        gate.in_thread()

    async with running(route_of(stuck), grace=0.05) as bench:
        job_id = await bench.submit("/stuck")
        await gate.entered.wait()
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        second = await bench.submit("/stuck")
        await asyncio.sleep(0.3)
        assert (await bench.record(second)).state is State.QUEUED
        assert bench.pool.readiness()["free"] == {"/stuck": 0}
        gate.open.set()
        assert (await bench.until(second)).state is State.SUCCEEDED
        assert (await bench.record(job_id)).state is State.CANCELLED


async def test_async_function_that_ignores_cancel() -> None:
    """The record ends after the grace time although the function swallows its cancellation."""
    release = asyncio.Event()

    async def deaf() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async with running(route_of(deaf, concurrency=1), grace=0.05) as bench:
        job_id = await bench.submit("/deaf")
        await bench.until(job_id, State.RUNNING)
        await bench.cancel(job_id)
        record = await bench.until(job_id)
        assert record.state is State.CANCELLED
        assert bench.noted("job_ignores_stop")
        assert bench.pool.readiness()["free"] == {"/deaf": 0}
        release.set()
        await eventually(lambda: not bench.runner.active)
        assert await bench.record(job_id) == record
        assert bench.pool.readiness()["free"] == {"/deaf": 1}


async def test_stuck_sync_generator_ends_too() -> None:
    """A sync generator that hangs in a step does not hold up the record."""
    gate = Gate()

    def numbers() -> Any:
        yield 1
        gate.in_thread()
        yield 2

    async with running(route_of(numbers), grace=0.05) as bench:
        job_id = await bench.submit("/numbers")
        await gate.entered.wait()
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        gate.open.set()


@pytest.mark.parametrize("seed", range(4))
async def test_cancel_races_completion(seed: int) -> None:
    """1,000 times in all: cancel and success meet in every order; the record agrees with both answers."""

    async def quick(n: int = 0) -> int:
        for _ in range(n % 5):
            await asyncio.sleep(0)
        return n

    async with running(route_of(quick, concurrency=50)) as bench:
        won = 0
        for round_ in range(5):
            ids = [await bench.submit("/quick", n=(seed + i) % 7) for i in range(50)]

            async def cancel_after(job_id: str, turns: int) -> bool:
                for _ in range(turns):
                    await asyncio.sleep(0)
                now = bench.clock.now()
                running_ = await bench.store.move(job_id, moves.cancel_running(now=now))
                if running_.applied:
                    return True
                return (await bench.store.move(job_id, moves.cancel_waiting(now=now, retention=60))).applied

            answers = await asyncio.gather(
                *(cancel_after(job_id, (i * 7 + round_ + seed) % 23) for i, job_id in enumerate(ids))
            )
            for job_id, cancelled in zip(ids, answers, strict=True):
                record = await bench.until(job_id)
                assert record.state is (State.CANCELLED if cancelled else State.SUCCEEDED)
                assert bool(record.result) is not cancelled
            won += sum(answers)
        assert 0 < won < 250


@pytest.mark.parametrize("first", ["cancel", "succeed"])
async def test_cancel_and_success_at_the_barrier(first: str) -> None:
    """Held at the terminal write, whoever writes first wins, and the other is told so."""
    store = Switchable()
    at_end, go = asyncio.Event(), asyncio.Event()

    async def gate(name: str) -> None:
        if name == "succeed":
            at_end.set()
            await go.wait()

    async def quick() -> int:
        return 1

    async with running(route_of(quick), store=store) as bench:
        store.gate = gate
        job_id = await bench.submit("/quick")
        await at_end.wait()
        if first == "cancel":
            await bench.cancel(job_id)
            go.set()
            record = await bench.until(job_id)
            assert (record.state, record.result) == (State.CANCELLED, b"")
        else:
            go.set()
            record = await bench.until(job_id)
            moved = await bench.store.move(job_id, moves.cancel_running(now=bench.clock.now()))
            assert not moved.applied
            assert (record.state, record.result) == (State.SUCCEEDED, b"1")


async def test_cancel_between_claim_and_start() -> None:
    """A cancel that nobody was there to hear is still obeyed when the outcome is written."""

    async def quick() -> int:
        return 1

    bench = bench_of(route_of(quick))
    job = (await bench.store.add(bench.job("/quick"))).job
    claimed = await bench.claim(job.id)
    await bench.cancel(job.id)
    await bench.runner.run(claimed)
    assert (await bench.record(job.id)).state is State.CANCELLED


# --- timeouts


async def test_timeout_async() -> None:
    """An async function over its time is failed(timeout)."""

    async def wait() -> None:
        await asyncio.Event().wait()

    record = await bench_of(route_of(wait, timeout=0.05, max_attempts=3)).run("/wait")
    assert (record.state, record.reason) == (State.FAILED, "timeout")
    assert json.loads(record.error)["type"] == "TimeoutError"


async def test_timeout_thread() -> None:
    """A thread over its time is failed(timeout), although it goes on."""
    gate = Gate()

    def wait() -> None:
        gate.in_thread()

    record = await bench_of(route_of(wait, timeout=0.05), grace=0.05).run("/wait")
    gate.open.set()
    assert (record.state, record.reason) == (State.FAILED, "timeout")


# --- release


async def test_stop_for_release_gives_the_job_back() -> None:
    """A released attempt is uncounted, and its history says so."""

    async def wait() -> None:
        await asyncio.Event().wait()

    bench = bench_of(route_of(wait))
    job = (await bench.store.add(bench.job("/wait"))).job
    task = asyncio.create_task(bench.runner.run(await bench.claim(job.id)))
    await eventually(lambda: bench.runner.active)
    bench.runner.active[job.id].stop(Stop.RELEASE)
    await task
    record = await bench.record(job.id)
    assert (record.state, record.reason, record.attempt, record.releases) == (State.QUEUED, "released", 0, 1)
    assert json.loads(record.attempts)[0]["outcome"] == "released"


async def test_too_many_releases_fail() -> None:
    """A job given back 20 times is failed rather than passed on for ever."""

    async def wait() -> None:
        await asyncio.Event().wait()

    bench = bench_of(route_of(wait))
    job = (await bench.store.add(replace(bench.job("/wait"), releases=20))).job
    task = asyncio.create_task(bench.runner.run(await bench.claim(job.id)))
    await eventually(lambda: bench.runner.active)
    bench.runner.active[job.id].stop(Stop.RELEASE)
    await task
    record = await bench.record(job.id)
    assert (record.state, record.reason) == (State.FAILED, "attempts_exhausted")


async def test_cancelled_loop_releases() -> None:
    """A worker task that is cancelled from outside (the loop ends) gives its job back."""

    async def wait() -> None:
        await asyncio.Event().wait()

    bench = bench_of(route_of(wait))
    job = (await bench.store.add(bench.job("/wait"))).job
    task = asyncio.create_task(bench.runner.run(await bench.claim(job.id)))
    await eventually(lambda: bench.runner.active and bench.runner.active[job.id].phase == "working")
    task.cancel()
    await task
    assert (await bench.record(job.id)).state is State.QUEUED
