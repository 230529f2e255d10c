"""Ways into a gateway: sockets, events of AWS, jobs of RunPod, and the client for tests."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from handlers.aws.function import LambdaApp
from handlers.runpod.worker import Worker
from router_core.client.portal import Portal
from router_core.gateway.gateway import Gateway
from router_core.http.multipart import parse_multipart
from router_core.testing.adapter_contract import Answer, Call
from router_core.testing.client import TestClient
from router_core.testing.lambda_runtime_api import RuntimeApi
from tests.aws.lambda_events import SHAPES, Context, received, round_trip, url

__all__ = ["ClientDoor", "EventDoor", "JobDoor", "SocketDoor", "StreamingDoor"]


class SocketDoor:
    """HTTP to a port of this machine, below a prefix."""

    def __init__(self, gateway: Gateway, port: int, prefix: str = "") -> None:
        self.gateway = gateway
        self._port = port
        self._prefix = prefix

    def call(self, call: Call) -> Answer:
        with self._sent(call) as connection:
            answer = connection.getresponse()
            headers = tuple((key.lower(), value) for key, value in answer.getheaders())
            return Answer(answer.status, headers, answer.read())

    @contextmanager
    def open(self, call: Call) -> Iterator[Iterator[bytes]]:
        with self._sent(call) as connection:
            answer = connection.getresponse()
            assert answer.status == 200
            yield iter(lambda: answer.read1(65536), b"")

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        with self._sent(call):
            when()

    @contextmanager
    def _sent(self, call: Call) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        target = self._prefix + call.path + (f"?{call.query}" if call.query else "")
        try:
            connection.request(call.method, target, call.body or None, dict(call.headers))
            yield connection
        finally:
            if connection.sock is not None:
                with contextlib.suppress(OSError):  # an answer that is still open holds the socket, too
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()


class EventDoor:
    """A Lambda function behind a front door that takes whole answers."""

    def __init__(self, gateway: Gateway, function: LambdaApp, shape: str) -> None:
        self.gateway = gateway
        self._function = function
        self._shape = shape

    def call(self, call: Call) -> Answer:
        event = round_trip(SHAPES[self._shape](call))
        return received(round_trip(self._function(event, Context(request_id="0" * 32))))

    def open(self, call: Call) -> Any:
        raise NotImplementedError

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        raise NotImplementedError


class StreamingDoor:
    """A Lambda function behind a URL, in the runtime that streams."""

    def __init__(self, gateway: Gateway, api: RuntimeApi) -> None:
        self.gateway = gateway
        self._api = api

    def call(self, call: Call) -> Answer:
        answer = self._api.invoke(url(call)).wait(60)
        head = answer.prelude
        return Answer(head["statusCode"], tuple(head["headers"].items()), answer.content)

    @contextmanager
    def open(self, call: Call) -> Iterator[Iterator[bytes]]:
        invocation = self._api.invoke(url(call))
        assert invocation.piece() is not None  # status and headers
        try:
            yield iter(invocation.piece, None)
        finally:
            invocation.cut()

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        raise NotImplementedError


class ClientDoor:
    """``TestClient``."""

    def __init__(self, gateway: Gateway, client: TestClient) -> None:
        self.gateway = gateway
        self._client = client

    def call(self, call: Call) -> Answer:
        target = call.path + (f"?{call.query}" if call.query else "")
        found = self._client.request(call.method, target, headers=dict(call.headers), body=call.body)
        return Answer(
            found.status, tuple((key.lower(), value) for key, value in found.headers), found.content
        )

    @contextmanager
    def open(self, call: Call) -> Iterator[Iterator[bytes]]:
        pieces = self._client.stream(call.method, call.path, headers=dict(call.headers), body=call.body)
        try:
            yield pieces
        finally:
            pieces.close()  # type: ignore[attr-defined]  # it is a generator

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        raise NotImplementedError


class JobDoor:
    """A RunPod worker: what stands in a body stands in the input of a job, beside the path."""

    def __init__(self, gateway: Gateway, worker: Worker, portal: Portal) -> None:
        self.gateway = gateway
        self._worker = worker
        self._portal = portal

    def call(self, call: Call) -> Answer:
        """Return the output of the job, or the problem that it failed with, as the body."""
        outcome = self._portal.run(self._worker.handle(as_job(call), _Line()))
        body = outcome.error.encode() if outcome.error else outcome.output
        return Answer(outcome.status, (), body)

    @contextmanager
    def open(self, call: Call) -> Iterator[Iterator[bytes]]:
        line = _Line()
        with self._cancelled(call, line):
            yield iter(lambda: b"data: " + line.chunks.get(timeout=20), b"data: ")

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        with self._cancelled(call, _Line()):
            when()

    @contextmanager
    def _cancelled(self, call: Call, line: _Line) -> Iterator[None]:
        async def begin() -> asyncio.Task[Any]:
            return asyncio.create_task(self._worker.handle(as_job(call), line))

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        task = self._portal.run(begin())
        try:
            yield
        finally:
            self._portal.run(end())


class _Line:
    """Keeps what a worker posts."""

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes] = queue.Queue()

    async def progress(self, body: bytes) -> None:
        """Leave it unread."""

    async def chunk(self, body: bytes) -> bool:
        """Keep it."""
        self.chunks.put(body)
        return True


def as_job(call: Call) -> dict[str, Any]:
    """Write a request as a job."""
    given: dict[str, Any] = {"path": unquote(call.path)}
    if call.method not in ("GET", "POST"):
        given["method"] = call.method
    if call.query:
        given |= dict(pair.split("=") for pair in call.query.split("&"))
    media = dict(call.headers).get("content-type", "")
    if media.startswith("multipart/"):
        given |= {name: getattr(part, "to_object", lambda part=part: part)()
                  for name, part in parse_multipart(call.body, media)}  # fmt: skip
    elif call.body:
        given |= json.loads(call.body)
    return {"id": "job-1", "input": given}


def running(target: Callable[[], Any]) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread
