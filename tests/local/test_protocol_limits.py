"""Every phase of a connection has a deadline and a size; short ones here, so that tests can wait for them."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from handlers.local import asgi_send
from handlers.local.limits import Limits
from handlers.local.protocol_h11 import StrictH11Protocol
from handlers.local.protocol_httptools import StrictHttpToolsProtocol
from router_core.http.message import Request, Response
from router_core.telemetry.events import Note
from tests.local.tiny_app import Chunks, TinyApp, drain, echo, one_answer, served, talk

QUICK = Limits(
    header_timeout=0.3, body_timeout=0.3, stall_timeout=0.3, max_head_bytes=48 * 1024, max_connections=20
)
GET = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD_OF_POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(scope="module", params=["default", "httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Serve with short times."""
    protocol = {"default": None, "httptools": StrictHttpToolsProtocol, "h11": StrictH11Protocol}[
        request.param
    ]
    with served(TinyApp(), limits=QUICK, protocol=protocol) as number:
        yield number


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    """Without an answer: there was no request."""
    assert b" 200 " not in talk(port)


@pytest.mark.parametrize("start", [b"G", b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n"])
def test_an_incomplete_head_is_408(start: bytes, port: int, request: pytest.FixtureRequest) -> None:
    """However much of it has come."""
    if start == b"\r\n" and "h11" in request.node.name:
        pytest.skip("h11 refuses an empty line at once")
    answer = talk(port, start)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b"problem+json" in answer


def test_a_head_that_drips_is_408(port: int) -> None:
    """More bytes buy no more time."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe, whichever comes first
            while time.monotonic() - began < 5:
                sock.sendall(b"X: y\r\n")
                time.sleep(0.02)
        assert time.monotonic() - began < 4


def test_the_second_head_on_a_connection_is_held_to_the_time_too(port: int) -> None:
    """A connection does not earn trust."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(GET)
        assert one_answer(sock).startswith(b"HTTP/1.1 200")
        sock.sendall(b"GET /echo HT")
        assert drain(sock).startswith(b"HTTP/1.1 408")


def test_a_body_that_does_not_come_is_408(port: int) -> None:
    """The app never sees the request."""
    answer = talk(port, HEAD_OF_POST + b"abc")
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert answer.count(b"HTTP/1.1") == 1


def test_chunks_that_do_not_end_are_408(port: int) -> None:
    """The same for a body without a length."""
    start = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    assert talk(port, start).startswith(b"HTTP/1.1 408 ")


def test_a_body_in_time_is_served(port: int) -> None:
    """Pieces within the time are put together."""
    answer = talk(port, HEAD_OF_POST, b"01234", b"56789", until_close=False)
    assert b'"body":"0123456789"' in answer


def test_an_endless_head_is_431(port: int) -> None:
    """Before it is complete, so that it cannot fill the memory."""
    answer = talk(port, b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000)
    assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400") or answer == b"<reset>", answer[:200]


def test_too_many_connections_are_503() -> None:
    """Those who hold one keep it."""
    app = TinyApp()
    with served(app, limits=QUICK) as port, ExitStack() as stack:
        held = []
        for _ in range(QUICK.max_connections):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            sock.sendall(GET)
            one_answer(sock)
            held.append(sock)
        answer = talk(port, GET)
        assert answer.startswith(b"HTTP/1.1 503 "), answer
        assert b"retry-after: 1" in answer.lower()
        held[0].sendall(GET)
        # the one above the limit has gone, so the others are served again
        assert one_answer(held[0]).startswith(b"HTTP/1.1 200")
    names = {event.name for event in app.seen if isinstance(event, Note)}
    assert "http_refused" in names


def test_tiny_chunks_are_refused() -> None:
    """A megabyte in one-byte chunks costs a million parser events."""
    start = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served(TinyApp()) as port:
        answer = talk(port, start + b"1\r\na\r\n" * 100_000)
    assert b"HTTP/1.1 400" in answer or answer == b"<reset>", answer[:200]
    assert b"200 OK" not in answer


@pytest.mark.parametrize("whole", [True, False])
def test_a_reader_that_takes_nothing_is_cut_off(whole: bool) -> None:
    """Its stream is closed, and its memory is free."""
    streams: list[Chunks] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async def big(_request: Request) -> Response:
        if whole:
            return Response(200, (), b"x" * 30_000_000)
        streams.append(Chunks(endless()))
        return Response(200, (), streams[-1])

    app = TinyApp({("GET", "/echo"): echo, ("GET", "/big"): big})
    with served(app, limits=QUICK) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100)
        if not whole:
            assert streams[0].closed.wait(60)
        _wait_for(lambda: any(isinstance(event, Note) for event in app.seen))


@pytest.mark.parametrize("piece", [256 * 1024, 64_000_000])
def test_a_slow_but_steady_reader_is_served(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken counts, not how long it takes in all; also where an app hands over everything at once."""
    monkeypatch.setattr(asgi_send, "_SLICE", piece)
    whole = 24_000_000

    async def big(_request: Request) -> Response:
        return Response(200, (), b"x" * whole)

    app = TinyApp({("GET", "/big"): big})
    got = 0
    limits = Limits(stall_timeout=0.5)
    with (
        served(app, limits=limits) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as sock,
    ):
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        # twice the time limit, in many steps
        while chunk := sock.recv(1_000_000):
            got += len(chunk)
            time.sleep(len(chunk) / whole)
    assert got > whole


def test_slow_bodies_do_not_hold_up_others() -> None:
    """A hundred drips beside an honest client."""
    limits = Limits(header_timeout=5, body_timeout=5, max_connections=500)
    with served(TinyApp(), limits=limits) as port, ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            sock.sendall(b"GET /echo HTTP/1.1\r\nHost: loc")
        for _ in range(20):
            assert talk(port, GET, until_close=False).startswith(b"HTTP/1.1 200")


def _wait_for(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.mark.parametrize("split", [0, 60, 150, 190])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nabcde", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"]
)
def test_a_wish_for_another_protocol_is_ignored(body: bytes, split: int) -> None:
    """The body is not lost (Java's client sends this), and the connection goes on."""
    data = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + body
    with served(TinyApp()) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(data[:split])
        time.sleep(0.02 if split else 0)
        sock.sendall(data[split:])
        answer = one_answer(sock)
        assert b'"body":"abcde"' in answer
        assert b"h2c" not in answer
        sock.sendall(GET)
        assert one_answer(sock).startswith(b"HTTP/1.1 200")


def test_a_websocket_handshake_is_answered_as_http() -> None:
    """There is no websocket here; what was pipelined behind it is an ordinary request."""
    head = (
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    )
    with served(TinyApp()) as port:
        answer = talk(port, head)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"connection: close" in answer.lower()


def test_pipelined_wishes_for_another_protocol_are_ignored() -> None:
    """Each of them, though they come at once."""
    wish = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + b"\r\n"
    with served(TinyApp()) as port:
        answer = talk(port, wish * 3 + b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 4, answer


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("body", [b"", b"Content-Length: 5\r\n"])
def test_a_head_that_began_behind_another_request_is_held_to_the_limit(before: int, body: bytes) -> None:
    """The size of a head is counted, wherever in the received bytes it began."""
    first = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + body + b"\r\n" + b"abcde" * bool(body)
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 900) for number in range(90))
    second = b"GET /echo?second HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n"
    with served(TinyApp()) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(first * before + second[:60_000])
        answered = b""
        while answered.count(b"HTTP/1.1 200") < before or not answered.endswith(b"}" if before else b""):
            answered += sock.recv(65536)
        if before:
            sock.sendall(second[60_000:])
        answer = one_answer(sock)
    assert answer.startswith(b"HTTP/1.1 431"), answer[:200]
