"""One contract for every way in: the direct door, ASGI on a socket and ASGI without one answer alike."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers.local.asgi import AsgiApp
from handlers.local.server import ServeOptions, make_config
from router_core.errors import RateLimited
from router_core.http.message import Request, Response
from router_core.middleware.exchange import Admission
from router_core.telemetry.events import Note, RequestDone
from tests.local.tiny_app import Chunks, TinyApp, drain, echo, one_answer, served, talk

TELL = b"Host: localhost\r\nX-Request-Id: r-1\r\n"


async def text(_request: Request) -> Response:
    """Answer with a text."""
    return Response.text("grüße", headers=[("X-Own", "1"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")])


async def closing(_request: Request) -> Response:
    """End the connection."""
    return Response.text("bye", headers=[("Connection", "close")])


async def empty(request: Request) -> Response:
    """Answer with a status alone, or with a length that is nobody's business."""
    return Response(int(request.query or 204), (("content-length", "7"), ("etag", '"x"')))


async def big(_request: Request) -> Response:
    """Answer with more than goes out in one piece."""
    return Response(200, (("content-type", "text/plain"),), b"x" * 300_000)


async def chunks() -> AsyncIterator[bytes]:
    """Give three pieces."""
    for piece in (b"one ", b"two ", b"three"):
        await asyncio.sleep(0)
        yield piece


async def stream(_request: Request) -> Response:
    """Answer with a stream."""
    return Response(200, (("content-type", "text/plain"),), chunks())


async def broken_stream(_request: Request) -> Response:
    """Answer with a stream that breaks off."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("lost")

    return Response(200, (), pieces())


async def injected(_request: Request) -> Response:
    """Try to write a header of somebody else's."""
    return Response(200, (("x-a", "b\r\nset-cookie: c=d"),), b"never")


async def odd_status(_request: Request) -> Response:
    """Use a status without a name."""
    return Response(299, (), b"odd")


async def failing(_request: Request) -> Response:
    """Fail."""
    raise KeyError("secret")


async def busy(_request: Request) -> Response:
    """Refuse."""
    raise RateLimited("later", retry_after=3)


async def timed(_request: Request) -> Response:
    """Use what needs a task of its own."""
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    return Response.text("in time")


HANDLERS = {
    ("GET", "/text"): text, ("GET", "/closing"): closing, ("GET", "/empty"): empty, ("GET", "/big"): big,
    ("GET", "/stream"): stream, ("GET", "/broken"): broken_stream, ("GET", "/injected"): injected,
    ("GET", "/odd"): odd_status, ("GET", "/failing"): failing, ("GET", "/busy"): busy,
    ("GET", "/timed"): timed, ("GET", "/echo"): echo, ("POST", "/echo"): echo, ("GET", "/a b"): echo,
}  # fmt: skip


def ask(
    target: str,
    *lines: str,
    method: str = "GET",
    body: bytes = b"",
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    """Return a request that ends its connection."""
    head = [f"{method} {target} HTTP/{version}", "Host: localhost", "X-Request-Id: r-1", *lines]
    if not any(line.lower().startswith("connection:") for line in lines):
        head.append("Connection: close")
    if body and length:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


CASES = {
    "text": ask("/text"),
    "echo": ask("/echo?a=1&b=%20c", "X-A: 1", "x-a: 2", "Accept: */*"),
    "post": ask("/echo", method="POST", body=b"hello"),
    "empty post": ask("/echo", "Content-Length: 0", method="POST"),
    "post without a length": ask("/echo", method="POST"),
    "64 KiB": ask("/echo", method="POST", body=b"x" * 65536),
    "more than 64 KiB": ask("/echo", method="POST", body=b"x" * 65537),
    "too large": ask("/echo", "Content-Length: 200001", method="POST"),
    "chunked": ask("/echo", "Transfer-Encoding: chunked", method="POST", length=False,
                   body=b"2\r\nab\r\n1\r\nc\r\n0\r\nTrailer: x\r\n\r\n"),
    "packed": ask("/echo", "Content-Encoding: gzip", method="POST", body=b"x"),
    "expect": ask("/echo", "Expect: 100-continue", method="POST", body=b"hello"),
    "upgrade": ask("/echo", "Connection: Upgrade, close", "Upgrade: h2c", method="POST", body=b"hello"),
    "websocket": ask("/echo", "Connection: Upgrade, close", "Upgrade: websocket"),
    "head": ask("/text", method="HEAD"),
    "head of nothing": ask("/nothing", method="HEAD"),
    "head of a stream": ask("/stream", method="HEAD"),
    "1.0": ask("/text", version="1.0"),
    "1.0 keep-alive": ask("/text", "Connection: keep-alive", version="1.0"),
    "app closes": ask("/closing"),
    "204": ask("/empty"),
    "304": ask("/empty?304"),
    "200 without a body": ask("/empty?200"),
    "big": ask("/big"),
    "stream": ask("/stream"),
    "stream over 1.0": ask("/stream", version="1.0"),
    "broken stream": ask("/broken"),
    "header injection": ask("/injected"),
    "odd status": ask("/odd"),
    "exception": ask("/failing"),
    "problem with a header": ask("/busy"),
    "timeouts work": ask("/timed"),
    "no route": ask("/nothing"),
    "method": ask("/text", method="DELETE"),
    "escaped": ask("/a%20b?x=%2F"),
    "escaped slash": ask("/echo%2Fx"),
    "bad escape": ask("/echo%zz"),
    "bad escape in the query": ask("/echo?%zz"),
    "double slash": ask("//echo"),
    "dots": ask("/../echo"),
    "semicolon": ask("/echo;v=1"),
    "absolute": ask("http://localhost/echo?x=1"),
    "options": ask("*", method="OPTIONS"),
    "other bytes in the query": ask("/echo?a=[b]|{c}"),
    "long target": ask("/" + "a" * 8300),
    "long query": ask("/echo?" + "a" * 8300),
    "wrong host": b"GET /echo HTTP/1.1\r\nHost: evil.example\r\n"
    b"X-Request-Id: r-1\r\nConnection: close\r\n\r\n",
    "foreign origin": ask("/echo", "Origin: http://evil.example", method="POST", body=b"x"),
    "too many fields": ask("/echo", *[f"X-{n}: y" for n in range(120)]),
    "fields too large": ask("/echo", *[f"X-{n}: {'y' * 1000}" for n in range(40)]),
    "not ascii": ask("/echo", "X-A: gr\u00fc\u00dfe"),
}  # fmt: skip
SOCKET_ONLY = {"expect", "upgrade", "websocket", "1.0", "1.0 keep-alive", "stream over 1.0", "absolute",
               "options", "not ascii"}  # fmt: skip
"""What uvicorn does with these happens before ASGI, and has no like in a scope that a test makes."""
DIRECT = {"text", "echo", "post", "64 KiB", "head", "1.0", "204", "big", "stream", "exception", "no route"}


@dataclass
class Way:
    """One server, and which cycles its requests came as."""

    app: TinyApp
    port: int = 0
    natives: list[str] = field(default_factory=list)

    def ask(self, raw: bytes) -> tuple[bytes, list[Any]]:
        """Return the answer without its date, and what was reported."""
        self.app.seen.clear()
        answer = talk(self.port, raw)
        _wait_for(lambda: bool(self.app.seen) or b"HTTP/1.1 4" in answer)
        return _undated(answer), _reports(self.app)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def ways(request: pytest.FixtureRequest) -> Iterator[dict[str, Way]]:
    """Serve one app through the door and one without it."""
    found = {name: Way(make_app()) for name in ("direct", "asgi")}
    found["taskless"] = Way(make_app(sorted({path for _, path in HANDLERS} - {"/timed", "/a b"})))
    if request.param == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        loop = uvloop.new_event_loop
    else:
        loop = asyncio.new_event_loop
    for way in found.values():
        _watch(way)
    with (
        pytest.MonkeyPatch.context() as patch,
        served(found["direct"].app, loop=loop) as direct,
        served(found["asgi"].app, loop=loop, options=ServeOptions(direct=False)) as plain,
        served(found["taskless"].app, loop=loop) as taskless,
    ):
        # how long a body that nobody reads is swallowed is all one here
        patch.setattr("handlers.local.asgi_send._LINGER_SECONDS", 0.2)
        found["direct"].port, found["asgi"].port, found["taskless"].port = direct, plain, taskless
        yield found


def make_app(taskless: Sequence[str] = ()) -> TinyApp:
    """Return an app with every kind of answer."""
    return TinyApp(HANDLERS, taskless=taskless, max_body_bytes=200_000)


@pytest.mark.parametrize("way", ["direct", "taskless"])
@pytest.mark.parametrize("name", CASES)
def test_the_door_answers_as_asgi_does(name: str, way: str, ways: dict[str, Way]) -> None:
    """Byte for byte, and the same is reported, with a task and without one."""
    answer, reports = ways[way].ask(CASES[name])
    expected, expected_reports = ways["asgi"].ask(CASES[name])
    assert answer == expected
    assert answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
    assert reports == expected_reports
    if name in DIRECT:
        assert ways[way].natives[-1] == "DirectCycle"
    assert "DirectCycle" not in ways["asgi"].natives


@pytest.mark.parametrize("name", sorted(set(CASES) - SOCKET_ONLY))
async def test_asgi_without_a_socket_answers_the_same(name: str, ways: dict[str, Way]) -> None:
    """Status, fields and body."""
    answer, _ = await asyncio.to_thread(ways["direct"].ask, CASES[name])
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = [tuple(line.split(b": ", 1)) for line in lines]
    status, own_fields, own_body = await _in_process(CASES[name])
    assert int(first.split(b" ")[1]) == status
    hop = (b"connection", b"transfer-encoding")
    assert [pair for pair in fields if pair[0] not in hop] == [
        pair for pair in own_fields if pair[0] not in hop
    ]
    assert (_dechunked(body) if (b"transfer-encoding", b"chunked") in fields else body) == own_body


def test_a_connection_is_used_again(ways: dict[str, Way]) -> None:
    """Through the door, past it, and through it again."""
    with socket.create_connection(("127.0.0.1", ways["direct"].port), timeout=60) as sock:
        for index in range(3):
            sock.sendall(b"POST /echo HTTP/1.1\r\n" + TELL + b"Content-Length: 3\r\n\r\na%db" % index)
            assert b'"body":"a%db"' % index in one_answer(sock)
            sock.sendall(b"GET /a%20b HTTP/1.1\r\n" + TELL + b"\r\n")
            assert b'"path":"/a b"' in one_answer(sock)
        sock.sendall(b"GET /text HTTP/1.1\r\n" + TELL + b"Connection: close\r\n\r\n")
        assert drain(sock).endswith("grüße".encode())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_are_put_together(size: int, ways: dict[str, Way]) -> None:
    """Wherever the network cuts."""
    raw = ask("/echo", method="POST", body=b"0123456789" * 20)
    answer = talk(ways["direct"].port, *(raw[at : at + size] for at in range(0, len(raw), size)))
    assert b'"size":200' in answer


def test_pipelined_requests_are_answered_in_order() -> None:
    """Though the first takes longer than those behind it."""

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(0.05)
        return Response.text("slow")

    app = TinyApp({("GET", "/slow"): slow, ("GET", "/echo"): echo, ("GET", "/stream"): stream})
    lines = [
        b"GET /%b HTTP/1.1\r\n" % name + TELL for name in (b"slow", b"echo?1", b"stream", b"slow", b"echo?2")
    ]
    raw = b"\r\n".join(lines) + b"Connection: close\r\n\r\n"
    with served(app) as port:
        answer = talk(port, raw)
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    places = [answer.index(word) for word in (b"slow", b'"query":"1"', b"three", b'"query":"2"')]
    assert places == sorted(places)


def test_native_is_the_scope() -> None:
    """As ASGI would have it, although none was made."""
    natives: list[Any] = []

    async def look(request: Request) -> Response:
        natives.append(dict(request.native))
        return Response.text("")

    app = TinyApp({("GET", "/look"): look})
    raw = b"GET /look?a=1 HTTP/1.1\r\n" + TELL + b"Connection: close\r\n\r\n"
    for direct in (True, False):
        with served(app, options=ServeOptions(direct=direct)) as port:
            talk(port, raw)
    for native in natives:
        native.pop("client"), native.pop("server")
    assert natives[0] == natives[1]


def test_a_peer_that_leaves_is_not_answered() -> None:
    """Its function ends as it would; its stream is closed."""
    streams: list[Chunks] = []
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.001)

    async def flow(_request: Request) -> Response:
        streams.append(Chunks(endless()))
        return Response(200, (), streams[-1])

    async def wait(_request: Request) -> Response:
        began.set()
        while not go.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.005)
        ended.set()
        return Response.text("nobody reads this")

    app = TinyApp({("GET", "/flow"): flow, ("GET", "/wait"): wait, ("GET", "/echo"): echo})
    with served(app) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET /flow HTTP/1.1\r\n" + TELL + b"\r\n")
            assert sock.recv(100)
        assert streams[0].closed.wait(60)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET /wait HTTP/1.1\r\n" + TELL + b"\r\n")
            assert began.wait(60)
        go.set()
        assert ended.wait(60)
        assert b"200 OK" in talk(port, ask("/echo"))
    assert [event.name for event in app.seen if isinstance(event, Note) and event.level != "info"] == []


def test_an_idle_connection_is_closed_in_time_and_no_other() -> None:
    """One that is used lives on, however often the timer rings meanwhile."""

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response.text("slow")

    app = TinyApp({("GET", "/slow"): slow, ("GET", "/echo"): echo})
    with (
        served(app, keep_alive=0.3) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as sock,
    ):
        for target in (b"/echo", b"/slow", b"/echo"):
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\n" + TELL + b"\r\n")
            assert one_answer(sock).startswith(b"HTTP/1.1 200")
        assert sock.recv(1) == b""


def test_an_app_that_is_cancelled_or_broken_below_the_stack_is_500() -> None:
    """And the connection ends, as uvicorn has it."""

    class Broken(TinyApp):
        async def handle(self, request: Request) -> Response:
            """Fail in some way."""
            if request.path == "/cancelled":
                raise asyncio.CancelledError
            raise ValueError("not even a problem")

    answers = []
    for direct in (True, False):
        with served(Broken(), options=ServeOptions(direct=direct)) as port:
            answers.append([_undated(talk(port, ask(path))) for path in ("/cancelled", "/x")])
    assert answers[0] == answers[1]
    assert all(b" 500 Internal Server Error" in answer for answer in answers[0])


def test_requests_are_counted_and_leave_nothing_behind() -> None:
    """uvicorn's own numbers, which its shutdown waits for."""
    app = TinyApp(HANDLERS)
    states: list[Any] = []
    with served(app, on_server=lambda server: states.append(server.server_state)) as port:
        for raw in (ask("/text"), ask("/stream"), ask("/a%20b"), ask("/failing"), ask("/big")):
            talk(port, raw)
        _wait_for(lambda: not states[0].tasks and not states[0].connections)
        assert states[0].total_requests == 5


def test_the_door_can_be_shut() -> None:
    """By an option, or because something stands between: then ASGI is the only way."""
    app = TinyApp()
    assert make_config(AsgiApp(app), app, ServeOptions()).door is not None
    assert make_config(AsgiApp(app), app, ServeOptions(direct=False)).door is None


# --- parts ---------------------------------------------------------------------------------------


def _watch(way: Way) -> None:
    inner = way.app.handle

    async def handle(request: Request) -> Response:
        way.natives.append(type(request.native).__name__)
        return await inner(request)

    way.app.handle = handle  # type: ignore[method-assign]
    step = way.app.admitted

    async def admitted(request: Request, admission: Admission) -> Response:
        way.natives.append(type(request.native).__name__)
        return await step(request, admission)

    way.app.admitted = admitted


def _undated(answer: bytes) -> bytes:
    answer = re.sub(rb"date: [^\r]*\r\n", b"", answer)
    # ids of requests that were refused before their head was read
    return re.sub(rb"[0-9a-f]{32}", b"<id>", answer)


def _reports(app: TinyApp) -> list[Any]:
    return [
        (
            event.method,
            event.path,
            event.route,
            event.status,
            event.client,
            event.bytes_out,
            event.disconnected,
        )
        if isinstance(event, RequestDone)
        else (type(event).__name__, getattr(event, "name", ""), getattr(event, "message", ""))
        for event in app.seen
    ]


def _wait_for(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it does not happen")


def _dechunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return whole


async def _in_process(raw: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    path, _, query = target.partition(b"?")
    fields = [(name.lower(), value) for name, value in (line.split(b": ", 1) for line in lines)]
    if (b"transfer-encoding", b"chunked") in fields:
        body = b"abc"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method.decode(),
        "path": path.decode(), "raw_path": path, "query_string": query, "root_path": "", "scheme": "http",
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "headers": fields,
    }  # fmt: skip
    sent: list[MutableMapping[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asgi = AsgiApp(make_app())
    async with asgi.lifespan():
        await asgi(scope, receive, send)
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    fields = [(name, _undated(value)) for name, value in sent[0]["headers"]]
    return sent[0]["status"], fields, _undated(answer)
