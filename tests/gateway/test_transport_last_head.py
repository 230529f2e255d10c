"""Answers with the head of the last one: they are read in a shorter way, and mean the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.transport.answer import Answer, Names, Unusable
from router_core.gateway.transport.last_head import LastHead

_MOST = 10_000


def whole(body: bytes, more: bytes = b"", *, kind: bytes = b"application/json") -> bytes:
    """Return an answer of status 200."""
    length = b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bServer: up\r\n%b\r\n%b" % (kind, length, more, body)


def read(answer: Answer, data: bytes, *, stream: bool = False) -> tuple[object, ...]:
    """Feed one answer and return all that can be told of it."""
    answer.begin(stream)
    try:
        known = answer.known(data)
        if known is not None:
            return (200, answer.last_headers, True, False, answer.reusable, known)
        answer.feed(data)
        body = b"" if answer.streams or not answer.complete else answer.body()
    except Unusable as error:
        return ("unusable", error.kind)
    told = (answer.status, dict(answer.headers) if answer.status else {}, answer.complete, answer.streams)
    return (*told, answer.reusable, body)


def test_the_second_with_a_head_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one with a body of another length; its fields are those that the parser would have found."""
    answer = Answer(Names(), _MOST)
    read(answer, whole(b"{}"))
    answer._feed = None  # whoever parses fails
    for body in (b"{}", b"", b'{"a":1}', b"x" * 2000):
        status, headers, complete, streams, reusable, found = read(answer, whole(body))
        assert (status, complete, streams, reusable, found) == (200, True, False, True, body)
        assert headers == {
            "content-type": "application/json", "content-length": str(len(body)), "server": "up",
        }  # fmt: skip


ODD = [
    whole(b"{}", b"Connection: close\r\n"),
    whole(b"{}", b"Content-Encoding: gzip\r\n"),
    whole(b"{}", kind=b"text/event-stream"),
    whole(b"x" * (_MOST + 1)),
    whole(b"{}") + b"x",
    whole(b"{}") * 2,
    whole(b"{}")[:-1],
    whole(b"{}").replace(b"200", b"429"),
    whole(b"{}").replace(b"t-Length: 2", b"t-Length: +2"),
    whole(b"{}").replace(b"t-Length: 2", b"t-Length: 02"),
    whole(b"{}").replace(b"t-Length: 2", b"t-Length: 2 "),
    whole(b"{}").replace(b"t-Length: 2", b"t-Length: "),
    whole(b"{}").replace(b"t-Length: 2", b"t-Length: 2\r\nContent-Length: 2"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + whole(b"{}"),
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


@given(
    answers=st.lists(
        st.one_of(st.builds(whole, st.sampled_from([b"{}", b"", b"abc", b"x" * 999])), st.sampled_from(ODD)),
        min_size=1, max_size=6,
    ),
    cut=st.integers(0, 200),
    stream=st.booleans(),
)  # fmt: skip
def test_what_is_known_changes_nothing(answers: list[bytes], cut: int, stream: bool) -> None:
    """One that has seen the others, and one that has seen none, find the same in the last of them."""
    last = LastHead()
    for each in answers:
        knowing, fresh = Answer(Names(), _MOST, last), Answer(Names(), _MOST)
        assert read(knowing, each, stream=stream) == read(fresh, each, stream=stream)
    told = []
    for answer in (Answer(Names(), _MOST, last), Answer(Names(), _MOST)):
        answer.begin(stream)
        try:
            known = answer.known(answers[-1][:cut])
            if known is None:
                answer.feed(answers[-1][:cut])
            if known is None and not answer.complete:
                assert answer.known(answers[-1][cut:]) is None
                answer.feed(answers[-1][cut:])
            body = b"".join(answer.pieces) if known is None else known
            told.append((answer.status or 200, answer.reusable, body))
        except Unusable as error:
            told.append((0, False, error.kind.encode()))
    assert told[0] == told[1]


def test_heads_that_are_never_alike_are_soon_left_alone() -> None:
    """To note each of them would be work for nothing; now and then one is, for times change."""
    last = LastHead()
    answer = Answer(Names(), _MOST, last)
    noted = set()
    for number in range(200):
        read(answer, whole(b"{}", b"X-Request-Id: %d\r\n" % number))
        noted.add(last.headers["x-request-id"])
    assert len(noted) < 20
    for _ in range(70):
        read(answer, whole(b"{}"))
    assert "x-request-id" not in last.headers
