"""What is particular to the DynamoDB store: its table, large values, batches of calls."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from router_core.errors import Misconfigured, StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, NewEvent
from router_core.stores.dynamodb import DynamoJobStore, create_table, table_definition
from router_core.stores.dynamodb_calls import Table
from router_core.stores.dynamodb_table import fault_of
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, new_job, running
from router_core.vendors import boto3
from tests.stores.dynamo_tables import fresh_table, items

_HOOK = '{"url":"https://example.com/hook"}'
_NEAR = 256 * 1024 - 16
"""The largest input and result that the core leaves in a record."""


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
    name = await fresh_table()
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


def refused(code: str) -> Exception:
    """Return the error of botocore for an answer of DynamoDB."""
    from botocore.exceptions import ClientError

    error: Exception = ClientError({"Error": {"Code": code, "Message": ""}}, "Op")
    return error


async def test_a_token_that_is_known_for_another_request_was_ours(
    store: DynamoJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says whether the transaction was made, whatever DynamoDB says of its token."""
    client = boto3.client("dynamodb")
    transact = client.transact_write_items

    def twice(**parameters: Any) -> Any:
        transact(**parameters)
        raise refused("IdempotentParameterMismatchException")

    monkeypatch.setattr(client, "transact_write_items", twice)
    job = new_job(clock)
    key = IdempotencyKey("scope", "body", clock.now() + 60)
    assert not (await store.add(job, key=key)).replayed
    (claimed,) = await store.claim(Claim("w", LEASE, job_id=job.id))
    assert await store.append(claimed.fence, [NewEvent("log", b"1")]) == 1
    assert await store.append(claimed.fence, [NewEvent("log", b"2")]) == 2
    assert [event.seq for event in (await store.events(job.id)).events] == [1, 2]


async def test_a_start_among_a_thousand_is_not_refused(
    store: DynamoJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptions of a table are throttled early; the table was there when the functions were deployed."""
    monkeypatch.setattr(store._table, "_pause", lambda seconds: None)

    def describe(**_: Any) -> Any:
        raise refused("ThrottlingException")

    monkeypatch.setattr(boto3.client("dynamodb"), "describe_table", describe)
    await store.open()


async def test_a_move_that_no_index_would_follow_is_a_bug(store: DynamoJobStore, clock: FakeClock) -> None:
    """It is refused before anything is written: the record would be lost to its queue."""
    job = await running(store, clock)
    running_only = frozenset({State.RUNNING})
    for sets in ({"rank": 1.0}, {"version": 7}, {"deadline_at": 5.0}, {"webhook": "x"}):
        with pytest.raises(ValueError, match="cannot write"):
            await store.move(job.id, Move("odd", running_only, sets=sets))
    with pytest.raises(ValueError, match="cannot write lease_until"):
        await store.move(job.id, Move("odd", frozenset({State.QUEUED}), sets={"lease_until": 5.0}))
    with pytest.raises(ValueError, match="needs its time"):
        await store.move(job.id, Move("odd", running_only, State.RETRYING))
    assert await store.get(job.id) == job
    longer = Move("extend", running_only, fence=job.fence, sets={"lease_until": clock.now() + 500})
    assert (await store.move(job.id, longer)).applied
    clock.advance(LEASE + 1)
    assert not await store.overdue()
