"""Waiting, cancelling, retrying and deleting."""

from __future__ import annotations

import asyncio

import pytest

from router_core.errors import Conflict, Gone, NotFound, Unavailable
from router_core.http.media import File
from router_core.jobs.inputs import load
from router_core.jobs.job import Job, State
from router_core.jobs.service import NoRoute
from router_core.jobs.store import JobQuery
from router_core.jobs.submission import SubmitOptions
from tests.jobs.serving import ANN, BOB, Bench, until


async def test_a_wait_ends_with_the_job() -> None:
    """The waiter is woken by the write, without time passing."""
    bench = Bench()
    job = (await bench.submit()).job
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, 30))
    await until(lambda: bench.clock.sleepers)
    await bench.succeed(await bench.claim(job.id))
    assert (await waiting).state is State.SUCCEEDED
    assert bench.hub.waiting == 0


async def test_a_wait_ends_with_its_time() -> None:
    """After the time asked for, the job is returned as it is."""
    bench = Bench()
    job = (await bench.submit()).job
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, 5))
    for _ in range(12):
        await bench.clock.pass_time(1)
    assert (await waiting).state is State.QUEUED


async def test_a_wait_is_capped() -> None:
    """Nobody waits longer than the server allows."""
    bench = Bench()
    job = (await bench.submit()).job
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, float("inf")))
    await bench.clock.pass_time(bench.settings.sync_wait_max + 2)
    assert (await waiting).state is State.QUEUED


async def test_a_wait_sees_what_another_process_wrote() -> None:
    """A write past the hub is found by reading again within a second."""
    bench = Bench()
    job = (await bench.submit()).job
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, 30))
    await until(lambda: bench.clock.sleepers)
    hidden = Bench(clock=bench.clock)
    hidden.store = type(hidden.store)(bench.inner, hidden.hub, hidden.events)
    await hidden.succeed(await hidden.claim(job.id))
    await bench.clock.pass_time(2, step=0.1)
    assert (await waiting).state is State.SUCCEEDED


async def test_a_wait_for_a_version_ends_with_any_write() -> None:
    """Progress wakes who waits for a change."""
    bench = Bench()
    job = await bench.claim((await bench.submit()).job.id)
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, 30, version=job.version))
    await until(lambda: bench.clock.sleepers)
    await bench.progress(job, 0.5, "half")
    assert (await waiting).progress == 0.5


async def test_waiters_are_bounded() -> None:
    """With all places taken the job is returned as it is, at once."""
    bench = Bench(max_watches=2)
    job = (await bench.submit()).job
    waiting = [asyncio.create_task(bench.service.wait(job.id, ANN, 30)) for _ in range(2)]
    await until(lambda: bench.clock.sleepers == 2)
    assert (await bench.service.wait(job.id, ANN, 30)).state is State.QUEUED
    with pytest.raises(Unavailable):
        bench.hub.watch(job.id)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert bench.hub.waiting == 0


async def test_a_writer_in_another_thread_wakes_the_waiter() -> None:
    """Heartbeats and workers live in other loops; their writes count as well."""
    bench = Bench()
    job = (await bench.submit()).job
    waiting = asyncio.create_task(bench.service.wait(job.id, ANN, 30))
    await until(lambda: bench.clock.sleepers)

    async def work() -> None:
        await bench.succeed(await bench.claim(job.id))

    await asyncio.to_thread(asyncio.run, work())
    assert (await waiting).state is State.SUCCEEDED


async def test_cancel_ends_what_waits_and_asks_what_runs() -> None:
    """Queued: cancelled at once. Running: cancelling. Both may be repeated."""
    bench = Bench()
    waiting = (await bench.submit()).job
    assert (await bench.service.cancel(waiting.id, ANN)).state is State.CANCELLED
    assert (await bench.service.cancel(waiting.id, ANN)).state is State.CANCELLED
    heard: list[State] = []
    running = (await bench.submit()).job
    leave = bench.hub.subscribe(running.id, lambda job: heard.append(job.state))
    await bench.claim(running.id)
    assert (await bench.service.cancel(running.id, ANN)).state is State.CANCELLING
    assert (await bench.service.cancel(running.id, ANN)).state is State.CANCELLING
    assert heard == [State.RUNNING, State.CANCELLING]
    leave()


async def test_a_listener_that_fails_does_not_undo_the_write() -> None:
    """The writer is told that the record was written, because it was."""
    bench = Bench()
    job = (await bench.submit()).job

    def fail(_: Job) -> None:
        raise RuntimeError("a listener of ours")

    bench.hub.subscribe(job.id, fail)
    assert (await bench.claim(job.id)).state is State.RUNNING


async def test_cancel_of_an_ended_job_is_a_conflict() -> None:
    """Success first: cancel answers 409 and changes nothing."""
    bench = Bench()
    job = (await bench.submit()).job
    await bench.succeed(await bench.claim(job.id))
    with pytest.raises(Conflict, match="succeeded"):
        await bench.service.cancel(job.id, ANN)


async def test_cancel_races_the_end_with_one_winner() -> None:
    """In 300 races the answer of cancel agrees with the record."""
    bench = Bench()

    async def cancel(job: Job) -> State | None:
        await asyncio.sleep(0)
        try:
            return (await bench.service.cancel(job.id, ANN)).state
        except Conflict:
            return None

    async def end(job: Job, turns: int) -> bool:
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await bench.succeed(job)
        except AssertionError:
            return False
        return True

    seen = set()
    for index in range(300):
        job = await bench.claim((await bench.submit()).job.id)
        answer, finished = await asyncio.gather(cancel(job), end(job, index % 4))
        record = await bench.inner.get(job.id)
        assert isinstance(record, Job)
        assert record.state is (State.SUCCEEDED if finished else State.CANCELLING)
        assert (answer is None) == finished
        seen.add(finished)
    assert seen == {True, False}


async def test_retry_runs_the_same_input_as_a_new_job() -> None:
    """A failed job with a file: the new one has blobs of its own and names the old one."""
    bench = Bench()
    options = SubmitOptions(priority=7)
    first = (await bench.submit({"prompt": "x" * 40_000}, options=options)).job
    await bench.fail(await bench.claim(first.id), {"type": "ValueError", "message": "no"})
    again = (await bench.service.retry(first.id, ANN)).job
    assert again.id != first.id
    assert (again.meta["retry_of"], again.priority, again.attempt) == (first.id, 7, 0)
    assert again.input_ref != first.input_ref
    await bench.service.delete(first.id, ANN)
    assert await load(again, bench.blobs) == {"prompt": "x" * 40_000}


async def test_retry_with_a_key_retries_once() -> None:
    """The same key for the same job is one new job."""
    bench = Bench()
    first = (await bench.submit({"prompt": "x" * 40_000})).job
    await bench.service.cancel(first.id, ANN)
    options = SubmitOptions(key="again")
    one = await bench.service.retry(first.id, ANN, options)
    two = await bench.service.retry(first.id, ANN, options)
    assert (one.job.id, two.replayed) == (two.job.id, True)
    assert bench.blobs.puts == 2


async def test_only_what_ended_without_a_result_is_retried() -> None:
    """Open and succeeded jobs answer 409, as does one whose route is gone."""
    bench = Bench()
    job = (await bench.submit()).job
    with pytest.raises(Conflict, match="queued"):
        await bench.service.retry(job.id, ANN)
    await bench.succeed(await bench.claim(job.id))
    with pytest.raises(Conflict, match="succeeded"):
        await bench.service.retry(job.id, ANN)
    other = (await bench.submit()).job
    await bench.service.cancel(other.id, ANN)
    del bench.routes["/paint"]
    with pytest.raises(NoRoute):
        await bench.service.retry(other.id, ANN)


async def test_delete_takes_the_record_and_its_blobs() -> None:
    """Only an ended job is deleted; afterwards it is gone for its owner and unknown to others."""
    bench = Bench()
    job = (await bench.submit({"prompt": "x" * 40_000})).job
    with pytest.raises(Conflict):
        await bench.service.delete(job.id, ANN)
    await bench.succeed(await bench.claim(job.id))
    with pytest.raises(NotFound):
        await bench.service.delete(job.id, BOB)
    await bench.service.delete(job.id, ANN)
    assert bench.blobs.kept == {}
    with pytest.raises(Gone):
        await bench.service.get(job.id, ANN)
    with pytest.raises(NotFound):
        await bench.service.get(job.id, BOB)


async def test_a_blob_that_cannot_be_deleted_does_not_keep_the_record() -> None:
    """The sweeper collects it later."""
    bench = Bench()
    job = (await bench.submit({"prompt": "x" * 40_000})).job
    await bench.service.cancel(job.id, ANN)
    bench.blobs.down = True
    await bench.service.delete(job.id, ANN)
    with pytest.raises(Gone):
        await bench.service.get(job.id, ANN)


async def test_a_listing_shows_only_ones_own_jobs() -> None:
    """The owner in the query is the caller, whatever was asked."""
    bench = Bench()
    mine = (await bench.submit()).job
    await bench.submit(who=BOB)
    page = await bench.service.find(JobQuery(owner=None), ANN)
    assert [job.id for job in page.jobs] == [mine.id]


async def test_a_file_of_a_job_is_read_back_for_its_retry() -> None:
    """Files keep name and type over a retry."""
    bench = Bench()
    from router_core.jobs.inputs import copy_input, dump

    file = File.from_bytes(bytes(9000), "a.png", "image/png")
    dumped = await dump({"image": file}, bench.blobs)
    job = Job("j" * 32, "ann", "/x", State.FAILED, 0.0, input=dumped.data, input_ref=dumped.ref)
    copied = await copy_input(job, bench.blobs)
    assert not set(copied.keys) & set(dumped.keys)
    other = Job("k" * 32, "ann", "/x", State.QUEUED, 0.0, input=copied.data, input_ref=copied.ref)
    assert await load(other, bench.blobs) == {"image": file}
