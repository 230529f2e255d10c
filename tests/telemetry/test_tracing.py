"""Traces: what a real OTLP receiver gets of requests, calls of models, their attempts, and jobs."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.trace import get_current_span

from router_core import JobProgress, Router, Settings, build_app
from router_core.app import App
from router_core.gateway.config.load import parse_config
from router_core.gateway.gateway import Gateway
from router_core.http.message import Headers, Request
from router_core.telemetry.events import Events, Note
from router_core.telemetry.tracing import open_tracing
from tests.gateway.serving import chat, models_yaml, on_socket

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Receiver:
    """Takes traces over HTTP, and is a model beside that: it notes what it is asked with."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resource: dict[str, Any] = {}
        self.asked: list[dict[str, str]] = []
        self.failures = 0
        """Calls of the model that fail from now on."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """Both."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take a request."""
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    receiver.take(body, self.headers.get("content-encoding", ""))
                    self.reply(
                        200, "application/x-protobuf", ExportTraceServiceResponse().SerializeToString()
                    )
                    return
                receiver.asked.append({name.lower(): value for name, value in self.headers.items()})
                if receiver.failures:
                    receiver.failures -= 1
                    self.reply(503, "application/json", b'{"error":{"message":"busy"}}')
                else:
                    self.reply(200, "application/json", _ANSWER)

            def reply(self, status: int, kind: str, data: bytes) -> None:
                """Answer."""
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, body: bytes, coding: str) -> None:
        """Decode what an exporter sends."""
        message = ExportTraceServiceRequest.FromString(gzip.decompress(body) if coding == "gzip" else body)
        for resource in message.resource_spans:
            self.resource = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_decoded(span) for span in scope.spans]

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the spans of a name, in the order of their beginnings."""
        found = [span for span in self.spans if span["name"] == name]
        return sorted(found, key=lambda span: span["start"])


_ANSWER = (
    b'{"id":"1","object":"chat.completion","model":"up","choices":[{"index":0,"finish_reason":"stop","message":'
    b'{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
)


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _decoded(span: Any) -> dict[str, Any]:
    return {
        "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(), "kind": span.kind, "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano, "error": span.status.code == 2, "said": _values(span.attributes),
        "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    }  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Yield a receiver on loopback."""
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> Request:
    """Return a request."""
    fields = [("content-type", "application/json"), *headers.items()]
    return Request(method, path, "", Headers(fields), body)


@asynccontextmanager
async def running(router: Router, receiver: Receiver, **settings: Any) -> AsyncIterator[App]:
    """Yield an app that is traced; when it has ended, the receiver has everything."""
    given = Settings(jobs="memory://", blobs="memory://", otlp_endpoint=receiver.url, **settings)
    app = build_app(router, given)
    await app.start()
    yield app
    await app.stop(1.0)


def gateway(receiver: Receiver) -> Router:
    """Return a gateway whose model is the receiver."""
    text = models_yaml(receiver.url, receiver.url, model="aliases: [nice]")
    router = Router()
    router.include_router(Gateway(parse_config(text, "gateway.yaml", {})).router)
    return router


async def test_a_call_is_one_trace_from_the_caller_to_the_upstream(receiver: Receiver) -> None:
    """Each below the one before: caller, request, call, attempts; the upstream is told of its own."""
    receiver.failures = 1
    headers = {"traceparent": PARENT, "tracestate": "a=b", "x-router-workspace": "ws"}
    async with running(gateway(receiver), receiver) as app:
        body = json.dumps(chat("nice", max_tokens=20)).encode()
        answer = await app.handle(request("POST", "/v1/chat/completions", body, **headers))
        assert answer.status == 200
    (served,) = receiver.named("POST /v1/chat/completions")
    (call,) = receiver.named("gateway chat")
    first, second = receiver.named("chat up")
    trace, caller = PARENT.split("-")[1:3]
    assert {span["trace"] for span in (served, call, first, second)} == {trace}
    assert (served["parent"], call["parent"]) == (caller, served["id"])
    assert {first["parent"], second["parent"]} == {call["id"]}
    assert (first["error"], second["error"], call["error"]) == (True, False, False)
    told = [each["traceparent"].split("-")[1:3] for each in receiver.asked]
    assert told == [[trace, first["id"]], [trace, second["id"]]]
    assert receiver.asked[0]["tracestate"] == "a=b"
    said = second["said"]
    assert (said["gen_ai.operation.name"], said["gen_ai.provider.name"]) == ("chat", "openai")
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (7, 3)
    assert (said["router.deployment"], said["router.attempt"]) == ("d2", 2)
    said = call["said"]
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("nice", "m")
    assert (said["gen_ai.request.max_tokens"], said["router.workspace"]) == (20, "ws")
    assert (served["said"]["http.response.status_code"], served["kind"]) == (200, 2)
    assert served["start"] <= call["end"] <= served["end"]
    assert first["said"]["error.type"] == "overloaded"
    assert receiver.resource["service.name"] == "router-core"
    assert "Hello!" not in str(receiver.spans), "what was said is in no trace"


def test_a_request_by_the_quick_door_is_traced_too(receiver: Receiver) -> None:
    """On a real socket, again and again on one connection, each in the trace of its caller."""
    traces = [f"{number:032x}" for number in range(1, 6)]
    with on_socket(models_yaml(receiver.url), otlp_endpoint=receiver.url) as (_, url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        for trace in traces:
            headers = {"content-type": "application/json", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            connection.request("POST", "/v1/chat/completions", json.dumps(chat("m")), headers)
            answer = connection.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (200, True)
        connection.close()
    for name in ("POST /v1/chat/completions", "gateway chat", "chat up"):
        assert [span["trace"] for span in receiver.named(name)] == traces
    assert [each["traceparent"].split("-")[1] for each in receiver.asked] == traces


async def test_a_stream_ends_when_it_ends_and_refusals_are_calls_too(receiver: Receiver) -> None:
    """Time to the first content; a model that nobody knows has a call without attempts."""
    text = (
        "models: [{id: s, type: text-generation, clients: [{id: s1, type: scripted, args: {reply: a b c}}]}]"
    )
    router = Router()
    router.include_router(Gateway(parse_config(text, "gateway.yaml", {})).router)
    async with running(router, receiver) as app:
        body = json.dumps(chat("s", stream=True)).encode()
        answer = await app.handle(request("POST", "/v1/chat/completions", body))
        assert not isinstance(answer.body, bytes)
        assert b"".join([chunk async for chunk in answer.body]).endswith(b"[DONE]\n\n")
        body = json.dumps(chat("nobody")).encode()
        assert (await app.handle(request("POST", "/v1/chat/completions", body))).status == 404
    done, refused = receiver.named("gateway chat")
    assert done["said"]["router.outcome"] == "ok"
    assert done["said"]["gen_ai.usage.output_tokens"] > 0
    (attempt,) = [span for span in receiver.spans if span["kind"] == 3]
    assert attempt["said"]["gen_ai.response.time_to_first_chunk"] > 0
    assert (refused["said"]["router.attempts"], refused["error"]) == (0, True)


async def test_a_job_has_a_trace_of_its_own_that_is_linked(receiver: Receiver) -> None:
    """Its id is the trace's; it waits, runs below that, and the request that brought it leads there."""
    router = Router()
    ran = threading.Event()

    @router.route("/work")
    def work(job_progress: JobProgress) -> str:
        """Work."""
        ran.set()
        return "done"

    async with running(router, receiver) as app:
        answer = await app.handle(request("POST", "/work", b"{}"))
        job_id = (answer.header("location") or "").rpartition("/")[2]
        limit = time.monotonic() + 30
        while (await app.service.store.get(job_id)).state != "succeeded":  # type: ignore[union-attr]
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)
    (served,) = receiver.named("POST /work")
    (submit,) = receiver.named("submit /work")
    (queue,) = receiver.named("queue /work")
    (run,) = receiver.named("run /work")
    assert (submit["parent"], submit["trace"]) == (served["id"], served["trace"])
    assert submit["links"] == [(job_id, queue["id"])]
    assert (queue["trace"], queue["parent"]) == (job_id, "")
    assert queue["links"] == [(submit["trace"], submit["id"])]
    assert (run["trace"], run["parent"], run["links"]) == (job_id, queue["id"], [(job_id, queue["id"])])
    assert run["said"]["router.job.state"] == "succeeded"
    assert queue["end"] <= run["end"]


async def test_authors_find_the_span_of_the_request(receiver: Receiver) -> None:
    """In functions of both kinds, for spans and log lines of their own."""
    router = Router()
    seen: list[str] = []

    @router.get("/slow")
    def slow() -> str:
        """Run in a thread."""
        seen.append(f"{get_current_span().get_span_context().trace_id:032x}")
        return "done"

    @router.get("/quick")
    async def quick() -> str:
        """Run on the loop."""
        seen.append(f"{get_current_span().get_span_context().trace_id:032x}")
        return "done"

    async with running(router, receiver) as app:
        for path in ("/slow", "/quick"):
            await app.handle(request("GET", path, traceparent=PARENT))
    assert seen == [PARENT.split("-")[1]] * 2
    assert not get_current_span().get_span_context().is_valid


async def test_bad_and_quiet_requests(receiver: Receiver) -> None:
    """A traceparent that is none begins a new trace; probes have none; an error is one."""
    router = Router()

    @router.get("/fails")
    def fails() -> str:
        """Fail."""
        raise ValueError("secret")

    async with running(router, receiver) as app:
        await app.handle(request("GET", "/health"))
        await app.handle(request("GET", "/metrics"))
        await app.handle(request("GET", "/nowhere", traceparent="00-zz\t-1-01"))
        await app.handle(request("GET", "/fails", traceparent="x" * 5000))
    assert sorted(span["name"] for span in receiver.spans) == ["GET", "GET /fails"]
    failed = receiver.named("GET /fails")[0]
    assert (failed["error"], failed["said"]["http.response.status_code"]) == (True, 500)
    assert "secret" not in str(receiver.spans)


async def test_a_receiver_that_is_away_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered, and the end of the process is not held up for long."""
    monkeypatch.setattr("router_core.telemetry.opentelemetry._DRAIN", 0.2)
    router = Router()

    @router.get("/hello")
    def hello() -> str:
        """Greet."""
        return "hello"

    app = build_app(router, Settings(jobs="memory://", blobs="memory://", otlp_endpoint="http://127.0.0.1:9"))
    await app.start()
    assert (await app.handle(request("GET", "/hello"))).status == 200
    await app.stop(0.1)


def test_what_cannot_be_traced_is_said() -> None:
    """On Lambda nothing would send it; without an address there is nothing to be said."""
    events, notes = Events(), list[Any]()
    events.subscribe(notes.append)
    assert open_tracing(Settings(), events) is None
    assert notes == []
    assert open_tracing(Settings(provider="lambda", otlp_endpoint="http://x"), events) is None
    assert [(type(note), note.name) for note in notes] == [(Note, "tracing_unavailable")]


@pytest.mark.process
def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    """A service that is not traced has paid for nothing."""
    code = (
        "import sys; from router_core import Router, Settings, build_app\n"
        "build_app(Router(), Settings(jobs='memory://', blobs='memory://'))\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
