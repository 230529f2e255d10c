"""The worker of a service whose jobs are kept by a coordinator somewhere else.

The core's own pool, runner, heartbeat and child processes, over a store that is the coordinator: timeouts,
cancel, retries, isolation and progress are those of a local worker. Only outgoing requests are made, so it
works behind NAT.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from router_core.binding.depends import DependencyScope, run_in_thread
from router_core.binding.result import encode_result
from router_core.blobs.coordinator import CoordinatorBlobs
from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured, RouterError
from router_core.jobs.inputs import load
from router_core.jobs.isolation import ChildPool
from router_core.jobs.job import Job
from router_core.jobs.runner import Runner
from router_core.jobs.worker import WorkerPool
from router_core.middleware.threads import CallThreads
from router_core.routing.route import Route
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.stores.coordinator import CoordinatorStore, Terms
from router_core.stores.coordinator_link import CoordinatorLink
from router_core.telemetry.events import Events, Note
from router_core.types import new_id

__all__ = ["RemoteWorker", "served_routes"]

_FULL: Final = 0.25
"""Seconds between looks for a free slot, before the coordinator is asked for work."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0


def served_routes(router: Router, only: Sequence[str] = (), concurrency: int = 0) -> dict[str, Route]:
    """Return the routes to work for, by key. Raises Misconfigured for a name that is none of them."""
    routes = {route.key: route for route in router.routes}
    unknown = [key for key in only if key not in routes]
    if unknown or not routes:
        raise Misconfigured(
            f"the service has no route {unknown[0]!r}; they are {', '.join(routes)}"
            if unknown
            else "the service has no routes"
        )
    chosen = {key: route for key, route in routes.items() if not only or key in only}
    if concurrency:
        chosen = {
            key: replace(route, job=replace(route.job, concurrency=concurrency))
            for key, route in chosen.items()
        }
    return chosen


class RemoteWorker:
    """Takes jobs, runs them, and lets them go at the end."""

    def __init__(
        self, router: Router, routes: Mapping[str, Route], link: CoordinatorLink, settings: Settings,
        events: Events, *, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._router = router
        self._routes = dict(routes)
        self._link = link
        self._settings = settings
        self._events = events
        self._clock = clock or SystemClock()
        self._store = CoordinatorStore(link, routes, self._clock, events)
        self._blobs = CoordinatorBlobs(link)
        self._children = ChildPool(routes=self._routes, events=events, origin=settings.app)
        self._threads = CallThreads()
        self._scope = DependencyScope(run_sync=self._threads.run, overrides=router.dependency_overrides)
        self._pool: WorkerPool | None = None
        self._runner: Runner | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then drain. Raises what keeps the worker from starting."""
        try:
            self._children.check()
            terms = await self._store.hello(new_id())
            self._agree(terms)
            try:
                for hook in self._router.startup_hooks:
                    await _call(hook)
                await self._work(terms, stop)
            finally:
                await self._run_shutdown_hooks()
        finally:
            for part in (self._children.close, self._threads.close):
                await _call(part)
            await self._scope.aclose()
            await self._link.aclose()

    def _agree(self, terms: Terms) -> None:
        """Take over what the coordinator asks for."""
        for key, why in terms.refused.items():
            self._note("route_refused", "warning", f"no jobs of {key}: {why}")
        self._routes = {key: route for key, route in self._routes.items() if key in terms.routes}
        self._settings = replace(
            self._settings, lease=terms.lease, heartbeat=min(terms.beat, terms.lease / 2)
        )
        self._blobs.piece, self._blobs.download = terms.piece, terms.download

    async def _work(self, terms: Terms, stop: asyncio.Event) -> None:
        self._runner = Runner(
            store=self._store, routes=self._routes, blobs=self._blobs, clock=self._clock,
            settings=self._settings, events=self._events, encode=encode_result, children=self._children,
            load_inputs=lambda job, _route: load(job, self._blobs),
            new_scope=lambda run_sync: DependencyScope(app=self._scope, run_sync=run_sync),
        )  # fmt: skip
        self._pool = pool = WorkerPool(
            store=self._store, runner=self._runner, routes=self._routes, clock=self._clock,
            settings=self._settings, events=self._events, poll=terms.poll,
        )  # fmt: skip
        pool.start(self._run_job)
        keys = ", ".join(self._routes)
        self._note("working", "info", f"working for {self._link.url} as {terms.worker}: {keys}")
        listening = asyncio.create_task(self._listen(terms)) if terms.wait else None
        try:
            await stop.wait()
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            grace = self._settings.drain_grace
            if pool.running:
                self._note(
                    "draining", "info", f"draining, up to {grace:g} s, {pool.running} jobs are running"
                )
            await pool.drain(grace)

    async def _run_job(self, job: Job) -> None:
        if self._runner is None:
            raise RuntimeError("the worker has not started")
        with self._blobs.leased(job.fence):
            await self._runner.run(job)

    async def _listen(self, terms: Terms) -> None:
        """Ask the coordinator to say when there is work; it holds the answer until then.

        Where several processes take turns to answer, none knows what the last one has counted, and none holds
        the question: then it is asked as often as jobs are looked for anyway.
        """
        pause = 0.0
        while True:
            free = self._free()
            if not free:
                await asyncio.sleep(_FULL)
                continue
            try:
                ready = await self._store.wait(self._worker_id, free, terms.wait)
            except RouterError as error:
                if not pause:
                    self._note("coordinator_lost", "warning", f"the coordinator does not answer: {error}")
                pause = min(_LONGEST_PAUSE, pause * 2 or _FIRST_PAUSE)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads the workers
                continue
            if pause:
                self._note("coordinator_back", "info", "the coordinator answers again")
                pause = 0.0
            if ready:
                self._wake(free)
                if self._store.elsewhere:
                    await asyncio.sleep(terms.poll)

    def _free(self) -> list[str]:
        if self._pool is None:
            return []
        free: Mapping[str, int] = self._pool.readiness()["free"]
        return [key for key, count in free.items() if count > 0]

    @property
    def _worker_id(self) -> str:
        return "" if self._pool is None else self._pool.worker_id

    def _wake(self, routes: Iterable[str]) -> None:
        if self._pool is not None:
            for key in routes:
                self._pool.wake(key)

    def kill(self) -> None:
        """End everything at once and write nothing: the leases run out."""
        if self._pool is not None:
            self._pool.kill()

    async def _run_shutdown_hooks(self) -> None:
        for hook in self._router.shutdown_hooks:
            try:
                await _call(hook)
            except Exception as error:
                self._events.emit(Note("shutdown_hook_failed", "error", str(error), error=error))

    def _note(self, name: str, level: str, text: str) -> None:
        self._events.emit(Note(name, level, text))


async def _call(hook: Callable[[], Any]) -> None:
    value = hook() if inspect.iscoroutinefunction(hook) else await run_in_thread(hook)
    if inspect.isawaitable(value):
        await value
