"""The ASGI application: heads, bodies, streams and life, driven message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from handlers.local import asgi_send
from handlers.local.asgi import AsgiApp
from router_core.http.message import Request, Response
from router_core.telemetry.events import Note, RequestDone
from tests.local.tiny_app import Chunks, TinyApp, echo

Message = MutableMapping[str, Any]


class Peer:
    """The server's side of one ASGI call."""

    def __init__(self, *incoming: Message) -> None:
        self._incoming = list(incoming)
        self._gone = asyncio.Event()
        self.sent: list[Message] = []
        self.received = 0
        self.answered_before_reading = False
        self.wait_before_body: asyncio.Event | None = None

    async def receive(self) -> Message:
        """Give the next message."""
        self.received += 1
        if self.received == 1:
            self.answered_before_reading = bool(self.sent)
        if self._incoming:
            return self._incoming.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take one message."""
        self.sent.append(message)
        if self.wait_before_body is not None and message["type"] == "http.response.body":
            await self.wait_before_body.wait()

    def leave(self) -> None:
        """Disconnect."""
        self._gone.set()

    @property
    def status(self) -> int:
        """Status of the answer."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        """The whole body of the answer."""
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    def header(self, name: bytes) -> bytes | None:
        """First value of a header of the answer."""
        return next((value for key, value in self.sent[0]["headers"] if key == name), None)


def scope(method: str = "GET", path: str = "/echo", **more: Any) -> Message:
    """Return an HTTP scope as uvicorn gives it."""
    raw = more.pop("raw_path", path.encode())
    headers = more.pop("headers", [])
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": raw, "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80), "headers": [(b"host", b"localhost"), *headers], **more,
    }  # fmt: skip


def body(data: bytes, more: bool = False) -> Message:
    """Return one piece of a body."""
    return {"type": "http.request", "body": data, "more_body": more}


async def call(app: TinyApp, asked: Message, *incoming: Message) -> Peer:
    """Run one request."""
    peer = Peer(*incoming)
    await AsgiApp(app)(asked, peer.receive, peer.send)
    return peer


async def test_a_get_does_not_touch_receive() -> None:
    """No body, no message: the common read costs nothing."""
    peer = await call(TinyApp(), scope(query_string=b"a=1"))
    assert peer.status == 200
    assert peer.received == 0
    assert b'"query":"a=1"' in peer.body
    assert peer.header(b"content-length") == str(len(peer.body)).encode()


async def test_a_body_in_pieces_is_one_body() -> None:
    """Chunks are joined."""
    asked = scope("POST", headers=[(b"transfer-encoding", b"chunked")])
    peer = await call(TinyApp(), asked, body(b"ab", True), body(b"", True), body(b"cd"))
    assert b'"body":"abcd"' in peer.body


@pytest.mark.parametrize(
    ("headers", "pieces", "status"),
    [
        ([(b"content-length", b"11")], [], 413),
        ([(b"content-length", b"10")], [body(b"0123456789")], 200),
        ([(b"transfer-encoding", b"chunked")], [body(b"012345", True), body(b"678910")], 413),
        ([(b"transfer-encoding", b"chunked")], [body(b"012345678910")], 413),
        ([(b"content-length", b"15"), (b"content-type", b"multipart/form-data; boundary=x")],
         [body(b"012345678901234")], 200),
        ([(b"content-length", b"21"), (b"content-type", b"Multipart/Form-Data; boundary=x")], [], 413),
        ([(b"content-length", b"abc")], [], 400),
        ([(b"content-length", b"-1")], [], 400),
        ([(b"content-length", b"9" * 30)], [], 400),
        ([(b"content-length", b"9" * 19)], [], 413),
    ],
)  # fmt: skip
async def test_body_limits(headers: Any, pieces: list[Message], status: int) -> None:
    """By what is announced and by what comes; uploads have a limit of their own."""
    app = TinyApp(max_body_bytes=10, max_upload_bytes=20)
    pieces = pieces or [{"type": "http.disconnect"}]
    peer = await call(app, scope("POST", headers=headers), *pieces)
    assert peer.status == status
    if status != 200:
        assert peer.header(b"connection") == b"close"
        assert peer.header(b"content-type") == b"application/problem+json"
        assert peer.sent[-1].get("more_body", False) is False
        assert [event.status for event in app.seen if isinstance(event, RequestDone)] == [status]


@pytest.mark.parametrize(
    ("coding", "status"),
    [(b"gzip", 415), (b"br", 415), (b"x", 415), (b"identity, gzip", 415), (b"Identity", 200)],
)
async def test_packed_bodies_are_refused(coding: bytes, status: int) -> None:
    """They are not unpacked, and so not read as if they were plain."""
    headers = [(b"content-length", b"2"), (b"content-encoding", coding)]
    peer = await call(TinyApp(), scope("POST", headers=headers), body(b"{}"))
    assert peer.status == status
    assert (peer.header(b"accept-encoding") == b"identity") is (status == 415)


async def test_the_limit_of_a_route_wins() -> None:
    """A route may take more than the settings say, and its caller is asked for first."""
    app = TinyApp(max_body_bytes=10)
    app.table.routes["POST", "/echo"].max_body_bytes = 200_000
    data = b"x" * 100_000
    peer = await call(app, scope("POST", headers=[(b"content-length", b"100000")]), body(data))
    assert peer.status == 200
    peer = await call(app, scope("POST", headers=[(b"content-length", b"100")]), body(data[:100]))
    assert peer.status == 200, "a small body was held to the limit of the settings"
    peer = await call(app, scope("POST", "/nowhere", headers=[(b"content-length", b"100000")]), body(data))
    assert peer.status == 404
    assert peer.answered_before_reading, "a body for nobody was read"


async def test_a_body_that_never_comes_is_408() -> None:
    """Also under servers that know no time limit."""
    peer = await call(TinyApp(body_timeout=0.05), scope("POST", headers=[(b"content-length", b"5")]))
    assert peer.status == 408


async def test_a_peer_that_leaves_during_its_body_is_not_answered() -> None:
    """And the app is not asked."""
    app = TinyApp()
    asked = scope("POST", headers=[(b"content-length", b"5")])
    peer = await call(app, asked, body(b"ab", True), {"type": "http.disconnect"})
    assert peer.sent == []
    assert app.seen == []


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"/%zz", 400), (b"/%", 400), (b"/%f", 400), (b"/%ff", 400), (b"/%c0%af", 400), (b"/%00", 400),
        (b"/%ed%a0%80", 400), (b"/a%2fecho", 404), (b"/%2Fecho", 404), (b"//echo", 404), (b"/./echo", 404),
        (b"/x/../echo", 404), (b"/%2e%2e/echo", 404), (b"/%2e/echo", 404), (b"/echo;x=1", 404),
        (b"/echo/", 404),
        (b"/ECHO", 404), (b"/echo%20", 404), (b"/echo%00", 400), (b"/e%63ho", 200), (b"/" + b"a" * 9000, 414),
        (b"/\\echo", 404),
    ],
)  # fmt: skip
async def test_paths_are_never_repaired(raw: bytes, status: int) -> None:
    """A path means what it says; what cannot be read is refused."""
    from urllib.parse import unquote

    peer = await call(TinyApp(), scope(path=unquote(raw.decode()), raw_path=raw))
    assert peer.status == status, peer.body


async def test_an_escaped_slash_does_not_name_another_route() -> None:
    """What is in front of us may have judged the path by its segments."""
    app = TinyApp({("GET", "/jobs/1"): echo})
    assert (await call(app, scope(path="/jobs/1", raw_path=b"/jobs/1"))).status == 200
    for raw in (b"/jobs%2F1", b"/jobs%2f1", b"/%6aobs%2F1"):
        assert (await call(app, scope(path="/jobs/1", raw_path=raw))).status == 404


@pytest.mark.parametrize(
    "more",
    [
        {"raw_path": None, "path": "/\ufffd"},
        {"query_string": b"a=\xff"},
    ],
)
async def test_undecodable_targets_are_400(more: dict[str, Any]) -> None:
    """Whatever the server could not decode."""
    assert (await call(TinyApp(), {**scope(), **more})).status == 400


async def test_sizes_of_the_head() -> None:
    """Too many fields, too many bytes, too long a query."""
    many = [(b"x-%d" % number, b"y") for number in range(100)]
    assert (await call(TinyApp(), scope(headers=many))).status == 431
    assert (await call(TinyApp(), scope(headers=many[:99]))).status == 200
    assert (await call(TinyApp(), scope(headers=[(b"x", b"y" * 40_000)]))).status == 431
    assert (await call(TinyApp(), scope(query_string=b"a" * 9000))).status == 414


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-DEF_1.2", True), (b"a" * 128, True), (b"a" * 129, False), (b"", False), (b"a b", False),
     (b"a\x1b[31m", False), ("é".encode(), False)],
)  # fmt: skip
async def test_request_id(given: bytes, kept: bool) -> None:
    """A well-formed id is kept, another replaced; the answer carries it."""
    peer = await call(TinyApp(), scope(headers=[(b"x-request-id", given)]))
    answered = peer.header(b"x-request-id")
    assert (answered == given) is kept
    assert answered


async def test_headers_are_read_lazily_and_rightly() -> None:
    """By name, first of several, all of them, and all pairs."""
    seen: list[Request] = []

    async def look(request: Request) -> Response:
        seen.append(request)
        return Response()

    pairs = [(b"x", b"1"), (b"X-Y".lower(), b"caf\xe9"), (b"x", b"2")]
    await call(TinyApp({("GET", "/echo"): look}), scope(headers=pairs))
    headers = seen[0].headers
    assert headers["X"] == "1"
    assert headers.get("nothing") is None
    assert headers.get("nothing", "z") == "z"
    assert "x-y" in headers
    assert "\u20ac" not in headers
    assert headers["x-Y"] == "café"
    assert headers.getlist("x") == ["1", "2"]
    assert list(headers) == ["host", "x", "x-y"]
    assert len(headers) == 3
    assert dict(headers)["x"] == "1"
    assert headers.items_list()[1:] == (("x", "1"), ("x-y", "café"), ("x", "2"))
    assert "café" not in repr(headers)
    with pytest.raises(KeyError):
        headers["nothing"]


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x=1", "a\nb", "a\rb", "a\0b", "a\x7f", "\u20ac"])
async def test_a_header_that_cannot_be_sent_is_500(value: str) -> None:
    """Nothing of it reaches the wire, and the log says which header it was."""

    async def bad(_request: Request) -> Response:
        return Response(200, (("x-name", value),), b"secret")

    app = TinyApp({("GET", "/echo"): bad})
    peer = await call(app, scope())
    assert peer.status == 500
    assert peer.header(b"x-name") is None
    assert b"secret" not in peer.body
    assert [e.name for e in app.seen if isinstance(e, Note)] == ["response_header_refused"]


async def test_our_framing_wins() -> None:
    """An answer cannot bring its own length or coding."""

    async def bad(_request: Request) -> Response:
        return Response(200, (("Content-Length", "99"), ("Transfer-Encoding", "chunked"), ("X", "y")), b"abc")

    peer = await call(TinyApp({("GET", "/echo"): bad}), scope())
    assert [value for name, value in peer.sent[0]["headers"] if name == b"content-length"] == [b"3"]
    assert peer.header(b"transfer-encoding") is None
    assert peer.header(b"x") == b"y"


async def test_head_and_empty_answers() -> None:
    """HEAD has the length and not the body; 204 and 304 have neither."""

    async def nothing(_request: Request) -> Response:
        return Response(204, (), b"ignored")

    app = TinyApp({("GET", "/echo"): echo, ("GET", "/none"): nothing})
    peer = await call(app, scope("HEAD"))
    assert peer.status == 200
    assert peer.body == b""
    assert int(peer.header(b"content-length") or b"0") > 50
    peer = await call(app, scope(path="/none"))
    assert peer.status == 204
    assert peer.body == b""
    assert peer.header(b"content-length") is None


async def test_an_app_that_raises_is_500() -> None:
    """The stack answers everything; this is the net below it."""
    app = TinyApp()

    async def broken(_request: Request) -> Response:
        raise LookupError("secret")

    app.handle = broken  # type: ignore[method-assign, assignment]
    peer = await call(app, scope())
    assert peer.status == 500
    assert b"secret" not in peer.body


# --- streams -------------------------------------------------------------------------------------


def streaming(chunks: AsyncIterator[bytes]) -> tuple[TinyApp, Chunks]:
    """Return an app that answers with a stream, and the stream."""
    stream = Chunks(chunks)

    async def answer(_request: Request) -> Response:
        return Response(200, (("content-type", "text/plain"),), stream)

    return TinyApp({("GET", "/echo"): answer}), stream


async def numbers(count: int) -> AsyncIterator[bytes]:
    """Yield some chunks, an empty one among them."""
    for number in range(count):
        yield b"%d," % number
        yield b""


async def test_a_stream_is_sent_chunk_by_chunk() -> None:
    """Each as one message, then an end; it is closed and counted."""
    app, stream = streaming(numbers(3))
    peer = await call(app, scope())
    assert [message.get("body") for message in peer.sent[1:]] == [b"0,", b"1,", b"2,", b""]
    assert [message.get("more_body", False) for message in peer.sent[1:]] == [True, True, True, False]
    assert stream.closed.is_set()
    done = [event for event in app.seen if isinstance(event, RequestDone)]
    assert [(event.bytes_out, event.disconnected) for event in done] == [(6, False)]


@pytest.mark.parametrize("chatty", [True, False])
async def test_a_stream_is_closed_when_its_reader_leaves(chatty: bool) -> None:
    """Whether it has just yielded or waits for its next value."""
    begun = asyncio.Event()
    cleaned = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            begun.set()
            if not chatty:
                await asyncio.sleep(3600)
            while True:
                await asyncio.sleep(0)
                yield b"more"
        finally:
            cleaned.set()

    app, stream = streaming(endless())
    peer = Peer()
    task = asyncio.create_task(AsgiApp(app)(scope(), peer.receive, peer.send))
    await begun.wait()
    peer.leave()
    await asyncio.wait_for(task, 60)
    assert cleaned.is_set()
    assert stream.closed.is_set()
    done = [event for event in app.seen if isinstance(event, RequestDone)]
    assert [event.disconnected for event in done] == [True]


async def test_a_stream_whose_reader_takes_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under servers that would let it wait for ever."""
    monkeypatch.setattr(asgi_send, "STALL_SECONDS", 0.05)
    app, stream = streaming(numbers(5))
    peer = Peer()
    peer.wait_before_body = asyncio.Event()
    await asyncio.wait_for(AsgiApp(app)(scope(), peer.receive, peer.send), 60)
    assert stream.closed.is_set()
    assert "slow_reader_closed" in [event.name for event in app.seen if isinstance(event, Note)]
    assert peer.sent[-1].get("more_body") is True, "the body must not look complete"


async def test_a_stream_that_waits_long_for_its_own_values_is_not_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the reader is held to the time."""
    monkeypatch.setattr(asgi_send, "STALL_SECONDS", 0.05)

    async def patient() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0.2)
        yield b"b"

    app, _ = streaming(patient())
    peer = await call(app, scope())
    assert peer.body == b"ab"
    assert peer.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_stream_that_fails_has_no_end() -> None:
    """The reader sees that something is missing; the log sees why."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("secret")

    app, stream = streaming(broken())
    peer = await call(app, scope())
    assert peer.sent[-1].get("more_body") is True
    assert stream.closed.is_set()
    notes = [event for event in app.seen if isinstance(event, Note)]
    assert [note.name for note in notes] == ["stream_failed"]
    assert isinstance(notes[0].error, ValueError)


async def test_cancelling_the_server_task_closes_the_stream_and_goes_through() -> None:
    """A server that shuts down is not swallowed."""
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"a"
        started.set()
        await asyncio.sleep(3600)

    app, stream = streaming(endless())
    peer = Peer()
    task = asyncio.create_task(AsgiApp(app)(scope(), peer.receive, peer.send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed.is_set()


async def test_no_task_is_left_behind() -> None:
    """The watcher of a stream ends with it."""
    app, _ = streaming(numbers(2))
    await call(app, scope())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- life ----------------------------------------------------------------------------------------


async def test_lifespan_starts_and_stops() -> None:
    """As servers drive it."""
    app = TinyApp()
    sent: list[Message] = []
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await AsgiApp(app)({"type": "lifespan"}, receive, send)
    assert app.life == ["start", "stop"]
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_failed_start_is_told() -> None:
    """To the server, with the reason."""
    app = TinyApp()

    async def fail() -> None:
        raise RuntimeError("no disk")

    app.start = fail  # type: ignore[method-assign]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await AsgiApp(app)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no disk"}]
    peer = await call(app, scope())
    assert peer.status == 503
    assert b"no disk" not in peer.body


async def test_a_mounted_app_starts_once_with_its_first_requests() -> None:
    """However many come at the same time."""
    app = TinyApp()
    served = AsgiApp(app)
    peers = [Peer() for _ in range(20)]
    await asyncio.gather(*(served(scope(), peer.receive, peer.send) for peer in peers))
    assert app.life == ["start"]
    assert {peer.status for peer in peers} == {200}


async def test_websockets_are_declined() -> None:
    """Politely, before the handshake."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await AsgiApp(TinyApp())({"type": "websocket", "path": "/"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
