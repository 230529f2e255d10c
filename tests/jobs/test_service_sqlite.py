"""The service on the default store: crowds, keys, restarts, and the queue's limit on a real file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_core.errors import KeyReused, QueueFull, StoreError
from router_core.jobs.job import State
from router_core.jobs.reaper import Reaper
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.sweeper import Sweeper
from router_core.stores.sqlite import SqliteJobStore
from router_core.testing.clock import FakeClock
from tests.jobs.serving import ANN, Bench, data


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return a bench over a file."""
    clock = FakeClock()
    store = SqliteJobStore(str(tmp_path / "jobs.db"), clock)
    await store.open()
    yield Bench(records=store, clock=clock)
    await store.close()


async def test_500_submitters_against_a_queue_of_100(bench: Bench) -> None:
    """Exactly 100 are taken, and each of them is there to be claimed."""
    outcomes = await asyncio.gather(*(bench.submit() for _ in range(500)), return_exceptions=True)
    taken = [one.job.id for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert (len(taken), len(refused)) == (100, 400)
    assert sorted(bench.queue.told) == sorted(taken)
    claimed = [(await bench.claim(job_id)).id for job_id in taken]
    assert claimed == taken


async def test_200_clients_with_one_key(bench: Bench) -> None:
    """One job for all of them, and 422 for another request under the key."""
    options = SubmitOptions(key="order-7")
    added = await asyncio.gather(*(bench.submit(options=options) for _ in range(200)))
    assert len({one.job.id for one in added}) == 1
    assert sum(not one.replayed for one in added) == 1
    with pytest.raises(KeyReused):
        await bench.submit({"prompt": "a dog"}, options=options)


async def test_a_job_lives_through_a_restart(bench: Bench, tmp_path: Path) -> None:
    """Submitted, the process gone, another one opened: the record and its key are there."""
    options = SubmitOptions(key="k")
    first = (await bench.submit(options=options)).job
    await bench.inner.close()
    store = SqliteJobStore(str(tmp_path / "jobs.db"), bench.clock)
    await store.open()
    later = Bench(records=store, clock=bench.clock)
    assert (await later.submit(options=options)).job.id == first.id
    assert (await later.service.get(first.id, ANN)).state is State.QUEUED
    await store.close()


async def test_a_store_that_is_gone_is_503_everywhere(bench: Bench) -> None:
    """Reading, submitting and cancelling answer 503 with Retry-After, and nothing is half accepted."""
    job = (await bench.submit()).job
    await bench.inner.close()
    for answer in (
        await bench.post(),
        await bench.call("GET", f"/jobs/{job.id}"),
        await bench.call("POST", f"/jobs/{job.id}/cancel"),
        await bench.call("GET", "/jobs"),
    ):
        assert (answer.status, data(answer)["code"]) == (503, "store_unavailable")
        assert answer.header("retry-after") is not None
    assert bench.queue.told == [job.id]


async def test_upkeep_on_a_file(bench: Bench) -> None:
    """A delayed job is queued, a dead worker's job rescued, an ended one forgotten with its blob."""
    delayed = (await bench.submit(options=SubmitOptions(delay=20))).job
    lost = await bench.claim((await bench.submit()).job.id)
    ended = (await bench.submit({"prompt": "x" * 50_000})).job
    await bench.succeed(await bench.claim(ended.id))
    reaper = Reaper(
        store=bench.store,
        routes=bench.routes,
        clock=bench.clock,
        settings=bench.settings,
        events=bench.events,
    )
    sweeper = Sweeper(
        store=bench.store, blobs=bench.blobs, dispatcher=bench.queue, routes=bench.routes,
        clock=bench.clock, settings=bench.settings, events=bench.events,
    )  # fmt: skip
    bench.clock.advance(31)
    await reaper.tick()
    await sweeper.tick()
    assert (await bench.service.get(lost.id, ANN)).state is State.RETRYING
    assert (await bench.service.get(delayed.id, ANN)).state is State.QUEUED
    bench.clock.advance(3600)
    await sweeper.tick()
    assert bench.blobs.kept == {}
    await bench.inner.close()
    with pytest.raises(StoreError):
        await reaper.tick()
