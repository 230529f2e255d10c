"""Plain and streaming routes: bound, run and answered at once, without a record."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pydantic_core

from handlers.runpod.line import Chunks, Line, Progress
from handlers.runpod.outcome import Outcome
from handlers.runpod.results import Results
from router_core.app import App
from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.result import encode_result, is_stream
from router_core.binding.stream import iterate_in_threads
from router_core.binding.streamed import values_of
from router_core.errors import Draining, HTTPError, PayloadTooLarge
from router_core.http.message import Headers, Request, Response
from router_core.jobs.context import JobCancelled, JobContext, JobProgress
from router_core.jobs.execution import contained
from router_core.jobs.settle import Outputs
from router_core.routing.named import Named
from router_core.routing.route import Route
from router_core.types import ANONYMOUS

__all__ = ["Calls", "draining", "request_of"]

RELEASE_GRACE: Final = 2.0
"""The same when the process has to end."""
STOP_GRACE: Final = 10.0
"""Seconds that a function gets to end after it was asked to; then nobody waits for it any more."""
_JSON: Final = Headers([("content-type", "application/json")])


def request_of(route: Route, arguments: dict[str, Any], request_id: str) -> Request:
    """Return the request that a function or an exception handler may ask for: there was no real one."""
    try:
        body = pydantic_core.to_json(arguments)
    except ValueError:
        body = b""
    return Request(route.methods[0], route.path, headers=_JSON, body=body, id=request_id, principal=ANONYMOUS)


class Calls:
    """Runs functions that are not jobs."""

    def __init__(self, app: App, intake: Intake, results: Results) -> None:
        self._scope = app.parts.scope
        self._every = app.settings.progress_interval
        self._intake = intake
        self._results = results
        self._running: dict[asyncio.Task[Outcome], _Call] = {}
        self._released = False

    async def run(self, named: Named, job_id: str, sync: bool, line: Line) -> Outcome:
        """Run to the end. When this task is cancelled, so is the function, and nothing is posted after."""
        if self._released:
            raise draining()
        call = _Call(named, job_id, sync, Progress(line, self._every), Chunks(line))
        task = asyncio.create_task(self._guarded(call))
        self._running[task] = call
        task.add_done_callback(lambda done: self._running.pop(done, None))
        try:
            ends: set[asyncio.Future[Any]] = {task, call.given_up}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            call.progress.stop()
            call.chunks.stop()
            call.context.mark_cancelled()
            task.cancel()
            await asyncio.wait({task}, timeout=STOP_GRACE)
            await call.silence()
            raise
        return await self._ended(call, task)

    def release(self) -> None:
        """Ask everything to stop because this process ends; its callers are told to try again."""
        self._released = True
        loop = asyncio.get_running_loop()
        for task, call in self._running.items():
            call.context.mark_cancelled()
            task.cancel()
            loop.call_later(RELEASE_GRACE, call.give_up)

    async def _ended(self, call: _Call, task: asyncio.Task[Outcome]) -> Outcome:
        """Say what came of it, after all that it has posted before."""
        await call.progress.close()
        if not task.done():  # it cannot be stopped, and its caller should not wait for it
            await call.chunks.drop()
            raise draining()
        error = None if task.cancelled() else task.exception()
        stopped = task.cancelled() or isinstance(error, (asyncio.CancelledError, JobCancelled))
        if stopped and self._released:
            await call.chunks.drop()
            raise draining()
        await call.chunks.flush()
        if stopped:
            raise RuntimeError("the function was cancelled, and not by its caller")
        if error is not None:
            raise error
        return task.result()

    async def _guarded(self, call: _Call) -> Outcome:
        try:
            return await self._bound(call)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # a task must not end the loop, and the worker with it
            raise contained(error) from error.__cause__

    async def _bound(self, call: _Call) -> Outcome:
        route, plan = call.route, call.route.plan
        _check_size(route, call.named.arguments)
        inputs = plan.collect_input(call.named.arguments, self._intake)
        await plan.fetch(inputs, self._intake)
        values = plan.validate(inputs)
        injected = call.injected() if plan.slots else {}
        async with DependencyScope(app=self._scope, run_sync=self._run_sync(call)) as scope:
            value = await plan.call(values, injected, scope)
            if is_stream(value):
                items = (
                    iterate_in_threads(value, scope.run_sync)
                    if isinstance(value, types.GeneratorType)
                    else value
                )
                return await self._stream(call, items)
            if isinstance(value, Response) and value.status < 400:
                events = values_of(value)
                if events is not None:
                    return await self._stream(call, events)
            return await self._answer(call, value)

    async def _answer(self, call: _Call, value: Any) -> Outcome:
        if isinstance(value, Response) and value.status >= 400:
            raise _refusal(value)
        return await self._results.of_value(call.route, value, call.sync)

    async def _stream(self, call: _Call, items: AsyncIterator[Any]) -> Outcome:
        outputs, size = Outputs(), 0
        try:
            async for value in items:
                chunk = encode_result(call.route, value)
                size += len(chunk) + 1
                self._results.check(size, call.sync)
                outputs.add(chunk)
                await call.chunks.put(chunk)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        return await self._results.of_json(outputs.result(), call.sync, stream=True)

    def _run_sync(self, call: _Call) -> Callable[..., Any]:
        run = self._scope.run_sync
        # a function that can be told to stop is waited for: what it uses is free only when it has ended
        hears = "job" in call.route.plan.slots

        async def run_sync(func: Callable[..., Any], /, *args: Any) -> Any:
            future = asyncio.ensure_future(_safely(run, func, *args))
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                call.context.mark_cancelled()
                if hears:
                    await asyncio.wait({future}, timeout=STOP_GRACE)
                future.add_done_callback(_retrieved)
                raise

        return run_sync


class _Call:
    """One call: what is asked, what it may say on its way."""

    __slots__ = ("chunks", "context", "given_up", "job_id", "named", "progress", "route", "sync")

    def __init__(self, named: Named, job_id: str, sync: bool, progress: Progress, chunks: Chunks) -> None:
        self.named = named
        self.route = named.route
        self.job_id = job_id
        self.sync = sync
        self.progress = progress
        self.chunks = chunks
        own: JobProgress = JobProgress(lambda: progress.set(*own.latest()))
        self.context = JobContext(job_id, progress=own)
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def give_up(self) -> None:
        """Wait for its function no more."""
        if not self.given_up.done():
            self.given_up.set_result(None)

    def injected(self) -> dict[str, Any]:
        """Return what a function may be given besides its arguments."""
        return {
            "request": request_of(self.route, self.named.arguments, self.job_id),
            "principal": ANONYMOUS,
            "job": self.context,
            "job_progress": self.context.progress,
        }

    async def silence(self) -> None:
        """Post nothing more."""
        await asyncio.gather(self.progress.close(), self.chunks.drop())


def _check_size(route: Route, arguments: dict[str, Any]) -> None:
    limit = route.max_body_bytes
    if limit is not None and len(pydantic_core.to_json(arguments, inf_nan_mode="constants")) > limit:
        raise PayloadTooLarge(f"the request body may have {limit} bytes")


def _refusal(response: Response) -> HTTPError:
    """Return the error that an author has answered with, rather than raised."""
    body = response.body if isinstance(response.body, bytes) else b""
    try:
        told = pydantic_core.from_json(body)
    except ValueError:
        told = body.decode("utf-8", "replace")
    if isinstance(told, dict):
        return HTTPError(response.status, _said(told), extra={"response": told})
    return HTTPError(response.status, str(told) if told else "")


def _said(told: dict[str, Any]) -> str:
    """Return what a refusal says: ours, or one of OpenAI's."""
    error = told.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    text = told.get("detail") or inner
    return text if isinstance(text, str) else ""


def draining() -> Draining:
    """Return the error for what cannot be run here any more."""
    return Draining("this worker is shutting down; run the job again", retry_after=1)


async def _safely(run: Callable[..., Awaitable[Any]], func: Callable[..., Any], *args: Any) -> Any:
    # called in here: a task that is cancelled before its first step would leave a coroutine unawaited
    try:
        return await run(func, *args)
    except (SystemExit, KeyboardInterrupt) as error:  # in a task of its own it would end the loop
        raise contained(error) from error


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
