"""The sweeper: due, deadline, resend, purge, orphans."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pydantic_core
import pytest

from router_core.errors import Gone, StoreError, Unavailable
from router_core.jobs import moves
from router_core.jobs.job import State
from router_core.jobs.store import Purged, Store
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.sweeper import Sweeper
from router_core.telemetry.events import Note
from tests.jobs.serving import ANN, Bench, until


def sweeper_of(bench: Bench) -> Sweeper:
    """Return the sweeper of a bench."""
    return Sweeper(
        store=bench.store, blobs=bench.blobs, dispatcher=bench.queue, routes=bench.routes,
        clock=bench.clock, settings=bench.settings, events=bench.events,
    )  # fmt: skip


def failures(bench: Bench) -> list[Any]:
    """Return which steps and rows failed."""
    return [
        event.fields["step"] for event in bench.seen if isinstance(event, Note) and "step" in event.fields
    ]


async def test_a_scheduled_job_is_queued_when_its_time_has_come() -> None:
    """Not before; and then the queue is told."""
    bench = Bench()
    job = (await bench.submit(options=SubmitOptions(delay=60))).job
    sweeper = sweeper_of(bench)
    bench.clock.advance(59)
    await sweeper.tick()
    assert bench.queue.told == []
    bench.clock.advance(2)
    await sweeper.tick()
    after = await bench.service.get(job.id, ANN)
    assert (after.state, after.dispatch_pending, bench.queue.told) == (State.QUEUED, False, [job.id])
    assert after.rank == job.rank


async def test_deadlines_end_what_waits() -> None:
    """Never started: expired. Started before and retrying: failed(timeout). Running: untouched."""
    bench = Bench()
    queued, scheduled, retrying, running = [
        (await bench.submit(options=SubmitOptions(cancel_after=60, delay=delay))).job
        for delay in (0, 30, 0, 0)
    ]
    claimed = await bench.claim(retrying.id)
    again = moves.retry(
        claimed.fence, now=0, not_before=bench.clock.now() + 3, rank=0, attempts=b"", error=b'{"message":"x"}'
    )
    await bench.store.move(claimed.id, again)
    await bench.claim(running.id, lease=1000)
    bench.clock.advance(61)
    await sweeper_of(bench).tick()
    found = [await bench.service.get(job.id, ANN) for job in (queued, scheduled, retrying, running)]
    assert [(job.state.value, job.reason) for job in found] == [
        ("expired", "deadline"), ("expired", "deadline"), ("failed", "timeout"), ("running", ""),
    ]  # fmt: skip


async def test_a_job_that_the_queue_did_not_take_is_sent_again() -> None:
    """Every ten seconds, until it is taken; a local queue is not asked."""
    bench = Bench(external=True)
    bench.queue.down = True
    with pytest.raises(Unavailable) as caught:
        await bench.submit()
    job_id = caught.value.extra["job_id"]
    sweeper = sweeper_of(bench)
    bench.clock.advance(11)
    await sweeper.tick()
    assert failures(bench) == ["resend"]
    bench.queue.down = False
    bench.clock.advance(5)
    await sweeper.tick()
    assert bench.queue.told == []
    bench.clock.advance(6)
    await sweeper.tick()
    await sweeper.tick()
    assert bench.queue.told == [job_id]
    assert not (await bench.service.get(job_id, ANN)).dispatch_pending


async def test_expired_records_and_their_blobs_are_forgotten() -> None:
    """The owner is told 410 afterwards; the blobs are gone."""
    bench = Bench()
    job = (await bench.submit({"prompt": "x" * 50_000})).job
    await bench.succeed(await bench.claim(job.id))
    sweeper = sweeper_of(bench)
    bench.clock.advance(3601)
    await sweeper.tick()
    assert bench.blobs.kept == {}
    with pytest.raises(Gone):
        await bench.service.get(job.id, ANN)


async def test_a_large_purge_goes_on_with_the_next_tick() -> None:
    """The other steps have their turn in between."""
    bench = Bench(queue_size=10_000)
    sweeper = sweeper_of(bench)
    left = [5300]

    async def purge(limit: int = 500) -> Any:
        count = min(limit, left[0])
        left[0] -= count
        return Purged(count)

    bench.store.purge = purge  # type: ignore[method-assign]
    await sweeper.tick()
    assert left[0] == 300
    await sweeper.tick()
    assert left[0] == 0


@pytest.mark.parametrize("broken", ["due", "purge"])
async def test_a_step_that_fails_hinders_no_other(broken: str) -> None:
    """The others do their work; readiness names the trouble after a while, and recovers."""
    bench = Bench()
    scheduled = (await bench.submit(options=SubmitOptions(delay=10))).job
    ended = (await bench.submit({"prompt": "x" * 50_000})).job
    await bench.succeed(await bench.claim(ended.id))
    sweeper = sweeper_of(bench)
    loop = asyncio.create_task(sweeper.run())
    await until(lambda: sweeper.last_success_at)
    working = getattr(bench.store, broken)

    async def fail(*args: Any) -> Any:
        raise StoreError("no answer")

    setattr(bench.store, broken, fail)
    bench.clock.advance(3600)
    await bench.clock.pass_time(100)
    assert not sweeper.ready(bench.clock.now())
    if broken == "due":
        assert bench.blobs.kept == {}
    else:
        assert (await bench.service.get(scheduled.id, ANN)).state is State.QUEUED
    setattr(bench.store, broken, working)
    await bench.clock.pass_time(35)
    assert sweeper.ready(bench.clock.now())
    assert bench.blobs.kept == {}
    loop.cancel()


async def test_a_row_that_fails_hinders_no_other() -> None:
    """Also when the queue refuses one job only."""
    bench = Bench()
    jobs = [(await bench.submit(options=SubmitOptions(delay=10))).job for _ in range(3)]
    dispatch = bench.queue.dispatch

    async def refuse_first(job: Any) -> None:
        if job.id == jobs[0].id:
            raise ConnectionError
        await dispatch(job)

    bench.queue.dispatch = refuse_first  # type: ignore[method-assign]
    bench.clock.advance(11)
    await sweeper_of(bench).tick()
    assert sorted(bench.queue.told) == sorted(job.id for job in jobs[1:])


async def test_a_blob_that_cannot_be_deleted_does_not_stop_a_purge() -> None:
    """It is reported and left for the search for orphans."""
    bench = Bench()
    job = (await bench.submit({"prompt": "x" * 50_000})).job
    await bench.succeed(await bench.claim(job.id))
    bench.clock.advance(3601)
    bench.blobs.down = True
    await sweeper_of(bench).tick()
    with pytest.raises(Gone):
        await bench.service.get(job.id, ANN)
    assert "blob_left" in [event.name for event in bench.seen if isinstance(event, Note)]
    bench.blobs.down = False
    bench.clock.advance(3600)
    await sweeper_of(bench).tick()
    assert bench.blobs.kept == {}


async def test_orphans_are_deleted_and_named_blobs_stay() -> None:
    """What no record names goes; input and result of a job stay."""
    bench = Bench()
    job = (await bench.submit({"prompt": "x" * 50_000})).job
    result = await bench.blobs.put(b"y" * 300_000)
    ref = pydantic_core.to_json({"key": result.key, "size": result.size})
    await bench.succeed(await bench.claim(job.id), ref=ref)
    named = set(bench.blobs.kept)
    await bench.blobs.put(b"left over")
    await sweeper_of(bench).orphans()
    assert set(bench.blobs.kept) == named


async def test_nothing_is_an_orphan_to_a_store_that_cannot_tell() -> None:
    """A store without the question keeps every blob."""
    bench = Bench()
    await bench.blobs.put(b"left over")
    bench.store.inner = cast("Store", object())
    await sweeper_of(bench).orphans()
    assert len(bench.blobs.kept) == 1
