"""What bounds the work on wrong input gives the same answers as what it replaces."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from router_core.binding.fail_fast import fail_fast
from router_core.binding.strict_json import loads
from router_core.errors import BadRequest
from router_core.http.multipart import parse_urlencoded
from router_core.http.percent import unquote_bytes

MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
PIECES = [
    b"%41",
    b"%3d",
    b"%3D",
    b"%0a",
    b"=",
    b"=\n",
    b"=\r\n",
    b" ",
    b"\t\n",
    b"_",
    b"a",
    b"\xff",
    b"%%",
    b"%4",
]
FIELDS = [b"%41", b"a", b"=", b"&", b"+", b"%26", b"%2B", b"%C3%A9", "é".encode(), b";", b"\n"]
JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


class Inner(BaseModel):
    """Holds lists and maps."""

    numbers: list[int] = []
    by_name: dict[str, list[bool]] = {}


class Outer(BaseModel):
    """Holds models that hold lists."""

    many: list[Inner] = []
    pair: tuple[int, str] | None = None
    unique: set[int] = set()
    named: Inner | list[str] = []


@given(st.lists(st.sampled_from(PIECES)).map(b"".join))
@example(b"%")
@example(b"=41%41=\n")
def test_escapes_are_those_of_the_standard_library(data: bytes) -> None:
    """Byte for byte, but a malformed escape is refused instead of being left as it is."""
    if MALFORMED.search(data):
        with pytest.raises(ValueError, match="hexadecimal"):
            unquote_bytes(data)
    else:
        assert unquote_bytes(data) == unquote_to_bytes(data)


@given(st.lists(st.sampled_from(FIELDS)).map(b"".join))
def test_forms_are_those_of_the_standard_library(body: bytes) -> None:
    """Pair for pair, blank values and repeated names included."""
    assert parse_urlencoded(body) == parse_qsl(body.decode(), keep_blank_values=True)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Outer.model_fields, JSON)))
@example({"many": [{"numbers": [1, 2]}, {"numbers": ["x", "y"]}, {"numbers": "z"}]})
def test_a_hurried_validator_takes_what_the_patient_one_takes(value: dict[str, Any]) -> None:
    """The same values come out, and the same input is refused."""
    adapter = TypeAdapter(Outer)
    try:
        expected: Outer | None = adapter.validate_python(value)
    except ValidationError:
        expected = None
    try:
        found = fail_fast(adapter).validate_python(value)
    except ValidationError:
        found = None
    assert found == expected


def test_a_hurried_validator_stops_at_the_first_wrong_item() -> None:
    """Also within a model, whose class has a validator of its own."""
    with pytest.raises(ValidationError) as caught:
        fail_fast(TypeAdapter(Outer)).validate_python({"many": [{"numbers": ["x"] * 1000}] * 1000})
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("width", [1, 60_000])
@pytest.mark.parametrize("depth", [63, 64, 65])
def test_depth_is_counted_across_blocks(width: int, depth: int) -> None:
    """64 levels pass and 65 do not, wherever the deepest value stands and whatever texts hold brackets."""
    flat = '"[[{",' + "[]," * width
    body = f"[{flat}{'[' * (depth - 1)}{']' * (depth - 1)},{flat}1]".encode()
    if depth <= 64:
        assert loads(body)[-1] == 1
        return
    with pytest.raises(BadRequest) as caught:
        loads(body)
    assert caught.value.code == "json_too_deep"
