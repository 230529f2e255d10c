"""Run one claimed job: arguments in, function, outcome out. Never raises."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from router_core.binding.result import file_of, is_stream
from router_core.binding.stream import iterate_in_threads
from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.http.media import DEFAULT_CONTENT_TYPE, File
from router_core.http.message import Request
from router_core.jobs.blobs import BlobStore
from router_core.jobs.context import JobCancelled, JobContext, decode_steps
from router_core.jobs.execution import Phase, Run, Stop, Threads
from router_core.jobs.failpoints import failpoint
from router_core.jobs.job import Job, Reason, State
from router_core.jobs.journal import Journal
from router_core.jobs.retry import Failure, failure_of
from router_core.jobs.settle import (
    MAX_INLINE,
    MAX_INLINE_FILE,
    Done,
    Outputs,
    Settlement,
    StoreSink,
    TooLarge,
)
from router_core.jobs.store import JobStore, NewEvent
from router_core.routing.route import Route
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import Principal

__all__ = ["ChildFailed", "Children", "Runner"]

RunSync = Callable[..., Awaitable[Any]]
"""Run a sync function away from the loop: ``await run_sync(func, *args, **kwargs)``."""
Subscribe = Callable[[str, Callable[[Job], None]], Callable[[], None]]
"""``Hub.subscribe``: be told of new versions of a job; returns the way out."""

CANCEL_GRACE: Final = 10.0
"""Seconds between asking a function to stop and ending it without asking."""
RELEASE_GRACE: Final = 1.0
"""The same for a process that must end itself."""


class Children(Protocol):
    """Runs functions in processes of their own."""

    def check(self) -> None:
        """Raise Misconfigured for a function that cannot run so."""

    async def call(self, run: Run, inputs: Mapping[str, Any], began: Callable[[], None]) -> Done:
        """Run the function of ``run.route`` in a child; returns its result.

        Calls ``began`` when there is a child that has loaded the service: the function's time counts from
        then on. Raises ChildFailed with the failure that the child (or its death) was.
        """


class ChildFailed(Exception):
    """The function failed in a child process, or took the child with it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Runner:
    """Executes claimed jobs and settles them.

    ``active`` holds what runs at the moment, by job id: a heartbeat extends the leases of these, a drain
    stops them.
    """

    def __init__(
        self, *, store: JobStore, routes: Mapping[str, Route], blobs: BlobStore, clock: Clock,
        settings: Settings, events: Events, load_inputs: Callable[[Job, Route], Awaitable[Any]],
        new_scope: Callable[[RunSync], AbstractAsyncContextManager[Any]],
        encode: Callable[[Route, Any], bytes], children: Children | None = None,
        subscribe: Subscribe | None = None, cancel_grace: float = CANCEL_GRACE,
        draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.active: dict[str, Run] = {}
        self.on_retry: Callable[[float], None] | None = None
        """Told when a job was put back, and for when (on the loop)."""
        self._store = store
        self._routes = routes
        self._clock = clock
        self._lease = settings.lease
        self._progress_every = settings.progress_interval
        self._events = events
        self._load_inputs = load_inputs
        self._new_scope = new_scope
        self._encode = encode
        self._no_scope: Any = new_scope(_no_threads)
        """For functions that depend on nothing."""
        self._children = children
        self._subscribe = subscribe
        self._grace = cancel_grace
        self._threads = Threads()
        self._claimed: dict[str, tuple[float, Callable[[], None] | None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self.settlement = Settlement(
            store=store, blobs=blobs, clock=clock, events=events, retention=settings.retention, draw=draw,
            retry_at=self._retry_at,
        )  # fmt: skip

    @property
    def fenced(self) -> int:
        """How many outcomes were thrown away, as another worker owned the job."""
        return self.settlement.fenced

    def check(self) -> None:
        """Raise Misconfigured when some route cannot run here; called before the first claim."""
        if self._children is not None:
            self._children.check()
            return
        for route in self._routes.values():
            if route.job.isolation == "process":
                raise Misconfigured(f"{route.key} asks for isolation='process', which this worker lacks")

    def claimed(self, job_id: str, at: float, on_free: Callable[[], None] | None = None) -> None:
        """Note, before ``run``, when the job was claimed (monotonic), and whose slot it takes."""
        self._claimed[job_id] = (at, on_free)

    def cancel(self, job_id: str) -> bool:
        """Ask a job to stop that runs here, from any thread; its record says cancelling already."""
        run = self.active.get(job_id)
        return run is not None and run.stop(Stop.CANCEL)

    def release(self, job_id: str) -> bool:
        """Ask a job that runs here to stop because this process must, so that its attempt is not counted."""
        run = self.active.get(job_id)
        return run is not None and run.stop(Stop.RELEASE, RELEASE_GRACE)

    def time_out(self, job_id: str, seconds: float) -> bool:
        """End the attempt of a job that runs here: it has had the longest time that this platform gives."""
        run = self.active.get(job_id)
        if run is None:
            return False
        run.limit = seconds
        return run.stop(Stop.TIMEOUT, RELEASE_GRACE)

    async def run(self, job: Job, lease: float = 0.0) -> None:
        """Execute a job that was claimed for this process, and write what became of it.

        ``lease`` is for how many seconds it was claimed, if not for those of the settings.
        """
        at, on_free = self._claimed.pop(job.id, (self._clock.monotonic(), None))
        loop = asyncio.get_running_loop()
        route = self._routes.get(job.route)
        run = Run(
            job, route, loop, lease_ends=at + (lease or self._lease), grace=self._grace, on_free=on_free
        )
        run.task = asyncio.current_task()
        run.abandon = lambda: self._abandon(run)
        self.active[job.id] = run
        leave = self._subscribe and self._subscribe(job.id, lambda new: _changed(run, new))
        try:
            await self._attempt(run)
        except BaseException as error:  # the worker outlives whatever a job does to it
            if not run.settled:
                self._trouble(run, error)
        finally:
            run.phase = Phase.DONE
            run.clear_timers()
            if leave is not None:
                leave()
            if self.active.get(job.id) is run:
                del self.active[job.id]
            run.free()

    async def _attempt(self, run: Run) -> None:
        outcome = await self._outcome(run)
        if run.settled:
            return
        run.phase = Phase.SETTLING
        run.clear_timers()
        run.free()  # the function has ended: another may start while this one is written
        await self.settlement.settle(run, outcome)

    async def _outcome(self, run: Run) -> Done | Failure:
        try:
            done: Done | None = await self._execute(run)
            error: BaseException | None = None
        except BaseException as raised:
            done, error = None, raised
            if isinstance(raised, asyncio.CancelledError):
                self._swallow_cancel(run)
        failure = self._stopped(run, done)
        if failure is not None:
            return failure
        if done is not None:
            return done
        return self._failure(run, error if error is not None else RuntimeError("no outcome"))

    def _swallow_cancel(self, run: Run) -> None:
        """Take a cancellation for what it was: ours, or the end of the loop."""
        task = run.task
        if task is None or not task.cancelling():
            return  # the function raised it of its own accord: an error like any other
        while task.uncancel():
            pass
        if run.stopped is None:
            run.stopped = Stop.RELEASE

    def _stopped(self, run: Run, done: Done | None) -> Failure | None:
        """Return the failure that a stop amounts to; None when the function may have ended by itself."""
        match run.stopped:
            case Stop.CANCEL:
                return Failure("JobCancelled", "cancelled", False, Reason.CANCEL)
            case Stop.TIMEOUT:
                text = f"the function ran longer than {run.limit or run.job.timeout:.4g} s"
                return Failure("TimeoutError", text, True, Reason.TIMEOUT)
            case Stop.RELEASE if done is None:
                return Failure("Draining", "the worker is shutting down", True, Reason.RELEASED)
            case Stop.FENCED | Stop.ABANDON:
                return Failure("Fenced", "not ours any more", False, Reason.LOST)
        return None

    def _failure(self, run: Run, error: BaseException) -> Failure:
        if isinstance(error, ChildFailed | TooLarge):
            failure = error.failure
        elif run.route is None:
            failure = Failure(type(error).__name__, str(error), False, error=error)
        else:
            failure = failure_of(error, run.route.job)
        fields = {"job_id": run.job.id, "route": run.job.route, "attempt": run.job.attempt}
        if failure.trace:
            fields["traceback"] = failure.trace
        self._events.emit(Note("job_error", "error", failure.message, fields, failure.error))
        return failure

    async def _execute(self, run: Run) -> Done:
        route, job = run.route, run.job
        if route is None:
            raise Misconfigured(f"no function of this service has the route {job.route!r}")
        inputs = await self.settlement.patiently(run, lambda: self._load_inputs(job, route))
        failpoint("mid_work")
        if run.stopped is not None:
            raise JobCancelled(job.id)
        run.phase = Phase.WORKING
        plan = route.plan
        isolated = route.job.isolation == "process"
        if not isolated:
            self._start_time(run)
        # a function that neither asks for its job nor yields has nothing to say on the way
        context = self._context(run) if plan.slots or plan.is_generator or isolated else None
        if isolated:
            if self._children is None:
                raise Misconfigured(f"{route.key} asks for isolation='process', which this worker lacks")
            return await self._children.call(run, inputs, lambda: self._start_time(run))
        return await self._call(run, route, inputs, context)

    def _start_time(self, run: Run) -> None:
        """Count the time that the function may take from now on."""
        timeout = run.job.timeout
        if timeout:
            run.start_timer(timeout)
            if run.context is not None:
                run.context.deadline = self._clock.now() + timeout

    def _context(self, run: Run) -> JobContext:
        job = run.job
        steps = decode_steps(job.steps) if job.steps else {}
        sink = StoreSink(self._store, run, steps)
        journal = Journal(run.loop, sink, progress_every=self._progress_every)
        run.journal = journal
        if job.event_seq:  # whoever has read those of an attempt before this one has to know
            journal.emit(NewEvent("attempt", b'{"attempt":%d}' % job.attempt))
        deadline = self._clock.now() + job.timeout if job.timeout else None
        run.context = JobContext(
            job.id, job.attempt, deadline=deadline, progress=journal.progress, steps=steps, port=journal
        )
        if run.stopped is not None:
            run.context.mark_cancelled()
        return run.context

    async def _call(self, run: Run, route: Route, inputs: Any, context: JobContext | None) -> Done:
        plan, job = route.plan, run.job
        values = plan.validate(inputs)
        injected = slots_of(plan.slots, context, route, job.owner, job.request_id) if context else {}

        async def run_sync(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            try:
                return await self._threads.call(run, func, args, kwargs)
            finally:
                run.left_await()

        if plan.is_async and not plan.depends:
            return await self._finish(run, route, run_sync, await plan.call(values, injected, self._no_scope))
        async with self._new_scope(run_sync) as scope:
            return await self._finish(run, route, run_sync, await plan.call(values, injected, scope))

    async def _finish(self, run: Run, route: Route, run_sync: RunSync, value: Any) -> Done:
        """Turn what the function returned into the result."""
        if is_stream(value):
            items = iterate_in_threads(value, run_sync) if isinstance(value, Generator) else value
            return Done(await self._collect(run, route, items))
        file = file_of(value)
        if file is not None and file.size > MAX_INLINE_FILE:
            done: Done = await run_sync(file_done, file)
            return done
        if isinstance(value, str) and len(value) > MAX_INLINE:  # would keep the loop from others for a while
            return Done(await run_sync(self._encode, route, value))
        return Done(self._encode(route, value))

    async def _collect(self, run: Run, route: Route, values: AsyncIterator[Any]) -> bytes:
        """Publish each value as an ``output`` event as it comes; the result is the list of them."""
        outputs = Outputs()
        if run.journal is None:
            self._context(run)
        try:
            async for value in values:
                if run.stopped is not None:
                    raise JobCancelled(run.job.id)
                chunk = self._encode(route, value)
                outputs.add(chunk)
                if run.journal is not None:
                    run.journal.emit(NewEvent("output", chunk))
                    await run.journal.room()
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()
        return outputs.result()

    def _abandon(self, run: Run) -> None:
        """Write the end of an attempt whose function does not stop; it keeps its slot until it does."""
        run.settled = True
        task = run.loop.create_task(self._settle_without(run))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _settle_without(self, run: Run) -> None:
        self._events.emit(
            Note("job_ignores_stop", "warning", "a function goes on after it was asked to stop",
                 {"job_id": run.job.id, "route": run.job.route})
        )  # fmt: skip
        failure = self._stopped(run, None)
        if failure is None:
            return
        try:
            await self.settlement.settle(run, failure)
        except BaseException as error:
            self._trouble(run, error)

    def _trouble(self, run: Run, error: BaseException) -> None:
        if run.stopped in (Stop.FENCED, Stop.ABANDON):
            if run.journal is not None:
                run.journal.close()
            if run.stopped is Stop.FENCED:
                self.settlement.discard(run)
            return
        fields = {"job_id": run.job.id, "route": run.job.route}
        text = "the outcome of a job could not be written"
        self._events.emit(Note("settle_failed", "error", text, fields, error))

    def _retry_at(self, at: float) -> None:
        if self.on_retry is not None:
            self.on_retry(at)


def slots_of(
    slots: Collection[str], context: JobContext, route: Route, owner: str, request_id: str
) -> dict[str, Any]:
    """Return what a function may be given besides its arguments; the request that came is long gone."""
    principal = Principal(owner, kind="job")
    values: dict[str, Any] = {"job": context, "job_progress": context.progress, "principal": principal}
    if "request" in slots:
        values["request"] = Request(route.methods[0], route.path, id=request_id, principal=principal)
    return values


def _changed(run: Run, job: Job) -> None:
    """React to a version of the job that somebody else wrote, in the thread of its writer."""
    if job.epoch != run.job.epoch:
        run.stop(Stop.FENCED)
    elif job.state is State.CANCELLING:
        run.stop(Stop.CANCEL)


async def _no_threads(func: Callable[..., Any], /, *args: Any) -> Any:
    raise RuntimeError("this call has no threads")


def file_done(file: File) -> Done:
    """Return a large file as the result that it is; reads it."""
    return Done(file.read(), file.content_type or DEFAULT_CONTENT_TYPE, file.filename)
