"""Contract of upkeep: what is due, retention, tombstones, blobs that nobody needs, counts."""

from __future__ import annotations

import json

import pytest

from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State, Tombstone
from router_core.jobs.store import NewEvent, Store
from router_core.jobs.sweeper import KnowsBlobs
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import RETENTION, ROUTE, claim_one, ended, new_job, running

__all__ = ["UpkeepContract"]

_WEEK = 7 * 24 * 3600.0


class UpkeepContract:
    """Tests of ``due``, ``next_due``, ``purge``, ``delete``, ``stats``, ``ping`` and ``close``."""

    async def test_due_lists_what_the_sweeper_has_to_move(self, store: Store, clock: FakeClock) -> None:
        """Scheduled jobs whose time has come and waiting jobs past their deadline; nothing twice."""
        now = clock.now()
        soon = (await store.add(new_job(clock, state=State.SCHEDULED, not_before=now + 10))).job
        await store.add(new_job(clock, state=State.SCHEDULED, not_before=now + 500))
        late = (await store.add(new_job(clock, deadline_at=now + 10))).job
        both = new_job(clock, state=State.SCHEDULED, not_before=now + 5, deadline_at=now + 9)
        await store.add(both)
        await store.add(new_job(clock))
        runs = await running(store, clock, route="/other", deadline_at=now + 10)
        assert not await store.due()
        clock.advance(10)
        found = [job.id for job in await store.due()]
        assert sorted(found) == sorted([soon.id, late.id, both.id])
        assert runs.id not in found
        assert len(await store.due(limit=2)) == 2

    async def test_next_due_is_the_earliest_start(self, store: Store, clock: FakeClock) -> None:
        """Of scheduled and retrying jobs; none waits, none is told."""
        now = clock.now()
        assert await store.next_due() is None
        await store.add(new_job(clock))
        assert await store.next_due() is None
        await store.add(new_job(clock, state=State.SCHEDULED, not_before=now + 50))
        assert await store.next_due() == now + 50
        job = await running(store, clock)
        retry = moves.retry(job.fence, now=now, not_before=now + 20, rank=now, attempts=b"", error=b"")
        await store.move(job.id, retry)
        assert await store.next_due() == now + 20
        await store.move(job.id, moves.cancel_waiting(now=now, retention=RETENTION))
        assert await store.next_due() == now + 50

    async def test_an_expired_record_is_a_tombstone_at_once(self, store: Store, clock: FakeClock) -> None:
        """It is answered with 410 before and after the purge, and forgotten a week later."""
        job = await ended(store, clock)
        clock.advance(RETENTION)
        for _ in range(2):
            grave = await store.get(job.id)
            assert isinstance(grave, Tombstone)
            assert (grave.id, grave.owner) == (job.id, "alice")
            assert grave.expires_at >= clock.now() + _WEEK - 1
            await store.purge()
        clock.advance(_WEEK + 1)
        assert await store.get(job.id) is None
        await store.purge()
        assert await store.get(job.id) is None

    async def test_a_purge_takes_what_has_expired_and_no_more(self, store: Store, clock: FakeClock) -> None:
        """In bounded steps; open jobs and younger records stay, events go along."""
        old = [await ended(store, clock) for _ in range(5)]
        waits = (await store.add(new_job(clock))).job
        clock.advance(RETENTION - 10)
        young = await ended(store, clock, route="/other")
        clock.advance(20)
        assert [(await store.purge(limit=2)).jobs for _ in range(4)] == [2, 2, 1, 0]
        for job in old:
            assert isinstance(await store.get(job.id), Tombstone)
        assert isinstance(await store.get(young.id), Job)
        assert isinstance(await store.get(waits.id), Job)

    async def test_events_go_with_their_job(self, store: Store, clock: FakeClock) -> None:
        """A purged job has no history left."""
        job = await running(store, clock)
        await store.append(job.fence, [NewEvent("output", b"1")])
        end = moves.succeed(job.fence, now=clock.now(), retention=1, attempts=b"")
        await store.move(job.id, end)
        assert len((await store.events(job.id)).events) == 1
        clock.advance(2)
        await store.purge()
        assert not (await store.events(job.id)).events

    async def test_a_purge_names_the_blobs_that_nobody_needs(self, store: Store, clock: FakeClock) -> None:
        """Inputs, files inside them, and results; not what another job shares, nor what a result says."""
        file = {"image": {"$file": {"key": "in-file"}}, "list": [{"$file": {"key": "shared"}}]}
        job = await running(store, clock, input=json.dumps(file).encode())
        other = await running(store, clock, input=b"", input_ref="big-input")
        await store.add(new_job(clock, input=b'{"x":{"$file":{"key":"shared"}}}'))
        end = moves.succeed(
            job.fence, now=clock.now(), retention=5, attempts=b"", result_ref=b'{"key":"result"}'
        )
        await store.move(job.id, end)
        inline = b'{"$file":{"key":"said-by-the-function"}}'
        end = moves.succeed(other.fence, now=clock.now(), retention=5, attempts=b"", result=inline)
        await store.move(other.id, end)
        if isinstance(store, KnowsBlobs):
            named = ["in-file", "shared", "big-input", "result", "orphan", "said-by-the-function"]
            assert await store.unreferenced(named) == ["orphan", "said-by-the-function"]
        clock.advance(6)
        purged = await store.purge()
        assert purged.jobs == 2
        if isinstance(store, KnowsBlobs):
            assert sorted(await store.unreferenced(["shared", "in-file", "result"])) == ["in-file", "result"]
        assert sorted(purged.blobs) == ["big-input", "in-file", "result"]

    async def test_delete_takes_ended_jobs_only(self, store: Store, clock: FakeClock) -> None:
        """It returns what it took and leaves a tombstone; open, unknown and deleted jobs give nothing."""
        job, open_job = await ended(store, clock), (await store.add(new_job(clock))).job
        assert await store.delete(open_job.id) is None
        assert await store.delete("unknown") is None
        assert await store.delete(job.id) == job
        assert await store.delete(job.id) is None
        assert isinstance(await store.get(job.id), Tombstone)
        assert await store.get(open_job.id) == open_job

    async def test_stats_count_open_jobs(self, store: Store, clock: FakeClock) -> None:
        """By route and state, with the time since which the oldest queued job waits."""
        assert (await store.stats()).oldest_queued_at == 0
        now = clock.now()
        await store.add(new_job(clock))
        clock.advance(5)
        await store.add(new_job(clock))
        await store.add(new_job(clock, state=State.SCHEDULED, not_before=clock.now() + 9))
        await ended(store, clock)
        runs, stops = await running(store, clock, route="/other"), await running(store, clock, route="/other")
        await store.move(stops.id, moves.cancel_running(now=clock.now()))
        stats = await store.stats()
        assert dict(stats.by_route) == {
            (ROUTE, State.QUEUED): 2, (ROUTE, State.SCHEDULED): 1, ("/other", State.RUNNING): 1,
            ("/other", State.CANCELLING): 1,
        }  # fmt: skip
        assert stats.oldest_queued_at == now
        assert runs.state is State.RUNNING

    async def test_a_store_that_can_write_says_so(self, store: Store) -> None:
        """The readiness probe passes, again and again."""
        for _ in range(3):
            await store.ping()

    async def test_the_second_close_does_nothing(self, store: Store, clock: FakeClock) -> None:
        """And what comes after it is refused as unavailable, not with a driver's error."""
        await store.add(new_job(clock))
        await store.close()
        await store.close()
        with pytest.raises(StoreError):
            await store.get("anything")
        with pytest.raises(StoreError):
            await claim_one(store)
        with pytest.raises(StoreError):
            await store.ping()
