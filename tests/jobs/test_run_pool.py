"""The pool: claims, leases, heartbeats, store outages, drains."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from router_core.errors import Misconfigured, StoreError
from router_core.jobs import moves
from router_core.jobs.execution import Run, Stop
from router_core.jobs.heartbeat import Heartbeat
from router_core.jobs.job import Fence, Job, State
from router_core.jobs.store import Claim, Renewal
from router_core.jobs.worker import concurrency_of
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from tests.jobs.running import bench_of, eventually, route_of, running


class Store(MemoryJobStore):
    """A store that can be away, and that counts what is asked of it."""

    away = False
    claims = 0
    writes = 0
    renewed = 0
    hold_claims: asyncio.Event | None = None
    claiming: asyncio.Event | None = None

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take jobs; may be held after the records have changed."""
        if self.away:
            raise StoreError("away")
        self.claims += 1
        jobs = await super().claim(claim)
        if self.hold_claims is not None and self.claiming is not None and jobs:
            self.claiming.set()
            await self.hold_claims.wait()
        return jobs

    async def renew(self, fences: Sequence[Fence], lease: float) -> Sequence[Renewal]:
        """Extend leases."""
        if self.away:
            raise StoreError("away")
        self.renewed += len(fences)
        return await super().renew(fences, lease)

    async def move(self, job_id: str, move: moves.Move) -> Any:
        """Apply a move."""
        if self.away:
            raise StoreError("away")
        self.writes += move.name == "progress"
        return await super().move(job_id, move)


async def quick(n: int = 0) -> int:
    """Return the argument."""
    return n


async def forever() -> None:
    """Wait until stopped."""
    await asyncio.Event().wait()


def test_default_concurrency() -> None:
    """Ten at once on the loop, one in threads, as many as asked for otherwise."""

    def sync() -> None:
        """Do nothing."""

    assert concurrency_of(route_of(quick)) == 10
    assert concurrency_of(route_of(sync)) == 1
    assert concurrency_of(route_of(sync, concurrency=4)) == 4
    assert concurrency_of(route_of(sync, isolation="process")) >= 1


async def test_no_more_than_the_concurrency_runs() -> None:
    """Never more jobs of a route run than it has slots, and all of them are used."""
    now = most = 0

    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    async with running(route_of(count, concurrency=3)) as bench:
        ids = [await bench.submit("/count") for _ in range(50)]
        for job_id in ids:
            await bench.until(job_id)
        assert most == 3
        assert bench.pool.readiness()["free"] == {"/count": 3}


async def test_claims_come_in_batches() -> None:
    """Many jobs take far fewer claims than there are jobs."""
    store = Store()
    async with running(route_of(quick, concurrency=50), store=store, poll=5.0) as bench:
        ids = [await bench.submit("/quick", n=n) for n in range(500)]
        for job_id in ids:
            await bench.until(job_id)
        assert store.claims < 150


async def test_a_full_route_does_not_hold_up_another() -> None:
    """A route whose slots are taken leaves the others alone."""
    async with running(route_of(forever, concurrency=1), route_of(quick)) as bench:
        for _ in range(3):
            await bench.submit("/forever")
        assert (await bench.until(await bench.submit("/quick"))).state is State.SUCCEEDED


async def test_jobs_without_a_wake_up_are_found() -> None:
    """A job that another process has added is found by looking now and then."""
    async with running(route_of(quick), poll=0.05) as bench:
        job = (await bench.store.add(bench.job("/quick"))).job
        assert (await bench.until(job.id)).state is State.SUCCEEDED


async def test_retry_starts_when_it_is_due() -> None:
    """A retry of this process is claimed when its time comes, not at the next poll."""
    tries = 0

    async def second_time() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ValueError("not yet")
        return tries

    route = route_of(second_time, max_attempts=3, backoff=0.1)
    async with running(route, poll=60.0, draw=lambda: 1.0) as bench:
        record = await bench.until(await bench.submit("/second_time"), seconds=10)
        assert (record.result, record.attempt) == (b"2", 2)


async def test_claim_loop_outlives_the_store() -> None:
    """While the store is away readiness says so; when it is back, jobs run again."""
    store = Store()
    async with running(route_of(quick), store=store, poll=0.02) as bench:
        store.away = True
        await eventually(lambda: not bench.pool.readiness()["ready"])
        assert len(await eventually(lambda: bench.noted("claim_failed"))) == 1
        store.away = False
        assert (await bench.until(await bench.submit("/quick"))).state is State.SUCCEEDED
        assert bench.pool.readiness()["ready"]


async def test_process_routes_need_children() -> None:
    """A pool that has no children refuses a route that asks for them, by name."""
    bench = bench_of(route_of(quick, isolation="process"))
    with pytest.raises(Misconfigured, match="/quick"):
        bench.pool.start()


# --- leases


async def test_heartbeat_keeps_leases_while_the_loop_is_blocked() -> None:
    """A function that blocks the loop for longer than its lease keeps it; the watchdog says who did."""

    async def block() -> str:
        time.sleep(2.2)  # noqa: ASYNC251 - the fault under test
        return "kept"

    store = Store()
    async with running(route_of(block), store=store, lease=1.5, heartbeat=0.2) as bench:
        job_id = await bench.submit("/block")
        record = await bench.until(job_id)
        assert (record.state, record.result) == (State.SUCCEEDED, b'"kept"')
        assert store.renewed >= 3
        (note,) = bench.noted("loop_blocked")
        assert job_id in note.fields["job_ids"]


def beating(store: Any, clock: FakeClock, runs: dict[str, Run], notes: list[Any]) -> Heartbeat:
    """Return a heartbeat that only beats when told to."""
    return Heartbeat(
        store=store, active=runs, clock=clock, events=Events(notes.append), lease=30.0, every=10.0
    )  # fmt: skip


async def held(store: MemoryJobStore, clock: FakeClock) -> Run:
    """Return an attempt that holds a fresh lease."""
    bench = bench_of(route_of(quick), store=store, clock=clock)
    job = (await bench.store.add(bench.job("/quick"))).job
    claimed = await bench.claim(job.id)
    return Run(claimed, None, asyncio.get_running_loop(), lease_ends=clock.monotonic() + 30, grace=1.0)


async def test_beat_renews_what_is_due() -> None:
    """The first beat comes soon, the next ones when the interval is over; each moves the lease."""
    clock, notes = FakeClock(), list[Any]()
    store = Store(clock)
    run = await held(store, clock)
    heart = beating(store, clock, {run.job.id: run}, notes)
    renewed = []
    for _ in range(24):
        await heart.beat()
        renewed.append(store.renewed)
        clock.advance(1.0)
    assert renewed[0] == 0
    assert renewed[1] == 1
    assert renewed[-1] == 3
    assert run.lease_ends == pytest.approx(clock.monotonic() + 30, abs=10)
    assert run.stopped is None


async def test_beat_brings_cancel_and_fencing() -> None:
    """The answer of a heartbeat stops what was cancelled or taken over elsewhere."""
    clock, notes = FakeClock(), list[Any]()
    store = Store(clock)
    cancelled, taken = await held(store, clock), await held(store, clock)
    heart = beating(store, clock, {run.job.id: run for run in (cancelled, taken)}, notes)
    await store.move(cancelled.job.id, moves.cancel_running(now=clock.now()))
    clock.advance(31)
    rescue = moves.rescue(
        taken.job, now=clock.now(), retention=1, not_before=0, attempts=b"", error=b"", lost=False
    )
    assert (await store.move(taken.job.id, rescue)).applied
    await heart.beat()
    clock.advance(2)
    await heart.beat()
    assert cancelled.stopped is Stop.CANCEL
    assert taken.stopped is Stop.FENCED


@pytest.mark.parametrize("part", ["fence_overdue", "watch"])
async def test_an_error_in_a_turn_does_not_end_the_heartbeat(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a turn meets is noted, and leases are still renewed after it."""
    clock, notes, turns = FakeClock(), list[Any](), []
    store = Store(clock)
    run = await held(store, clock)
    heart = beating(store, clock, {run.job.id: run}, notes)

    def broken() -> None:
        turns.append(1)
        raise RuntimeError("surprise")

    monkeypatch.setattr(heart, part, broken)
    heart.start(asyncio.get_running_loop())
    try:
        await eventually(lambda: len(turns) > 1)
        assert heart.alive
        clock.advance(2)
        await eventually(lambda: store.renewed)
    finally:
        heart.stop()
    assert {note.name for note in notes if isinstance(note, Note)} == {"heartbeat_trouble"}


async def test_a_heartbeat_that_died_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """``start`` begins anew when the thread is gone, and does nothing while it lives."""
    clock, notes = FakeClock(), list[Any]()
    heart = beating(Store(clock), clock, {}, notes)

    async def die(stop: Any) -> None:
        raise RuntimeError("surprise")

    with monkeypatch.context() as broken:
        broken.setattr(heart, "_loop", die)
        heart.start(asyncio.get_running_loop())
        await eventually(lambda: not heart.alive)
    heart.start(asyncio.get_running_loop())
    thread = heart._thread
    try:
        assert heart.alive
        heart.start(asyncio.get_running_loop())
        assert heart._thread is thread
    finally:
        heart.stop()


async def test_self_fencing() -> None:
    """Without an answer of the store an attempt stops itself before its lease is over."""
    clock, notes = FakeClock(), list[Any]()
    store = Store(clock)
    run = await held(store, clock)
    heart = beating(store, clock, {run.job.id: run}, notes)
    store.away = True
    began = clock.monotonic()
    while run.stopped is None and clock.monotonic() < began + 30:
        clock.advance(1)
        clock.jump(-3600)  # the wall clock says nothing about leases
        await heart.beat()
        heart.fence_overdue()
    assert run.stopped is Stop.FENCED
    assert clock.monotonic() - began == 25
    assert [note.name for note in notes if isinstance(note, Note)] == ["heartbeat_failed", "self_fenced"]


async def test_store_away_fences_a_running_job() -> None:
    """A running function is stopped when its lease cannot be kept, and nothing is written."""
    store = Store()
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with running(route_of(wait), store=store, lease=0.4, heartbeat=0.1, poll=0.05) as bench:
        job_id = await bench.submit("/wait")
        await bench.until(job_id, State.RUNNING)
        store.away = True
        await asyncio.wait_for(stopped.wait(), 60)
        await eventually(lambda: not bench.runner.active)
        store.away = False
        record = await bench.record(job_id)
        assert (record.state, record.attempt) == (State.RUNNING, 1)
        assert bench.runner.fenced == 1


# --- drains


async def test_drain_waits_for_what_ends_in_time() -> None:
    """A job that ends within the grace time succeeds; nothing new is claimed meanwhile."""
    go = asyncio.Event()

    async def wait() -> str:
        await go.wait()
        return "in time"

    async with running(route_of(wait, concurrency=1)) as bench:
        first, second = await bench.submit("/wait"), await bench.submit("/wait")
        await bench.until(first, State.RUNNING)
        drain = asyncio.create_task(bench.dispatcher.stop(20.0))
        await asyncio.sleep(0)
        go.set()
        await drain
        assert (await bench.record(first)).result == b'"in time"'
        assert (await bench.record(second)).state is State.QUEUED
        assert not bench.pool.readiness()["ready"]


async def test_drain_releases_the_rest() -> None:
    """What does not end in time goes back to the queue, uncounted: tasks and threads alike."""
    gate = threading.Event()

    def thread() -> None:
        gate.wait()

    async with running(route_of(forever), route_of(thread)) as bench:
        ids = [await bench.submit("/forever"), await bench.submit("/thread")]
        try:
            for job_id in ids:
                await bench.until(job_id, State.RUNNING)
            async with asyncio.timeout(60):
                await bench.pool.drain(0.05)
            for job_id in ids:
                record = await bench.record(job_id)
                assert (record.state, record.attempt, record.releases) == (State.QUEUED, 0, 1)
        finally:
            gate.set()


async def test_drain_in_the_middle_of_a_claim() -> None:
    """A job claimed in the moment of a drain is given back before it starts."""
    store = Store()
    store.claiming, store.hold_claims = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    async with running(route_of(work), store=store) as bench:
        job_id = await bench.submit("/work")
        await store.claiming.wait()
        drain = asyncio.create_task(bench.pool.drain(5.0))
        await asyncio.sleep(0)
        store.hold_claims.set()
        await drain
        record = await bench.record(job_id)
        assert (record.state, record.attempt, record.releases, ran) == (State.QUEUED, 0, 1, [])


async def test_drain_of_a_job_that_is_being_cancelled() -> None:
    """A cancel under way is finished by the drain as a cancel."""

    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if bench.pool.readiness()["draining"]:
                    raise

    async with running(route_of(deaf), grace=60.0) as bench:
        job_id = await bench.submit("/deaf")
        await bench.until(job_id, State.RUNNING)
        await eventually(lambda: bench.runner.active[job_id].phase == "working")
        await bench.cancel(job_id)
        await bench.pool.drain(0.05)
        assert (await bench.record(job_id)).state is State.CANCELLED


async def test_kill_writes_nothing() -> None:
    """``kill`` leaves records as they are, for the reaper."""
    async with running(route_of(forever)) as bench:
        job_id = await bench.submit("/forever")
        await bench.until(job_id, State.RUNNING)
        before = await bench.record(job_id)
        bench.pool.kill()
        await eventually(lambda: not bench.runner.active)
        assert await bench.record(job_id) == before
