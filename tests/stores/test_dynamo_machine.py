"""Random walks over DynamoDB that check the invariants."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from router_core.jobs.store import Store
from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.testing.clock import FakeClock
from router_core.testing.job_store_machine import JobStoreMachine

_number = count()


class DynamoMachine(JobStoreMachine):
    """Walks over a fresh table each."""

    def make_store(self, clock: FakeClock) -> Store:
        """Return a store on a table that nobody has used."""
        table = f"walk{next(_number)}"
        create_table(table, expire=False)
        return DynamoJobStore(table, clock, patience=60)


def _walk(examples: int, steps: int) -> None:
    walks = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(DynamoMachine, settings=walks)


@pytest.mark.usefixtures("aws")
def test_walks() -> None:
    """A few walks: each call is a request over HTTP, so they are slow."""
    _walk(6, 30)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("aws")
def test_many_walks() -> None:
    """Longer walks, and many of them."""
    _walk(150, 50)
