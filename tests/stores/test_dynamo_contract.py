"""Run the job store contract over DynamoDB, as an emulator with atomic conditional writes plays it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest

from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.testing.clock import FakeClock
from router_core.testing.job_store_contract import JobStoreContract

_number = count()


@pytest.mark.usefixtures("aws")
class TestDynamo(JobStoreContract):
    """The contract over a table of its own for each test."""

    zombies = 15  # 105 over the seven kinds of writes
    crowd = 80
    races = 50

    @pytest.fixture
    async def store(self, clock: FakeClock) -> AsyncIterator[DynamoJobStore]:
        """A fresh table. Nothing in it expires by the emulator's clock, which is not the test's."""
        table = f"contract{next(_number)}"
        await asyncio.to_thread(create_table, table, expire=False)
        store = DynamoJobStore(table, clock, patience=60)
        await store.open()
        yield store
        await store.close()


@pytest.mark.soak
class TestDynamoAtLength(TestDynamo):
    """The contract with as many repetitions as the stores of one machine take."""

    zombies = JobStoreContract.zombies
    crowd = JobStoreContract.crowd
    races = JobStoreContract.races
