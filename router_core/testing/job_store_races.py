"""Contract under concurrency: many tasks, many loops in many threads, one record."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from router_core.errors import QueueFull
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim, NewEvent, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, new_job, running

__all__ = ["RaceContract"]


async def _in_threads(count: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Run ``work(n)`` in ``count`` threads at once, each with an event loop of its own."""
    start = threading.Barrier(count)
    results: list[Any] = [None] * count

    def body(number: int) -> None:
        async def run() -> Any:
            start.wait()
            return await work(number)

        results[number] = asyncio.run(run())

    loop = asyncio.get_running_loop()
    # a pool of exactly this size: all of them have to stand at the barrier at once
    with ThreadPoolExecutor(count) as pool:
        await asyncio.gather(*(loop.run_in_executor(pool, body, number) for number in range(count)))
    return results


class RaceContract:
    """Tests of what happens at once."""

    crowd: ClassVar[int] = 200
    """Jobs that forty tasks fight for; fewer for a store that answers over a network."""
    races: ClassVar[int] = 200
    """Ends that meet a cancel; fewer there, too."""

    async def test_every_job_has_one_claimer(self, store: Store, clock: FakeClock) -> None:
        """Forty tasks empty a queue: each job comes out once."""
        ids = [(await store.add(new_job(clock))).job.id for _ in range(self.crowd)]

        async def worker(number: int) -> list[str]:
            mine: list[str] = []
            while jobs := await store.claim(Claim(f"w{number}", LEASE, {ROUTE: 1 + number % 3})):
                mine += [job.id for job in jobs]
            return mine

        taken = await asyncio.gather(*(worker(number) for number in range(40)))
        assert sorted(job_id for mine in taken for job_id in mine) == sorted(ids)

    async def test_threads_share_one_store(self, store: Store, clock: FakeClock) -> None:
        """Six threads with their own loops add, claim, renew and end jobs; nothing is lost or doubled."""

        async def worker(number: int) -> list[str]:
            done = []
            for _ in range(15):
                await store.add(new_job(clock, route=f"/r{number % 2}"))
                for job in await store.claim(Claim(f"w{number}", LEASE, {"/r0": 1, "/r1": 1})):
                    (renewal,) = await store.renew([job.fence], LEASE)
                    assert renewal.held
                    end = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=b"")
                    assert (await store.move(job.id, end)).applied
                    done.append(job.id)
            return done

        finished = [job_id for mine in await _in_threads(6, worker) for job_id in mine]
        assert len(finished) == len(set(finished))
        left = sum((await store.stats()).by_route.values())
        assert len(finished) + left == 90

    async def test_one_id_has_one_claimer_among_threads(self, store: Store, clock: FakeClock) -> None:
        """A job that is offered to eight threads by id goes to one of them."""
        for _ in range(10):
            job = (await store.add(new_job(clock))).job

            async def take(number: int, job_id: str = job.id) -> int:
                return len(await store.claim(Claim(f"w{number}", LEASE, job_id=job_id)))

            assert sum(await _in_threads(8, take)) == 1

    async def test_cancel_and_success_have_one_winner(self, store: Store, clock: FakeClock) -> None:
        """C5: each race has one winner, and the record agrees with the answers."""
        for number in range(self.races):
            job = await running(store, clock)
            end = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=b"")
            both = [store.move(job.id, end), store.move(job.id, moves.cancel_running(now=clock.now()))]
            if number % 2:
                both.reverse()
            answers = await asyncio.gather(*both)
            assert sum(answer.applied for answer in answers) == 1
            ended_first = answers[number % 2].applied
            record = await store.get(job.id)
            assert isinstance(record, Job)
            assert record.state is (State.SUCCEEDED if ended_first else State.CANCELLING)

    async def test_a_limit_holds_while_workers_drain(self, store: Store, clock: FakeClock) -> None:
        """The queue never holds more than its limit, and what was accepted all comes out."""
        accepted: list[str] = []
        claimed: list[str] = []

        async def submit() -> None:
            for _ in range(30):
                try:
                    accepted.append((await store.add(new_job(clock), queue_limit=5)).job.id)
                except QueueFull:
                    await asyncio.sleep(0)

        async def drain() -> None:
            for _ in range(60):
                claimed.extend(job.id for job in await store.claim(Claim("w1", LEASE, {ROUTE: 2})))
                depth = (await store.stats()).by_route.get((ROUTE, State.QUEUED), 0)
                assert depth <= 5

        await asyncio.gather(*(submit() for _ in range(8)), drain())
        claimed.extend(job.id for job in await store.claim(Claim("w1", LEASE, {ROUTE: 1000})))
        assert sorted(claimed) == sorted(accepted)

    async def test_events_of_many_writers_have_no_gap(self, store: Store, clock: FakeClock) -> None:
        """One job, twenty tasks that append: numbers 1..n, each once."""
        job = await running(store, clock)

        async def write() -> list[int]:
            return [await store.append(job.fence, [NewEvent("log", b"1")]) for _ in range(10)]

        numbers = [n for mine in await asyncio.gather(*(write() for _ in range(20))) for n in mine]
        assert sorted(numbers) == list(range(1, 201))

    async def test_a_caller_that_gives_up_breaks_nothing(self, store: Store, clock: FakeClock) -> None:
        """Cancelled callers stop waiting; the store answers everybody else."""
        jobs = [new_job(clock) for _ in range(50)]
        tasks = [asyncio.ensure_future(store.add(job)) for job in jobs]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(kept) >= 25
        for added in kept:
            assert await store.get(added.job.id) == added.job
        await store.ping()
