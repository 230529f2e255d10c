"""Masking takes as long as a text is, whatever somebody has written into it."""

from __future__ import annotations

import pytest

from router_core.telemetry.masking import mask_text

LONG = 200_000


@pytest.mark.parametrize("piece", ["a.", "a-", "http://", "x://", "://a", "token=", "sk-", "bearer "])
def test_no_text_is_gone_through_from_each_of_its_points(piece: str) -> None:
    """What could begin a secret, over and over: gone through so often it would take many minutes."""
    assert len(mask_text(piece * (LONG // len(piece)))) <= LONG


def test_addresses_lose_their_queries_and_passwords() -> None:
    """Each of several, and those beside them that have none."""
    text = "http://a/b https://u:pw@h/p?sig=1 redis://:pw@h:1/0 http://c? (https://d?x=1)"
    shown = "http://a/b https://***@h/p?*** redis://***@h:1/0 http://c? (https://d?***"
    assert mask_text(text) == shown
