"""A service of a hundred lines that speaks the wire contract over real sockets and can be told to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from router_core.testing.loops import wind_up

PARAMETERS = {"a": {"type": "string"}, "b": {"type": "integer"}}
SCHEMA: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        "/predict": {
            "post": {
                "x-parameter-order": ["a", "b"],
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"type": "object", "properties": PARAMETERS}},
                        "multipart/form-data": {"schema": {"type": "object", "properties": PARAMETERS}},
                    }
                },
                "responses": {"202": {}},
            }
        },
        "/add": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Add"}}}
                },
                "responses": {"200": {}},
            }
        },
        "/items/{item_id}": {
            "get": {
                "parameters": [{"name": "item_id", "in": "path"}, {"name": "size", "in": "query"}],
                "responses": {"200": {}},
            }
        },
        "/whole": {
            "post": {
                "x-router-kind": "call",
                "x-parameter-order": ["item"],
                "x-body-parameter": "item",
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Add"}}}
                },
                "responses": {"200": {}, "202": {}},
            }
        },
        "/tokens": {"post": {"responses": {"200": {}}}},
        "/do-it": {"post": {"responses": {"200": {}}}},
        "/picture": {"get": {"responses": {"200": {}}}},
        "/page": {"get": {"responses": {"200": {}}}},
    },
    "components": {
        "schemas": {
            "Add": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}
        }
    },
}


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


@dataclass
class Reply:
    """One answer; ``cut_after`` sends only so many bytes of the body and breaks the connection."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    cut_after: int | None = None


class FakeService:
    """Serves from its own thread; ``faults["POST /predict"]`` is a list that is used up from the front.

    A fault is a status (an empty problem), a ``Reply``, ``"refuse"`` (broken before anything happens),
    ``"lose"`` (the request is carried out and its answer is lost) or ``"hang"`` (silence for a moment).
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.events: list[tuple[str, Any]] = []
        self.cut_events_after = 0
        self.answers: dict[str, Reply] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()

    def requests(self, line: str) -> list[Seen]:
        """Return what arrived for ``METHOD /path``."""
        return [seen for seen in list(self.seen) if f"{seen.method} {seen.path}" == line]

    def job(self, **members: Any) -> dict[str, Any]:
        """Add a job and return its body."""
        job_id = f"job-{len(self.jobs):08d}"
        body = {
            "job_id": job_id,
            "route": "/predict",
            "status": "queued",
            "progress": 0.0,
            "links": {},
            **members,
        }
        self.jobs[job_id] = body
        return body

    # -- answers -----------------------------------------------------------------------------------

    def answer(self, seen: Seen) -> Reply:
        """Carry a request out."""
        line = f"{seen.method} {seen.path}"
        if line in self.answers:
            return self.answers[line]
        if line == "GET /openapi.json":
            return Reply(200, json.dumps(SCHEMA).encode())
        if line == "POST /predict":
            return self._submit(seen)
        if line == "POST /add":
            values = seen.json()
            return Reply(200, json.dumps(values["x"] + values["y"]).encode())
        if seen.path.startswith("/jobs/"):
            return self._job(seen)
        return problem(404, "not_found", "no such path")

    def _submit(self, seen: Seen) -> Reply:
        key = seen.headers.get("idempotency-key", "")
        if key not in self.keys:
            self.keys[key] = self.job()["job_id"]
        return Reply(202, json.dumps(self.jobs[self.keys[key]]).encode())

    def _job(self, seen: Seen) -> Reply:
        _, _, job_id, *rest = seen.path.split("/")
        job = self.jobs.get(job_id)
        if job is None:
            return problem(404, "not_found", "no such job")
        if rest == ["events"]:
            return self._events(seen, job)
        if rest == ["cancel"]:
            job["status"] = "cancelled"
        return Reply(200, json.dumps(job).encode())

    def _events(self, seen: Seen, job: dict[str, Any]) -> Reply:
        after = int(seen.headers.get("last-event-id", "0"))
        text = "".join(
            f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
            for number, (kind, data) in enumerate(self.events, 1)
            if number > after
        )
        job["status"] = "succeeded"
        text += f"event: job\nid: {len(self.events) + 1}\ndata: {json.dumps(job)}\n\n"
        cut, self.cut_events_after = self.cut_events_after, 0
        return Reply(200, text.encode(), {"content-type": "text/event-stream"}, cut or None)

    # -- sockets -----------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                seen = await _read(reader)
                self.seen.append(seen)
                await self._reply(seen, writer)
        finally:
            writer.close()

    async def _reply(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        line = f"{seen.method} {seen.path}"
        fault = self.faults[line].pop(0) if self.faults[line] else None
        if fault == "refuse":
            return
        if fault == "hang":
            await asyncio.sleep(0.5)
            return
        if isinstance(fault, Reply):
            reply = fault
        elif isinstance(fault, int):
            reply = problem(fault, "unavailable" if fault == 503 else "x", "later", {"retry-after": "0"})
        else:
            reply = self.answer(seen)
        if fault == "lose":
            return
        head = [f"HTTP/1.1 {reply.status} X", "connection: close", f"content-length: {len(reply.body)}"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*head, "", ""]).encode() + reply.body[: reply.cut_after])
        await writer.drain()

    def _run(self, ready: threading.Event) -> None:
        async def start() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._server = server

        self._loop.run_until_complete(start())
        self._loop.call_soon(ready.set)  # not before: a stop that came while it starts would be forgotten
        self._loop.run_forever()
        self._server.close()
        self._loop.run_until_complete(wind_up())
        self._loop.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeService]:
        """Serve until the block ends."""
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(ready,))
        thread.start()
        assert ready.wait(60)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(60)


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **extra: Any
) -> Reply:
    """Build a problem document."""
    body = {"type": "x", "title": "X", "status": status, "detail": detail, "code": code, **extra}
    kind = {"content-type": "application/problem+json", **(headers or {})}
    return Reply(status, json.dumps(body).encode(), kind)


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    return Seen(method, path, query, headers, body)
