"""What the tests of the job service share: a service over a memory store, and a worker played by hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core

from router_core.binding.inputs import Inputs
from router_core.binding.plan import compile_plan
from router_core.errors import NotFound, RouterError, StoreError
from router_core.http.message import Headers, Request, Response
from router_core.http.problem import problem_response
from router_core.jobs import moves
from router_core.jobs.blobs import Blob
from router_core.jobs.dispatch import Abilities
from router_core.jobs.http import accept
from router_core.jobs.job import Job
from router_core.jobs.routes import JobRoutes
from router_core.jobs.service import JobService
from router_core.jobs.store import Added, Claim, NewEvent
from router_core.jobs.submission import DEFAULT_OPTIONS, SubmitOptions
from router_core.jobs.watch import Hub, WatchedStore
from router_core.routing.route import JobOptions, Route
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from router_core.types import Principal, new_id

ANN = Principal("ann", frozenset({"*"}), "api_key")
BOB = Principal("bob", frozenset({"*"}), "api_key")
RETENTION = 3600.0


class Blobs:
    """Blobs in memory that can be switched off."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.down = False
        self.puts = 0

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Keep bytes."""
        assert isinstance(data, bytes)
        if self.down:
            raise StoreError("the blobs are down")
        self.puts += 1
        key = new_id()
        self.kept[key] = data
        return Blob(key, hashlib.sha256(data).hexdigest(), len(data), content_type)

    async def get(self, key: str) -> bytes:
        """Return bytes."""
        if key not in self.kept:
            raise NotFound("no such blob")
        return self.kept[key]

    async def delete(self, key: str) -> None:
        """Forget bytes."""
        if self.down:
            raise StoreError("the blobs are down")
        self.kept.pop(key, None)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return all of them: each is old enough here."""
        return list(self.kept)[:limit]

    async def ping(self) -> None:
        """Be there."""


class Queue:
    """A queue that remembers what it was told, and can refuse."""

    def __init__(self, *, external: bool = False) -> None:
        self.abilities = Abilities(delay=True, priority=True, cancel=True, stream=True, external=external)
        self.told: list[str] = []
        self.down = False

    async def dispatch(self, job: Job) -> None:
        """Take a job's id."""
        if self.down:
            raise ConnectionError("no route to the queue")
        self.told.append(job.id)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Do nothing."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""


def paint(prompt: str, size: int = 8) -> dict[str, Any]:
    """Stand for a function; it never runs here."""
    return {"prompt": prompt, "size": size}


async def words(prompt: str) -> AsyncIterator[str]:
    """Stand for a generator."""
    yield prompt


def route_of(func: Callable[..., Any], **options: Any) -> Route:
    """Build a job route for a plain function."""
    key = f"/{func.__name__}"
    job = JobOptions(**options)
    return Route(
        key, ("POST",), key, func, compile_plan(func, path=key, methods=("POST",), job=True), "job", job
    )


@dataclass
class Bench:
    """A service and everything around it."""

    settings: Settings = field(default_factory=lambda: Settings(retention=RETENTION))
    queue_size: int = 100
    external: bool = False
    check_url: Callable[[str], Awaitable[object]] | None = None
    max_watches: int = 1000
    records: Any = None
    """The store, on the clock of this bench; None makes one in memory."""
    clock: FakeClock = field(default_factory=FakeClock)
    blobs: Blobs = field(default_factory=Blobs)
    seen: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inner: Any = self.records or MemoryJobStore(self.clock)
        self.hub = Hub(max_watches=self.max_watches)
        self.events = Events(self.seen.append)
        self.store = WatchedStore(self.inner, self.hub, self.events)
        self.queue = Queue(external=self.external)
        routes = [route_of(paint, queue_size=self.queue_size), route_of(words)]
        self.routes = {route.key: route for route in routes}
        self.service = JobService(
            store=self.store, hub=self.hub, dispatcher=self.queue, blobs=self.blobs, routes=self.routes,
            clock=self.clock, settings=self.settings, events=self.events, check_url=self.check_url,
        )  # fmt: skip
        self.http = JobRoutes(self.service)

    # -- a caller ----------------------------------------------------------------------------------

    async def submit(
        self, values: dict[str, Any] | None = None, *, who: Principal = ANN,
        options: SubmitOptions = DEFAULT_OPTIONS, route: str = "/paint",
    ) -> Added:  # fmt: skip
        """Submit a job."""
        inputs = Inputs(values or {"prompt": "a cat"})
        return await self.service.submit(self.routes[route], inputs, principal=who, options=options)

    async def post(
        self, body: Any = None, *, query: str = "", headers: dict[str, str] | None = None,
        who: Principal = ANN, route: str = "/paint",
    ) -> Response:  # fmt: skip
        """Send a request to a job route."""
        values = {"prompt": "a cat"} if body is None else body
        pairs = [("content-type", "application/json"), *(headers or {}).items()]
        data = pydantic_core.to_json(values)
        request = Request("POST", route, query, Headers(pairs), data, id="req-1", principal=who)
        try:
            inputs = await self.routes[route].plan.collect(request)
            return await accept(self.service, self.routes[route], request, inputs)
        except RouterError as error:
            return problem_response(error)

    async def call(
        self, method: str, path: str, *, query: str = "", headers: dict[str, str] | None = None,
        who: Principal = ANN,
    ) -> Response:  # fmt: skip
        """Send a request to one of the job routes."""
        for verb, pattern, handler, _ in self.http.table():
            params = _match(pattern, path)
            if verb == method and params is not None:
                pairs = Headers((headers or {}).items())
                request = Request(method, path, query, pairs, principal=who, path_params=params)
                try:
                    return await handler(request)
                except RouterError as error:
                    return problem_response(error)
        raise AssertionError(f"no route {method} {path}")

    # -- a worker ----------------------------------------------------------------------------------

    async def claim(self, job_id: str, lease: float = 30.0) -> Job:
        """Take a job."""
        (job,) = await self.store.claim(Claim("worker", lease, job_id=job_id))
        return job

    async def succeed(self, job: Job, result: bytes = b'{"ok":true}', ref: bytes = b"") -> Job:
        """End a claimed job with a result."""
        move = moves.succeed(
            job.fence, now=self.clock.now(), retention=RETENTION, attempts=b"", result=b"" if ref else result,
            result_ref=ref,
        )  # fmt: skip
        return _moved(await self.store.move(job.id, move))

    async def fail(self, job: Job, error: dict[str, Any], reason: Any = "error") -> Job:
        """End a claimed job with an error."""
        body = pydantic_core.to_json({"attempt": job.attempt, "retryable": False, **error})
        move = moves.fail(job.fence, now=self.clock.now(), retention=RETENTION, attempts=b"", error=body)
        move = replace(move, sets={**move.sets, "reason": reason})
        return _moved(await self.store.move(job.id, move))

    async def progress(self, job: Job, fraction: float, message: str = "") -> Job:
        """Report progress of a claimed job."""
        move = moves.progress(job.fence, fraction=fraction, message=message)
        return _moved(await self.store.move(job.id, move))

    async def say(self, job: Job, *values: Any, type: str = "output") -> int:
        """Append events to a claimed job."""
        new = [NewEvent(type, pydantic_core.to_json(value)) for value in values]
        return await self.store.append(job.fence, new)


def _moved(moved: Any) -> Job:
    assert moved.applied
    job: Job = moved.job
    return job


def _match(pattern: str, path: str) -> dict[str, str] | None:
    parts, wanted = path.split("/"), pattern.split("/")
    if len(parts) != len(wanted):
        return None
    params = {}
    for part, want in zip(parts, wanted, strict=True):
        if want.startswith("{"):
            params[want[1:-1]] = part
        elif part != want:
            return None
    return params


def data(response: Response) -> Any:
    """Return the JSON of an answer."""
    assert isinstance(response.body, bytes)
    return pydantic_core.from_json(response.body)


async def all_of(response: Response) -> bytes:
    """Return the whole body of a live answer."""
    assert not isinstance(response.body, bytes)
    return b"".join([chunk async for chunk in response.body])


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until the condition holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")
