"""Operations over DynamoDB that take many calls, and the time that one operation has."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from router_core.errors import StoreError
from router_core.jobs.job import Fence, State
from router_core.jobs.store import Claim, JobQuery, Renewal
from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.stores.dynamodb_calls import Table
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, ROUTE, new_job, running

_number = count()


@pytest.fixture
async def store(aws: str) -> DynamoJobStore:
    """A store on a fresh table."""
    table = f"time{next(_number)}"
    await asyncio.to_thread(create_table, table, expire=False)
    return DynamoJobStore(table, FakeClock(), patience=60)


async def fences_of(store: DynamoJobStore, number: int) -> list[Fence]:
    """Return the fences of some running jobs."""
    return [(await running(store, FakeClock())).fence for _ in range(number)]


async def test_an_error_hides_no_lease_that_was_extended(
    store: DynamoJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hears nothing of its leases gives all of its jobs up; only the first error is told."""
    fences = await fences_of(store, 4)
    renew = store._moves._renew

    def failing(fence: Fence, until: float) -> Renewal:
        if fence == fences[2]:
            raise StoreError("throttled")
        return renew(fence, until)

    monkeypatch.setattr(store._moves, "_renew", failing)
    renewals = await store.renew(fences, LEASE)
    assert [(one.job_id, one.held) for one in renewals] == [(fence.job_id, True) for fence in fences[:2]]
    with pytest.raises(StoreError):
        await store.renew(fences[2:], LEASE)


async def test_what_there_is_no_time_for_is_left_for_the_next(
    store: DynamoJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of leases take longer than one operation may; those that were answered are due later."""
    fences = await fences_of(store, 3)
    monkeypatch.setattr(Table, "left", lambda self: 0.0)
    assert [one.job_id for one in await store.renew(fences, LEASE)] == [fences[0].job_id]
    assert await store.renew([], LEASE) == []


async def test_a_filter_that_leaves_nothing_does_not_read_for_ever(
    store: DynamoJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows there are, the threads that all requests share are free again in bounded time."""
    monkeypatch.setattr("router_core.stores.dynamodb_listing._CHUNK", 1)
    monkeypatch.setattr("router_core.stores.dynamodb_calls._LATER_PAGES", 1)
    clock = FakeClock()
    for _ in range(12):
        await store.add(new_job(clock))
    nobody = JobQuery(owner="bob", states=frozenset({State.QUEUED}))
    assert (await store.find(nobody)).jobs == ()
    monkeypatch.setattr(Table, "left", lambda self: 0.0)
    with pytest.raises(StoreError, match="in time"):
        await store.find(nobody)
    assert len(await store.claim(Claim("w", LEASE, {ROUTE: 2}))) == 2
