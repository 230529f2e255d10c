"""A stand-in for Lambda's runtime API: what the program in a function talks to.

    with RuntimeApi() as api:
        ...  # start a runtime with AWS_LAMBDA_RUNTIME_API=api.address
        call = api.invoke({"hello": "world"})
        answer = call.wait(60)

AWS's own emulator buffers streams; here each piece of an answer can be looked at as it comes.
"""

from __future__ import annotations

import base64
import json
import queue
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

__all__ = ["Answer", "Invocation", "RuntimeApi"]

_ROOT = "/2018-06-01/runtime"


@dataclass(slots=True)
class Answer:
    """What the runtime has sent for one call."""

    kind: str = ""
    """``response`` or ``error``."""
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    """False where the runtime went away in the middle."""

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def prelude(self) -> dict[str, Any]:
        """Status, headers and cookies of a streamed answer."""
        head: dict[str, Any] = json.loads(self.body.partition(b"\0" * 8)[0])
        return head

    @property
    def content(self) -> bytes:
        """What a streamed answer holds after its prelude."""
        return self.body.partition(b"\0" * 8)[2]

    @property
    def failure(self) -> dict[str, Any] | None:
        """The error that a streamed answer ended with."""
        text = self.trailers.get("lambda-runtime-function-error-body")
        return None if text is None else json.loads(base64.b64decode(text))


class Invocation:
    """One call: pieces of its answer can be taken as they come."""

    def __init__(self, event: Any, seconds: float) -> None:
        self.id = str(uuid.uuid4())
        self.body = event if isinstance(event, bytes) else json.dumps(event).encode()
        self.deadline_ms = int((time.time() + seconds) * 1000)
        self.answer = Answer()
        self.pieces: queue.Queue[bytes | None] = queue.Queue()
        """Chunks as they stood on the wire; None after the last."""
        self._connection: socket.socket | None = None
        self._done = threading.Event()

    def piece(self, timeout: float = 10.0) -> bytes | None:
        """Return the next piece of the answer, or None at its end."""
        return self.pieces.get(timeout=timeout)

    def wait(self, timeout: float = 10.0) -> Answer:
        """Return the whole answer."""
        if not self._done.wait(timeout):
            raise TimeoutError("the runtime has not answered")
        return self.answer

    def cut(self) -> None:
        """Go away in the middle of the answer, as when the client has gone."""
        if self._connection is not None:
            self._connection.shutdown(socket.SHUT_RDWR)


class RuntimeApi:
    """Hands out calls and takes answers; a context manager. ``limit`` is the largest whole answer."""

    def __init__(self, limit: int = 6_291_556) -> None:
        self.limit = limit
        self.init_errors: queue.Queue[dict[str, Any]] = queue.Queue()
        """What runtimes have said that could not start."""
        self.asked = threading.Semaphore(0)
        """Released each time that a runtime asks for a call."""
        self._calls: queue.Queue[Invocation | None] = queue.Queue()
        self._open: dict[str, Invocation] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._calls.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    @property
    def address(self) -> str:
        """The value of AWS_LAMBDA_RUNTIME_API."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def invoke(self, event: Any, *, seconds: float = 30.0) -> Invocation:
        """Call the function: the next runtime that asks gets the event."""
        call = Invocation(event, seconds)
        self._open[call.id] = call
        self._calls.put(call)
        return call

    def take(self) -> Invocation | None:
        """Return the next call, or None when there will be none."""
        self.asked.release()
        call = self._calls.get()
        if call is None:
            self._calls.put(None)  # for the next one that asks
        return call

    def opened(self, request_id: str) -> Invocation | None:
        """Return a call that was handed out."""
        return self._open.get(request_id)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    disable_nagle_algorithm = True
    api: RuntimeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: runtimes are killed in tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server
    _kinds: ClassVar[frozenset[str]] = frozenset({"response", "error"})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Hand out the next call."""
        if self.path != f"{_ROOT}/invocation/next":
            self._send(404, b"{}")
            return
        call = self.server.api.take()
        if call is None:
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": call.id,
            "Lambda-Runtime-Deadline-Ms": str(call.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:service",
            "Lambda-Runtime-Trace-Id": "Root=1-5c536348-3d683b8b04734faae651f476;Parent=53995c3f;Sampled=1",
        }
        self._send(200, call.body, headers)

    def do_POST(self) -> None:
        """Take an answer."""
        parts = self.path.removeprefix(_ROOT).split("/")
        if parts[1:] == ["init", "error"]:
            self.server.api.init_errors.put(json.loads(self._whole()))
            self._send(202, b"{}")
            return
        call = self.server.api.opened(parts[2]) if len(parts) == 4 else None
        if call is None or parts[3] not in self._kinds:
            self._whole()
            self._send(404, b"{}")
            return
        self._take(call, parts[3])

    def _take(self, call: Invocation, kind: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = Answer(kind, headers)
        call._connection = self.connection
        try:
            if "chunked" in headers.get("transfer-encoding", ""):
                self._chunks(call, answer)
            else:
                answer.body = self._whole()
                if kind == "response" and len(answer.body) > self.server.api.limit:
                    self._send(413, b'{"errorType": "RequestEntityTooLarge"}')
                    return
                answer.complete = True
            self._send(202, b'{"status": "OK"}')
        finally:
            call.answer = answer
            call.pieces.put(None)
            call._done.set()

    def _chunks(self, call: Invocation, answer: Answer) -> None:
        while True:
            line = self.rfile.readline()
            if not line.strip():
                raise ConnectionError("cut in the middle")
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                break
            data = self.rfile.read(size)
            if len(data) < size:
                raise ConnectionError("cut in the middle")
            self.rfile.readline()
            answer.body += data
            call.pieces.put(data)
        while line := self.rfile.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            answer.trailers[name.lower()] = value.strip()
        answer.complete = True

    def _whole(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
