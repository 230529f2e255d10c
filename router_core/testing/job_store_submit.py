"""Contract of submission and look-up: records, idempotency keys, the queue's limit, listings."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router_core.errors import Conflict, Gone, KeyReused, QueueFull
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, claim_one, ended, new_job, running

__all__ = ["SubmitContract"]


def _key(clock: FakeClock, scope: str = "scope", fingerprint: str = "body") -> IdempotencyKey:
    return IdempotencyKey(scope, fingerprint, clock.now() + 24 * 3600)


class SubmitContract:
    """Tests of ``add``, ``get`` and ``find``."""

    async def test_a_record_comes_back_as_it_was_added(self, store: Store, clock: FakeClock) -> None:
        """Every field survives, with bytes, unicode and empty values."""
        now = clock.now()
        job = new_job(
            clock, input=b'{"\xc3\xa9":"\x00"}', input_ref="k", priority=-5, rank=now - 0.125,
            not_before=now - 1, deadline_at=now + 9, timeout=1.5, max_attempts=7, webhook='{"url":"https://example.com/"}',
            dispatch_pending=True, request_id="r\u00e9q", idem_hash="h",
            meta={"trace": {"id": ["\u4e2d", None, 1]}}, message="m", steps=b'{"s":1}', state=State.SCHEDULED,
        )  # fmt: skip
        added = await store.add(job)
        assert added.job == job
        assert not added.replayed
        assert await store.get(job.id) == job

    async def test_an_unknown_id_is_none(self, store: Store) -> None:
        """Ids that were never given out, odd ones included, are unknown rather than errors."""
        for job_id in ("nosuchjob", "", "'; DROP TABLE jobs; --", "x" * 10_000, "\u4e2d\x00"):
            assert await store.get(job_id) is None

    async def test_an_id_is_given_once(self, store: Store, clock: FakeClock) -> None:
        """A second record under one id is refused and leaves the first as it is."""
        job = new_job(clock)
        await store.add(job)
        with pytest.raises(Conflict):
            await store.add(replace(job, input=b"{}"))
        assert await store.get(job.id) == job

    async def test_same_key_same_request_is_the_same_job(self, store: Store, clock: FakeClock) -> None:
        """A replay returns the first job as it now is and adds nothing (I8)."""
        first = await store.add(new_job(clock), key=_key(clock))
        claimed = await claim_one(store)
        second = await store.add(new_job(clock), key=_key(clock))
        assert second.replayed
        assert second.job == claimed
        assert second.job.id == first.job.id
        assert [job.id for job in (await store.find(JobQuery())).jobs] == [first.job.id]

    async def test_same_key_other_request_is_refused(self, store: Store, clock: FakeClock) -> None:
        """A key belongs to the request that it came with first."""
        await store.add(new_job(clock), key=_key(clock))
        with pytest.raises(KeyReused):
            await store.add(new_job(clock), key=_key(clock, fingerprint="other"))
        assert len((await store.find(JobQuery())).jobs) == 1

    async def test_scopes_are_apart(self, store: Store, clock: FakeClock) -> None:
        """The same words under another scope are another job."""
        first = await store.add(new_job(clock), key=_key(clock, "one"))
        second = await store.add(new_job(clock), key=_key(clock, "two"))
        assert first.job.id != second.job.id
        assert not second.replayed

    async def test_an_expired_key_is_free_again(self, store: Store, clock: FakeClock) -> None:
        """After its time a key makes a new job, purged or not."""
        first = await store.add(new_job(clock), key=_key(clock))
        clock.advance(24 * 3600 + 1)
        second = await store.add(new_job(clock), key=_key(clock))
        assert not second.replayed
        assert second.job.id != first.job.id
        assert (await store.add(new_job(clock), key=_key(clock))).job.id == second.job.id

    async def test_a_key_outlives_its_deleted_job(self, store: Store, clock: FakeClock) -> None:
        """Work that was done is not done again because its record was deleted early."""
        first = await store.add(new_job(clock), key=_key(clock))
        await store.move(first.job.id, moves.cancel_waiting(now=clock.now(), retention=RETENTION))
        await store.delete(first.job.id)
        with pytest.raises(Gone):
            await store.add(new_job(clock), key=_key(clock))

    async def test_a_full_queue_refuses_the_next(self, store: Store, clock: FakeClock) -> None:
        """The limit counts queued and scheduled jobs of the route, exactly, and says when to come back."""
        await store.add(new_job(clock), queue_limit=3)
        await store.add(new_job(clock, state=State.SCHEDULED, not_before=clock.now() + 60), queue_limit=3)
        await store.add(new_job(clock), queue_limit=3)
        refused = new_job(clock)
        with pytest.raises(QueueFull) as caught:
            await store.add(refused, queue_limit=3, key=_key(clock))
        assert 1 <= caught.value.retry_after <= 60
        assert await store.get(refused.id) is None
        assert (await store.add(new_job(clock, route="/other"), queue_limit=1)).job.route == "/other"

    async def test_a_refused_submission_leaves_its_key_free(self, store: Store, clock: FakeClock) -> None:
        """What was refused consumes nothing: the same key makes a job once there is room."""
        await store.add(new_job(clock), queue_limit=1)
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=1, key=_key(clock, fingerprint="a"))
        await claim_one(store)
        assert not (await store.add(new_job(clock), queue_limit=1, key=_key(clock, fingerprint="b"))).replayed

    async def test_a_replay_is_never_refused_as_full(self, store: Store, clock: FakeClock) -> None:
        """The job is in already, so there is nothing to refuse."""
        await store.add(new_job(clock), queue_limit=1, key=_key(clock))
        assert (await store.add(new_job(clock), queue_limit=1, key=_key(clock))).replayed

    async def test_what_would_become_of_a_submission_can_be_asked(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The answer is that of ``add``, for a key and for a full queue, and nothing is written."""
        assert await store.foresee(ROUTE, queue_limit=1, key=_key(clock)) is None
        first = await store.add(new_job(clock), queue_limit=1, key=_key(clock))
        assert not first.replayed
        assert await store.foresee(ROUTE, queue_limit=1, key=_key(clock)) == first.job
        with pytest.raises(KeyReused):
            await store.foresee(ROUTE, key=_key(clock, fingerprint="other"))
        with pytest.raises(QueueFull) as caught:
            await store.foresee(ROUTE, queue_limit=1, key=_key(clock, "free"))
        assert 1 <= caught.value.retry_after <= 60
        assert await store.foresee("/other", queue_limit=1) is None
        await claim_one(store)
        assert await store.foresee(ROUTE, queue_limit=1, key=_key(clock, "free")) is None
        assert not (await store.add(new_job(clock), queue_limit=1, key=_key(clock, "free"))).replayed

    @pytest.mark.parametrize("leave", ["claim", "claim_by_id", "cancel", "expire"])
    async def test_whatever_leaves_the_queue_makes_room(
        self, store: Store, clock: FakeClock, leave: str
    ) -> None:
        """One place becomes free and one only, however the job left."""
        jobs = [new_job(clock, deadline_at=clock.now() + 5) for _ in range(2)]
        for job in jobs:
            await store.add(job, queue_limit=2)
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=2)
        await _leave(store, clock, jobs[0], leave)
        await store.add(new_job(clock), queue_limit=2)
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=2)

    async def test_a_released_job_takes_its_place_again(self, store: Store, clock: FakeClock) -> None:
        """A job given back by a worker counts; one that waits for its retry does not."""
        given_back, failed = await running(store, clock), await running(store, clock)
        await store.add(new_job(clock), queue_limit=2)
        await store.move(given_back.id, moves.release(given_back.fence, attempts=b"[]"))
        retry = moves.retry(failed.fence, now=0, not_before=clock.now() + 9, rank=0, attempts=b"", error=b"")
        await store.move(failed.id, retry)
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=2)
        await store.add(new_job(clock), queue_limit=3)

    async def test_five_hundred_submitters_meet_a_queue_of_a_hundred(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Exactly 100 are taken, 400 refused, and every accepted job is there (fault 24)."""
        jobs = [new_job(clock) for _ in range(500)]
        answers = await asyncio.gather(*(store.add(j, queue_limit=100) for j in jobs), return_exceptions=True)
        taken = [answer.job.id for answer in answers if not isinstance(answer, BaseException)]
        assert len(taken) == 100
        assert sum(isinstance(answer, QueueFull) for answer in answers) == 400
        claimed = await store.claim(Claim("w1", LEASE, {ROUTE: 500}))
        assert sorted(job.id for job in claimed) == sorted(taken)

    async def test_one_key_from_two_hundred_callers_is_one_job(self, store: Store, clock: FakeClock) -> None:
        """All get the same id, one of them as the first (fault 33)."""
        jobs = [new_job(clock) for _ in range(200)]
        answers = await asyncio.gather(*(store.add(job, key=_key(clock)) for job in jobs))
        assert len({answer.job.id for answer in answers}) == 1
        assert sum(not answer.replayed for answer in answers) == 1

    # --- listing ----------------------------------------------------------------------------

    async def test_a_listing_pages_newest_first(self, store: Store, clock: FakeClock) -> None:
        """Following the cursor shows every job of the owner once, newest first, and ends."""
        jobs = [new_job(clock, id=f"job{number:05}") for number in range(25)]
        for job in jobs:
            await store.add(job)
        await store.add(new_job(clock, owner="bob"))
        seen, cursor = [], ""
        for _ in range(10):
            page = await store.find(JobQuery(owner="alice", limit=10, cursor=cursor))
            seen += [job.id for job in page.jobs]
            cursor = page.cursor
            if not cursor:
                break
        assert seen == sorted((job.id for job in jobs), reverse=True)
        assert not cursor

    async def test_a_listing_leaves_bodies_out(self, store: Store, clock: FakeClock) -> None:
        """Inputs and results are read one job at a time."""
        job = await ended(store, clock)
        (listed,) = (await store.find(JobQuery(owner="alice"))).jobs
        assert (listed.input, listed.result) == (b"", b"")
        assert replace(job, input=b"", result=b"") == listed

    @pytest.mark.parametrize("owner", ["alice", None])
    async def test_a_listing_filters(self, store: Store, clock: FakeClock, owner: str | None) -> None:
        """State and route narrow it, alone and together, for one owner and for all."""
        done = await ended(store, clock)
        waits = (await store.add(new_job(clock))).job
        runs = await running(store, clock, route="/other")
        later = (await store.add(new_job(clock, state=State.SCHEDULED, not_before=clock.now() + 9))).job

        async def ids(states: set[State], route: str = "") -> set[str]:
            page = await store.find(JobQuery(owner=owner, states=frozenset(states), route=route))
            return {job.id for job in page.jobs}

        assert await ids({State.SUCCEEDED}) == {done.id}
        assert await ids({State.QUEUED, State.RUNNING}) == {waits.id, runs.id}
        assert await ids({State.SUCCEEDED, State.SCHEDULED}) == {done.id, later.id}
        assert await ids({State.FAILED}) == set()
        assert await ids(set(), "/other") == {runs.id}
        assert await ids({State.RUNNING}, "/other") == {runs.id}
        assert await ids({State.SUCCEEDED}, "/other") == set()
        assert await ids(set()) == {done.id, waits.id, runs.id, later.id}

    async def test_a_listing_of_nobody_is_empty(self, store: Store, clock: FakeClock) -> None:
        """A stranger's listing shows nothing, and an odd cursor is no error."""
        await store.add(new_job(clock))
        assert (await store.find(JobQuery(owner="bob"))).jobs == ()
        assert (await store.find(JobQuery(owner="alice", cursor="!"))).jobs == ()

    async def test_a_listing_hides_what_has_expired(self, store: Store, clock: FakeClock) -> None:
        """Retention ends on time even when no purge has run."""
        await ended(store, clock)
        clock.advance(RETENTION + 1)
        assert (await store.find(JobQuery(owner="alice"))).jobs == ()


async def _leave(store: Store, clock: FakeClock, job: Job, leave: str) -> None:
    if leave == "claim":
        assert await claim_one(store) is not None
    elif leave == "claim_by_id":
        assert await store.claim(Claim("w1", LEASE, job_id=job.id))
    elif leave == "cancel":
        move = moves.cancel_waiting(now=clock.now(), retention=RETENTION)
        assert (await store.move(job.id, move)).applied
    else:
        clock.advance(6)
        move = moves.deadline(job, now=clock.now(), retention=RETENTION)
        assert (await store.move(job.id, move)).applied
