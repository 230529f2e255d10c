"""What tests of tokens of an issuer begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.security.jwt_parts import Desk, Issuer, desk


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer whose JWKS is there."""
    async with Issuer().serving() as made:
        yield made


@pytest.fixture
async def taking(issuer: Issuer) -> AsyncIterator[Desk]:
    """A service that takes its tokens."""
    async with desk(issuer) as made:
        yield made
