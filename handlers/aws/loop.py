"""One event loop for the life of a process that is frozen between its calls."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

__all__ = ["PersistentLoop", "run_inline"]

T = TypeVar("T")

LINGER: Final = 1.0
"""Seconds that tasks get to end which a call has started and left behind."""


_UNUSED = cast("asyncio.Handle", None)
_Step = tuple[Callable[..., object], tuple[Any, ...]]


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that can take the first step of a task before it begins to turn.

    Most calls have nothing to wait for, and one turn of a loop costs them as much as all the rest.
    """

    def __init__(self) -> None:
        self.catching = False
        self.caught: _Step | None = None
        """The step that the task which asked for one last is going to take."""
        self.stepping = False
        self.touched = False
        """Whether anything was left to be done by a turn of the loop."""
        super().__init__()

    def call_soon(  # type: ignore[override]  # variadic generics say it no better
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback; keep that of a task whose steps are taken here."""
        if self.catching:
            self.catching = False
            self.caught = (callback, args)
            return _UNUSED  # a task does not keep it
        self.touched = True
        return super().call_soon(callback, *args, context=context)

    def is_running(self) -> bool:
        """Return whether code runs in this loop."""
        return self.stepping or super().is_running()


class _Lane(Coroutine[Any, Any, Any]):
    """A task for calls that end without having waited: they run as if it ran them, one after the other.

    Making a task for each costs more than most of them do. Where a call waits for something, fails, leaves
    something to be done or leaves a mark on its task, the task becomes its own, and ends with it.
    """

    __slots__ = ("_begun", "_context", "_failed", "_main", "_step", "_value", "_waiting", "loop", "task")

    def __init__(self, loop: _Loop) -> None:
        self.loop = loop
        self._main: Coroutine[Any, Any, Any] | None = None
        self._context = contextvars.copy_context()
        self._waiting: Any = None
        self._begun = False
        self._failed: BaseException | None = None
        self._value: Any = None
        loop.catching = True
        self.task: asyncio.Task[Any] = asyncio.Task(self, loop=loop)
        self._step, loop.caught = loop.caught, None
        cast(Any, self.task)._log_destroy_pending = False  # most are never needed

    def is_unmarked(self) -> bool:
        """Return whether nothing tells the task from one that was just made."""
        return not self.task.cancelling() and getattr(self.task, "_callbacks", self) is None

    # --- what becomes of the call ----------------------------------------------------------------

    def wait(self, main: Coroutine[Any, Any, Any], context: contextvars.Context, waiting: Any) -> None:
        """Be a call that waits for something."""
        self._main, self._context, self._waiting = main, context, waiting

    def fail(self, error: BaseException) -> None:
        """Be a call that failed."""
        self._failed = error

    def leave(self, value: Any) -> None:
        """Be a call that has returned and left something behind."""
        self._value = value

    def end(self) -> Any:
        """Run the task to its end."""
        loop, step, task = self.loop, self._step, self.task
        if step is None:
            raise RuntimeError("a new task asks for no turn of its loop")
        del self.task, self._step  # which refer to this
        loop.stepping = True
        asyncio._set_running_loop(loop)
        try:
            step[0](*step[1])
        finally:
            asyncio._set_running_loop(None)
            loop.stepping = False
        if task.done() and not loop.touched:
            return task.result()
        return loop.run_until_complete(task)

    # --- the coroutine that the task runs --------------------------------------------------------

    def send(self, value: Any) -> Any:
        """Go on with the call, in its context."""
        if self._failed is not None:
            raise self._failed
        if self._main is None:
            raise StopIteration(self._value)
        if not self._begun:
            self._begun = True
            return self._waiting
        return self._context.run(self._main.send, value)

    def throw(self, *raised: Any) -> Any:
        """Let the call know that what it waited for has failed, or that it is cancelled."""
        if self._main is None:
            return self.send(None)
        begun, self._begun = self._begun, True
        if not begun and self._waiting is not None and self._waiting.cancel():
            return self._waiting  # as a task does that was cancelled before it waited
        return self._context.run(self._main.throw, *raised)

    def close(self) -> None:
        """Close the call."""
        if self._main is not None:
            self._main.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("this is run by its own task")


class PersistentLoop:
    """Runs coroutines one after the other in one loop, so that what a call has opened serves the next.

    What a call leaves running would be frozen with the process and thawed at a time when nobody expects it:
    it gets a moment to end and is then cancelled. Tasks of the start-up are kept.
    """

    def __init__(self) -> None:
        self._loop: _Loop | None = None
        self._lane: _Lane | None = None
        self._kept: WeakSet[asyncio.Task[Any]] = WeakSet()

    def run(self, main: Coroutine[Any, Any, T], *, linger: float = LINGER) -> T:
        """Run to the end; what is raised comes out, and the loop goes on."""
        lane = self._lane
        if lane is None or lane.loop.is_closed():
            lane = self._lane = _Lane(self._opened())
        loop, task, context = lane.loop, lane.task, contextvars.copy_context()
        asyncio._enter_task(loop, task)
        asyncio._set_running_loop(loop)
        loop.stepping, loop.touched = True, False
        try:
            waiting = context.run(main.send, None)
            lane.wait(main, context, waiting)
        except StopIteration as done:
            if not loop.touched and lane.is_unmarked():
                return cast(T, done.value)
            lane.leave(done.value)
        except BaseException as error:
            lane.fail(error)
        finally:
            loop.stepping = False
            asyncio._set_running_loop(None)
            asyncio._leave_task(loop, task)
        self._lane = None
        try:
            return cast(T, lane.end())
        finally:
            self._tidy(loop, linger)

    def _tidy(self, loop: _Loop, linger: float) -> None:
        if loop.touched and not loop.is_closed():
            left = {task for task in asyncio.all_tasks(loop) if task not in self._kept}
            if left:
                loop.run_until_complete(_end(left, linger))

    async def settle(self, *, linger: float = LINGER) -> None:
        """End what a call has left running, from within the loop."""
        mine = asyncio.current_task()
        left = {task for task in asyncio.all_tasks() if task not in self._kept and task is not mine}
        if left:
            await _end(left, linger)

    def start(self, main: Coroutine[Any, Any, T]) -> T:
        """Run what starts the service; the tasks it leaves are kept."""
        loop = self._opened()
        value = loop.run_until_complete(main)
        self._kept = WeakSet(asyncio.all_tasks(loop))
        return value

    def close(self) -> None:
        """Close the loop (in tests: a Lambda process is killed)."""
        if self._loop is not None and not self._loop.is_closed():
            self._lane = None
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _opened(self) -> _Loop:
        if self._loop is None or self._loop.is_closed():
            self._loop = _Loop()
        return self._loop


async def _end(tasks: set[asyncio.Task[Any]], seconds: float) -> None:
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=seconds)
    for task in done:
        if not task.cancelled():
            task.exception()  # seen: nobody else will ask


async def run_inline(func: Callable[..., Any], /, *args: Any) -> Any:
    """Run a sync function where the loop runs, as if there were no loop: it may start one of its own.

    A process that serves one call at a time has nothing to do beside it, and a thread would only cost time.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task(loop)
    context = contextvars.copy_context()
    if task is not None:
        asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        return context.run(func, *args)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error
    finally:
        asyncio._set_running_loop(loop)
        if task is not None:
            asyncio._enter_task(loop, task)
