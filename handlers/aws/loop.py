"""One event loop for the life of a process that is frozen between its calls."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

__all__ = ["PersistentLoop", "run_inline"]

T = TypeVar("T")

LINGER: Final = 1.0
"""Seconds that tasks get to end which a call has started and left behind."""


_UNUSED = cast("asyncio.Handle", None)
_Step = tuple[Callable[..., object], tuple[Any, ...], contextvars.Context | None]


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that can take the first step of a task before it begins to turn.

    Most calls have nothing to wait for, and one turn of a loop costs them as much as all the rest.
    """

    def __init__(self) -> None:
        self._catching = False
        self._first: _Step | None = None
        self.stepping = False
        self.touched = False
        """Whether anything was left to be done by a turn of the loop."""
        super().__init__()

    def call_soon(  # type: ignore[override]  # variadic generics say it no better
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback; keep that of a task which takes its first step here."""
        if self._catching:
            self._catching = False
            self._first = (callback, args, context)
            return _UNUSED  # a task does not keep it
        self.touched = True
        return super().call_soon(callback, *args, context=context)

    def is_running(self) -> bool:
        """Return whether code runs in this loop."""
        return self.stepping or super().is_running()

    def begin(self, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Make a task and run it up to its first wait."""
        self._catching = True
        task = asyncio.Task(main, loop=self)
        if self._first is None:
            raise RuntimeError("a new task asks for no turn of its loop")
        step, args, context = self._first
        self._first = None
        self.stepping, self.touched = True, False
        asyncio._set_running_loop(self)
        try:
            if context is None:
                step(*args)
            else:
                context.run(step, *args)
        finally:
            asyncio._set_running_loop(None)
            self.stepping = False
        return task


class PersistentLoop:
    """Runs coroutines one after the other in one loop, so that what a call has opened serves the next.

    What a call leaves running would be frozen with the process and thawed at a time when nobody expects it:
    it gets a moment to end and is then cancelled. Tasks of the start-up are kept.
    """

    def __init__(self) -> None:
        self._loop: _Loop | None = None
        self._kept: WeakSet[asyncio.Task[Any]] = WeakSet()

    def run(self, main: Coroutine[Any, Any, T], *, linger: float = LINGER) -> T:
        """Run to the end; what is raised comes out, and the loop goes on."""
        loop = self._opened()
        try:
            task = loop.begin(main)
            if not loop.touched and task.done():
                return task.result()
            return loop.run_until_complete(task)
        finally:
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
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
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
