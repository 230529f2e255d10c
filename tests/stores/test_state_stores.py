"""Run the state store contract over memory and DynamoDB, and DynamoDB over a line that fails."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from router_core.errors import Conflict, Misconfigured, StoreError
from router_core.state import StateStore
from router_core.stores.state_dynamodb import DynamoStateStore, create_state_table
from router_core.stores.state_memory import MemoryStateStore
from router_core.testing.clock import FakeClock
from router_core.testing.state_store_contract import StateStoreContract
from router_core.vendors import boto3
from tests.stores.fault_proxy import Fault, FaultProxy

_number = count()


class TestMemory(StateStoreContract):
    """The contract over memory."""

    @pytest.fixture
    async def store(self, clock: FakeClock) -> StateStore:
        """A fresh store."""
        store = MemoryStateStore(clock)
        await store.open()
        return store


async def fresh_table() -> str:
    """Create a table in which nothing expires by the emulator's clock."""
    name = f"state{next(_number)}"
    await asyncio.to_thread(create_state_table, name, expire=False)
    return name


@pytest.mark.usefixtures("aws")
class TestDynamo(StateStoreContract):
    """The contract over a table of its own for each test."""

    @pytest.fixture
    async def store(self, clock: FakeClock) -> StateStore:
        """A fresh table."""
        store = DynamoStateStore(await fresh_table(), clock, patience=60)
        await store.open()
        return store


async def test_a_missing_table_says_what_to_do(aws: str) -> None:
    """With the command that creates this kind of table."""
    with pytest.raises(Misconfigured, match="state_dynamodb nowhere"):
        await DynamoStateStore("nowhere").open()


async def test_what_expires_says_so_to_dynamodb(aws: str, clock: FakeClock) -> None:
    """The attribute by which DynamoDB deletes, on values and counts."""
    table = await fresh_table()
    await asyncio.to_thread(create_state_table, "expiring-state")
    told = await boto3.request("dynamodb", "describe_time_to_live", TableName="expiring-state")
    assert told["TimeToLiveDescription"]["AttributeName"] == "ttl"
    store = DynamoStateStore(table, clock)
    await store.put("room/a", b"", ttl=10)
    await store.increment("room/b", ttl=10)
    answer = await boto3.request(
        "dynamodb", "query", TableName=table, KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": "room"}},
    )  # fmt: skip
    assert {item["ttl"]["N"] for item in answer["Items"]} == {str(int(clock.now()) + 10)}


# --- faults -------------------------------------------------------------------------------------------


def fail(proxy: FaultProxy, fault: Fault, at: int) -> None:
    """Let the write at a place fail; the others pass."""
    writes = count()

    def decide(operation: str) -> Fault | None:
        return fault if operation != "GetItem" and next(writes) == at else None

    proxy.decide = decide


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.SLOW, Fault.HUNG)])
async def test_one_failed_write_changes_nothing(proxy: FaultProxy, clock: FakeClock, fault: Fault) -> None:
    """However it fails: values are written once, counts counted once, and what is late undoes nothing."""
    store = DynamoStateStore(await fresh_table(), clock, patience=60)
    fail(proxy, fault, 0)
    first = await store.put("room/key", b"1", if_absent=True)
    fail(proxy, fault, 0)
    second = await store.put("room/key", b"2", if_version=first)
    fail(proxy, fault, 0)
    third = await store.put("room/key", b"3")
    await store.put("room/key", b"4", if_version=third)
    await proxy.settle()
    found = await store.get("room/key")
    assert found is not None
    assert found.value == b"4"
    with pytest.raises(Conflict):
        await store.put("room/key", b"5", if_version=second)
    for at in (0, 1):  # adding to what is not there yet, and beginning it
        key = f"room/n{at}"
        fail(proxy, fault, at)
        assert await store.increment(key, 2, limit=5) == 2
        fail(proxy, fault, 0)
        assert await store.increment(key, 3, limit=5) == 5
        assert await store.increment(key, limit=5) is None
        await proxy.settle()
        fail(proxy, fault, 0)
        assert await store.increment(key, -1) == 4
        await proxy.settle()
        counted = await store.get(key)
        assert counted is not None
        assert counted.value == b"4"
    fail(proxy, fault, 0)
    assert await store.delete("room/key") is True
    await store.put("room/key", b"6")
    await proxy.settle()
    assert await store.get("room/key") is not None


async def test_a_lost_answer_is_found_behind_other_additions(proxy: FaultProxy, clock: FakeClock) -> None:
    """Others may have added before the next try finds that it was counted: it still says what it made."""
    table = await fresh_table()
    store, other = DynamoStateStore(table, clock), DynamoStateStore(table, clock)
    await store.increment("room/n", 10)
    rest = store._table._pause
    loop = asyncio.get_running_loop()

    def meanwhile(seconds: float) -> None:
        work = other.increment("room/n", 100)
        asyncio.run_coroutine_threadsafe(work, loop).result(60)
        rest(seconds)

    store._table._pause = meanwhile
    fail(proxy, Fault.DROPPED, 0)
    assert await store.increment("room/n", 1) == 11
    found = await store.get("room/n")
    assert found is not None
    assert found.value == b"111"


async def test_a_service_that_is_down_is_503(proxy: FaultProxy, clock: FakeClock) -> None:
    """In bounded time, and nothing has changed."""
    store = DynamoStateStore(await fresh_table(), clock, patience=0.3)
    await store.increment("room/n")
    for fault in (Fault.THROTTLED, Fault.REFUSED, Fault.CUT):
        proxy.decide = lambda operation, fault=fault: fault  # type: ignore[misc]
        work = (
            store.get("room/n"), store.put("room/k", b""), store.increment("room/n"), store.delete("room/n"),
            store.entries("room/"), store.ping(),
        )  # fmt: skip
        answers = await asyncio.gather(*work, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreError] * 6
    proxy.decide = lambda operation: None
    assert [entry.value for entry in (await store.entries("room/")).entries] == [b"1"]
