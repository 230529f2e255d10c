"""A caller who hangs up, over real sockets through every door: noticed where somebody asked to be told."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from handlers.local.protocol_h11 import StrictH11Protocol
from handlers.local.server import ServeOptions
from router_core import JobContext, Router, Settings, build_app
from router_core.app import App
from router_core.http.disconnect import interrupt_when_gone
from router_core.http.message import Headers, Request, Response
from router_core.jobs.job import Job, State
from tests.local.tiny_app import TinyApp, drain, one_answer, served

DOORS: dict[str, dict[str, Any]] = {
    "direct": {},
    "asgi": {"options": ServeOptions(direct=False)},
    "h11": {"options": ServeOptions(direct=False), "protocol": StrictH11Protocol},
}
door = pytest.mark.parametrize("way", DOORS.values(), ids=DOORS)


class Works:
    """A service with one job that runs until it is cancelled."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.cancelled = threading.Event()
        router = Router()

        @router.route("/work")
        async def work(job: JobContext, n: int) -> int:
            self.running.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return n

        settings = Settings(jobs="memory://", blobs="memory://", port=0, log_level="error", drain_grace=0.1)
        self.app: App = build_app(router, settings)


def post(port: int, target: str, body: bytes = b'{"n": 1}') -> socket.socket:
    """Send a job request and return the connection, unread."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return sock


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.01)


@door
def test_a_job_whose_caller_asked_for_it_ends_with_the_call(way: dict[str, Any]) -> None:
    """The function is stopped and the waiter is free."""
    works = Works()
    with served(works.app, **way) as port:
        sock = post(port, "/work?sync=true&cancel_on_disconnect=true")
        assert works.running.wait(60)
        assert works.app.service.hub.waiting
        sock.close()
        assert works.cancelled.wait(60)
        eventually(lambda: not works.app.service.hub.waiting)


@door
def test_any_other_job_outlives_its_caller(way: dict[str, Any]) -> None:
    """Only the wait ends; the job is there for whoever asks."""
    works = Works()
    with served(works.app, **way) as port:
        sock = post(port, "/work?sync=true")
        assert works.running.wait(60)
        eventually(lambda: works.app.service.hub.waiting)
        sock.close()
        eventually(lambda: not works.app.service.hub.waiting)
        assert not works.cancelled.is_set()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as again:
            again.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b'"status":"running"' in one_answer(again)


@door
def test_a_long_poll_ends_with_its_caller(way: dict[str, Any]) -> None:
    """A place among the waiters is not held for nobody."""
    works = Works()
    with served(works.app, **way) as port:
        with post(port, "/work") as sock:
            location = one_answer(sock).lower().split(b"location: ")[1].split(b"\r\n")[0]
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(b"GET " + location + b"?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: works.app.service.hub.waiting)
        sock.close()
        eventually(lambda: not works.app.service.hub.waiting)


@door
def test_a_caller_who_stays_is_answered_on_the_same_connection(way: dict[str, Any]) -> None:
    """Having been watched takes nothing from the connection."""
    seen: list[bool] = []

    async def watched(request: Request) -> Response:
        assert request.disconnected is not None
        leaving = asyncio.ensure_future(request.disconnected())
        await asyncio.sleep(0.02)
        seen.append(leaving.done())
        leaving.cancel()
        return Response.text("here")

    with served(TinyApp({("GET", "/watched"): watched}), **way) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            for _ in range(2):
                sock.sendall(b"GET /watched HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert one_answer(sock).endswith(b"here")
            sock.sendall(b"GET /watched HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert drain(sock).endswith(b"here")
    assert seen == [False] * 3


async def test_a_caller_in_this_process_can_say_that_it_has_gone() -> None:
    """An adapter of one's own tells it by what it gives the request; one that cannot tell gives nothing."""
    works = Works()
    await works.app.start()
    try:
        gone = asyncio.Event()

        async def disconnected() -> None:
            await gone.wait()

        request = Request(
            "POST", "/work", "sync=true&cancel_on_disconnect=true",
            Headers([("content-type", "application/json")]), b'{"n": 1}', disconnected=disconnected,
        )  # fmt: skip
        answering = asyncio.create_task(works.app.handle(request))
        assert await asyncio.to_thread(works.running.wait, 10)
        gone.set()
        answer = await asyncio.wait_for(answering, 60)
        job = await works.app.parts.store.get(_job_id(answer))
        assert isinstance(job, Job)
        assert job.state in (State.CANCELLING, State.CANCELLED)
    finally:
        await works.app.stop(0.5)


def _job_id(answer: Response) -> str:
    return (answer.header("location") or "").rpartition("/")[2]


class Streams(TinyApp):
    """Streams without end, and calls that wait without end, until their reader has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.closed = threading.Event()
        self.told = threading.Event()

    async def handle(self, request: Request) -> Response:
        """Answer as the path says."""
        if request.path == "/late":
            assert request.disconnected is not None
            self.began.set()
            await request.disconnected()
        if request.path in ("/wait", "/late"):
            interruption = interrupt_when_gone(request)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert interruption.happened
                interruption.acquit()
                self.told.set()
            finally:
                interruption.forget()
        more = (("connection", "close"),) if request.path == "/last" else ()
        fields = (*more, ("content-type", "text/plain"), ("x-request-id", request.id))
        return Response(200, fields, self._endless())

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more\n"
                await asyncio.sleep(0.01)
        finally:
            self.closed.set()


@door
def test_a_stream_is_closed_when_its_reader_has_gone(way: dict[str, Any]) -> None:
    """The generator's own clean-up runs, and the server goes on."""
    app = Streams()
    with served(app, **way) as port:
        sock = post(port, "/stream")
        assert b"200 OK" in sock.recv(65536)
        sock.close()
        eventually(app.closed.is_set)


@door
def test_a_waiting_call_is_told_that_its_caller_has_gone(way: dict[str, Any]) -> None:
    """Its task is cancelled, through each door, and may go on."""
    app = Streams()
    with served(app, **way) as port:
        sock = post(port, "/wait")
        time.sleep(0.05)
        assert not app.told.is_set()
        sock.close()
        eventually(app.told.is_set)


@door
def test_a_call_that_asks_late_is_told_as_well(way: dict[str, Any]) -> None:
    """Who it is for may have gone while it was found out who that is."""
    app = Streams()
    with served(app, **way) as port:
        sock = post(port, "/late")
        assert app.began.wait(60)
        sock.close()
        assert app.told.wait(60)


@door
def test_a_stream_is_closed_when_its_reader_has_gone_and_had_asked_for_more(way: dict[str, Any]) -> None:
    """Another request waits behind it, and the stream is one that goes out the way of ASGI."""
    app = Streams()
    with served(app, **way) as port:
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(b"GET /last HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        assert b"200 OK" in sock.recv(65536)
        sock.close()
        assert app.closed.wait(60)
