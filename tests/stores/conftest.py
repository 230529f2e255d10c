"""What the tests of the DynamoDB store share; files of other stores have fixtures of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router_core.stores.dynamodb import DynamoJobStore
from router_core.testing.clock import FakeClock
from router_core.vendors import boto3
from tests.stores.dynamo_tables import fresh_table
from tests.stores.fault_proxy import FaultProxy


@pytest.fixture
def clock() -> FakeClock:
    """The store's time."""
    return FakeClock()


@pytest.fixture
async def table(aws: str) -> str:
    """A fresh table."""
    return await fresh_table()


@pytest.fixture
async def proxy(aws: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultProxy]:
    """A proxy before the emulator."""
    with FaultProxy(aws) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        boto3.forget()
        yield proxy
        boto3.forget()


@pytest.fixture
async def store(table: str, clock: FakeClock) -> AsyncIterator[DynamoJobStore]:
    """A store on it."""
    store = DynamoJobStore(table, clock, patience=60)
    await store.open()
    yield store
    await store.close()
