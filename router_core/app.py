"""The seam: every adapter calls ``handle``, every worker calls ``run``, every process ``start`` and ``stop``.

A call:  adapter -> handle -> middleware -> match -> binding -> function -> result -> adapter.
A job:   adapter -> handle -> service.submit -> store.add, dispatcher.dispatch -> 202;
         later a worker -> run -> store.claim -> runner -> function -> store.move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from router_core.binding.depends import DependencyScope, run_hook
from router_core.telemetry.events import Events, Note
from router_core.telemetry.health import timed

if TYPE_CHECKING:
    from router_core.clock import Clock
    from router_core.http.message import Request
    from router_core.jobs.blobs import BlobStore
    from router_core.jobs.dispatch import Dispatcher
    from router_core.jobs.job import Job
    from router_core.jobs.runner import Runner
    from router_core.jobs.service import JobService
    from router_core.jobs.store import Store
    from router_core.jobs.worker import WorkerPool
    from router_core.middleware.dispatch import Dispatch
    from router_core.middleware.exchange import Admission
    from router_core.middleware.stack import Stack
    from router_core.routing.route import Route
    from router_core.routing.table import Table
    from router_core.settings import Settings
    from router_core.state import StateStore
    from router_core.telemetry.metrics import Metrics
    from router_core.telemetry.tracing import Handle, Tracer

__all__ = ["App", "Extension", "Host", "Parts", "Upkeep"]

Hook = Callable[[], Any]


class Upkeep(Protocol):
    """A loop beside the work: reaper, sweeper, webhook sender."""

    name: str

    async def run(self) -> None:
        """Work until cancelled; never raises."""

    async def tick(self) -> None:
        """Do what is to be done now, or begin it."""

    async def idle(self) -> None:
        """Wait until what a tick has begun is over."""

    def ready(self, now: float) -> bool:
        """Whether it did its work lately."""


@dataclass(frozen=True, slots=True)
class Host:
    """What an app lends to the extensions of its router."""

    settings: Settings
    clock: Clock
    events: Events
    metrics: Metrics
    state: StateStore
    """What processes share, by ``ROUTER_STATE``: opened when it is first asked, closed when the app stops.
    Where it is away, StoreError comes soon."""
    tracer: Tracer | None = None
    """None: nothing is traced."""


class Extension(Protocol):
    """A part of a service that lives as long as its app: ``router.extend(extension)``."""

    def bind(self, host: Host) -> Sequence[Upkeep]:
        """Take what the app lends, before it starts; return loops to run beside its own.

        Where the platform freezes the process between calls the loops do not run; ``App.tend`` ticks them,
        and one that has ``async before_call()`` is asked before each request. An extension or loop that has
        ``restored()`` is told when it goes on in another process than the one that it was made in.
        Called once for each app that serves the router.
        """


@dataclass(frozen=True, slots=True)
class Parts:
    """What an app is made of; ``wiring.build_app`` chooses them from the settings."""

    settings: Settings
    clock: Clock
    events: Events
    routes: Sequence[Route]
    store: Store
    blobs: BlobStore
    dispatcher: Dispatcher
    service: JobService
    runner: Runner
    pool: WorkerPool
    stack: Stack
    table: Table
    dispatch: Dispatch
    metrics: Metrics
    scope: DependencyScope
    """Values of app-wide dependencies."""
    upkeep: Sequence[Upkeep] = ()
    on_startup: Sequence[Hook] = ()
    on_shutdown: Sequence[Hook] = ()
    closing: Sequence[Hook] = ()
    """Let go of what the wiring opened (children, threads), after the jobs have ended."""
    restored: Sequence[Callable[[], None]] = ()
    """Draw anew what has to be unlike in every process that a snapshot is thawed into."""
    remarks: Sequence[Note] = ()
    """What an operator should see when the service has started."""
    tracer: Tracer | None = None
    """None: nothing is traced, and nothing of it is in the way of a request."""


class App:
    """One service, ready to be driven by any platform."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.events = parts.events
        self.routes = parts.routes
        self.table = parts.table
        self.service = parts.service
        self.metrics = parts.metrics
        self.dispatch = parts.dispatch
        """``await app.dispatch(request, route)``: below the middleware, errors are raised."""
        self.handle: Handle = parts.stack.handle
        """``await app.handle(request)`` answers a request; errors are answers too."""
        self.admit = parts.stack.admit
        """Judges a request before its body is read."""
        self.admission: Callable[[Request], Admission | None] = parts.stack.admission
        self.admitted = parts.stack.admitted
        """``handle`` in two steps, for heads that come again and again."""
        if parts.tracer is not None:
            from router_core.middleware.record import identified

            self.handle = parts.tracer.around(parts.stack.handle, identified)
            # what is traced has a task, so that spans find the one that they belong to
            self.admission = _no_shortcut
        self.looks: tuple[Callable[[], Awaitable[None]], ...] = tuple(
            part.before_call for part in parts.upkeep if hasattr(part, "before_call")
        )
        """To be awaited before a request where nothing works beside the calls; none of them raises."""
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self._drained = False
        self._background = True
        self._lock: asyncio.Lock | None = None

    # -- life ----------------------------------------------------------------------------------------

    async def start(self, *, background: bool = True) -> None:
        """Open the store, run the start-up hooks, begin to work on jobs. Calling it twice does nothing.

        ``background=False`` is for platforms that freeze the process after each answer: nothing is begun
        that works beside the calls, so somebody has to call ``tend`` on a schedule.

        Raises Misconfigured or StoreError when the service cannot run; what was opened is closed again.
        """
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if self._started:
                return
            parts = self.parts
            await parts.store.open()
            try:
                for hook in parts.on_startup:
                    await run_hook(hook)
                if background:
                    await parts.dispatcher.start(parts.runner.run)
                else:
                    parts.runner.check()
            except BaseException:
                await parts.scope.aclose()
                await parts.store.close()
                raise
            if background:
                self._tasks = [asyncio.create_task(part.run(), name=part.name) for part in parts.upkeep]
            self._background = background
            self._started = True
            self._drained = False
            parts.service.draining = parts.service.released = False
        for remark in parts.remarks:
            self.events.emit(remark)

    def restored(self) -> None:
        """Be another process than the one that a snapshot was taken of."""
        for hook in self.parts.restored:
            hook()

    async def drain(self, grace: float) -> None:
        """Take no more jobs and give those that run ``grace`` seconds; reading goes on.

        Jobs that do not end in time go back to the queue without counting the attempt. Who waits for jobs,
        or follows them, is then let go.
        """
        if self._drained or not self._started:
            return
        self._drained = True
        self.parts.service.draining = True
        self.events.emit(Note("draining", "info", f"draining, up to {grace:g} s"))
        try:
            await self.parts.dispatcher.stop(grace)
        finally:
            self.parts.service.release()

    async def stop(self, grace: float | None = None) -> None:
        """Drain, stop the loops, run the shut-down hooks, close the store. Calling it twice does nothing."""
        if not self._started:
            return
        await self.drain(self.settings.drain_grace if grace is None else grace)
        self._started = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for hook in self.parts.on_shutdown:
            try:
                await run_hook(hook)
            except Exception as error:
                self.events.emit(Note("shutdown_hook_failed", "error", str(error), error=error))
        for hook in self.parts.closing:
            await run_hook(hook)
        await self.parts.scope.aclose()
        await self.parts.store.close()

    # -- jobs ----------------------------------------------------------------------------------------

    async def run(
        self, job_id: str, worker_id: str, *, lease: float | None = None, within: float | None = None,
        final: bool = False,
    ) -> Job | None:  # fmt: skip
        """Claim one job by id and run it to its end, for queues that name the job they hand out.

        ``lease`` and ``within`` are seconds: after ``within`` the attempt is asked to stop, and what does
        not end by itself goes back to the queue without being counted. ``final`` says that no other attempt
        would be given longer: it has timed out then, and counts.

        Returns the record as it is afterwards, or None where there is none; a job that is not ready
        (running elsewhere, ended, not due) is left alone. Raises StoreError when nothing could be claimed.
        """
        from router_core.jobs.job import Job  # a process that only answers calls never needs them
        from router_core.jobs.store import Claim

        lease = self.settings.lease if lease is None else lease
        runner, loop = self.parts.runner, asyncio.get_running_loop()
        at = self.parts.clock.monotonic()
        for job in await self.parts.store.claim(Claim(worker_id, lease, job_id=job_id)):
            runner.claimed(job.id, at)
            timer = None
            if within is not None and final:
                timer = loop.call_later(max(0.0, within), runner.time_out, job.id, within)
            elif within is not None:
                timer = loop.call_later(max(0.0, within), runner.release, job.id)
            try:
                await runner.run(job, lease)
            finally:
                if timer is not None:
                    timer.cancel()
        found = await self.parts.store.get(job_id)
        return found if isinstance(found, Job) else None

    async def tend(self) -> dict[str, bool]:
        """Do one round of everything that otherwise works beside the calls: rescue, resend, purge, webhooks.

        Returns by name of the part whether it did its work; what failed is reported and done next time.
        """
        done: dict[str, bool] = {}
        for part in self.parts.upkeep:
            try:
                await part.tick()
                await part.idle()
            except Exception as error:
                text = f"{part.name}: this round failed"
                self.events.emit(Note(f"{part.name}_tick_failed", "error", text, error=error))
                done[part.name] = False
            else:
                done[part.name] = part.ready(self.parts.clock.now())
        return done

    @property
    def background(self) -> bool:
        """Whether this process goes on working between the calls, so that a call may wait here."""
        return self._started and self._background

    # -- state ---------------------------------------------------------------------------------------

    async def ready(self) -> dict[str, Any]:
        """Return ``{"ready": bool, "reasons": [failing names], "checks": {name: {"ok": bool, ...}}}``."""
        checks: dict[str, dict[str, Any]] = {
            "started": {"ok": self._started},
            "draining": {"ok": not self._drained},
        }
        checks["store"] = await timed(self.parts.store.ping)
        checks["blobs"] = await timed(self.parts.blobs.ping)
        now = self.parts.clock.now()
        for part in self.parts.upkeep if self._background else ():
            checks[part.name] = {"ok": part.ready(now)}
        # else the workers are somewhere else
        if self._background and getattr(self.parts.dispatcher, "claims_here", False):
            worker = self.parts.pool.readiness()
            checks["worker"] = {"ok": worker["ready"], **worker}
        failing = [name for name, check in checks.items() if not check["ok"]]
        return {"ready": not failing, "reasons": failing, "checks": checks}


def _no_shortcut(request: Request) -> None:
    """Have every request handled from its beginning."""
