"""Multipart bodies, as parts and as noise."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.errors import BadRequest
from router_core.http.media import File
from router_core.http.multipart import parse_multipart, parse_urlencoded

TYPE = "multipart/form-data; boundary=b"
NAME = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=10)


def encode(parts: list[tuple[str, str, bytes]]) -> bytes:
    """Write parts of (name, file name, content) as clients do."""
    body = b""
    for name, filename, content in parts:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        body += head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"
    return body + b"--b--\r\n"


@given(st.lists(st.tuples(NAME, NAME, st.binary(max_size=300)), max_size=4))
def test_parts_come_back_as_they_were_sent(parts: list[tuple[str, str, bytes]]) -> None:
    """Names, types and every byte of the content, unless the content holds the boundary."""
    if any(b"\r\n--b" in content for _, _, content in parts):
        return
    expected = [
        (name, File(content, filename=filename, content_type="image/png"))
        for name, filename, content in parts
    ]
    assert parse_multipart(encode(parts), TYPE) == expected


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_noise_is_a_bad_request_or_nothing(noise: bytes, tail: bytes) -> None:
    """Whatever stands in the body, no other error comes out."""
    for body in (noise, b"--b" + noise, b"--b\r\n" + noise + b"\r\n\r\n" + tail + b"\r\n--b--\r\n"):
        with contextlib.suppress(BadRequest):
            parse_multipart(body, TYPE)


@given(st.binary(max_size=200))
def test_any_cut_of_a_good_body_is_refused(content: bytes) -> None:
    """A body that ends early is never taken for a shorter one."""
    if b"\r\n--b" in content:
        return
    body = encode([("a", "f", content)])
    for end in range(0, len(body) - 3, 7):
        with pytest.raises(BadRequest):
            parse_multipart(body[:end], TYPE)


def test_a_file_without_a_type_is_known_by_its_name() -> None:
    """Some clients call everything an octet stream."""
    body = b'--b\r\nContent-Disposition: form-data; name="i"; filename="C:\\x\\a.png"\r\n\r\nx\r\n--b--\r\n'
    assert parse_multipart(body, TYPE) == [("i", File(b"x", filename="a.png", content_type="image/png"))]


def test_a_form_is_pairs_in_order() -> None:
    """Blank values and repetitions included."""
    assert parse_urlencoded(b"a=1&b=&a=%C3%BC+x&c") == [("a", "1"), ("b", ""), ("a", "ü x"), ("c", "")]
