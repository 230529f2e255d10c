"""Job routes on RunPod: the record decides what a delivery is, also when it comes twice or elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from handlers.runpod import calls
from handlers.runpod.worker import Worker
from router_core import JobProgress, Router
from router_core.clock import SystemClock
from router_core.errors import StoreError
from router_core.jobs.context import JobContext
from router_core.jobs.job import State
from router_core.jobs.store import Claim, JobQuery
from router_core.stores.memory import MemoryJobStore
from tests.runpod.in_process import Kept, job, problem, running, value


class Service:
    """Functions that can be watched and let go."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.stopped = threading.Event()
        self.left = threading.Event()
        self.router = Router()
        self._add()
        self._add_endless()

    def _add(self) -> None:
        router = self.router

        @router.route("/once", concurrency=4)
        def once(name: str) -> str:
            self.runs.append(name)
            self.begun.set()
            self.gate.wait(110)
            return name

        @router.route("/flaky", max_attempts=3, backoff=0.01)
        def flaky(job: JobContext, succeed_at: int) -> int:
            if job.attempt < succeed_at:
                raise RuntimeError(f"attempt {job.attempt} fails")
            return job.attempt

        @router.route("/wrong")
        def wrong() -> None:
            self.runs.append("wrong")
            raise ValueError("never again")

    def _add_endless(self) -> None:
        router = self.router

        @router.route("/endless")
        def endless(job: JobContext, job_progress: JobProgress) -> None:
            self.begun.set()
            for _ in range(4_000):  # should nobody stop it
                if job.cancelled:
                    break
                job_progress.update(message="on")
                threading.Event().wait(0.005)
            self.stopped.set()
            job.check()

        @router.post("/call")
        def call(job: JobContext) -> None:
            self.begun.set()
            for _ in range(4_000):
                if job.cancelled:
                    break
                threading.Event().wait(0.005)
            self.stopped.set()

        @router.post("/stream")
        async def stream() -> AsyncIterator[int]:
            self.begun.set()
            try:
                for number in range(10_000_000):
                    await asyncio.sleep(0.001)
                    yield number
            finally:
                self.stopped.set()

        @router.post("/deaf")
        def deaf() -> None:
            self.begun.set()
            self.gate.wait(110)
            self.left.set()


@pytest.fixture
def service() -> Service:
    """Return the service."""
    return Service()


@pytest.fixture
def store() -> MemoryJobStore:
    """Return records that several workers share."""
    return MemoryJobStore(SystemClock())


async def begins(event: threading.Event) -> None:
    """Wait until a function has got somewhere."""
    assert await asyncio.to_thread(event.wait, 10)


async def states(store: MemoryJobStore) -> list[State]:
    """Return the states of all records."""
    return [record.state for record in (await store.find(JobQuery())).jobs]


# --- the same job again


async def test_a_job_that_has_succeeded_is_answered_from_its_record(
    service: Service, store: MemoryJobStore
) -> None:
    """In this worker, and in another that shares the records."""
    service.gate.set()
    async with running(service.router, store=store) as one, running(service.router, store=store) as other:
        for worker in (one, one, other):
            assert value(await worker.handle(job("/once", name="a"))) == "a"
        assert service.runs == ["a"]


async def test_a_job_that_runs_elsewhere_is_waited_for(service: Service, store: MemoryJobStore) -> None:
    """Both deliveries end with the one result."""
    async with running(service.router, store=store) as one, running(service.router, store=store) as other:
        first = asyncio.create_task(one.handle(job("/once", name="a")))
        await begins(service.begun)
        second = asyncio.create_task(other.handle(job("/once", name="a")))
        done, _ = await asyncio.wait({second}, timeout=0.2)
        assert not done
        service.gate.set()
        assert [value(await first), value(await second)] == ["a", "a"]
        assert service.runs == ["a"]


async def test_a_job_of_a_worker_that_died_is_run_again(service: Service, store: MemoryJobStore) -> None:
    """Once its lease has ended and the reaper of any worker has seen that."""
    service.gate.set()
    async with running(service.router, store=store) as dead:
        accepted = await dead._jobs._accept(_envelope("job-1"), _named(dead, "/once", name="a"))
        assert await store.claim(Claim("dead", 0.05, job_id=accepted[0].id))
        async with running(service.router, store=store, lease=1.0, heartbeat=0.3) as other:
            assert value(await other.handle(job("/once", name="a"))) == "a"
        assert service.runs == ["a"]


def _envelope(job_id: str) -> Any:
    from handlers.runpod.envelope import Envelope

    return Envelope(job_id, {}, {})


def _named(worker: Worker, path: str, **arguments: Any) -> Any:
    return worker._named.find({"path": path, **arguments})


async def test_a_job_that_failed_runs_again_as_retry_wants_it(
    service: Service, store: MemoryJobStore
) -> None:
    """The platform sends it under its old id; each time it gets a record of its own."""
    async with running(service.router, store=store) as worker:
        for _ in range(3):
            assert problem(await worker.handle(job("/wrong")))["detail"] == "never again"
        assert service.runs == ["wrong"] * 3
        assert await states(store) == [State.FAILED] * 3


async def test_a_job_whose_record_is_forgotten_runs_again(service: Service) -> None:
    """Records in memory are bounded; nobody knows any more what became of it."""
    service.gate.set()
    store = MemoryJobStore(SystemClock(), max_finished=1)
    async with running(service.router, store=store) as worker:
        for name in ("a", "b", "a"):
            assert value(await worker.handle(job("/once", f"job-{name}", name=name))) == name
        assert service.runs == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("policy", "seconds"), [({"ttl": 60_000}, 60), ({}, 86_400), (None, 86_400), ({"ttl": "x"}, 86_400)]
)
async def test_a_record_that_waits_ends_with_its_platform_job(
    service: Service, store: MemoryJobStore, policy: Any, seconds: float
) -> None:
    """Nobody would hand it out again."""
    service.gate.set()
    async with running(service.router, store=store) as worker:
        await worker.handle({**job("/once", name="a"), "policy": policy})
        (record,) = (await store.find(JobQuery())).jobs
        assert round(record.deadline_at - record.created_at) == seconds


async def test_attempts_are_the_cores(service: Service) -> None:
    """An attempt that fails is followed by another, within the one delivery."""
    async with running(service.router) as worker:
        assert value(await worker.handle(job("/flaky", succeed_at=2))) == 2
        told = problem(await worker.handle(job("/flaky", "job-2", succeed_at=9)))
        assert (told["reason"], told["error"]["attempt"]) == ("attempts_exhausted", 3)


async def test_a_callers_key_is_honoured_where_records_are_shared(
    service: Service, store: MemoryJobStore
) -> None:
    """Two jobs of the platform, one run; other input under the key is refused."""
    service.gate.set()
    async with running(service.router, store=store) as one, running(service.router, store=store) as other:
        first = job("/once", "job-1", name="a", idempotency_key="k")
        second = {**job("/once", "job-2", name="a"), "policy": {"idempotencyKey": "k"}}
        assert [value(await one.handle(first)), value(await other.handle(second))] == ["a", "a"]
        assert service.runs == ["a"]
        told = problem(await other.handle(job("/once", "job-3", name="b", idempotency_key="k")))
        assert told["code"] == "idempotency_key_reused"
        told = problem(await other.handle(job("/once", "job-3", name="b", idempotency_key="k" * 256)))
        assert (told["status"], told["code"]) == (400, "bad_key")
        # a key that looks like an id of the platform is none
        assert value(await one.handle(job("/once", "job-4", name="c", idempotency_key="job-1"))) == "c"


async def test_a_full_queue_refuses_nothing_that_the_platform_has_accepted(service: Service) -> None:
    """Its queue is RunPod's."""
    router = Router()

    @router.route("/small", queue_size=1)
    def small(n: int) -> int:
        return n

    async with running(router) as worker:
        outcomes = await asyncio.gather(*(worker.handle(job("/small", f"job-{n}", n=n)) for n in range(20)))
        assert [value(outcome) for outcome in outcomes] == list(range(20))


# --- cancel


async def cancelled(worker: Worker, given: dict[str, Any], line: Kept, begun: threading.Event) -> None:
    """Cancel a delivery as the SDK does, once its function has begun."""
    task = asyncio.create_task(worker.handle(given, line))
    await begins(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("path", ["/endless", "/call", "/stream"])
async def test_a_cancel_reaches_the_function_and_nothing_is_posted_after_it(
    service: Service, path: str
) -> None:
    """Of a sync job, a sync call and a stream."""
    async with running(service.router, progress_interval=0.001) as worker:
        line = Kept()
        await cancelled(worker, job(path), line, service.begun)
        posted = len(line.posts)
        await begins(service.stopped)
        await asyncio.sleep(0.05)
        assert len(line.posts) == posted


@pytest.mark.parametrize("kind", ["job", "call"])
async def test_what_a_function_says_after_its_cancel_is_not_posted(kind: str) -> None:
    """It takes its time to stop, and goes on telling how far it is."""
    router, begun, gate = Router(), threading.Event(), threading.Event()

    def stubborn(job: JobContext, job_progress: JobProgress) -> None:
        step = 0
        while not gate.is_set() and step < 5_000:
            step += 1
            job_progress.update(message=f"step {step}")
            begun.set()
            threading.Event().wait(0.002)

    (router.route("/work") if kind == "job" else router.post("/work"))(stubborn)
    async with running(router, progress_interval=0.001) as worker:
        line = Kept()
        task = asyncio.create_task(worker.handle(job("/work"), line))
        await begins(begun)
        await line.begun.wait()
        task.cancel()
        await asyncio.sleep(0.01)  # a post that was under way
        posted = len(line.posts)
        await asyncio.sleep(0.1)
        assert not task.done()
        assert len(line.posts) == posted
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancelled_job_is_cancelled_in_its_record(service: Service, store: MemoryJobStore) -> None:
    """And its slot is free."""
    async with running(service.router, store=store) as worker:
        await cancelled(worker, job("/endless"), Kept(), service.begun)
        assert await states(store) == [State.CANCELLED]
        service.begun.clear()
        await cancelled(worker, job("/endless", "job-2"), Kept(), service.begun)


async def test_a_cancel_while_the_job_waits_for_its_slot(service: Service, store: MemoryJobStore) -> None:
    """It never begins."""
    async with running(service.router, store=store) as worker:
        first = asyncio.create_task(worker.handle(job("/endless")))
        await begins(service.begun)
        second = asyncio.create_task(worker.handle(job("/endless", "job-2")))
        while len(await states(store)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert sorted(await states(store)) == [State.CANCELLED, State.RUNNING]
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_cancel_of_one_delivery_leaves_another_callers_job_alone(
    service: Service, store: MemoryJobStore
) -> None:
    """Two jobs of the platform share a record by key: only its first may end it."""
    async with running(service.router, store=store) as worker:
        first = asyncio.create_task(worker.handle(job("/once", "job-1", name="a", idempotency_key="k")))
        await begins(service.begun)
        second = asyncio.create_task(worker.handle(job("/once", "job-2", name="a", idempotency_key="k")))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        service.gate.set()
        assert value(await first) == "a"


async def test_a_cancelled_call_that_does_not_listen_is_left_behind(service: Service) -> None:
    """Its thread ends when it ends; nobody waits for it."""
    async with running(service.router) as worker:
        await cancelled(worker, job("/deaf"), Kept(), service.begun)
        assert not service.left.is_set()
        service.gate.set()
        await begins(service.left)


# --- the end of the worker


@pytest.mark.parametrize("path", ["/endless", "/call", "/stream", "/deaf"])
async def test_what_does_not_end_in_time_is_reported_as_to_be_run_again(service: Service, path: str) -> None:
    """503 draining, retryable; what comes after is refused in the same words."""
    async with running(service.router) as worker:
        task = asyncio.create_task(worker.handle(job(path)))
        await begins(service.begun)
        await worker.release()
        for told in (problem(await task), problem(await worker.handle(job(path, "job-2")))):
            assert (told["status"], told["code"], told["retryable"]) == (503, "draining", True)
        service.gate.set()


def stuck(begun: threading.Event, gate: threading.Event, timeout: float = 60.0) -> Router:
    """Return a service whose generators hang in a step, which nothing can stop."""
    router = Router()

    def hang() -> Iterator[int]:
        yield 1
        begun.set()
        gate.wait(110)
        yield 2

    router.route("/job", job=True, timeout=timeout)(hang)
    router.post("/call")(hang)
    return router


@pytest.mark.parametrize("path", ["/job", "/call"])
async def test_a_function_that_cannot_be_stopped_holds_up_no_answer(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller hears that the worker ends, while it still hangs."""
    monkeypatch.setattr(calls, "RELEASE_GRACE", 0.1)
    begun, gate = threading.Event(), threading.Event()
    async with running(stuck(begun, gate)) as worker:
        task = asyncio.create_task(worker.handle(job(path)))
        await begins(begun)
        worker.app.parts.runner._grace = 0.05
        await worker.release()
        assert problem(await asyncio.wait_for(task, 60))["code"] == "draining"
        gate.set()


async def test_a_function_that_outlives_its_timeout_holds_up_no_answer() -> None:
    """The record has ended; the slot stays taken until the function does."""
    begun, gate = threading.Event(), threading.Event()
    async with running(stuck(begun, gate, timeout=0.3)) as worker:
        worker.app.parts.runner._grace = 0.05
        told = problem(await asyncio.wait_for(worker.handle(job("/job")), 60))
        assert (told["status"], told["code"]) == (504, "job_timeout")
        second = asyncio.create_task(worker.handle(job("/job", "job-2")))
        done, _ = await asyncio.wait({second}, timeout=0.1)
        assert not done
        gate.set()
        assert value(await second) == [1, 2]


async def test_a_job_given_back_is_run_by_the_next_worker(service: Service, store: MemoryJobStore) -> None:
    """Uncounted, when the platform delivers it again."""
    async with running(service.router, store=store) as one:
        task = asyncio.create_task(one.handle(job("/endless")))
        await begins(service.begun)
        await one.release()
        assert problem(await task)["code"] == "draining"
        (record,) = (await store.find(JobQuery())).jobs
        assert (record.state, record.attempt) == (State.QUEUED, 0)
        service.begun.clear()
        async with running(service.router, store=store) as other:
            await cancelled(other, job("/endless"), Kept(), service.begun)
            assert await states(store) == [State.CANCELLED]


# --- a store in trouble


class Moody(MemoryJobStore):
    """Fails when told to."""

    failures = 0

    async def claim(self, claim: Claim) -> Any:
        """Claim, or fail."""
        if Moody.failures > 0:
            Moody.failures -= 1
            raise StoreError("not now")
        return await super().claim(claim)


async def test_a_store_that_is_away_for_a_moment_costs_no_job(service: Service) -> None:
    """It is asked again."""
    service.gate.set()
    Moody.failures = 2
    async with running(service.router, store=Moody(SystemClock())) as worker:
        assert value(await worker.handle(job("/once", name="a"))) == "a"
    assert Moody.failures == 0
