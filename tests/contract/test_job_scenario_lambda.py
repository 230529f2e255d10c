"""The job scenario on AWS Lambda: HTTP API, queue, table, bucket and schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from router_core.client.aio import AsyncClient
from router_core.client.connect import connect
from router_core.testing.job_scenario import JobScenario
from router_core.testing.scenario_service import router
from router_core.vendors import boto3
from tests.contract.lambda_platform import LambdaPlatform, LambdaTransport
from tests.parts import AWS_VARIABLES


@pytest.fixture(scope="module")
def platform(aws_url: str) -> Iterator[LambdaPlatform]:
    """Deploy the scenario's service."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS_VARIABLES, "AWS_ENDPOINT_URL": aws_url}.items():
            patch.setenv(name, value)
        boto3.forget()
        with LambdaPlatform(router) as deployed:
            yield deployed
        boto3.forget()


class TestLambda(JobScenario):
    """The functions of template.yaml, called by a client."""

    @pytest.fixture
    async def client(self, platform: LambdaPlatform) -> AsyncIterator[AsyncClient]:
        """Return a client whose calls become events."""
        transport = LambdaTransport(platform)
        async with connect("https://api.test", transport=transport, asynchronous=True) as client:
            yield client
