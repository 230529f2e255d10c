"""Threads in which the sync functions of plain calls run."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["CALL_THREADS", "CallThreads"]

CALL_THREADS: Final = 40
"""Sync functions that run at once; the next ones wait. The number other Python servers use."""


class CallThreads:
    """A bounded pool, made when it is first needed, so that an async service has none."""

    __slots__ = ("_count", "_pool")

    def __init__(self, count: int = CALL_THREADS) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, func: Callable[..., Any], /, *args: Any) -> Any:
        """Run in a thread, with the context variables of the caller."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="router-core-call")
        call = functools.partial(contextvars.copy_context().run, func, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Let the threads go; one that still runs a function ends with it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
