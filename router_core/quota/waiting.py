"""A call that waits until the store has been asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from router_core.quota.account import Account, Taken
from router_core.quota.line import Line

__all__ = ["Changed", "Later", "Waiter"]

Value = TypeVar("Value")


class Later(Generic[Value]):
    """Something to await, of which nothing is begun before: who never gets to it leaves nothing behind."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Value]]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, Value]:
        return self._work().__await__()


class Changed(Exception):
    """The limits became others while a call waited."""


class Waiter:
    """One call. Who is cancelled while waiting holds nothing."""

    __slots__ = ("future", "lines", "until", "wants")

    def __init__(self, account: Account, wants: Sequence[int], until: float) -> None:
        self.lines: tuple[Line, ...] = account.lines
        self.wants = wants
        self.until = until
        """Monotonic seconds: how long it waits for what others do not need."""
        self.future: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()

    def give(self, taken: Taken) -> None:
        """Let it go on, or take it back where nobody waits any more."""
        if self.future.done():
            taken.release()
        else:
            self.future.set_result(taken)

    def refuse(self, error: Exception) -> None:
        """Let it fail."""
        if not self.future.done():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Give back what it got, or is still to get."""
        future = self.future
        if not future.done():
            future.cancel()
        elif not future.cancelled() and future.exception() is None:
            future.result().release()
