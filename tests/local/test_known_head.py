"""A head that was seen before is taken as read: the same bytes get the same answer, and others a look."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from router_core.security.api_keys import ApiKeys
from tests.local.test_protocol_smuggling import REFUSED
from tests.local.tiny_app import TinyApp, drain, one_answer, served, watched_heads

KEY = "a-key-of-sixteen-or-more"
HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve a route that needs no task, and a key."""
    app = TinyApp(authenticator=ApiKeys.from_setting(f"me:{KEY}"), taskless=["/echo"])
    with served(app) as number:
        yield number


@pytest.fixture
def sock(port: int) -> Iterator[socket.socket]:
    """Connect, and send the same head twice."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for _ in range(2):
            connection.sendall(post(b"hello"))
            assert b'"body":"hello"' in one_answer(connection)
        yield connection


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for each request that is compared whether its head was known."""
    return watched_heads(monkeypatch)


def post(body: bytes, head: bytes = HEAD, more: bytes = b"") -> bytes:
    """Return a request."""
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(body), more, body)


def test_the_same_head_is_known(taken: list[bool], sock: socket.socket) -> None:
    """Whatever the length of the body, and what comes out is what would have come out."""
    answer = first = b""
    for body in (b"hello", b"x" * 10, b"y" * 1000, b"z" * 65536, b"hello"):
        sock.sendall(post(body))
        answer = one_answer(sock)
        assert b'"size":%d' % len(body) in answer
        assert b'["content-length","%d"]' % len(body) in answer
        assert b'"principal":"me"' in answer
        first = first or _plain(answer)
    assert _plain(answer) == first
    # a large body comes in pieces, and is parsed
    assert taken[:4] == [True, True, True, True]


def test_each_request_has_its_own_id(sock: socket.socket) -> None:
    """Unless its head names one: then that."""
    ids = set()
    for _ in range(3):
        sock.sendall(post(b"hello"))
        ids.update(re.findall(rb"x-request-id: (\S+)", one_answer(sock)))
    assert len(ids) == 3
    for _ in range(3):
        sock.sendall(post(b"hello", more=b"X-Request-Id: r-7\r\n"))
        assert b"x-request-id: r-7\r\n" in one_answer(sock)


OTHERS = {
    "another key": (HEAD.replace(KEY.encode(), KEY.upper().encode()), b"401"),
    "no key": (HEAD.split(b"Authorization")[0], b"401"),
    "another host": (HEAD.replace(b"localhost", b"evil.example"), b"400"),
    "another path": (HEAD.replace(b"/echo", b"/nothing"), b"404"),
    "another method": (HEAD.replace(b"POST", b"DELETE"), b"405"),
    "a foreign page": (HEAD + b"Origin: http://evil.example\r\n", b"403"),
    "a coding": (HEAD + b"Content-Encoding: gzip\r\n", b"415"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_head_is_judged(name: str, sock: socket.socket) -> None:
    """However little it differs, and whatever came before it."""
    head, status = OTHERS[name]
    sock.sendall(post(b"hello", head))
    assert one_answer(sock).startswith(b"HTTP/1.1 " + status)
    if status == b"415":
        return  # nobody reads that body, so the connection has ended
    sock.sendall(post(b"hello"))
    assert b'"body":"hello"' in one_answer(sock)


def test_what_comes_after_the_length_is_compared(port: int) -> None:
    """Another page that sends as many bytes is another page."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for host, status in ((b"localhost", b"200"), (b"localhost", b"200"), (b"evil.host", b"403")):
            sock.sendall(post(b"hello", more=b"Origin: http://" + host + b"\r\n"))
            assert one_answer(sock).startswith(b"HTTP/1.1 " + status)


def test_what_is_asked_of_a_body_is_asked_of_the_first_one(port: int) -> None:
    """A coding that an empty body may have is not one that the next body may have."""
    head = HEAD + b"Content-Encoding: gzip\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for body, status in ((b"", b"200"), (b"", b"200"), (b"hello", b"415")):
            sock.sendall(post(body, head))
            assert one_answer(sock).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("name", REFUSED)
def test_smuggling_is_refused_behind_a_known_head(name: str, port: int, sock: socket.socket) -> None:
    """As on a fresh connection."""
    sock.sendall(REFUSED[name])
    answer = drain(sock)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as fresh:
        fresh.sendall(REFUSED[name])
        expected = drain(fresh)
    assert _plain(answer) == _plain(expected)
    assert re.match(rb"HTTP/1.1 (4|5)", answer)


@pytest.mark.parametrize(
    "length", [b"+5", b" 5 5", b"0x5", b"5_0", b"", b"-5", b"5,5", b"99999999999999999999"]
)
def test_a_length_that_is_no_number_is_refused(length: bytes, sock: socket.socket) -> None:
    """Though all around it is known."""
    sock.sendall(HEAD + b"Content-Length: " + length + b"\r\n\r\nhello")
    assert drain(sock).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


@pytest.mark.parametrize("at", [1, 40, len(HEAD), len(post(b"hello")) - 6, len(post(b"hello")) - 1])
def test_a_request_in_pieces_is_parsed(at: int, sock: socket.socket) -> None:
    """Wherever it is cut."""
    raw = post(b"hello")
    for _ in range(2):
        sock.sendall(raw[:at])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(raw[at:])
        assert b'"body":"hello"' in one_answer(sock)


def test_what_follows_a_request_is_the_next(sock: socket.socket) -> None:
    """Two in one piece are two, the second of them with whatever head."""
    sock.sendall(post(b"one") + post(b"GET /x", more=b"Connection: close\r\n"))
    answer = drain(sock)
    assert answer.index(b'"body":"one"') < answer.index(b'"body":"GET /x"')
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def _plain(answer: bytes) -> bytes:
    """Leave out what differs from one answer to the next."""
    answer = re.sub(rb"[0-9a-f]{32}", b"ID", answer)
    return re.sub(rb"date: [^\r]*\r\n", b"", answer)
