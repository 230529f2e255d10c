"""What is particular to the DynamoDB store: its table, large values, several processes, its indexes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from router_core.errors import Fenced, Misconfigured, StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State, Tombstone
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, NewEvent
from router_core.stores.dynamodb import DynamoJobStore, create_table, table_definition
from router_core.stores.dynamodb_calls import Table
from router_core.stores.dynamodb_table import fault_of
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, claim_one, ended, new_job, running
from router_core.vendors import boto3

_number = count()
_HOOK = '{"url":"https://example.com/hook"}'
_NEAR = 256 * 1024 - 16
"""The largest input and result that the core leaves in a record."""


@pytest.fixture
def clock() -> FakeClock:
    """The store's time."""
    return FakeClock()


@pytest.fixture
async def table(aws: str) -> str:
    """A fresh table."""
    name = f"store{next(_number)}"
    await asyncio.to_thread(create_table, name, expire=False)
    return name


@pytest.fixture
async def store(table: str, clock: FakeClock) -> AsyncIterator[DynamoJobStore]:
    """A store on it."""
    store = DynamoJobStore(table, clock, patience=60)
    await store.open()
    yield store
    await store.close()


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


def items(table: str, pk: str) -> list[dict[str, Any]]:
    """Return what stands in a partition, as DynamoDB has it."""
    pages = boto3.client("dynamodb").get_paginator("query")
    answers = pages.paginate(
        TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}}
    )
    return [item for answer in answers for item in answer["Items"]]


# --- the table ----------------------------------------------------------------------------------------


async def test_a_missing_table_says_what_to_do(aws: str) -> None:
    """At start, with its name and the two ways to create it."""
    with pytest.raises(
        Misconfigured, match=r"table nowhere does not exist.*template\.yaml.*dynamodb nowhere"
    ):
        await DynamoJobStore("nowhere").open()


async def test_a_table_of_another_kind_is_refused(aws: str) -> None:
    """What lacks an index would only fail later."""
    definition = table_definition("poor")
    definition["GlobalSecondaryIndexes"] = definition["GlobalSecondaryIndexes"][:2]
    keys = {"pk", "sk", "ready", "ready_at", "agenda", "agenda_at"}
    definition["AttributeDefinitions"] = [
        entry for entry in definition["AttributeDefinitions"] if entry["AttributeName"] in keys
    ]
    await boto3.request("dynamodb", "create_table", **definition)
    with pytest.raises(Misconfigured, match="index owner of table poor is missing"):
        await DynamoJobStore("poor").open()


def test_what_is_wrong_with_a_table_is_named() -> None:
    """Keys, types, projections, and an index that is not ready; an index that holds everything is fine."""
    wanted = table_definition("t")

    def changed(**values: Any) -> dict[str, Any]:
        index, *others = table_definition("t")["GlobalSecondaryIndexes"]
        return {**table_definition("t"), "GlobalSecondaryIndexes": [{**index, **values}, *others]}

    assert fault_of(wanted, wanted) == ""
    assert "partition key pk" in fault_of({**wanted, "KeySchema": wanted["KeySchema"][:1]}, wanted)
    assert "has other keys" in fault_of(changed(KeySchema=wanted["KeySchema"]), wanted)
    assert "does not hold" in fault_of(changed(Projection={"ProjectionType": "KEYS_ONLY"}), wanted)
    assert "still being built" in fault_of(changed(IndexStatus="CREATING"), wanted)
    assert fault_of(changed(Projection={"ProjectionType": "ALL"}), wanted) == ""
    types = [{**entry, "AttributeType": "S"} for entry in wanted["AttributeDefinitions"]]
    assert "another type" in fault_of({**wanted, "AttributeDefinitions": types}, wanted)


async def test_what_expires_says_so_to_dynamodb(aws: str, clock: FakeClock) -> None:
    """Keys, tombstones, and, should no purge ever run, records; a new table deletes them."""
    await asyncio.to_thread(create_table, "expires")
    await asyncio.to_thread(create_table, "expires")
    described = await boto3.request("dynamodb", "describe_time_to_live", TableName="expires")
    assert described["TimeToLiveDescription"]["AttributeName"] == "ttl"
    name = f"ttl{next(_number)}"
    await asyncio.to_thread(create_table, name, expire=False)
    store = DynamoJobStore(name, clock)
    now = int(clock.now())
    job = new_job(clock)
    await store.add(job, key=IdempotencyKey("scope", "body", clock.now() + 60))
    (key,) = items(name, "K#scope")
    assert now + 60 <= int(key["ttl"]["N"]) <= now + 62
    await store.move(job.id, moves.cancel_waiting(now=clock.now(), retention=RETENTION))
    (record,) = items(name, f"J#{job.id}")
    assert int(record["ttl"]["N"]) > now + RETENTION
    await store.delete(job.id)
    (grave,) = items(name, f"J#{job.id}")
    assert 7 * 24 * 3600 <= int(grave["ttl"]["N"]) - now <= 7 * 24 * 3600 + 2


async def test_a_table_that_goes_away_is_503(store: DynamoJobStore, table: str) -> None:
    """Whoever asks then may come back."""
    await boto3.request("dynamodb", "delete_table", TableName=table)
    with pytest.raises(StoreError, match=f"no table {table}"):
        await store.get("somejob00")


# --- large values -------------------------------------------------------------------------------------


async def test_input_and_result_may_both_be_as_large_as_allowed(
    store: DynamoJobStore, table: str, clock: FakeClock
) -> None:
    """Together with recorded steps they would be twice as large as an item may be."""
    large = json.dumps({"a": "x" * (_NEAR - 10)}).encode()
    job = await running(store, clock, input=large)
    assert job.input == large
    assert (await store.move(job.id, moves.step(job.fence, steps=large))).applied
    assert (await store.move(job.id, moves.progress(job.fence, fraction=0.5, message="half"))).applied
    end = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=large, result=large)
    moved = await store.move(job.id, end)
    assert moved.applied
    done = await DynamoJobStore(table, clock).get(job.id)
    assert done == moved.job
    assert isinstance(done, Job)
    assert (done.input, done.result, done.steps, done.attempts) == (large, large, large, large)
    record = next(item for item in items(table, f"J#{job.id}") if item["sk"]["S"] == "R")
    assert len(json.dumps(record, default=repr)) < 4000, "every write pays for the size of the record"
    (listed,) = (await store.find(JobQuery(owner="alice"))).jobs
    assert (listed.input, listed.result) == (b"", b"")
    clock.advance(RETENTION)
    await store.purge()
    assert [item["sk"]["S"] for item in items(table, f"J#{job.id}")] == ["R"]


async def test_a_large_value_of_a_refused_move_is_taken_back(
    store: DynamoJobStore, table: str, clock: FakeClock
) -> None:
    """A worker that was replaced leaves neither its result nor a mark on its blob."""
    job = await running(store, clock)
    await store.move(job.id, moves.release(job.fence, attempts=b""))
    ref = b'{"key":"blob"}'
    late = moves.succeed(job.fence, now=0, retention=1, attempts=b"", result=b"1" * 50_000, result_ref=ref)
    assert not (await store.move(job.id, late)).applied
    assert [item["sk"]["S"] for item in items(table, f"J#{job.id}")] == ["R"]
    assert await store.unreferenced(["blob"]) == ["blob"]


async def test_a_mark_on_a_blob_that_nobody_made_true_fades(
    store: DynamoJobStore, table: str, clock: FakeClock
) -> None:
    """A process that dies between mark and record keeps a blob for an hour, not for ever."""
    await asyncio.to_thread(store._blobs.add, "neverwritten", ["blob"])
    assert await store.unreferenced(["blob"]) == []
    clock.advance(3601)
    assert await store.unreferenced(["blob"]) == ["blob"]
    job = await running(store, clock, input_ref="blob")
    clock.advance(1e6)
    assert await store.unreferenced(["blob"]) == []
    assert items(table, "F#blob")[0]["sk"]["S"] == job.id


async def test_a_second_record_of_an_id_keeps_the_marks_of_the_first(
    store: DynamoJobStore, clock: FakeClock
) -> None:
    """The refused one takes back only what it alone has named."""
    job = new_job(clock, input_ref="blob")
    await store.add(job)
    with pytest.raises(Exception, match="exists"):
        await store.add(replace(job, input_ref="", input=b'{"x":{"$file":{"key":"other"}}}'))
    with pytest.raises(Exception, match="exists"):
        await store.add(job)
    assert await store.unreferenced(["blob", "other"]) == ["other"]


async def test_events_larger_than_an_item(store: DynamoJobStore, table: str, clock: FakeClock) -> None:
    """One of 900 KB is cut into pieces, and many in one batch are one pack."""
    job = await running(store, clock)
    huge = bytes(range(256)) * 3600
    assert await store.append(job.fence, [NewEvent("log", b"1"), NewEvent("output", huge)]) == 2
    page = await DynamoJobStore(table, clock).events(job.id)
    assert [event.data for event in page.events] == [b"1", huge]
    assert (await store.events(job.id, after=1)).events[0].data == huge
    assert await store.append(job.fence, [NewEvent("log", b"x" * 900)] * 200) == 202
    page = await store.events(job.id, limit=1000)
    assert (page.first_seq, len(page.events)) == (3, 200)
    assert len(items(table, f"J#{job.id}")) == 2, "what is not kept is deleted"


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


# --- calls --------------------------------------------------------------------------------------------


def test_what_dynamodb_leaves_undone_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches may come back in part, in good times once, in bad times until the caller has to know."""
    table = Table("t", pause=lambda seconds: None)
    rest = [3, 2, 1]

    def call(operation: str, *, RequestItems: Any, **_: Any) -> Any:
        left = rest.pop(0) if rest else 0
        if operation == "batch_get_item":
            keys = RequestItems["t"]["Keys"]
            done, more = keys[: len(keys) - left], keys[len(keys) - left :]
            return {"Responses": {"t": done}, "UnprocessedKeys": {"t": {"Keys": more}} if more else {}}
        return {"UnprocessedItems": {"t": RequestItems["t"][-left:]} if left else {}}

    monkeypatch.setattr(table, "_call", call)
    keys = [(f"p{number}", "s") for number in range(5)]
    assert {item["pk"]["S"] for item in table.get_many(keys)} == {pk for pk, _ in keys}
    rest += [2, 2]
    table.write_many(deletes=keys)
    assert not rest
    rest += [1] * 10_000
    with table.patience(time.monotonic() + 0.2), pytest.raises(StoreError):
        table.write_many(deletes=keys)
    with table.patience(time.monotonic() + 0.2), pytest.raises(StoreError):
        table.get_many(keys)
