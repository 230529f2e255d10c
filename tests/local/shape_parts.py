"""A service in the shape of RunPod for tests: its routes, its store, and its jobs, moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pydantic_core

from handlers.local.runpod_shape import RunpodShape
from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.plan import compile_plan
from router_core.blobs.memory import MemoryBlobStore
from router_core.clock import SystemClock
from router_core.http.media import File
from router_core.http.message import Headers, Request, Response
from router_core.jobs import moves
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job, Reason
from router_core.jobs.service import JobService
from router_core.jobs.store import Claim, JobQuery
from router_core.jobs.watch import Hub, WatchedStore
from router_core.routing.route import JobOptions, Route
from router_core.routing.table import Table
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events, JobMoved
from router_core.types import ANONYMOUS, Principal

__all__ = ["EVERYTHING", "INPUT", "OTHER", "Endpoint", "words"]


class Nobody:
    """A queue that nobody works on."""

    abilities = Abilities(delay=True, priority=True, cancel=True, stream=True, external=False)

    async def dispatch(self, job: Job) -> None:
        """Do nothing."""

    async def start(self, run: Any) -> None:
        """Do nothing."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""


def predict(strength: float = 0.5, image: File | None = None) -> float:
    """Stand for a job."""
    return strength


def words(prompt: str) -> Iterator[str]:
    """Stand for a stream."""
    yield prompt


def hello(name: str = "world") -> str:
    """Stand for a plain call."""
    return name


def secret() -> None:
    """Stand for a route that needs a scope."""


def route_of(func: Callable[..., Any], path: str, kind: Any, method: str = "POST", **given: Any) -> Route:
    """Build the route of a function."""
    plan = compile_plan(func, path=path, methods=(method,), job=method == "POST")
    given.setdefault("job", JobOptions())
    return Route(key=path, methods=(method,), path=path, func=func, plan=plan, kind=kind, **given)


ROUTES = [
    route_of(predict, "/predict", "job", job=JobOptions(queue_size=5, timeout=60)),
    route_of(words, "/words", "stream"),
    route_of(hello, "/hello", "call", "GET"),
    route_of(secret, "/secret", "job", scopes=("admin",)),
]

INPUT = {"path": "/predict"}
EVERYTHING = JobQuery()
OTHER = Principal("somebody-else", frozenset(), "api_key")


class Endpoint:
    """The shape, called through its own routes as the server would."""

    def __init__(
        self,
        *,
        secret: str = "",
        routes: list[Route] = ROUTES,
        sync_wait_max: float = 60.0,
        waiters: int = 100,
    ) -> None:
        self.clock = SystemClock()
        self._moved: asyncio.Queue[JobMoved] = asyncio.Queue()
        events, hub = Events(self._listen), Hub(max_watches=waiters)
        self.store = WatchedStore(MemoryJobStore(self.clock), hub, events)
        self.blobs = MemoryBlobStore()
        self.checked: list[str] = []
        self.fetched: list[str] = []
        settings = Settings(webhook_secret=secret, sync_wait_max=sync_wait_max)
        self.service = JobService(
            store=self.store, hub=hub, dispatcher=Nobody(), blobs=self.blobs,
            routes={route.key: route for route in routes}, clock=self.clock, settings=settings, events=events,
            check_url=self._check,
        )  # fmt: skip
        shape = RunpodShape(
            service=self.service, routes=routes, events=events, intake=Intake(fetch=self._fetch),
            openapi=lambda: {"openapi": "3.1.0", "paths": {}}, slots=3,
        )  # fmt: skip
        self.table = Table(shape.routes())

    def _listen(self, event: object) -> None:
        if isinstance(event, JobMoved):
            self._moved.put_nowait(event)

    async def happened(self, move: str) -> str:
        """Wait until a job has made a move, and return its id."""
        while (event := await self._moved.get()).move != move:
            continue
        return event.job_id

    async def _check(self, url: str) -> None:
        self.checked.append(url)

    async def _fetch(self, url: str) -> File:
        self.fetched.append(url)
        return File.from_bytes(b"picture", "x.png", "image/png")

    async def send(self, request: Request) -> Response:
        """Answer a request; errors are raised."""
        match = self.table.match(request.method, request.path)
        request = replace(request, path_params=match.path_params)
        plan = match.route.plan
        values = plan.validate(await plan.collect(request))
        response = await plan.call(values, {"request": request}, DependencyScope())
        assert isinstance(response, Response)
        return response

    async def call(
        self, method: str, path: str, body: Any = None, *, query: str = "", principal: Principal = ANONYMOUS,
        **headers: str,
    ) -> Any:  # fmt: skip
        """Send JSON and return JSON."""
        pairs = [
            ("content-type", "application/json"),
            *((k.replace("_", "-"), v) for k, v in headers.items()),
        ]
        data = b"" if body is None else body if isinstance(body, bytes) else pydantic_core.to_json(body)
        request = Request(method, f"/v2/local/{path}", query, Headers(pairs), data, principal=principal)
        response = await self.send(request)
        assert response.status == 200
        assert response.header("content-type") == "application/json"
        assert isinstance(response.body, bytes)
        return pydantic_core.from_json(response.body)

    async def submit(self, path: str = "/predict", **arguments: Any) -> str:
        """Run a job and return its id."""
        body = await self.call("POST", "run", {"input": {"path": path, **arguments}})
        assert body == {"id": body["id"], "status": "IN_QUEUE"}
        return str(body["id"])

    async def claim(self, job_id: str) -> Job:
        """Begin to work on a job."""
        (job,) = await self.store.claim(Claim("worker-1", 30.0, job_id=job_id))
        return job

    async def record(self, job_id: str) -> Job:
        """Return the record."""
        found = await self.store.get(job_id)
        assert isinstance(found, Job)
        return found

    async def finish(self, job_id: str, result: bytes = b"0.5", result_ref: bytes = b"") -> None:
        """Work on a job and succeed."""
        job = await self.claim(job_id)
        move = moves.succeed(
            job.fence,
            now=self.clock.now(),
            retention=60,
            attempts=b"[]",
            result=result,
            result_ref=result_ref,
        )
        assert (await self.store.move(job_id, move)).applied

    async def fail(self, job_id: str, error: bytes, reason: Reason = Reason.ERROR) -> None:
        """Work on a job and fail."""
        job = await self.claim(job_id)
        move = moves.fail(
            job.fence, now=self.clock.now(), retention=60, attempts=b"[]", error=error, reason=reason
        )
        assert (await self.store.move(job_id, move)).applied
