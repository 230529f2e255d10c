"""What many tests of the gateway begin with; whoever needs another clock or provider says so himself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from router_core.gateway.transport.pool import ConnectionPool
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from router_core.testing.runpod_api import RunpodApi
from router_core.testing.upstream import Upstream
from tests.gateway.lifecycle_parts import hub_on


@pytest.fixture
def clock() -> FakeClock:
    """The time of everybody in a test."""
    return FakeClock()


@pytest.fixture
def hub(clock: FakeClock) -> Iterator[HuggingFaceApi]:
    """Hugging Face, on the clock of the test."""
    with hub_on(clock) as hub:
        yield hub


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    """Connections of this test alone."""
    pool = ConnectionPool()
    yield pool
    await pool.aclose()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server that speaks OpenAI until told otherwise."""
    async with Upstream() as served:
        yield served


@pytest.fixture(scope="module")
def runpod_platform() -> Iterator[RunpodApi]:
    """One platform for all tests of a module."""
    with RunpodApi(poll=0.2) as platform:
        yield platform


@pytest.fixture
def runpod_api(runpod_platform: RunpodApi) -> RunpodApi:
    """The platform, with nothing seen before."""
    runpod_platform.requests.clear()
    return runpod_platform
