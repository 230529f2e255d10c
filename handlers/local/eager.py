"""Take what an awaitable has at hand without setting a timer first."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["first_step", "resumed"]

T = TypeVar("T")


def first_step(coroutine: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    """Run a coroutine up to its first wait, inside the current task.

    Returns True and its result if it ended; otherwise False and what it waits for, which goes to ``resumed``.
    """
    try:
        return False, coroutine.send(None)
    except StopIteration as done:
        return True, done.value


def resumed(coroutine: Coroutine[Any, Any, T], waiting: Any) -> Awaitable[T]:
    """Return an awaitable for the rest of a coroutine whose first step was taken."""
    return _rest(coroutine, waiting)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    sent: Any = None
    while True:
        try:
            sent = yield waiting
        except BaseException as error:  # a cancellation belongs to who waits, which is the coroutine
            failed: BaseException | None = error
        else:
            failed = None
        try:
            waiting = coroutine.send(sent) if failed is None else coroutine.throw(failed)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # StopIteration does not know its type
