"""Contract of moves: fences, guards, terminal states, progress, outbox."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from router_core.errors import Fenced
from router_core.jobs import moves
from router_core.jobs.job import TERMINAL, Fence, Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import NewEvent, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, claim_one, ended, new_job, running, worker_moves

__all__ = ["MoveContract"]

_HOOK = '{"url":"https://example.com/hook"}'


def _all_moves(job: Job, now: float) -> list[Move]:
    kept = {"now": now, "retention": RETENTION}
    return [
        *worker_moves(job.fence, now),
        moves.cancel_waiting(**kept), moves.cancel_running(now=now), moves.due(now=now), moves.dispatched(),
        moves.forgotten(job.epoch),
    ]  # fmt: skip


class MoveContract:
    """Tests of ``move`` and of the outbox."""

    zombies: ClassVar[int] = 100
    """Replaced workers that try each kind of write; fewer for a store that answers over a network."""

    async def test_a_move_writes_what_it_says(self, store: Store, clock: FakeClock) -> None:
        """The answer is the record as it now is, and so is the next look at it."""
        job = await running(store, clock)
        move = moves.succeed(
            job.fence,
            now=clock.now(),
            retention=RETENTION,
            attempts=b"[1]",
            result=b'"\xc3\xa9"',
            message="ready",
        )
        moved = await store.move(job.id, move)
        assert moved.applied
        done = moved.job
        assert done is not None
        assert (done.state, done.result, done.attempts, done.message) == (
            State.SUCCEEDED, b'"\xc3\xa9"', b"[1]", "ready",
        )  # fmt: skip
        assert (done.progress, done.token, done.worker_id, done.lease_until) == (1.0, "", "", 0.0)
        assert (done.finished_at, done.expires_at) == (clock.now(), clock.now() + RETENTION)
        assert done.version == job.version + 1
        assert done.epoch == job.epoch
        assert await store.get(job.id) == done

    async def test_a_move_of_nothing_says_so(self, store: Store, clock: FakeClock) -> None:
        """There is no record to return."""
        moved = await store.move("unknown", moves.cancel_waiting(now=clock.now(), retention=RETENTION))
        assert (moved.applied, moved.job) == (False, None)

    async def test_a_refused_move_shows_the_record(self, store: Store, clock: FakeClock) -> None:
        """A caller can tell why from what it gets back (C3)."""
        job = await running(store, clock)
        moved = await store.move(job.id, moves.due(now=clock.now()))
        assert (moved.applied, moved.job) == (False, job)

    async def test_an_ended_job_never_changes(self, store: Store, clock: FakeClock) -> None:
        """I2: every move, heartbeat, event and claim leaves each terminal record as it is."""
        for end in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED):
            before, old = await _end(store, clock, end)
            assert before.state is end
            for move in _all_moves(old, clock.now()):
                assert not (await store.move(before.id, move)).applied
            (renewal,) = await store.renew([old.fence], LEASE)
            assert not renewal.held
            with pytest.raises(Fenced):
                await store.append(old.fence, [NewEvent("output", b"1")])
            assert await claim_one(store) is None
            assert await store.get(before.id) == before

    @pytest.mark.parametrize("kind", range(7))
    async def test_a_zombie_writes_nothing(self, store: Store, clock: FakeClock, kind: int) -> None:
        """C2: all writes of workers that were replaced are refused, for every kind of write."""
        refused = 0
        for _ in range(self.zombies):
            zombie = await running(store, clock)
            clock.advance(LEASE + 1)
            rescue = moves.rescue(
                zombie,
                now=clock.now(),
                retention=RETENTION,
                not_before=0,
                attempts=b"",
                error=b"",
                lost=False,
            )
            assert (await store.move(zombie.id, rescue)).applied
            second = await claim_one(store)
            assert second is not None
            moved = await store.move(zombie.id, worker_moves(zombie.fence, clock.now())[kind])
            refused += not moved.applied and moved.job == second
            end = moves.fail(second.fence, now=clock.now(), retention=1, attempts=b"", error=b"")
            assert (await store.move(second.id, end)).applied
        assert refused == self.zombies > 0

    @pytest.mark.parametrize("kind", range(7))
    async def test_half_a_fence_is_none(self, store: Store, clock: FakeClock, kind: int) -> None:
        """Epoch and token must both fit, and belong to this job."""
        job, other = await running(store, clock), await running(store, clock)
        for fence in (
            Fence(job.id, job.epoch, other.token), Fence(job.id, job.epoch + 1, job.token),
            Fence(job.id, job.epoch, ""), Fence(other.id, job.epoch, job.token),
        ):  # fmt: skip
            assert not (await store.move(job.id, worker_moves(fence, clock.now())[kind])).applied
        assert await store.get(job.id) == job

    async def test_after_cancelling_only_cancelled_follows(self, store: Store, clock: FakeClock) -> None:
        """C5, I6: a success that comes late is discarded; the worker's own `cancelled` is taken."""
        job = await running(store, clock)
        assert (await store.move(job.id, moves.cancel_running(now=clock.now()))).applied
        assert not (await store.move(job.id, moves.cancel_running(now=clock.now()))).applied
        for move in worker_moves(job.fence, clock.now()):
            applied = (await store.move(job.id, move)).applied
            assert applied == (move.name == "cancelled")
        with pytest.raises(Fenced):
            await store.append(job.fence, [NewEvent("output", b"1")])

    async def test_progress_never_falls(self, store: Store, clock: FakeClock) -> None:
        """I5: within an epoch the larger value stays; a new claim begins at nought."""
        job = await running(store, clock)
        seen = []
        for fraction in (0.2, 0.6, 0.4, 0.6):
            move = moves.progress(job.fence, fraction=fraction, message=str(fraction))
            moved = (await store.move(job.id, move)).job
            assert moved is not None
            seen.append((moved.progress, moved.message))
        assert seen == [(0.2, "0.2"), (0.6, "0.6"), (0.6, "0.4"), (0.6, "0.6")]
        await store.move(job.id, moves.release(job.fence, attempts=b"[]"))
        again = await claim_one(store)
        assert again is not None
        assert (again.progress, again.message) == (0.0, "")

    async def test_a_release_is_not_counted(self, store: Store, clock: FakeClock) -> None:
        """The attempt is given back; the release itself is counted."""
        job = await running(store, clock)
        moved = (await store.move(job.id, moves.release(job.fence, attempts=b"[]"))).job
        assert moved is not None
        assert (moved.state, moved.attempt, moved.releases, moved.epoch) == (State.QUEUED, 0, 1, 1)

    async def test_a_version_guard_holds(self, store: Store, clock: FakeClock) -> None:
        """A deadline that was judged on an old version is not applied."""
        job = (await store.add(new_job(clock, deadline_at=clock.now() + 1))).job
        assert (await store.move(job.id, moves.dispatched())).applied
        clock.advance(2)
        assert not (
            await store.move(job.id, moves.deadline(job, now=clock.now(), retention=RETENTION))
        ).applied
        now = await store.get(job.id)
        assert isinstance(now, Job)
        assert (await store.move(job.id, moves.deadline(now, now=clock.now(), retention=RETENTION))).applied

    async def test_a_dead_letter_ends_what_nobody_runs(self, store: Store, clock: FakeClock) -> None:
        """Waiting jobs as they were seen, running ones after their lease; nobody else's."""

        def dead(job: Job) -> Move:
            return moves.dead_letter(
                job, now=clock.now(), retention=RETENTION, attempts=b"[]", error=b'{"type":"DeadLetter"}'
            )

        seen = (await store.add(new_job(clock))).job
        assert (await store.move(seen.id, moves.forgotten(seen.epoch))).applied
        assert not (await store.move(seen.id, dead(seen))).applied
        held = await running(store, clock)
        assert not (await store.move(held.id, dead(held))).applied
        clock.advance(LEASE + 1)
        for job_id in (seen.id, held.id):
            job = await store.get(job_id)
            assert isinstance(job, Job)
            moved = await store.move(job_id, dead(job))
            assert moved.applied
            assert moved.job is not None
            assert (moved.job.state, moved.job.reason) == (State.FAILED, "dead_letter")
            assert (moved.job.token, moved.job.finished_at) == ("", clock.now())
            assert moved.job.expires_at == clock.now() + RETENTION

    async def test_a_mark_for_the_queue_is_guarded_by_what_was_told(
        self, store: Store, clock: FakeClock
    ) -> None:
        """It says nothing about an epoch that came later."""
        held = await running(store, clock, dispatch_pending=True)
        job = replace(held, epoch=held.epoch - 1)
        assert (await store.move(job.id, moves.release(held.fence, attempts=b"[]"))).applied
        assert not (await store.move(job.id, moves.dispatched(job.epoch))).applied
        moved = await store.move(job.id, moves.dispatched(held.epoch))
        assert moved.job is not None
        assert not moved.job.dispatch_pending

    async def test_meta_can_be_written(self, store: Store, clock: FakeClock) -> None:
        """Adapters keep a small object of their own in the record."""
        job = (await store.add(new_job(clock))).job
        move = Move("note", frozenset({State.QUEUED}), sets={"meta": {"platform": ["x"]}})
        moved = (await store.move(job.id, move)).job
        assert moved is not None
        assert moved.meta == {"platform": ["x"]}
        assert await store.get(job.id) == moved

    # --- outbox -----------------------------------------------------------------------------

    async def test_an_end_puts_one_row_into_the_outbox(self, store: Store, clock: FakeClock) -> None:
        """I9: each terminal move of a job with a webhook does, once; other moves and jobs do not."""
        await ended(store, clock)
        expected = set()
        for end in sorted(TERMINAL):
            job, old = await _end(store, clock, end, webhook=_HOOK)
            expected.add(f"{job.id}.{end.value}")
            for move in _all_moves(old, clock.now()):
                await store.move(job.id, move)
        rows = await store.deliveries()
        assert {row.id for row in rows} == expected
        assert len(rows) == len(expected)
        assert {row.url for row in rows} == {"https://example.com/hook"}
        assert {row.attempt for row in rows} == {0}
        assert all(row.id.startswith(row.job_id) for row in rows)

    async def test_a_delivery_waits_for_its_time(self, store: Store, clock: FakeClock) -> None:
        """A failed try comes back later; a taken one does not come back."""
        job = await ended(store, clock, webhook=_HOOK)
        (row,) = await store.deliveries()
        await store.postpone(row.id, attempt=1, next_at=clock.now() + 60)
        assert not await store.deliveries()
        clock.advance(60)
        (row,) = await store.deliveries()
        assert (row.attempt, row.job_id) == (1, job.id)
        await store.delivered(row.id)
        clock.advance(10_000)
        assert not await store.deliveries()
        await store.delivered("unknown")
        await store.postpone("unknown", attempt=1, next_at=0)
        assert not await store.deliveries()


async def _end(store: Store, clock: FakeClock, end: State, **values: str) -> tuple[Job, Job]:
    """Return a job that ended so, and the record as its worker last saw it."""
    now = clock.now()
    if end is State.EXPIRED:
        old = (await store.add(new_job(clock, deadline_at=now, **values))).job
        move = moves.deadline(old, now=now, retention=RETENTION)
    elif end is State.CANCELLED:
        old = await running(store, clock, **values)
        await store.move(old.id, moves.cancel_running(now=now))
        move = moves.cancelled(old.fence, now=now, retention=RETENTION, attempts=b"")
    elif end is State.FAILED:
        old = await running(store, clock, **values)
        move = moves.fail(old.fence, now=now, retention=RETENTION, attempts=b"", error=b"{}")
    else:
        old = await running(store, clock, **values)
        move = moves.succeed(old.fence, now=now, retention=RETENTION, attempts=b"", result_ref=b'{"key":"k"}')
    moved = await store.move(old.id, move)
    assert moved.applied
    assert moved.job is not None
    return moved.job, old
