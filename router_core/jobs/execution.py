"""One attempt in this process, and the ways to stop it.

========= ============================== ==========================================================
kind      asked to stop                  does not stop within the grace time
========= ============================== ==========================================================
async     its task is cancelled          the record ends without it; its slot stays taken until it returns
thread    ``context.cancelled`` is set   the same: Python cannot end a thread from outside
process   both, inside the child         the child's process group is killed; at once if it is deaf
========= ============================== ==========================================================

Deaf is a sync function that takes no ``JobContext``: nothing that it could look at tells it to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Protocol

from router_core.jobs.context import JobContext
from router_core.jobs.job import Job
from router_core.jobs.journal import Journal
from router_core.routing.route import Route

__all__ = ["Exited", "Interruptible", "Phase", "Run", "Stop", "Threads", "contained"]


class Stop(StrEnum):
    """Why an attempt is asked to stop."""

    CANCEL = "cancel"
    """Somebody wants the job to end; the record says cancelling."""
    RELEASE = "release"
    """This worker is shutting down."""
    TIMEOUT = "timeout"
    FENCED = "fenced"
    """The job is no longer ours, or we can no longer be sure that it is: write nothing more."""
    ABANDON = "abandon"
    """The process ends at once: write nothing, the lease runs out."""


LEAVE_BEHIND: Final = 0.2
"""Seconds between no longer waiting for a thread and writing the record without it."""
_FINAL: Final = frozenset({Stop.FENCED, Stop.ABANDON})


class Phase(StrEnum):
    """What an attempt is doing."""

    PREPARING = "preparing"
    WORKING = "working"
    """The function runs."""
    SETTLING = "settling"
    """The function has ended; the record is being written."""
    DONE = "done"


class Exited(RuntimeError):
    """The function called ``sys.exit`` or was interrupted: its own end, and not that of the worker.

    asyncio lets SystemExit and KeyboardInterrupt out of any task and so out of the loop, and StopIteration
    and GeneratorExit end whatever generator waits; wrapped, they are errors like others. The cause is the
    original.
    """


class Interruptible(Protocol):
    """Something that runs a function elsewhere and can be told to stop."""

    def interrupt(self) -> None:
        """Ask."""

    def kill(self, at_once: bool = False) -> None:
        """Do not ask; ``at_once`` leaves no moment to tidy up either."""


class Run:
    """One attempt: what it is, whose it is, and how to stop it.

    ``stop`` may be called from any thread; the rest belongs to the worker's loop.
    """

    __slots__ = (
        "_deaf", "_forced", "_freed", "_grace", "_in_thread", "_left_behind", "_lock", "_on_free", "_threads",
        "_timer", "abandon", "child", "context", "job", "journal", "lease_ends", "limit", "loop", "phase",
        "route", "settled", "stopped", "task",
    )  # fmt: skip

    def __init__(
        self, job: Job, route: Route | None, loop: asyncio.AbstractEventLoop, *, lease_ends: float,
        grace: float, on_free: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.job = job
        self.route = route
        self.loop = loop
        self.lease_ends = lease_ends
        """By the monotonic clock; a heartbeat moves it."""
        self.stopped: Stop | None = None
        self.phase = Phase.PREPARING
        self.task: asyncio.Task[Any] | None = None
        self.context: JobContext | None = None
        self.journal: Journal | None = None
        self.child: Interruptible | None = None
        self.limit = 0.0
        """Seconds after which the platform stops the attempt; 0 where only the job's own timeout counts."""
        self.settled = False
        """The record was written without the function, which would not end."""
        self.abandon: Callable[[], None] | None = None
        """Called on the loop when the grace time is over and the function still runs."""
        self._grace = grace
        self._deaf = route is not None and _is_deaf(route)
        self._on_free = on_free
        self._freed = False
        self._threads = 0
        self._in_thread = 0
        self._left_behind = False
        self._timer: asyncio.TimerHandle | None = None
        self._forced: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    # --- stopping

    def stop(self, reason: Stop, grace: float | None = None) -> bool:
        """Ask the attempt to end, from any thread; the first reason stays, unless ownership is gone.

        Returns whether this changed anything.
        """
        with self._lock:
            if self.phase is Phase.DONE or self.stopped in _FINAL:
                return False
            if self.stopped is not None and reason not in _FINAL:
                return False
            self.stopped = reason
            if grace is not None:
                self._grace = grace
        if self.context is not None:
            self.context.mark_cancelled()
        try:
            self.loop.call_soon_threadsafe(self._interrupt)
        except RuntimeError:  # the loop has ended, and the attempt with it
            return False
        return True

    def force(self) -> None:
        """End the grace time now (on the loop)."""
        if self._forced is not None:
            self._forced.cancel()
        self._force()

    def _interrupt(self) -> None:
        if self.phase is Phase.DONE:
            return
        if self.stopped in _FINAL:
            self._end_now()
            return
        if self.phase is Phase.SETTLING:
            return  # the terminal move decides who was first
        if self.child is not None and self._deaf and self.stopped is not Stop.RELEASE:
            self.child.kill()  # it cannot hear, and its result would not be published
        elif self.child is not None:
            self.child.interrupt()
        elif not self._in_thread:
            self._cancel_task()
        if self._forced is None:
            self._forced = self.loop.call_later(self._grace, self._force)

    def _force(self) -> None:
        if self.phase in (Phase.SETTLING, Phase.DONE):
            return
        if self.child is not None:
            self.child.kill()
        elif self._in_thread and not self._left_behind:
            self._left_behind = True
            self._cancel_task()
            # a sync generator is waited for all the same: it cannot be closed while it runs
            self._forced = self.loop.call_later(LEAVE_BEHIND, self._force)
        elif self.abandon is not None and not self.settled:
            self.abandon()

    def _end_now(self) -> None:
        if self.child is not None:
            self.child.kill(at_once=self.stopped is Stop.ABANDON)
        self._cancel_task()

    def _cancel_task(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def start_timer(self, seconds: float) -> None:
        """Stop the attempt after so many seconds of work."""
        self._timer = self.loop.call_later(seconds, self.stop, Stop.TIMEOUT)

    def clear_timers(self) -> None:
        """The function has ended."""
        for timer in (self._timer, self._forced):
            if timer is not None:
                timer.cancel()

    # --- the slot

    def entered_thread(self) -> None:
        """Note that a thread works for this attempt: it takes the slot until it returns."""
        self._threads += 1
        self._in_thread += 1

    def left_await(self) -> None:
        """Note that the attempt does not wait for its thread any more (it ended, or is left behind)."""
        self._in_thread -= 1

    def left_thread(self) -> None:
        """Note that the thread has returned."""
        self._threads -= 1
        if self._freed:
            self._free()

    def free(self) -> None:
        """Give the slot back, or leave that to the last thread."""
        if not self._freed:
            self._freed = True
            self._free()

    def _free(self) -> None:
        if self._threads == 0 and self._on_free is not None:
            on_free, self._on_free = self._on_free, None
            on_free()


def _is_deaf(route: Route) -> bool:
    plan = route.plan
    return not plan.is_async and not plan.is_generator and "job" not in plan.slots


class Threads:
    """Daemon threads that are re-used.

    Not ``ThreadPoolExecutor``: the interpreter joins its threads at exit, so a function that never
    returns would keep the process alive after its drain.
    """

    __slots__ = ("_idle", "_linger", "_lock")

    def __init__(self, linger: float = 30.0) -> None:
        self._idle: list[_Thread] = []
        self._linger = linger
        self._lock = threading.Lock()

    def call(
        self, run: Run, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """Run ``func`` in a thread, in the caller's context; the future belongs to the run's loop."""
        loop = run.loop
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        run.entered_thread()

        def work() -> None:
            value, error = None, None
            try:
                value = context.run(func, *args, **kwargs)
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(_deliver, run, future, value, error)
            except RuntimeError:
                return  # the loop is gone, and nobody waits any more

        self._thread().work.put(work)
        return future

    def _thread(self) -> _Thread:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        thread = _Thread(self)
        thread.start()
        return thread

    def rest(self, thread: _Thread) -> None:
        """Take a thread back that has nothing to do."""
        with self._lock:
            self._idle.append(thread)

    def retire(self, thread: _Thread) -> bool:
        """Let a thread end that had nothing to do for a while; False if it has been picked meanwhile."""
        with self._lock:
            if thread in self._idle:
                self._idle.remove(thread)
                return True
            return False

    @property
    def linger(self) -> float:
        """Seconds that a thread waits for more work."""
        return self._linger


class _Thread(threading.Thread):
    def __init__(self, home: Threads) -> None:
        super().__init__(name="router-core-job", daemon=True)
        self.work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._home = home

    def run(self) -> None:
        """Work until there is none for a while."""
        while True:
            try:
                work = self.work.get(timeout=self._home.linger)
            except queue.Empty:
                if self._home.retire(self):
                    return
                continue
            work()
            del work
            self._home.rest(self)


def contained(error: BaseException) -> BaseException:
    """Return the error in a form that a future and a loop can carry."""
    if isinstance(error, (StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt)):
        wrapped = Exited(f"{type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped
    return error


def _deliver(run: Run, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    run.left_thread()
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(contained(error))
