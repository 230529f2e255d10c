"""What the tests of running jobs share: a store, routes of plain functions, a runner and its pool."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core

from router_core.binding.depends import DependencyScope
from router_core.binding.plan import compile_plan
from router_core.binding.result import encode_result
from router_core.clock import Clock, SystemClock
from router_core.errors import NotFound, StoreError
from router_core.jobs import moves
from router_core.jobs.blobs import Blob
from router_core.jobs.inputs import load
from router_core.jobs.job import Job, State
from router_core.jobs.moves import Move
from router_core.jobs.runner import Children, Runner
from router_core.jobs.store import Claim, Moved, Store
from router_core.jobs.watch import Hub, WatchedStore
from router_core.jobs.worker import WorkerPool
from router_core.queues.inprocess import InProcessDispatcher
from router_core.routing.route import JobOptions, Route
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events, Note
from router_core.types import new_id


class Blobs:
    """Blobs in memory that can be switched off."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.down = 0
        """How many puts will fail."""
        self.puts = 0

    async def put(self, data: Any, *, content_type: str = "application/octet-stream") -> Blob:
        """Keep bytes, or fail while down."""
        self.puts += 1
        if self.down > 0:
            self.down -= 1
            raise StoreError("blobs are down")
        key = new_id()
        self.kept[key] = data
        return Blob(key, hashlib.sha256(data).hexdigest(), len(data), content_type)

    async def get(self, key: str) -> bytes:
        """Return bytes."""
        if key not in self.kept:
            raise NotFound()
        return self.kept[key]

    async def delete(self, key: str) -> None:
        """Forget bytes."""
        self.kept.pop(key, None)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return no orphans."""
        return []

    async def ping(self) -> None:
        """Be there."""


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something holds; returns it."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.002)


def route_of(func: Callable[..., Any], key: str = "", **options: Any) -> Route:
    """Build a job route for a plain function."""
    key = key or f"/{func.__name__}"
    job = JobOptions(**options)
    plan = compile_plan(func, path=key, methods=("POST",), job=True)
    return Route(key, ("POST",), key, func, plan, "job", job)


class Switchable(MemoryJobStore):
    """A store whose moves can be made to fail, before or after they took effect, or to wait."""

    fail_before = 0
    fail_after = 0
    gate: Callable[[str], Any] | None = None
    log: list[str]

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move, unless told otherwise."""
        if self.gate is not None:
            await self.gate(move.name)
        if self.fail_before > 0:
            self.fail_before -= 1
            raise StoreError("not written")
        moved = await super().move(job_id, move)
        if self.fail_after > 0:
            self.fail_after -= 1
            raise StoreError("written, but the answer was lost")
        return moved


@dataclass
class Bench:
    """Everything a job needs to run, in one process."""

    store: Store
    clock: Clock
    settings: Settings
    routes: dict[str, Route]
    runner: Runner
    pool: WorkerPool
    dispatcher: InProcessDispatcher
    blobs: Blobs
    notes: list[Note] = field(default_factory=list)
    watched: WatchedStore | None = None

    def job(self, route: str, /, **values: Any) -> Job:
        """Return a new queued job."""
        options = self.routes[route].job
        now = self.clock.now()
        return Job(
            id=new_id(), owner="tester", route=route, state=State.QUEUED, created_at=now, rank=now,
            input=pydantic_core.to_json(values), max_attempts=options.max_attempts or 3,
            timeout=options.timeout or 0.0,
        )  # fmt: skip

    async def add(self, job: Job) -> Job:
        """Add a job and wake the pool."""
        added = (await self.store.add(job)).job
        await self.dispatcher.dispatch(added)
        return added

    async def submit(self, route: str, /, changes: Mapping[str, Any] | None = None, **values: Any) -> str:
        """Add a job of a route; returns its id."""
        return (await self.add(replace(self.job(route, **values), **(changes or {})))).id

    async def record(self, job_id: str) -> Job:
        """Return the record."""
        record = await self.store.get(job_id)
        assert isinstance(record, Job)
        return record

    async def until(self, job_id: str, *states: State, seconds: float = 60.0) -> Job:
        """Wait until the job is in one of the states (any terminal one, if none is named)."""
        end = time.monotonic() + seconds
        while True:
            record = await self.record(job_id)
            if (record.state in states) if states else record.terminal:
                return record
            if time.monotonic() > end:
                raise AssertionError(f"{record.state} after {seconds} s; notes: {self.notes}")
            await asyncio.sleep(0.005)

    async def claim(self, job_id: str = "") -> Job:
        """Claim one job by hand."""
        jobs = await self.store.claim(Claim("by-hand", self.settings.lease, job_id=job_id))
        return jobs[0]

    async def run(self, route: str, /, changes: Mapping[str, Any] | None = None, **values: Any) -> Job:
        """Add, claim and run one job without the pool; returns its record."""
        job = (await self.store.add(replace(self.job(route, **values), **(changes or {})))).job
        await self.runner.run(await self.claim(job.id))
        return await self.record(job.id)

    async def cancel(self, job_id: str) -> None:
        """Ask a running job to stop, as the service does."""
        moved = await self.store.move(job_id, moves.cancel_running(now=self.clock.now()))
        assert moved.applied

    def noted(self, name: str) -> list[Note]:
        """Return the notes of one name."""
        return [note for note in self.notes if note.name == name]


def bench_of(
    *routes: Route, store: Store | None = None, clock: Clock | None = None, children: Children | None = None,
    grace: float = 0.3, poll: float = 0.2, draw: Callable[[], float] = lambda: 0.0, **settings: Any,
) -> Bench:  # fmt: skip
    """Build a bench that is not started."""
    clock = clock or SystemClock()
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    hub = Hub()
    watched = WatchedStore(store or MemoryJobStore(clock), hub, events)
    by_key = {route.key: route for route in routes}
    blobs = Blobs()
    conf = Settings(**settings)
    runner = Runner(
        store=watched, routes=by_key, blobs=blobs, clock=clock, settings=conf, events=events,
        load_inputs=lambda job, route: load(job, blobs), children=children, encode=encode_result,
        new_scope=lambda run_sync: DependencyScope(run_sync=run_sync), subscribe=hub.subscribe,
        cancel_grace=grace, draw=draw,
    )  # fmt: skip
    pool = WorkerPool(
        store=watched, runner=runner, routes=by_key, clock=clock, settings=conf, events=events, poll=poll
    )
    return Bench(watched, clock, conf, by_key, runner, pool, InProcessDispatcher(pool), blobs, notes, watched)


@asynccontextmanager
async def running(*routes: Route, **options: Any) -> AsyncIterator[Bench]:
    """Open the store, start the pool, and end both."""
    bench = bench_of(*routes, **options)
    await bench.store.open()
    await bench.dispatcher.start(bench.runner.run)
    try:
        yield bench
    finally:
        await bench.dispatcher.stop(0.0)
        await bench.store.close()
