"""Lines of JSON, in any pieces."""

from __future__ import annotations

from typing import Any

import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.http.ndjson import NdjsonParser, encode_line

VALUES = st.lists(st.none() | st.integers(-(10**9), 10**9) | st.text() | st.lists(st.booleans()), max_size=5)


@given(VALUES, st.integers(1, 7))
def test_values_come_back_whatever_the_pieces(values: list[Any], size: int) -> None:
    """Cut anywhere, also inside a character."""
    data = b"".join(encode_line(pydantic_core.to_json(value)) for value in values)
    parser = NdjsonParser()
    found = [value for at in range(0, len(data), size) for value in parser.feed(data[at : at + size])]
    assert found + parser.close() == values


def test_a_last_line_needs_no_line_break() -> None:
    """Blank lines are nothing; what is left at the end is a value."""
    parser = NdjsonParser()
    assert parser.feed(b"1\n\n\r\n2") == [1]
    assert parser.close() == [2]
    assert parser.close() == []


def test_a_line_has_a_limit() -> None:
    """Complete or not."""
    for data in (b"1" * 11, b"1" * 11 + b"\n"):
        with pytest.raises(ValueError, match="longer than 10"):
            NdjsonParser(10).feed(data)


def test_a_line_that_is_no_json_is_an_error() -> None:
    """The reader decides what to do about it."""
    with pytest.raises(ValueError, match="expected"):
        NdjsonParser().feed(b"nonsense\n")
