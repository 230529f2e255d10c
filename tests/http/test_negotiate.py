"""Choosing by the Accept header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.http.negotiate import best_match

OFFERS = ("application/json", "text/plain")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("*", "application/json"),
        ("text/plain", "text/plain"),
        ("TEXT/Plain", "text/plain"),
        ("text/*", "text/plain"),
        ("text/plain;q=0.4, application/json;q=0.3", "text/plain"),
        ("text/plain;q=0.3, */*;q=0.4", "application/json"),
        ("*/*, application/json;q=0", "text/plain"),
        ("application/json;q=0, text/plain;q=0", None),
        ("image/png", None),
        ("text/plain; charset=utf-8; q=0.5", "text/plain"),
        ("application/json;q=x, text/plain;q=0.1", "text/plain"),
        (",,;q=1", "application/json"),
        ("application/json;q=7", "application/json"),
    ],
)
def test_the_best_offer_wins(accept: str, chosen: str | None) -> None:
    """By quality, then by our order; the most specific range counts."""
    assert best_match(accept, OFFERS) == chosen


@given(st.text())
def test_any_header_has_an_answer(accept: str) -> None:
    """Noise is no error."""
    assert best_match(accept, OFFERS) in (*OFFERS, None)
