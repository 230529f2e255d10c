"""What is particular to the DynamoDB store: many processes, indexes that lag, purges, the outbox."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.errors import Fenced, StoreError
from router_core.jobs import moves
from router_core.jobs.job import State, Tombstone
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, NewEvent
from router_core.stores.dynamodb import DynamoJobStore
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, claim_one, ended, new_job, running
from router_core.vendors import boto3
from tests.stores.dynamo_tables import items

_HOOK = '{"url":"https://example.com/hook"}'


@pytest.fixture
def called() -> Iterator[list[dict[str, Any]]]:
    """Every call that is made meanwhile: its parameters and its operation."""
    seen: list[dict[str, Any]] = []

    def note(model: Any, params: Any, **_: Any) -> None:
        body = params["body"]
        seen.append({"operation": model.name, **json.loads(body)})

    events = boto3.client("dynamodb").meta.events
    events.register("before-call.dynamodb", note)
    yield seen
    events.unregister("before-call.dynamodb", note)


# --- several processes --------------------------------------------------------------------------------


async def test_stores_of_many_processes_have_one_winner(table: str, clock: FakeClock) -> None:
    """Eight stores that share nothing: one claimer, one job for a key, one that ends it."""

    def in_threads(work: Any) -> list[Any]:
        start, answers = threading.Barrier(8), [None] * 8

        def body(number: int) -> None:
            start.wait()
            answers[number] = asyncio.run(work(number))

        threads = [threading.Thread(target=body, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    stores = [DynamoJobStore(table, clock) for _ in range(8)]
    for turn in range(5):
        key = IdempotencyKey(f"scope{turn}", "body", clock.now() + 1e6)
        added = await asyncio.to_thread(
            in_threads, lambda n, key=key: stores[n].add(new_job(clock), key=key, queue_limit=9)
        )
        assert len({answer.job.id for answer in added}) == 1
        assert sum(not answer.replayed for answer in added) == 1
        job_id = added[0].job.id
        claimed = await asyncio.to_thread(
            in_threads, lambda n: stores[n].claim(Claim(f"w{n}", LEASE, {ROUTE: 1}))
        )
        ((winner,),) = [jobs for jobs in claimed if jobs]
        assert winner.id == job_id
        end = moves.succeed(winner.fence, now=clock.now(), retention=1e6, attempts=b"", result=b"1" * 9000)
        ends = await asyncio.to_thread(in_threads, lambda n, end=end, i=job_id: stores[n].move(i, end))
        assert sum(answer.applied for answer in ends) == 1
        assert all(answer.job == ends[0].job for answer in ends)
    assert not (await stores[0].stats()).by_route
    await stores[0].add(new_job(clock), queue_limit=1)


async def test_events_go_on_in_another_process(table: str, clock: FakeClock) -> None:
    """Each store remembers what it last wrote of a job, and finds out when another has gone on."""
    first, second = DynamoJobStore(table, clock), DynamoJobStore(table, clock)
    job = await running(first, clock)
    assert await first.append(job.fence, [NewEvent("log", b"1")]) == 1
    assert await second.append(job.fence, [NewEvent("log", b"2")]) == 2
    assert await first.append(job.fence, [NewEvent("log", b"3")]) == 3
    await first.move(job.id, moves.release(job.fence, attempts=b""))
    (again,) = await second.claim(Claim("w2", LEASE, job_id=job.id))
    assert await second.append(again.fence, [NewEvent("log", b"4")]) == 4
    with pytest.raises(Fenced):
        await first.append(job.fence, [NewEvent("log", b"x")])
    events = (await first.events(job.id)).events
    assert [(event.seq, event.data) for event in events] == [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")]
    assert [event.attempt for event in events] == [1, 1, 1, 1]


# --- indexes ------------------------------------------------------------------------------------------


async def test_nothing_scans(store: DynamoJobStore, clock: FakeClock, called: list[dict[str, Any]]) -> None:
    """Every method once: reads go by key or index, and a change of state is one UpdateItem."""
    job = (await store.add(new_job(clock), queue_limit=5)).job
    await store.foresee(ROUTE, queue_limit=5)
    await store.get(job.id)
    called.clear()
    (claimed,) = await store.claim(Claim("w", LEASE, job_id=job.id))
    assert [call["operation"] for call in called] == ["UpdateItem", "UpdateItem"]  # record, counter
    called.clear()
    end = moves.succeed(claimed.fence, now=clock.now(), retention=RETENTION, attempts=b"")
    await store.move(job.id, end)
    assert [call["operation"] for call in called] == ["UpdateItem"]
    for owner in ("alice", None):
        for states in (frozenset[State](), frozenset({State.QUEUED}), frozenset({State.FAILED})):
            await store.find(JobQuery(owner=owner, states=states))
    for work in (store.overdue, store.due, store.next_due, store.stats, store.deliveries, store.ping):
        await work()
    await store.undispatched(clock.now())
    await claim_one(store)
    clock.advance(1e6)
    await store.purge()
    operations = {call["operation"] for call in called}
    assert "Query" in operations
    assert "Scan" not in operations
    assert all(
        "IndexName" in call or "pk = " in call["KeyConditionExpression"]
        for call in called
        if call["operation"] == "Query"
    )


async def test_an_index_that_lags_does_no_harm(
    store: DynamoJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still shows a job as ready, leased or due that is not any more: the record decides."""
    job = await running(store, clock)
    monkeypatch.setattr(store._claims, "_best", lambda *_: [job.id])
    assert await claim_one(store) is None
    assert await store.get(job.id) == job
    monkeypatch.setattr(store._upkeep, "_until", lambda *_, **__: [job.id, "nosuchjob"])
    assert not await store.overdue()
    assert not await store.due()
    assert not await store.deliveries()
    assert (await store.purge()).jobs == 0


async def test_an_index_that_shows_a_job_twice_lists_it_once(
    store: DynamoJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it moves from one part of the index to another it may stand in both."""
    job = await ended(store, clock)
    rows = store._listings._rows

    def twice(index: str, key: str, value: str, *rest: Any) -> Any:
        return rows(index, key, value.replace("open", "done"), *rest)

    monkeypatch.setattr(store._listings, "_rows", twice)
    assert [found.id for found in (await store.find(JobQuery())).jobs] == [job.id]


async def test_a_listing_looks_at_a_bounded_number(
    store: DynamoJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be short and have a cursor; following it finds everything once."""
    monkeypatch.setattr("router_core.stores.dynamodb_listing._LOOK", 10)
    monkeypatch.setattr("router_core.stores.dynamodb_listing._CHUNK", 5)
    wanted = []
    for number in range(25):
        route = "/rare" if number % 10 == 3 else ROUTE
        await store.add(new_job(clock, id=f"job{number:05}", route=route))
        wanted += [f"job{number:05}"] * (route == "/rare")
    seen, cursor, pages = [], "", 0
    while True:
        page = await store.find(JobQuery(owner="alice", route="/rare", cursor=cursor, limit=2))
        seen += [job.id for job in page.jobs]
        cursor, pages = page.cursor, pages + 1
        if not cursor:
            break
    assert seen == sorted(wanted, reverse=True)
    assert pages >= 3


async def test_odd_words_are_no_error(store: DynamoJobStore, clock: FakeClock) -> None:
    """Owners and routes longer than a key may be, cursors out of nowhere, halves of characters."""
    owner, route = "o" * 5000, "/" + "r" * 5000
    job = (await store.add(new_job(clock, owner=owner, route=route, message="\ud800"), queue_limit=1)).job
    assert [found.id for found in (await store.find(JobQuery(owner=owner, route=route))).jobs] == [job.id]
    assert [found.id for found in await store.claim(Claim("w", LEASE, {route: 1}))] == [job.id]
    for cursor in ("\u4e2d" * 2000, "\x00", "~"):
        await store.find(JobQuery(owner=owner, cursor=cursor))
    await store.delivered("..")
    await store.postpone("\u4e2d", attempt=1, next_at=0)


async def test_undispatched_jobs_are_found(store: DynamoJobStore, clock: FakeClock) -> None:
    """Those that wait, that the queue was not told of, and that are old enough."""
    told = (await store.add(new_job(clock, dispatch_pending=True))).job
    await store.move(told.id, moves.dispatched())
    untold = (await store.add(new_job(clock, dispatch_pending=True))).job
    await running(store, clock, route="/other", dispatch_pending=True)
    clock.advance(20)
    await store.add(new_job(clock, dispatch_pending=True))
    assert [job.id for job in await store.undispatched(clock.now() - 10)] == [untold.id]


# --- outbox -------------------------------------------------------------------------------------------


async def test_a_webhook_outlives_its_record(store: DynamoJobStore, table: str, clock: FakeClock) -> None:
    """A purge leaves the row of a delivery that was not made; then only the tombstone is left."""
    job = await ended(store, clock, webhook=_HOOK)
    clock.advance(RETENTION)
    assert (await store.purge()).jobs == 1
    assert (await store.purge()).jobs == 0
    assert isinstance(await store.get(job.id), Tombstone)
    (row,) = await store.deliveries()
    await store.postpone(row.id, attempt=1, next_at=clock.now() + 5)
    assert not await store.deliveries()
    clock.advance(5)
    (row,) = await store.deliveries()
    assert (row.attempt, row.url) == (1, "https://example.com/hook")
    await store.delivered(row.id)
    assert not await store.deliveries()
    (item,) = items(table, f"J#{job.id}")
    assert "agenda" not in item


async def test_a_delivered_webhook_leaves_the_record_to_its_retention(
    store: DynamoJobStore, clock: FakeClock
) -> None:
    """The record is purged at its time, as if there had been none."""
    job = await ended(store, clock, webhook=_HOOK)
    (row,) = await store.deliveries()
    await store.delivered(row.id)
    assert await store.get(job.id) == job
    clock.advance(RETENTION)
    assert (await store.purge()).jobs == 1


async def test_a_delete_that_is_cut_short_is_finished_by_a_purge(
    store: DynamoJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees half a record in between."""
    job = await ended(store, clock)
    with monkeypatch.context() as patch:
        patch.setattr(store._upkeep, "_bury", lambda *_: (_ for _ in ()).throw(StoreError("cut")))
        with pytest.raises(StoreError):
            await store.delete(job.id)
    assert isinstance(await store.get(job.id), Tombstone)
    assert (await store.purge()).jobs == 1


async def test_a_webhook_sent_during_a_purge_does_not_come_back(
    store: DynamoJobStore, clock: FakeClock
) -> None:
    """The tombstone is written only beside the outbox that was seen."""
    job = await ended(store, clock, webhook=_HOOK)
    clock.advance(RETENTION)
    (row,) = await store.deliveries()
    item = await asyncio.to_thread(store._records.item, job.id)
    assert item is not None
    await store.delivered(row.id)
    assert not await asyncio.to_thread(store._upkeep._bury, item, job, clock.now(), [])
    assert (await store.purge()).jobs == 1
    assert not await store.deliveries()


async def test_a_purge_ends_in_time_and_goes_on_later(
    table: str, store: DynamoJobStore, clock: FakeClock
) -> None:
    """However much there is to do, what it did and freed is told."""
    for _ in range(3):
        await ended(store, clock)
    clock.advance(RETENTION)
    hasty = DynamoJobStore(table, clock, patience=1.0)
    assert (await hasty.purge()).jobs == 0
    assert (await store.purge()).jobs == 3
