"""What runs inside a child process: import the service, run its start-up hooks, then one job after another.

The main thread runs sync functions, as it would if they were scripts of their own (signals, GPU libraries);
a second thread has the event loop, talks to the worker and runs async functions.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import importlib
import os
import queue
import runpy
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

from router_core.binding.depends import DependencyScope
from router_core.binding.plan import compile_plan
from router_core.binding.result import encode_result, file_of
from router_core.errors import StoreError
from router_core.jobs import frames
from router_core.jobs.address import Address
from router_core.jobs.context import JobCancelled, JobContext, decode_steps
from router_core.jobs.execution import contained
from router_core.jobs.frames import Frame
from router_core.jobs.journal import Journal
from router_core.jobs.retry import failure_of
from router_core.jobs.runner import file_done, slots_of
from router_core.jobs.settle import MAX_INLINE_FILE, MAX_RESULT, Done, Outputs, TooLarge
from router_core.jobs.store import NewEvent
from router_core.routing.route import JobOptions, Route
from router_core.routing.router import Router, loading

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1
_MAX_TRACE: Final = 20_000


def main(boot: Mapping[str, Any]) -> None:
    """Live until the worker hangs up."""
    _die_with(int(boot["parent"]))
    work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    sock = socket.socket(fileno=int(boot["fd"]))
    sock.set_inheritable(False)
    service = _Service(boot, sock, work)
    threading.Thread(target=service.live, name="router-core-loop", daemon=True).start()
    while True:
        work.get()()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        os._exit(0)


class _Service:
    """The loop's side of a child."""

    def __init__(
        self, boot: Mapping[str, Any], sock: socket.socket, work: queue.SimpleQueue[Callable[[], None]]
    ) -> None:
        self._boot = boot
        self._sock = sock
        self._work = work
        self._routes: dict[str, Route] = {}
        self._router: Any = None
        self._app_scope: DependencyScope | None = None
        self._in_main = False
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._cancelled = False
        self._context: JobContext | None = None
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._writer: asyncio.StreamWriter | None = None

    def live(self) -> None:
        """Run the loop; its end is the end of the process and of everything that it started.

        A ``router.start()`` at the end of whatever is imported here is a no-op: this process serves its
        worker only.
        """
        try:
            with loading():
                asyncio.run(self._serve())
        except BaseException:
            traceback.print_exc()
        finally:
            os.killpg(0, signal.SIGKILL)

    async def run_in_main(self, func: Callable[..., Any], /, *args: Any) -> Any:
        """Run a sync function in the main thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            value, error = None, None
            try:
                value = context.run(func, *args)
            except BaseException as raised:
                error = contained(raised)
            loop.call_soon_threadsafe(_deliver, future, value, error)

        self._in_main = True
        self._work.put(work)
        try:
            return await future
        finally:
            self._in_main = False

    async def _serve(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._sock, limit=1024 * 1024)
        try:
            await self._begin()
        except BaseException as error:
            self.send(
                "failed", _describe(error, JobOptions(), "the service could not start in a child process: ")
            )
            await self._writer.drain()
            return
        self.send("ready")
        while True:
            frame = await frames.read(reader)
            if frame is None:
                return
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.op == "job":
            self._begun = self._cancelled = False
            self._task = asyncio.get_running_loop().create_task(self._job(frame))
        elif frame.op == "cancel":
            self._cancel()
        elif frame.op == "step":
            future = self._waiting.pop(frame.data["id"], None)
            if future is not None and not future.done():
                error = frame.data.get("error")
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(StoreError(error))

    def _cancel(self) -> None:
        self._cancelled = True
        if self._context is not None:
            self._context.mark_cancelled()
        # a task that is cancelled before its first step never runs, and the worker would wait for its answer
        if self._task is not None and self._begun and not self._in_main:
            self._task.cancel()

    def send(self, op: str, data: Mapping[str, Any] | None = None, blobs: Sequence[bytes] = ()) -> None:
        """Send a message to the worker."""
        if self._writer is not None:
            self._writer.writelines(frames.write(op, data, blobs))

    async def drain(self) -> None:
        """Wait until the worker has taken most of what was sent."""
        if self._writer is not None:
            await self._writer.drain()

    # --- the service

    async def _begin(self) -> None:
        address = Address.from_dict(self._boot)
        modules = [await self.run_in_main(_load, address)]
        origin, _, attribute = str(self._boot["origin"]).partition(":")
        if origin:
            with suppress(ImportError):  # the server may have found it by other means; the function counts
                modules.insert(0, await self.run_in_main(importlib.import_module, origin))
        self._app_scope = DependencyScope(run_sync=self.run_in_main)
        self._router = _find_router(modules, attribute if origin else "")
        if self._router is not None:
            self._routes = {route.key: route for route in self._router.routes}
            for hook in self._router.startup_hooks:
                value = await self.run_in_main(hook)
                if isinstance(value, Awaitable):
                    await value

    def _route(self, data: Mapping[str, Any]) -> Route:
        key, address = data["route"], Address.from_dict(data["address"])
        route = self._routes.get(key)
        if route is None:
            module = _load(address)
            func: Any = module
            for name in address.qualname.split("."):
                func = getattr(func, name)
            path, methods = data["path"], tuple(data["methods"])
            plan = compile_plan(func, path=path, methods=methods, job=True)
            options = JobOptions(isolation="process")
            route = self._routes[key] = Route(key, methods, path, func, plan, "job", options)
        return route

    # --- one job

    async def _job(self, frame: Frame) -> None:
        loop = asyncio.get_running_loop()
        journal = Journal(loop, _PipeSink(self), progress_every=0.1, events_every=0.02)
        options = JobOptions()
        self._begun = True
        try:
            if self._cancelled:
                raise JobCancelled(frame.data["job_id"])
            route = self._route(frame.data)
            options = route.job
            done = await self._call(route, frame, journal)
            if len(done.result) > MAX_RESULT:
                raise TooLarge(len(done.result))
        except BaseException as error:
            answer: tuple[str, Mapping[str, Any], Sequence[bytes]] = ("failed", _describe(error, options), ())
        else:
            about = {"content_type": done.content_type, "filename": done.filename}
            answer = ("result", about, (done.result,))
        finally:
            self._context = None
        await self._settle(journal, answer)

    async def _settle(self, journal: Journal, answer: tuple[str, Mapping[str, Any], Sequence[bytes]]) -> None:
        """Say everything that was said before the end, then the end."""
        with suppress(Exception, asyncio.CancelledError):
            await journal.flush()
        fraction, message = journal.progress.latest()
        if fraction or message:
            self.send("progress", {"fraction": fraction, "message": message})
        self._task = None
        self.send(*answer)
        with suppress(Exception, asyncio.CancelledError):
            await self.drain()

    async def _call(self, route: Route, frame: Frame, journal: Journal) -> Done:
        data = frame.data
        context = self._context = JobContext(
            data["job_id"], data["attempt"], deadline=data["deadline"], progress=journal.progress,
            steps=decode_steps(frame.blobs[0]), port=journal,
        )  # fmt: skip
        injected = slots_of(route.plan.slots, context, route, data["owner"], data["request_id"])
        values = route.plan.validate(frames.unpack(data, frame.blobs[1:]))
        async with DependencyScope(app=self._app_scope, run_sync=self.run_in_main) as scope:
            value = await route.plan.call(values, injected, scope)
            if not route.plan.is_generator:
                file = file_of(value)
                large = file is not None and file.size > MAX_INLINE_FILE
                return file_done(file) if file is not None and large else Done(encode_result(route, value))
            outputs = Outputs()
            async with aclosing(value):
                async for item in value:
                    chunk = encode_result(route, item)
                    outputs.add(chunk)
                    journal.emit(NewEvent("output", chunk))
                    await journal.room()
            return Done(outputs.result())

    async def step(self, name: str, outcome: bytes) -> None:
        """Ask the worker to record a step and wait for its word."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[id(future)] = future
        self.send("step", {"id": id(future), "name": name}, (outcome,))
        await future


class _PipeSink:
    """Writes what a journal collects to the worker."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def progress(self, fraction: float, message: str) -> None:
        self._service.send("progress", {"fraction": fraction, "message": message})

    async def events(self, events: Sequence[NewEvent]) -> None:
        self._service.send(
            "events", {"types": [event.type for event in events]}, [event.data for event in events]
        )
        await self._service.drain()

    async def step(self, name: str, outcome: bytes) -> None:
        await self._service.step(name, outcome)


def _describe(error: BaseException, options: JobOptions, prefix: str = "") -> dict[str, Any]:
    failure = error.failure if isinstance(error, TooLarge) else failure_of(error, options)
    trace = "".join(traceback.format_exception(error))[-_MAX_TRACE:]
    return {
        "type": failure.type, "message": prefix + failure.message, "retryable": failure.retryable,
        "reason": failure.reason.value, "retry_after": failure.retry_after,
        "status": failure.status, "code": failure.code,
        "trace": trace.encode("utf-8", "replace").decode(),
    }  # fmt: skip


def _deliver(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


@functools.cache
def _load(address: Address) -> types.ModuleType:
    """Import the module; a script runs under another name than ``__main__``, as in a spawned process."""
    if not address.script:
        return importlib.import_module(address.module)
    module = types.ModuleType("__mp_main__")
    sys.modules["__mp_main__"] = sys.modules["__main__"] = module
    module.__dict__.update(runpy.run_path(address.script, run_name="__mp_main__"))
    return module


def _find_router(modules: Sequence[types.ModuleType], attribute: str) -> Any:
    named = getattr(modules[0], attribute, None) if attribute else None
    if isinstance(named, Router):
        return named
    routers = [value for module in modules for value in vars(module).values() if isinstance(value, Router)]
    return max(routers, key=lambda router: len(router.routes), default=None)
