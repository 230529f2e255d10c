"""Run functions in child processes that can be killed, one job at a time in each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from router_core.errors import Fenced, Misconfigured, StoreError
from router_core.jobs import frames
from router_core.jobs.address import address_of
from router_core.jobs.execution import Run
from router_core.jobs.frames import Frame
from router_core.jobs.job import Reason
from router_core.jobs.journal import Journal
from router_core.jobs.retry import Failure
from router_core.jobs.runner import ChildFailed
from router_core.jobs.settle import Done
from router_core.jobs.store import NewEvent
from router_core.routing.route import Route
from router_core.telemetry.events import Events, Note

__all__ = ["ChildPool"]

TERM_GRACE: Final = 0.5
"""Seconds between SIGTERM and SIGKILL to a child's process group."""
START_LIMIT: Final = 300.0
"""Seconds for a child to import the service and run its start-up hooks: a large model takes minutes to load,
and a job's ``timeout`` says nothing about that."""
_LIMIT: Final = 1024 * 1024
_BOOT: Final = (
    "import sys, json; boot = json.loads(sys.argv[1]); sys.path[:] = boot['path']; "
    "from router_core.jobs.child import main; main(boot)"
)
_KILL_SIGNALS: Final = {-number: name for name, number in signal.Signals.__members__.items()}


class Child:
    """One child process: the worker's end."""

    def __init__(self, process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.pid = process.pid
        self.exit: int | None = None
        self._process = process
        self._loop = loop
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._gone = asyncio.Event()
        threading.Thread(target=self._watch, name="router-core-child", daemon=True).start()

    @classmethod
    async def start(cls, boot: Mapping[str, Any]) -> Child:
        """Start a process in a group of its own, with a socket to it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        text = json.dumps({**boot, "fd": theirs.fileno(), "parent": os.getpid(), "path": _path()})
        with theirs:
            try:
                # In this thread, no helper: Linux kills the child when the thread that started it ends.
                process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter; takes milliseconds
                    [sys.executable, "-c", _BOOT, text], pass_fds=(theirs.fileno(),), start_new_session=True,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                raise ChildFailed(
                    Failure(
                        type(error).__name__,
                        f"no process could be started: {error.strerror}",
                        True,
                        ours=True,
                    )
                ) from error
        child = cls(process, asyncio.get_running_loop())
        child._reader, child._writer = await asyncio.open_connection(sock=ours, limit=_LIMIT)
        return child

    def _watch(self) -> None:
        """Wait for the end of the process; take the rest of its group with it before its id is free."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._signal(signal.SIGKILL)
        self.exit = self._process.wait()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._died)

    def _died(self) -> None:
        self._gone.set()
        # what it wrote last is read first; the socket may stay open in a process that it has forked
        self._loop.call_later(0.1, self._hang_up)

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.exit is None

    def send(self, op: str, data: Mapping[str, Any] | None = None, blobs: list[bytes] | None = None) -> None:
        """Send a message; a dead child does not read it."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.writelines(frames.write(op, data, blobs or ()))

    async def receive(self) -> Frame:
        """Return the next message; raises ChildFailed when the process has died."""
        frame = await frames.read(self._reader) if self._reader is not None else None
        if frame is None:
            self._signal(signal.SIGKILL)  # it hung up: not of any use, should it still be there
            await self._gone.wait()
            raise ChildFailed(Failure("ChildDied", _death(self.exit), True, Reason.LOST))
        return frame

    # --- Interruptible

    def interrupt(self) -> None:
        """Ask the function to stop."""
        self.send("cancel")

    def kill(self, at_once: bool = False) -> None:
        """End the process and all that it has started."""
        self._signal(signal.SIGKILL if at_once else signal.SIGTERM)
        if not at_once:
            self._loop.call_later(TERM_GRACE, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.exit is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def close(self) -> None:
        """Let an idle child go, or one that was killed; returns when the process is gone."""
        self._hang_up()
        try:
            async with asyncio.timeout(1.0):
                await self._gone.wait()
        except TimeoutError:
            self.kill(at_once=True)
            await self._gone.wait()
        if self._writer is not None:
            with suppress(OSError):
                await self._writer.wait_closed()


class ChildPool:
    """Children of one worker pool: started when needed, used again, replaced when they die.

    Each imports the service once and runs its start-up hooks once. ``origin`` is the ``module:attribute`` of
    the router or app, where it is known; else it is looked for in the function's module.
    """

    def __init__(self, *, routes: Mapping[str, Route], events: Events, origin: str = "") -> None:
        self._routes = routes
        self._events = events
        self._origin = origin
        self._idle: list[Child] = []
        self._all: set[Child] = set()
        self._farewells: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        """Raise Misconfigured for a function that a child could not find."""
        for route in self._routes.values():
            if route.job.isolation == "process":
                if os.name != "posix":
                    raise Misconfigured(f"{route.key}: isolation='process' needs a POSIX system")
                address_of(route.func)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that live."""
        return [child.pid for child in self._all if child.alive]

    async def call(self, run: Run, inputs: Mapping[str, Any], began: Callable[[], None]) -> Done:
        """Run the function of ``run.route`` in a child; returns its result."""
        route = run.route
        if route is None:
            raise Misconfigured(f"no function of this service has the route {run.job.route!r}")
        child = await self._take(run, route)
        began()
        try:
            result = await self._converse(child, run, route, inputs)
        except ChildFailed as error:
            if error.failure.reason is Reason.LOST:
                self._drop(child)
            else:
                self._rest(child, run)
            raise
        except BaseException:
            child.kill()  # nobody listens to it any more
            self._drop(child)
            raise
        finally:
            run.child = None
        self._rest(child, run)
        return result

    async def _take(self, run: Run, route: Route) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                run.child = child
                return child
            self._drop(child)
        child = await Child.start({"origin": self._origin, **address_of(route.func).as_dict()})
        self._all.add(child)
        run.child = child
        try:
            async with asyncio.timeout(START_LIMIT):
                ready = await child.receive()
        except BaseException as error:
            child.kill()
            self._drop(child)
            run.child = None
            if isinstance(error, TimeoutError):
                text = f"the service did not start in a child process within {START_LIMIT:g} s"
                raise ChildFailed(Failure("TimeoutError", text, True)) from error
            raise
        if ready.op != "ready":
            child.kill()
            self._drop(child)
            run.child = None
            raise ChildFailed(_failure(ready.data))
        return child

    def _rest(self, child: Child, run: Run) -> None:
        if child.alive:
            self._idle.append(child)
        else:
            self._drop(child)

    def _drop(self, child: Child) -> None:
        self._all.discard(child)
        if child.exit is not None and child.exit < 0:
            fields = {"pid": child.pid, "exit": child.exit}
            self._events.emit(Note("child_died", "warning", _death(child.exit), fields))
        farewell = asyncio.get_running_loop().create_task(child.close())
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _converse(self, child: Child, run: Run, route: Route, inputs: Mapping[str, Any]) -> Done:
        packed, blobs = frames.pack(inputs)
        job = run.job
        deadline = run.context.deadline if run.context is not None else None
        about = {
            "job_id": job.id, "owner": job.owner, "attempt": job.attempt, "request_id": job.request_id,
            "route": route.key, "path": route.path, "methods": route.methods, "deadline": deadline,
            "address": address_of(route.func).as_dict(),
        }  # fmt: skip
        child.send("job", {**about, **packed}, [job.steps or b"{}", *blobs])
        if run.stopped is not None:
            child.interrupt()
        while True:
            frame = await child.receive()
            if frame.op == "result":
                return Done(frame.blobs[0], frame.data["content_type"], frame.data["filename"])
            if frame.op == "failed":
                raise ChildFailed(_failure(frame.data))
            if run.journal is not None:
                await _pass_on(frame, child, run.journal)

    async def close(self) -> None:
        """End all children."""
        idle, self._idle = self._idle, []
        for child in self._all - set(idle):
            child.kill(at_once=True)
        await asyncio.gather(*(child.close() for child in list(self._all)), *self._farewells)
        self._all.clear()

    def kill(self) -> None:
        """End all children at once, without waiting."""
        for child in self._all:
            child.kill(at_once=True)


async def _pass_on(frame: Frame, child: Child, journal: Journal) -> None:
    """Take what a running function says."""
    if frame.op == "progress":
        journal.progress.update(frame.data["fraction"], frame.data["message"])
    elif frame.op == "events":
        for kind, blob in zip(frame.data["types"], frame.blobs, strict=True):
            journal.emit(NewEvent(kind, blob))
        await journal.room()  # not reading is what slows the child down
    elif frame.op == "step":
        answer: dict[str, Any] = {"id": frame.data["id"]}
        try:
            await journal.step(frame.data["name"], frame.blobs[0])
        except (StoreError, Fenced) as error:
            answer["error"] = error.detail
        child.send("step", answer)


def _failure(data: Mapping[str, Any]) -> Failure:
    return Failure(
        type=data["type"], message=data["message"], retryable=data["retryable"],
        reason=Reason(data["reason"]), retry_after=data["retry_after"], trace=data["trace"],
        status=data["status"], code=data["code"],
    )  # fmt: skip


def _death(code: int | None) -> str:
    if code is None:
        return "the process that ran the function does not answer"
    if code < 0:
        return f"the process that ran the function was ended by {_KILL_SIGNALS.get(code, f'signal {-code}')}"
    return f"the process that ran the function ended with exit code {code}"


def _path() -> list[str]:
    """Return the import path with the current directory spelled out."""
    return [entry or os.getcwd() for entry in sys.path]
