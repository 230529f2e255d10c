"""One event loop for the life of a process that is frozen between its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakSet

__all__ = ["PersistentLoop"]

T = TypeVar("T")

LINGER: Final = 1.0
"""Seconds that tasks get to end which a call has started and left behind."""


class PersistentLoop:
    """Runs coroutines one after the other in one loop, so that what a call has opened serves the next.

    What a call leaves running would be frozen with the process and thawed at a time when nobody expects it:
    it gets a moment to end and is then cancelled. Tasks of the start-up are kept.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: WeakSet[asyncio.Task[Any]] = WeakSet()

    def run(self, main: Coroutine[Any, Any, T], *, linger: float = LINGER) -> T:
        """Run to the end; what is raised comes out, and the loop goes on."""
        loop = self._opened()
        try:
            return loop.run_until_complete(main)
        finally:
            if not loop.is_closed():
                left = {task for task in asyncio.all_tasks(loop) if task not in self._kept}
                if left:
                    loop.run_until_complete(_end(left, linger))

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

    def _opened(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
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
