"""Server-sent events survive the way there and back, in any pieces, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.http.sse import ServerEvent, SseParser, encode_event

LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))
EVENTS = st.lists(
    st.builds(
        ServerEvent,
        data=st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])),
        event=LINE,
        id=LINE,
        retry=st.none() | st.integers(0, 10**8),
    ),
    max_size=5,
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut the bytes at the given places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@given(EVENTS, st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_come_back_as_they_were_sent(
    events: list[ServerEvent], cuts: list[int], line_end: bytes
) -> None:
    """Whatever the pieces and whichever of the three line ends the sender uses."""
    data = b"".join(encode_event(event) for event in events).replace(b"\n", line_end)
    parser = SseParser()
    found = [event for piece in pieces(data, cuts) for event in parser.feed(piece)]
    assert found == events


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_can_be_fed(data: list[bytes]) -> None:
    """Noise gives events or nothing, never an error, and the same for every cut."""
    parser, whole = SseParser(), SseParser()
    found = [event for piece in data for event in parser.feed(piece)]
    assert found == whole.feed(b"".join(data))


def test_the_standard_is_followed_in_its_corners() -> None:
    """Comments, unknown fields, missing blanks, a byte order mark, an event without data, an id with NUL."""
    parser = SseParser()
    events = parser.feed(
        b"\xef\xbb\xbf: comment\n\ndata\n\nevent: x\n\ndata:a\ndata:  b\nid: 1\nwhat: ever\nid: \0\n\n"
        b"retry: 5\nretry: soon\ndata: c\n\ndata: unfinished\n"
    )
    assert events == [ServerEvent(), ServerEvent("a\n b", id="1"), ServerEvent("c", retry=5)]
    assert parser.last_id == "1"


@pytest.mark.parametrize(
    "event", [ServerEvent("x", event="a\nb"), ServerEvent("x", id="a\rb"), ServerEvent("x", id="\0")]
)
def test_a_name_or_id_cannot_forge_a_field(event: ServerEvent) -> None:
    """Line breaks are refused where they would begin another field."""
    with pytest.raises(ValueError, match="line break"):
        encode_event(event)


def test_carriage_returns_in_data_become_line_feeds() -> None:
    """They end a line for the reader, so they cannot be carried as they are."""
    assert SseParser().feed(encode_event(ServerEvent("a\r\nb\rc"))) == [ServerEvent("a\nb\nc")]


@pytest.mark.parametrize("data", [b"x" * 101, b"data: " + b"x" * 101 + b"\n", b"data: 123456\n" * 20])
def test_one_event_has_a_limit(data: bytes) -> None:
    """A line without an end, a long line, and an event of many lines: each stops at the limit."""
    parser = SseParser(max_event=100)

    def feed_bytewise() -> None:
        for at in range(len(data)):
            parser.feed(data[at : at + 1])

    with pytest.raises(ValueError, match="larger than 100"):
        feed_bytewise()
    with pytest.raises(ValueError, match="larger than 100"):
        SseParser(max_event=100).feed(data)
