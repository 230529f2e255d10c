"""A coordinator and a worker of it in this process, without sockets between them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from handlers.remote.worker import RemoteWorker, served_routes
from router_core.http.media import File
from router_core.http.message import Headers, Request
from router_core.jobs.context import JobContext, JobProgress
from router_core.jobs.job import Job
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.stores.coordinator_link import CoordinatorLink
from router_core.telemetry.events import Events, Note
from router_core.vendors.httpx import Answer, NotSent
from router_core.wiring import build_app
from tests.remote.remote_bench import BOX, CALLER, Bench, value_of

__all__ = ["AppSender", "Site", "service", "site", "turned"]

URL = "https://coordinator.test"


def service() -> Router:
    """Return a service of several kinds of functions."""
    router = Router(title="here")

    @router.route("/double", concurrency=3)
    async def double(x: int) -> int:
        return 2 * x

    @router.route("/turn")
    def turn(file: File) -> File:
        return File.from_bytes(file.read()[::-1], filename="turned", content_type="a/b")

    @router.route("/until")
    async def until(job: JobContext, job_progress: JobProgress) -> None:
        job_progress.update(0.5, "half")
        await asyncio.sleep(60)

    @router.route("/flaky", max_attempts=3, backoff=0.01)
    def flaky(job: JobContext) -> int:
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return job.attempt

    @router.route("/count", job=True)
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    return router


class AppSender:
    """Carries requests into an app; what lies elsewhere is given."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []
        self.elsewhere: dict[str, bytes] = {}
        self.most = 2**40
        """What the front door takes, in bytes."""
        self.down = False
        self.headers: list[Mapping[str, str]] = []

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", silence: float
    ) -> Answer:
        """Send."""
        parts = urlsplit(url)
        self.seen.append(f"{method} {parts.path}")
        if self.down:
            raise NotSent("nobody is there")
        if url in self.elsewhere:
            self.headers.append(headers)
            return Answer(200, {}, self.elsewhere[url])
        if len(body) > self.most:
            return Answer(413, {}, b"<html>too large</html>")
        pairs = Headers([*headers.items(), ("host", "localhost")])
        answer = await self.app.handle(Request(method, parts.path, parts.query, pairs, body))
        assert isinstance(answer.body, bytes)
        return Answer(answer.status, dict(answer.headers), answer.body)

    async def aclose(self) -> None:
        """Nothing is open."""


class Site:
    """A coordinator, a worker of it, and what both have said."""

    def __init__(self, app: Any) -> None:
        self.bench = Bench(app)
        self.sender = AppSender(app)
        self.notes: list[Note] = []
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def work(self, router: Router | None = None, key: str = BOX) -> None:
        """Start the worker."""
        router = router or service()
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        link = CoordinatorLink(URL, key, self.sender)
        settings = Settings(drain_grace=0.05)
        worker = RemoteWorker(router, served_routes(router), link, settings, events)
        self.task = asyncio.create_task(worker.run(self.stop))

    async def ended(self, job_id: str) -> Job:
        """Wait until a job has ended."""
        return await self.until(job_id, lambda job: job.terminal)

    async def until(self, job_id: str, holds: Callable[[Job], bool]) -> Job:
        """Wait until something holds of a job."""
        end = time.monotonic() + 60
        while not holds(job := await self.bench.record(job_id)):
            assert time.monotonic() < end, (job.state, self.notes)
            await asyncio.sleep(0.01)
        return job

    async def noted(self, text: str) -> Note:
        """Wait for a note."""
        end = time.monotonic() + 60
        while True:
            for note in list(self.notes):
                if text in f"{note.name} {note.message}":
                    return note
            assert time.monotonic() < end, self.notes
            await asyncio.sleep(0.01)

    async def submit(self, path: str, **values: object) -> str:
        """Submit a job; no values are an empty object."""
        answer = await self.bench.send("POST", path, values, key=CALLER)
        assert answer.status == 202, answer.body
        return str(value_of(answer)["job_id"])

    async def result(self, job_id: str) -> bytes:
        """Return a result as its caller gets it."""
        answer = await self.bench.send("GET", f"/jobs/{job_id}/result", key=CALLER)
        assert answer.status == 200, answer.body
        assert isinstance(answer.body, bytes)
        return answer.body


@asynccontextmanager
async def site(*, background: bool = True, **changes: Any) -> AsyncIterator[Site]:
    """Run a coordinator; the worker is started by the test."""
    parts = {name: changes.pop(name) for name in ("store", "blobs") if name in changes}
    values: dict[str, Any] = {
        "jobs": "memory://", "blobs": "memory://", "queue": "pull", "api_keys": f"ann:{CALLER}",
        "worker_keys": f"box:{BOX}", "lease": 3.0, "heartbeat": 1.0, **changes,
    }  # fmt: skip
    app = build_app(service(), Settings(**values).checked(), **parts)
    await app.start(background=background)
    running = Site(app)
    try:
        yield running
    finally:
        running.sender.down = False
        running.stop.set()
        if running.task is not None:
            await asyncio.wait({running.task}, timeout=20)
        await app.stop(0.0)


def turned(data: bytes) -> dict[str, object]:
    """Return a file as a caller sends it in JSON."""
    return {"file_name": "a", "content_type": "a/b", "content": base64.b64encode(data).decode()}
