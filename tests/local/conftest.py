"""What tests of the shape of RunPod begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.local.shape_parts import Endpoint


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint with four routes and an open store."""
    made = Endpoint()
    await made.store.open()
    yield made
    await made.store.close()
