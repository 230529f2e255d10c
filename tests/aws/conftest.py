"""What the tests against the AWS emulator share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.deploy.aws_packages import HOST
from router_core.vendors import boto3
from tests.aws.bundles import build
from tests.aws.stacks import folder_of


@pytest.fixture(autouse=True)
def own_clients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let clients that a test has made for its endpoint not serve a test with another one."""
    if "aws" not in request.fixturenames:
        yield
        return
    endpoint = request.getfixturevalue("aws")
    if boto3.client("sqs").meta.endpoint_url != endpoint:
        boto3.forget()
    yield


@pytest.fixture(scope="session")
def service_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the code of the service in lambda_service, for this machine, once for all tests."""
    place = tmp_path_factory.mktemp("service")
    return build(folder_of(place / "app"), place / "bundle", HOST, app="service:router").folder


@pytest.fixture
def bucket(aws: str) -> str:
    """Make a bucket of this test's own."""
    name = f"blobs-{secrets.token_hex(6)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Keep what is hidden for how long, by receipt, in order."""
    seen: list[tuple[str, float]] = []

    async def hide(url: str, receipt: str, seconds: float) -> None:
        seen.append((receipt, seconds))

    async def url_of(arn: str) -> str:
        return f"https://sqs/{arn}"

    monkeypatch.setattr("handlers.aws.messages.hide", hide)
    monkeypatch.setattr("handlers.aws.messages.url_of", url_of)
    return seen
