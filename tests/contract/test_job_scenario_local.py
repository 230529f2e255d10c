"""The job scenario on this machine: a server of its own, over its own and over RunPod's protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router_core.client.aio import AsyncClient
from router_core.client.connect import connect
from router_core.testing.job_scenario import JobScenario
from tests.served import served

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the scenario's service."""
    folder = tmp_path_factory.mktemp("scenario")
    with served("router_core.testing.scenario_service:router", Path(folder)) as service:
        yield service.url


class TestLocal(JobScenario):
    """`router-core serve`, called as itself."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[AsyncClient]:
        """Return a client of the server."""
        async with connect(url, asynchronous=True) as client:
            yield client


class TestRunpodShaped(JobScenario):
    """`router-core serve`, called as if it were RunPod."""

    distinct_errors = False  # RunPod's `error` is one string

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[AsyncClient]:
        """Return a client that speaks RunPod's protocol."""
        async with connect(f"{url}/v2/here", protocol="runpod", asynchronous=True) as client:
            yield client
