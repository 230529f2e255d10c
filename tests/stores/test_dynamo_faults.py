"""The DynamoDB store when the network and the service fail it (fault matrix 14 and 15).

Each test runs one operation again and again, with another of its calls failing in another way each time, and
expects what it would have been without the fault.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from router_core.errors import QueueFull, StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State, Tombstone
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, NewEvent
from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, ended, new_job, running
from router_core.vendors import boto3
from tests.stores.fault_proxy import Fault, FaultProxy

_number = count()
_LARGE = b'"' + b"x" * 20_000 + b'"'
_READS = ("Get", "BatchGet", "Query")
_WRITE_FAULTS = (Fault.THROTTLED, Fault.CUT, Fault.DROPPED, Fault.LATE)


@pytest.fixture
async def table(aws: str) -> str:
    """A fresh table."""
    name = f"faults{next(_number)}"
    await asyncio.to_thread(create_table, name, expire=False)
    return name


@pytest.fixture
async def store(table: str, proxy: FaultProxy, clock: FakeClock) -> AsyncIterator[DynamoJobStore]:
    """A store on a fresh table, behind the proxy."""
    store = DynamoJobStore(table, clock, patience=60)
    yield store
    await store.close()


def fail_once(proxy: FaultProxy, at: int, fault: Fault) -> None:
    """Let one call fail: the one at a place."""
    calls = count()
    proxy.decide = lambda operation: fault if next(calls) == at else None


def calm(proxy: FaultProxy) -> None:
    """Let every call through from now on."""
    proxy.decide = lambda operation: None


Work = Callable[[DynamoJobStore, FakeClock], Awaitable[Any]]
"""Prepares without faults and returns the operation to try with them; it asserts what must come of it."""


async def _add(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = new_job(clock)

    async def operation() -> Job:
        added = await store.add(job, queue_limit=50)
        assert (added.job, added.replayed) == (job, False)
        return job

    return operation


async def _add_with_key(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = new_job(clock, input=_LARGE)
    key = IdempotencyKey(f"scope{job.id}", "body", clock.now() + 1e6)

    async def operation() -> Job:
        added = await store.add(job, key=key)
        assert (added.job, added.replayed) == (job, False)
        again = await store.add(new_job(clock), key=key)
        assert (again.job, again.replayed) == (job, True)
        return job

    return operation


async def _claim(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = (await store.add(new_job(clock, input=_LARGE))).job

    async def operation() -> Job:
        (claimed,) = await store.claim(Claim("w1", LEASE, {ROUTE: 1}))
        assert (claimed.id, claimed.attempt, claimed.epoch, claimed.version) == (job.id, 1, 1, 2)
        assert claimed.input == _LARGE
        return claimed

    return operation


async def _claim_by_id(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = (await store.add(new_job(clock))).job

    async def operation() -> Job:
        (claimed,) = await store.claim(Claim("w1", LEASE, job_id=job.id))
        assert (claimed.attempt, claimed.epoch, claimed.version) == (1, 1, 2)
        return claimed

    return operation


async def _succeed(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await running(store, clock, webhook='{"url":"https://example.com/"}')

    async def operation() -> Job:
        move = moves.succeed(job.fence, now=clock.now(), retention=1e6, attempts=b"[]", result=_LARGE)
        moved = await store.move(job.id, move)
        assert moved.applied
        assert moved.job is not None
        assert (moved.job.state, moved.job.result, moved.job.version) == (State.SUCCEEDED, _LARGE, 3)
        return moved.job

    return operation


async def _release(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await running(store, clock)

    async def operation() -> Job:
        moved = await store.move(job.id, moves.release(job.fence, attempts=b"[]"))
        assert moved.applied
        assert moved.job is not None
        assert (moved.job.attempt, moved.job.releases, moved.job.version) == (0, 1, 3)
        return moved.job

    return operation


async def _rescue(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await running(store, clock)
    clock.advance(LEASE + 1)

    async def operation() -> Job:
        move = moves.rescue(
            job, now=clock.now(), retention=1e6, not_before=clock.now() + 1e5, attempts=b"", error=b"",
            lost=False,
        )  # fmt: skip
        moved = await store.move(job.id, move)
        assert moved.applied
        assert moved.job is not None
        assert (moved.job.state, moved.job.crash_count) == (State.RETRYING, 1)
        return moved.job

    return operation


async def _append(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await running(store, clock)
    await store.append(job.fence, [NewEvent("log", b"1")])

    async def operation() -> Job:
        assert await store.append(job.fence, [NewEvent("log", b"2"), NewEvent("log", b"3")]) == 3
        page = await store.events(job.id)
        assert [event.data for event in page.events] == [b"1", b"2", b"3"]
        found = await store.get(job.id)
        assert isinstance(found, Job)
        return found

    return operation


async def _progress(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await running(store, clock)

    async def operation() -> Job:
        moved = await store.move(job.id, moves.progress(job.fence, fraction=0.5, message="half"))
        assert moved.applied
        (renewal,) = await store.renew([job.fence], LEASE)
        assert renewal.held
        found = await store.get(job.id)
        assert isinstance(found, Job)
        assert (found.progress, found.message) == (0.5, "half")
        return found

    return operation


async def _delete(store: DynamoJobStore, clock: FakeClock) -> Any:
    job = await ended(store, clock, input_ref="blob")

    async def operation() -> Tombstone:
        deleted = await store.delete(job.id)
        assert deleted in (job, None)
        found = await store.get(job.id)
        assert isinstance(found, Tombstone)
        return found

    return operation


_WORK: dict[str, Work] = {
    "add": _add, "add_with_key": _add_with_key, "claim": _claim, "claim_by_id": _claim_by_id,
    "succeed": _succeed, "release": _release, "rescue": _rescue, "append": _append, "progress": _progress,
    "delete": _delete,
}  # fmt: skip


async def _tried(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock, name: str, at: int, fault: Fault | None
) -> list[str]:
    """Do one operation while its call at a place fails; returns the calls that it made."""
    operation = await _WORK[name](store, clock)
    proxy.seen.clear()
    if fault is not None:
        fail_once(proxy, at, fault)
    made = await operation()
    calm(proxy)
    calls = [call for call, _ in proxy.seen]
    await proxy.settle()
    now = await store.get(made.id)
    if isinstance(made, Tombstone) or made.state is not State.RUNNING:
        assert now == made, (at, fault)
    if isinstance(now, Job) and now.state is State.QUEUED:  # out of the way of the next one
        await store.move(now.id, moves.cancel_waiting(now=clock.now(), retention=1e6))
    return calls


@pytest.mark.parametrize("name", _WORK)
async def test_one_failed_call_changes_nothing(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock, name: str
) -> None:
    """Whichever call fails: the operation does what it would have done, once (C3)."""
    calls = await _tried(store, proxy, clock, name, 0, None)
    for at, call in enumerate(calls):
        # to a read it is all one whether the service saw it, and how it failed
        for fault in [Fault.HALVED] if call.startswith(_READS) else _WRITE_FAULTS:
            await _tried(store, proxy, clock, name, at, fault)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.HUNG])
async def test_a_call_may_fail_in_any_way(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock, fault: Fault
) -> None:
    """The same for every fault that there is."""
    for name in ("claim_by_id", "append"):
        await _tried(store, proxy, clock, name, 0, fault)


async def test_an_answer_that_does_not_come_is_not_waited_for(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client gives up after its timeout, asks again, and finds what it did."""
    monkeypatch.setattr("router_core.vendors.boto3.READ_SECONDS", 0.5)
    boto3.forget()
    await _tried(store, proxy, clock, "release", 1, Fault.HUNG)


async def test_a_service_that_is_down_is_503_in_bounded_time(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock
) -> None:
    """Throttled, failing, cut: every operation says so soon, nothing has changed, and it recovers."""
    impatient = DynamoJobStore(store._table.name, clock, patience=0.4)
    job = await running(store, clock)
    end = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=b"")
    for fault in (Fault.THROTTLED, Fault.REFUSED, Fault.CUT):
        proxy.decide = lambda operation, fault=fault: fault  # type: ignore[misc]
        added = new_job(clock)
        started = time.monotonic()
        calls: list[Awaitable[Any]] = [
            impatient.add(added), impatient.get(job.id), impatient.claim(Claim("w", LEASE, {ROUTE: 1})),
            impatient.move(job.id, end), impatient.renew([job.fence], LEASE), impatient.ping(),
            impatient.overdue(), impatient.stats(), impatient.append(job.fence, [NewEvent("log", b"1")]),
        ]  # fmt: skip
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreError] * len(calls)
        assert time.monotonic() - started < 20  # far from for ever, on however slow a machine
        calm(proxy)
        assert await store.get(job.id) == job
        assert await store.get(added.id) is None
    assert (await impatient.move(job.id, end)).applied


async def test_a_slow_service_is_waited_for(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock
) -> None:
    """Slow answers are answers."""
    proxy.decide = lambda operation: Fault.SLOW
    job = await running(store, clock)
    assert await store.get(job.id) == job


async def test_random_faults_lose_and_double_nothing(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock
) -> None:
    """Many workers and submitters over a bad line: each accepted job ends once, and no limit is passed."""
    dice = random.Random(7)
    faults = [Fault.THROTTLED, Fault.REFUSED, Fault.FAILED, Fault.CUT, Fault.DROPPED, Fault.HALVED]
    proxy.decide = lambda operation: dice.choice(faults) if dice.random() < 0.15 else None
    accepted: set[str] = set()
    ended_by: dict[str, list[str]] = {}

    async def submit() -> None:
        for _ in range(10):
            job = new_job(clock)
            try:
                await store.add(job, queue_limit=8, key=IdempotencyKey(job.id, "b", clock.now() + 1e6))
            except QueueFull:
                continue
            accepted.add(job.id)

    async def work(worker: str) -> None:
        for _ in range(12):
            for job in await store.claim(Claim(worker, LEASE, {ROUTE: 1})):
                await store.append(job.fence, [NewEvent("log", worker.encode())])
                move = moves.succeed(job.fence, now=clock.now(), retention=1e6, attempts=b"", result=_LARGE)
                assert (await store.move(job.id, move)).applied
                ended_by.setdefault(job.id, []).append(worker)

    await asyncio.gather(*(submit() for _ in range(3)), *(work(f"w{n}") for n in range(4)))
    calm(proxy)
    for job in await store.claim(Claim("last", LEASE, {ROUTE: 100})):
        move = moves.succeed(job.fence, now=clock.now(), retention=1e6, attempts=b"", result=_LARGE)
        assert (await store.move(job.id, move)).applied
        ended_by.setdefault(job.id, []).append("last")
    assert set(ended_by) == accepted
    assert all(len(workers) == 1 for workers in ended_by.values())
    for job_id in accepted:
        found = await store.get(job_id)
        assert isinstance(found, Job)
        assert (found.state, found.attempt, found.epoch, found.result) == (State.SUCCEEDED, 1, 1, _LARGE)
        assert len((await store.events(job_id)).events) == found.event_seq
    assert any(fault for _, fault in proxy.seen)


async def test_a_counter_that_is_too_high_heals(
    store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock
) -> None:
    """A submitter that dies between counting and writing costs a place only until the queue was quiet."""
    proxy.decide = lambda operation: Fault.CUT if operation == "PutItem" else None
    impatient = DynamoJobStore(store._table.name, clock, patience=0.2)
    with pytest.raises(StoreError):
        await impatient.add(new_job(clock), queue_limit=1)
    calm(proxy)
    with pytest.raises(QueueFull):
        await store.add(new_job(clock), queue_limit=1)
    clock.advance(31)
    kept = (await store.add(new_job(clock), queue_limit=1)).job
    with pytest.raises(QueueFull):
        await store.add(new_job(clock), queue_limit=1)
    assert (await store.get(kept.id)) == replace(kept)


async def test_a_place_is_given_back_once(store: DynamoJobStore, proxy: FaultProxy, clock: FakeClock) -> None:
    """A lost answer to counting a job out: counted out again, the queue would pass its limit."""
    for _ in range(2):
        await store.add(new_job(clock), queue_limit=2)
    for fault in (Fault.DROPPED, Fault.FAILED, Fault.LATE):
        (job,) = (await store.find(JobQuery(states=frozenset({State.QUEUED}), limit=1))).jobs
        fail_once(proxy, 1, fault)
        assert await store.claim(Claim("w", LEASE, job_id=job.id))
        calm(proxy)
        await proxy.settle()
        await store.add(new_job(clock), queue_limit=2)
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=2)
