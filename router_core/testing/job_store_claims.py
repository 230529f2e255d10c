"""Contract of claims and leases: C1, order, dates, heartbeats, rescue."""

from __future__ import annotations

from router_core.jobs import moves
from router_core.jobs.job import Fence, Job, State
from router_core.jobs.store import Claim, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, claim_one, new_job, running

__all__ = ["ClaimContract"]


async def _retrying(store: Store, clock: FakeClock, *, wait: float, rank: float) -> Job:
    job = await running(store, clock)
    not_before = clock.now() + wait
    move = moves.retry(
        job.fence,
        now=clock.now(),
        not_before=not_before,
        rank=rank,
        attempts=b"[1]",
        error=b'{"message":"no"}',
    )
    moved = (await store.move(job.id, move)).job
    assert moved is not None
    return moved


class ClaimContract:
    """Tests of ``claim``, ``renew`` and ``overdue``."""

    async def test_a_claim_makes_the_job_the_workers(self, store: Store, clock: FakeClock) -> None:
        """C1: running, epoch and attempt counted, a new token, the lease, progress from nought."""
        await store.add(new_job(clock, progress=0.7))
        clock.advance(5)
        job = await claim_one(store, worker="w9")
        assert job is not None
        assert (job.state, job.epoch, job.attempt, job.version) == (State.RUNNING, 1, 1, 2)
        assert (job.worker_id, job.progress, job.started_at) == ("w9", 0.0, clock.now())
        assert job.lease_until == clock.now() + LEASE
        assert len(job.token) >= 32
        assert job.input == b'{"a":1}'
        assert await store.get(job.id) == job

    async def test_a_job_is_claimed_once(self, store: Store, clock: FakeClock) -> None:
        """Neither by its route nor by its id a second time."""
        job = await running(store, clock)
        assert await claim_one(store) is None
        assert not await store.claim(Claim("w2", LEASE, job_id=job.id))

    async def test_a_claim_takes_no_more_than_it_has_room_for(self, store: Store, clock: FakeClock) -> None:
        """Slots are counted for each route; no room and unknown routes give nothing."""
        for route in (ROUTE, "/other"):
            for _ in range(3):
                await store.add(new_job(clock, route=route))
        taken = await store.claim(Claim("w1", LEASE, {ROUTE: 2, "/other": 1, "/none": 5}))
        assert sorted(job.route for job in taken) == sorted([ROUTE, ROUTE, "/other"])
        assert not await store.claim(Claim("w1", LEASE, {ROUTE: 0, "/other": -1}))
        assert not await store.claim(Claim("w1", LEASE))

    async def test_the_lowest_rank_goes_first(self, store: Store, clock: FakeClock) -> None:
        """Rank is the whole order; equal ranks keep their order of arrival."""
        now = clock.now()
        ranks = {"b": now, "c": now, "a": now - 100, "d": now + 50}
        ids = {}
        for name, rank in ranks.items():
            ids[(await store.add(new_job(clock, rank=rank))).job.id] = name
        order = [ids[job.id] for job in await store.claim(Claim("w1", LEASE, {ROUTE: 3}))]
        assert order == ["a", "b", "c"]

    async def test_a_due_retry_competes_by_rank(self, store: Store, clock: FakeClock) -> None:
        """Queued and retrying jobs stand in one order; a retry before its time does not stand in it."""
        now = clock.now()
        urgent = await _retrying(store, clock, wait=5, rank=now - 50)
        early = await _retrying(store, clock, wait=500, rank=now - 90)
        queued = (await store.add(new_job(clock, rank=now - 10))).job
        calm = (await store.add(new_job(clock, rank=now))).job
        assert not await store.claim(Claim("w1", LEASE, job_id=early.id))
        clock.advance(5)
        taken = await store.claim(Claim("w1", LEASE, {ROUTE: 2}))
        assert [job.id for job in taken] == [urgent.id, queued.id]
        rest = await store.claim(Claim("w1", LEASE, {ROUTE: 5}))
        assert [job.id for job in rest] == [calm.id]
        again = taken[0]
        assert (again.epoch, again.attempt, again.attempts) == (2, 2, b"[1]")
        assert again.token != urgent.token

    async def test_nothing_starts_before_its_time(self, store: Store, clock: FakeClock) -> None:
        """I10: a scheduled job is not claimed, by route or id, until it was moved and is due."""
        job = (await store.add(new_job(clock, state=State.SCHEDULED, not_before=clock.now() + 10))).job
        assert await claim_one(store) is None
        assert not await store.claim(Claim("w1", LEASE, job_id=job.id))
        clock.advance(10)
        assert (await store.move(job.id, moves.due(now=clock.now()))).applied
        assert await claim_one(store) is not None

    async def test_nothing_starts_after_its_deadline(self, store: Store, clock: FakeClock) -> None:
        """I10: a job whose deadline passed is left to the sweeper, and does not block those behind it."""
        late = (await store.add(new_job(clock, deadline_at=clock.now() + 5, rank=0))).job
        good = (await store.add(new_job(clock))).job
        clock.advance(5)
        assert not await store.claim(Claim("w1", LEASE, job_id=late.id))
        assert [job.id for job in await store.claim(Claim("w1", LEASE, {ROUTE: 2}))] == [good.id]

    async def test_a_heartbeat_extends_the_lease(self, store: Store, clock: FakeClock) -> None:
        """From now on, not from the old end; the answer says that nothing else is asked of the worker."""
        job = await running(store, clock)
        clock.advance(20)
        (renewal,) = await store.renew([job.fence], LEASE)
        assert (renewal.job_id, renewal.held, renewal.cancel) == (job.id, True, False)
        after = await store.get(job.id)
        assert isinstance(after, Job)
        assert after.lease_until == clock.now() + LEASE
        assert after.version > job.version

    async def test_a_heartbeat_brings_the_wish_to_cancel(self, store: Store, clock: FakeClock) -> None:
        """A cancelling job keeps its lease until its worker has stopped."""
        job = await running(store, clock)
        await store.move(job.id, moves.cancel_running(now=clock.now()))
        (renewal,) = await store.renew([job.fence], LEASE)
        assert (renewal.held, renewal.cancel) == (True, True)

    async def test_a_heartbeat_of_many_tells_each(self, store: Store, clock: FakeClock) -> None:
        """Answers come in the order of the fences; lost, foreign and unknown ones are not held."""
        held, lost = await running(store, clock), await running(store, clock)
        await store.move(lost.id, moves.release(lost.fence, attempts=b"[]"))
        fences = [
            lost.fence, held.fence, Fence(held.id, held.epoch, "0" * 32), Fence(held.id, 9, held.token),
            Fence("unknown", 1, held.token), Fence(lost.id, lost.epoch, ""),
        ]  # fmt: skip
        answers = await store.renew(fences, LEASE)
        assert [answer.held for answer in answers] == [False, True, False, False, False, False]
        assert [answer.job_id for answer in answers] == [fence.job_id for fence in fences]
        assert list(await store.renew([], LEASE)) == []

    async def test_an_ended_lease_is_overdue(self, store: Store, clock: FakeClock) -> None:
        """Running and cancelling alike, once the lease is over; waiting and ended jobs never."""
        runs, stops = await running(store, clock), await running(store, clock)
        await store.move(stops.id, moves.cancel_running(now=clock.now()))
        await store.add(new_job(clock))
        clock.advance(LEASE)
        assert not await store.overdue()
        clock.advance(0.5)
        assert {job.id for job in await store.overdue()} == {runs.id, stops.id}
        assert len(await store.overdue(limit=1)) == 1
        assert await claim_one(store) is not None  # the waiting one
        assert await claim_one(store) is None  # an ended lease is the reaper's, not a claim's

    async def test_a_rescue_repeats_what_the_reaper_saw(self, store: Store, clock: FakeClock) -> None:
        """C4: a heartbeat or another claim in between wins over the reaper."""
        job = await running(store, clock)
        clock.advance(LEASE + 1)
        (seen,) = await store.overdue()
        rescue = moves.rescue(
            seen, now=clock.now(), retention=RETENTION, not_before=clock.now(), attempts=b"[]", error=b"{}",
            lost=False,
        )  # fmt: skip
        await store.renew([job.fence], LEASE)
        assert not (await store.move(job.id, rescue)).applied
        clock.advance(LEASE + 1)
        late = moves.rescue(
            seen, now=clock.now(), retention=RETENTION, not_before=clock.now(), attempts=b"[]", error=b"{}",
            lost=False,
        )  # fmt: skip
        moved = await store.move(job.id, late)
        assert moved.applied
        assert moved.job is not None
        assert (moved.job.state, moved.job.crash_count, moved.job.token) == (State.RETRYING, 1, "")
        assert not (await store.move(job.id, late)).applied
        (renewal,) = await store.renew([job.fence], LEASE)
        assert not renewal.held
