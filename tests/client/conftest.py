"""A service to call, and a client whose waits take no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router_core.client import Client, Retry, connect
from tests.client.fake_service import FakeService


async def no_sleep(seconds: float) -> None:
    """Wait not at all."""


QUICK = Retry(attempts=4, sleep=no_sleep)


@pytest.fixture
def fake() -> Iterator[FakeService]:
    """A running service of the wire contract."""
    with FakeService().running() as service:
        yield service


@pytest.fixture
def client(fake: FakeService) -> Iterator[Client]:
    """A synchronous client of it."""
    with connect(fake.url, api_key="k-123", retry=QUICK) as service:
        yield service
