"""What every job store has to do, as tests that a stranger's store can run.

Subclass ``JobStoreContract`` in a test module and give it one fixture::

    class TestMyStore(JobStoreContract):
        @pytest.fixture
        async def store(self, clock):
            store = MyStore(..., clock)
            await store.open()
            yield store
            await store.close()

``clock`` is a ``FakeClock`` that the suite moves; the store must take all its times from it. The suite needs
pytest and pytest-asyncio. A store that cannot do a part of it overrides that test with a skip that says why.
"""

from __future__ import annotations

import pytest

from router_core.testing.clock import FakeClock
from router_core.testing.job_store_claims import ClaimContract
from router_core.testing.job_store_events import EventContract
from router_core.testing.job_store_moves import MoveContract
from router_core.testing.job_store_races import RaceContract
from router_core.testing.job_store_submit import SubmitContract
from router_core.testing.job_store_upkeep import UpkeepContract

__all__ = ["JobStoreContract"]


class JobStoreContract(
    SubmitContract, ClaimContract, MoveContract, EventContract, UpkeepContract, RaceContract
):
    """The whole suite; needs a fixture ``store``."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The time that the store lives by."""
        return FakeClock()
