"""Coroutines that run without a task of their own, for as long as nothing in them needs one.

A task costs as much as a small answer: it is registered, waits for a turn of the event loop, and for another
one after each wait. A server may instead take the first steps of a route that is marked ``TASKLESS`` by hand.
Its function then is to wait for nothing but a ``Prompt`` before it has called ``own_task``; whatever else it
waits for moves it into a task as well, but only from there on.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

__all__ = ["TASKLESS", "Prompt", "Rest", "own_task"]

T = TypeVar("T")

TASKLESS: Final = "taskless"
"""Key of ``Route.meta``: the function asks for its task (timeouts, cancellation) only after ``own_task``,
takes the request as it is, returns a Response and does not end the process."""
_PENDING, _RESULT, _ERROR, _CANCELLED = range(4)


class Prompt(Generic[T]):
    """A future that one coroutine waits for, and that can wake it at once, without a turn of the event loop.

    A task can wait for it as for any other future.
    """

    __slots__ = ("_asyncio_future_blocking", "_callbacks", "_error", "_loop", "_state", "_value", "listener")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._state = _PENDING
        self._callbacks: list[tuple[Callable[[Any], object], contextvars.Context | None]] | None = None
        self._asyncio_future_blocking = False
        self.listener: Callable[[Prompt[T]], object] | None = None
        """Called as soon as it is settled; it may run whatever waits for this, and must not raise."""

    def __await__(self) -> Generator[Any, None, T]:
        if not self._state:
            self._asyncio_future_blocking = True
            yield self
        return self._value if self._state == _RESULT else self.result()

    def set_result(self, value: T) -> None:
        """Settle it. Whoever waits may go on before this returns."""
        if self._state:
            raise asyncio.InvalidStateError("it is settled already")
        self._state = _RESULT
        self._value = value
        listener = self.listener
        if listener is None or self._callbacks is not None:
            self._tell()
            return
        self.listener = None
        listener(self)

    def set_exception(self, error: BaseException) -> None:
        """Settle it with an error."""
        if self._state:
            raise asyncio.InvalidStateError("it is settled already")
        self._state = _ERROR
        self._error = error
        self._tell()

    def result(self) -> T:
        """Return the result, or raise the error."""
        if self._state == _RESULT:
            return self._value
        error = self.exception()
        raise error if error is not None else RuntimeError("there is neither result nor error")

    def exception(self) -> BaseException | None:
        """Return the error, if there is one."""
        if self._state == _ERROR:
            return self._error
        if self._state == _CANCELLED:
            raise asyncio.CancelledError
        if self._state == _PENDING:
            raise asyncio.InvalidStateError("it is not settled")
        return None

    def done(self) -> bool:
        """Whether it is settled."""
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Whether whoever waited was cancelled."""
        return self._state == _CANCELLED

    def cancel(self, msg: object = None) -> bool:
        """Settle it as cancelled; this is what the cancellation of a task does to what it waits for."""
        if self._state:
            return False
        self._state = _CANCELLED
        self._tell()
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:  # fmt: skip
        """Have it called in the turn of the event loop after it is settled."""
        if self._state:
            self._loop.call_soon(callback, self, context=context)
        elif self._callbacks is None:
            self._callbacks = [(callback, context)]
        else:
            self._callbacks.append((callback, context))

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Take all registrations of a callback back; returns how many there were."""
        before = self._callbacks or []
        self._callbacks = [each for each in before if each[0] != callback]
        return len(before) - len(self._callbacks)

    def _tell(self) -> None:
        listener, callbacks = self.listener, self._callbacks
        if callbacks is not None:
            self._callbacks = None
            for callback, context in callbacks:
                self._loop.call_soon(callback, self, context=context)
        if listener is not None:
            self.listener = None
            listener(self)


class Rest(Coroutine[Any, Any, T]):
    """What is left of a coroutine whose first steps were taken by hand: something for a task to run."""

    __slots__ = ("_coroutine", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waiting: Any) -> None:
        """``waiting`` is what its last step yielded."""
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # has all that ``await`` looks for

    def __iter__(self) -> Rest[T]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Take the next step; the first is to wait for what it waits for already."""
        waiting, self._waiting = self._waiting, None
        return self._coroutine.send(value) if waiting is None else waiting

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        """Raise where it waits."""
        self._waiting = None
        error = kind if value is None else value
        return self._coroutine.throw(error)

    def close(self) -> None:
        """End it."""
        self._coroutine.close()


class _Turn:
    """Yields once: whoever drives the coroutine by hand makes a task for it then."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield None


_TURN: Final = _Turn()


async def own_task() -> None:
    """Go on inside a task, which most coroutines do anyway."""
    if asyncio.current_task() is None:
        await _TURN
