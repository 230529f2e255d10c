"""Cutting bytes into events: the same events from whatever pieces they come in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.streams.scan import (
    EventTooLongError,
    RawEvent,
    Splitter,
    parse_event,
    split_events,
)
from router_core.http.sse import SseParser

_LINE = st.sampled_from([
    b"data: {\"a\": 1}", b"data:x", b"data: ", b"data", b": ping", b":", b"event: delta", b"id: 7",
    b"retry: 10", b"data: \xc3\xa9\xe2\x82\xac", b"data:  two", b"data: [DONE]", b"garbage", b"",
])  # fmt: skip
_STREAM = st.lists(st.tuples(_LINE, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=30).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
_CUTS = st.lists(st.integers(0, 400), max_size=30)


def _pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(each, len(whole)) for each in cuts} | {0, len(whole)})
    return [whole[start:end] for start, end in pairwise(places)]


def _events(pieces: list[bytes]) -> tuple[list[RawEvent], bytes]:
    splitter = Splitter()
    whole = [splitter.feed(piece) for piece in pieces]
    events = [parse_event(raw) for piece in whole for raw in split_events(piece)]
    return [event for event in events if event.data or event.name], b"".join(whole) + splitter.rest()


@given(_STREAM, _CUTS)
def test_any_cut_gives_the_same_events_and_the_same_bytes(stream: bytes, cuts: list[int]) -> None:
    """Cut anywhere, even inside a CRLF or a character."""
    pieces = _pieces(stream, cuts)
    events, out = _events(pieces)
    assert out == stream
    single, _ = _events([stream[at : at + 1] for at in range(len(stream))])
    assert events == single == _events([stream])[0]


@given(_STREAM, _CUTS)
def test_events_are_those_of_the_standard(stream: bytes, cuts: list[int]) -> None:
    """The product's own reader of server-sent events finds the same data."""
    # that reader ends an event as soon as its line ends; here a last CR may yet become a CRLF
    stream += b"data: last\n\n"
    expected = [event.data for event in SseParser().feed(stream) if event.data]
    events, _ = _events(_pieces(stream, cuts))
    assert [event.data.decode() for event in events if event.data] == expected


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """And it stays in the bytes."""
    events, out = _events([b"\xef", b"\xbb\xbfdata: x\n", b"\n"])
    assert events == [RawEvent(b"x")]
    assert out.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        (b"data: x\n\n", RawEvent(b"x")),
        (b"data: x\r\n\r\n", RawEvent(b"x")),
        (b"data:x\n\n", RawEvent(b"x")),
        (b"data:  x\n\n", RawEvent(b" x")),
        (b"data: a\ndata: b\n\n", RawEvent(b"a\nb")),
        (b"event: e\ndata: x\nid: 1\nretry: 2\n\n", RawEvent(b"x", b"e")),
        (b": comment\n\n", RawEvent(b"")),
        (b"\ndata: x\n\n", RawEvent(b"x")),
        (b"<html>\n\n", RawEvent(b"", b"", True)),
        (b"data\n\n", RawEvent(b"")),
        (b"data: x", RawEvent(b"x")),
        (b"", RawEvent(b"")),
    ],
)
def test_events_are_read(raw: bytes, event: RawEvent) -> None:
    """One field after the other."""
    assert parse_event(raw) == event


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_a_line_that_never_ends_is_given_up(size: int) -> None:
    """No more than the cap and one piece is ever kept."""
    splitter = Splitter(most=1000)
    for _ in range(1000 // size):
        assert splitter.feed(b"x" * size) == b""
    with pytest.raises(EventTooLongError):
        splitter.feed(b"x" * size)
    assert len(splitter.pending) <= 1000 + size


def test_lines_that_end_in_an_event_that_does_not_are_given_up_too() -> None:
    """Many short lines without an empty one are one event."""
    splitter = Splitter(most=1000)
    for _ in range(1000 // 8):
        assert splitter.feed(b"data: x\n") == b""
    with pytest.raises(EventTooLongError):
        splitter.feed(b"data: x\n")


def test_an_event_that_comes_whole_may_not_be_larger_either() -> None:
    """The cap is for events, however they come; many small ones in one piece are fine."""
    small = b"data: x\n\n" * 500
    assert Splitter(most=1000).feed(small) == small
    with pytest.raises(EventTooLongError):
        Splitter(most=1000).feed(b"data: x\n\ndata: " + b"y" * 1000 + b"\n\ndata: z\n\n")
    fitting = b"data: " + b"y" * 992 + b"\n\n"
    assert Splitter(most=1000).feed(fitting) == fitting


def test_a_megabyte_in_single_bytes_is_cheap() -> None:
    """The time for each byte does not grow with what is kept already."""
    splitter = Splitter()
    for _ in range(200_000):
        splitter.feed(b"x")
    assert len(splitter.pending) == 200_000
