"""The job scenario of every platform, with the jobs run by workers in processes elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from router_core.client.aio import AsyncClient
from router_core.client.connect import connect
from router_core.testing.job_scenario import JobScenario
from tests.remote.remote_site import coordinator, workers

pytestmark = pytest.mark.process
APP = "router_core.testing.scenario_service:router"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a coordinator and two workers."""
    folder = tmp_path_factory.mktemp("scenario")
    with (
        coordinator(APP, folder, ROUTER_LEASE="6", ROUTER_HEARTBEAT="2") as service,
        workers(2, APP, folder, service.url),
    ):
        yield service.url


class TestRemote(JobScenario):
    """Nothing tells a caller that the work is done elsewhere."""

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[AsyncClient]:
        """Return a client of the coordinator."""
        async with connect(url, asynchronous=True) as client:
            yield client
