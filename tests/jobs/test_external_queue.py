"""Jobs on a queue outside of the record store: whatever puts one back, the queue hears of it again."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from router_core import Router
from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job, State
from router_core.jobs.reaper import Reaper
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.sweeper import FORGETFUL, Sweeper
from router_core.settings import Settings
from router_core.testing.clock import FakeClock
from router_core.types import Principal, first_id, new_id
from router_core.wiring import build_app
from tests.jobs.running import Bench as Workbench
from tests.jobs.running import bench_of, route_of
from tests.jobs.serving import ANN, Bench

HOUR = 3600.0


async def angry(n: int = 0) -> int:
    """Fail."""
    raise ValueError("no")


async def hasty(n: int = 0) -> int:
    """Be told at once that its process goes away."""
    raise AssertionError("it is released before it starts")


def sweeper_of(bench: Bench) -> Sweeper:
    """Return the sweeper of a bench."""
    return Sweeper(
        store=bench.store, blobs=bench.blobs, dispatcher=bench.queue, routes=bench.routes,
        clock=bench.clock, settings=bench.settings, events=bench.events,
    )  # fmt: skip


def reaper_of(bench: Bench) -> Reaper:
    """Return the reaper of a bench."""
    return Reaper(
        store=bench.store, routes=bench.routes, clock=bench.clock, settings=bench.settings,
        events=bench.events, dispatcher=bench.queue, draw=lambda: 0.5,
    )  # fmt: skip


def limited(bench: Bench, seconds: float) -> None:
    """Let the queue hold jobs back for so long only."""
    bench.queue.abilities = replace(bench.queue.abilities, max_delay=seconds)


async def rescued(bench: Bench) -> Job:
    """Return a job whose worker has vanished, after the reaper has seen to it."""
    job = await bench.claim((await bench.submit()).job.id)
    bench.queue.told.clear()
    bench.clock.advance(31)
    return job


@pytest.mark.parametrize(
    ("abilities", "ahead", "takes"),
    [
        ({"delay": True}, HOUR, True),
        ({"delay": True, "max_delay": 900.0}, 900.0, True),
        ({"delay": True, "max_delay": 900.0}, 901.0, False),
        ({"delay": False}, 0.5, False),
        ({"delay": False}, -0.5, True),
        ({"delay": False}, 0.0, True),
    ],
)
def test_a_queue_takes_what_it_can_hold(abilities: dict[str, Any], ahead: float, takes: bool) -> None:
    """A job is told when it is due, or as long before as the queue can hold it back."""
    queue = Abilities(priority=False, cancel=True, stream=True, **abilities)
    bench = bench_of(route_of(angry))
    job = replace(bench.job("/angry"), not_before=1000.0 + ahead)
    assert queue.takes(job, 1000.0) is takes


async def test_a_rescued_job_that_the_queue_did_not_take_is_told_later() -> None:
    """The queue is down while the reaper works; the sweeper finds the record marked."""
    bench = Bench(external=True)
    job = await rescued(bench)
    bench.queue.down = True
    await reaper_of(bench).tick()
    bench.queue.down = False
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert bench.queue.told == [job.id]
    after = await bench.service.get(job.id, ANN)
    assert (after.state, after.dispatch_pending) == (State.RETRYING, False)


async def test_a_rescued_job_that_waits_too_long_for_the_queue_is_told_when_it_is_due() -> None:
    """The reaper tells nothing that the queue would hand out too early."""
    bench = Bench(external=True)
    limited(bench, 0.25)
    job = await rescued(bench)
    await reaper_of(bench).tick()
    assert bench.queue.told == []
    await sweeper_of(bench).tick()
    assert bench.queue.told == []
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert bench.queue.told == [job.id]


async def test_a_note_of_what_was_told_does_not_hide_what_came_after() -> None:
    """The job was claimed and put back while its queue was told: the queue does not know of that."""
    bench = Bench(external=True)
    job = (await bench.submit(options=SubmitOptions(tell=False))).job
    late = moves.dispatched(job.epoch)
    claimed = await bench.claim(job.id)
    again = moves.retry(claimed.fence, now=0, not_before=0, rank=0, attempts=b"", error=b"{}")
    assert (await bench.store.move(job.id, again)).applied
    assert not (await bench.store.move(job.id, late)).applied


async def test_a_queue_is_told_although_the_note_of_it_fails() -> None:
    """The submission succeeds; the sweeper tells again, which is harmless."""
    bench = Bench(external=True)
    move = bench.inner.move
    failed: list[moves.Move] = []

    async def fail_once(job_id: str, wanted: moves.Move) -> Any:
        if wanted.name == "dispatched" and not failed:
            failed.append(wanted)
            raise StoreError("no answer")
        return await move(job_id, wanted)

    bench.inner.move = fail_once
    job = (await bench.submit()).job
    assert job.dispatch_pending
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert bench.queue.told == [job.id, job.id]
    assert not (await bench.service.get(job.id, ANN)).dispatch_pending


async def test_who_runs_the_job_himself_need_not_tell_the_queue() -> None:
    """Should he vanish first, the sweeper does."""
    bench = Bench(external=True)
    options = SubmitOptions(tell=False, key="k")
    job = (await bench.submit(options=options)).job
    assert (await bench.submit(options=options)).replayed
    assert (job.dispatch_pending, bench.queue.told) == (True, [])
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert bench.queue.told == [job.id]


async def test_a_queue_that_can_hold_a_scheduled_job_is_told_at_once() -> None:
    """It is more punctual than a sweeper; where it cannot, or fails, the sweeper tells it."""
    bench = Bench(external=True)
    limited(bench, 900)
    near = (await bench.submit(options=SubmitOptions(delay=60))).job
    far = (await bench.submit(options=SubmitOptions(delay=HOUR))).job
    assert bench.queue.told == [near.id]
    bench.queue.down = True
    unlucky = (await bench.submit(options=SubmitOptions(delay=60))).job
    assert unlucky.state is State.SCHEDULED
    bench.queue.down = False
    bench.clock.advance(HOUR + 1)
    await sweeper_of(bench).tick()
    assert sorted(bench.queue.told[1:]) == sorted([near.id, far.id, unlucky.id])


def external(*funcs: Any, **options: Any) -> Workbench:
    """Return a bench whose queue is somewhere else."""
    bench = bench_of(*(route_of(func, **options) for func in funcs), clock=FakeClock(), draw=lambda: 1.0)
    bench.runner.settlement.external = True
    return bench


async def test_a_failed_attempt_marks_the_job_for_its_queue() -> None:
    """Nobody else would tell it that there is another."""
    bench = external(angry, max_attempts=2, backoff=8.0)
    after = await bench.run("/angry")
    assert (after.state, after.dispatch_pending) == (State.RETRYING, True)
    inside = bench_of(route_of(angry, max_attempts=2))
    assert not (await inside.run("/angry")).dispatch_pending


async def test_a_release_marks_the_job_for_its_queue() -> None:
    """It is ready at once, and its queue believes that it runs."""
    bench = external(hasty)
    job = (await bench.store.add(bench.job("/hasty"))).job
    load = bench.runner._load_inputs

    async def release_first(one: Job, route: Any) -> Any:
        bench.runner.release(one.id)
        return await load(one, route)

    bench.runner._load_inputs = release_first
    await bench.runner.run(await bench.claim(job.id))
    after = await bench.record(job.id)
    assert (after.state, after.dispatch_pending, after.attempt) == (State.QUEUED, True, 0)


async def test_a_job_that_was_put_back_is_told_when_nobody_has_taken_it_for_a_while() -> None:
    """Its worker's own message may come back first; then there is nothing left to tell."""
    bench = Bench(external=True)
    jobs = [(await bench.submit()).job for _ in range(2)]
    bench.queue.told.clear()
    for job in jobs:
        claimed = await bench.claim(job.id)
        again = moves.retry(
            claimed.fence, now=0, not_before=bench.clock.now() + 5, rank=0, attempts=b"", error=b"{}"
        )
        marked = replace(again, sets={**again.sets, "dispatch_pending": True})
        assert (await bench.store.move(job.id, marked)).applied
    sweeper = sweeper_of(bench)
    bench.clock.advance(14)
    await sweeper.tick()
    assert bench.queue.told == []
    await bench.claim(jobs[0].id)
    bench.clock.advance(12)
    await sweeper.tick()
    assert bench.queue.told == [jobs[1].id]


async def test_a_store_that_finds_what_was_not_told_is_asked_for_that_alone() -> None:
    """Not for all that wait, of which there may be many."""
    bench = Bench(external=True)
    job = (await bench.submit(options=SubmitOptions(tell=False))).job
    asked: list[float] = []

    async def undispatched(before: float, limit: int = 100) -> list[Job]:
        asked.append(before)
        return [job]

    looked: list[str] = []
    find = bench.inner.find

    async def watched(query: Any) -> Any:
        looked.append(query.cursor)
        return await find(query)

    bench.inner.undispatched, bench.inner.find = undispatched, watched
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert (bench.queue.told, asked) == ([job.id], [bench.clock.now() - 10.0])
    assert looked == [first_id(bench.clock.now() - FORGETFUL)]  # for those that have waited for days


async def test_a_forgotten_job_is_told_again() -> None:
    """Whoever drops a message says so in the record."""
    bench = Bench(external=True)
    job = (await bench.submit()).job
    assert (await bench.store.move(job.id, moves.forgotten(job.epoch))).applied
    bench.clock.advance(12)
    await sweeper_of(bench).tick()
    assert bench.queue.told == [job.id, job.id]


async def test_an_attempt_may_settle_for_as_long_as_it_was_claimed_for() -> None:
    """A claim by id brings its own lease, which may be longer than that of the settings."""
    clock = FakeClock()
    router = Router()
    app = build_app(router, Settings(jobs="memory://", blobs="memory://", lease=30), clock=clock)
    seen: list[float] = []

    @router.route("/look")
    async def look() -> str:
        """Note until when the job is ours."""
        (run,) = app.parts.runner.active.values()
        seen.append(run.lease_ends - clock.monotonic())
        return "seen"

    app = build_app(router, Settings(jobs="memory://", blobs="memory://", lease=30), clock=clock)
    await app.start(background=False)
    try:
        route = next(one for one in app.routes if one.path == "/look")
        added = await app.service.submit(route, route.plan.collect_input({}), principal=Principal("me"))
        job = await app.run(added.job.id, "w", lease=600)
        assert job is not None
        assert (job.state, seen) == (State.SUCCEEDED, [600.0])
    finally:
        await app.stop(1)


@pytest.fixture
def dated(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Return a clock that the ids of new jobs are made by, as they are in life."""
    clock = FakeClock()
    number = count()
    monkeypatch.setattr(
        "router_core.jobs.service.new_id", lambda: f"{int(clock.now() * 1000):012x}{next(number):020x}"
    )
    return clock


def test_ids_of_a_moment_stand_behind_its_first() -> None:
    """And those made before stand before it."""
    assert first_id(time.time() - 1) < new_id() < first_id(time.time() + 1)
    assert first_id(-5) == "0" * 32


async def test_a_job_that_has_waited_for_days_is_told_again(dated: FakeClock) -> None:
    """Its queue keeps messages for some days only; a queue in the store forgets nothing."""
    for elsewhere in (True, False):
        bench = Bench(external=elsewhere, clock=dated)
        old = (await bench.submit()).job
        bench.clock.advance(2.9 * 24 * HOUR)
        young = (await bench.submit()).job
        bench.queue.told.clear()
        sweeper = sweeper_of(bench)
        await sweeper.tick()
        assert bench.queue.told == []
        bench.clock.advance(7 * HOUR)
        await sweeper.tick()
        await sweeper.tick()
        assert bench.queue.told == ([old.id] if elsewhere else [])
        assert young.id not in bench.queue.told


async def test_many_jobs_that_have_waited_for_days_are_told_page_by_page(
    dated: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other steps have their turn in between."""
    monkeypatch.setattr("router_core.jobs.sweeper._PAGE", 2)
    monkeypatch.setattr("router_core.jobs.sweeper._PAGES", 2)
    bench = Bench(external=True, clock=dated)
    ids = [(await bench.submit()).job.id for _ in range(7)]
    bench.clock.advance(4 * 24 * HOUR)
    bench.queue.told.clear()
    sweeper = sweeper_of(bench)
    counts = []
    for _ in range(3):
        await sweeper.tick()
        counts.append(len(bench.queue.told))
    assert counts == [4, 7, 7]
    assert sorted(bench.queue.told) == sorted(ids)
