"""The bridge from plain code to the asynchronous client: one event loop in a thread of its own.

A synchronous class here says what it forwards, in one line each, and holds no logic:

    class Job(Facade[AsyncJob]):
        result = forward(AsyncJob.result)

``forward`` keeps the signature, so that editors and mypy see the same parameters as on the asynchronous side.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

__all__ = ["Facade", "Portal", "chained", "forward", "iterated", "renewed", "shown"]

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_UNWIND: Final = 2.0
"""Seconds that an interrupted call gets to clean up."""
Closer = Callable[[], Coroutine[Any, Any, None]]


class Portal:
    """An event loop that runs in a thread; it starts with the first call and ends with the program."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: _Running | None = None
        self._closed = False
        self._closers: list[Closer] = []

    def at_close(self, closer: Closer) -> None:
        """Run this in the loop before it stops, even when nobody calls ``close``."""
        self._closers.append(closer)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; an interrupt (Ctrl-C) cancels it. Raises RuntimeError when closed."""
        ended = threading.Event()
        try:
            future = self._submit(coroutine, ended)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except BaseException:
            # let it clean up (take its bar off the screen) before the caller goes on
            future.cancel()
            ended.wait(_UNWIND)
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Hand out what an asynchronous iterator gives, closing it when the caller stops early."""
        try:
            while True:
                try:
                    value = self.run(_next(source))
                except StopAsyncIteration:
                    return
                yield value
        finally:
            closing = getattr(source, "aclose", None)
            if closing is not None:
                self._close_source(closing)

    def close(self) -> None:
        """Stop the loop; calls that wait are cancelled. Safe to call twice."""
        with self._guard:
            running, self._running, self._closed = self._running, None, True
        if running is not None:
            _stop(running, self._closers)

    def _close_source(self, closing: Closer) -> None:
        running = self._running
        if running is None:
            return
        if threading.current_thread() is running.thread:
            # collected by the garbage collector while the loop itself was running
            running.loop.create_task(closing())
            return
        self.run(_awaited(closing))

    def _submit(self, coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> Future[T]:
        # under the guard, so that ``close`` comes before or after it, and never loses a call
        with self._guard:
            if self._closed:
                raise RuntimeError("this client is closed")
            if self._running is None:
                self._running = _start()
                weakref.finalize(self, _stop, self._running, self._closers)
            running = self._running
            if threading.current_thread() is running.thread:
                raise RuntimeError("the synchronous client was called from its own event loop")
            return asyncio.run_coroutine_threadsafe(_counted(coroutine, running.tasks, ended), running.loop)


@dataclass(frozen=True, slots=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """The calls that are under way, without what they have started themselves."""


def _start() -> _Running:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="router-core-client", daemon=True)
    thread.start()
    return _Running(loop, thread)


async def _counted(
    coroutine: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]], ended: threading.Event
) -> T:
    task = asyncio.current_task()
    if task is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    try:
        return await coroutine
    finally:
        ended.set()


class Facade(Generic[A]):
    """The synchronous face of an asynchronous object."""

    def __init__(self, wrapped: A, portal: Portal) -> None:
        self._wrapped = wrapped
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._wrapped).replace("<Async", "<", 1)


F = TypeVar("F", bound=Facade[Any])


class forward(Generic[P, R]):
    """A method that runs the asynchronous method and returns what it returns."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, obj: Facade[Any], owner: type) -> Callable[P, R]:
        """Bind to an instance."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return obj._portal.run(self._method(obj._wrapped, *args, **kwargs))

        return _described(call, self._method)


class chained(Generic[P]):
    """A method that runs an asynchronous method which returns ``self``, and returns ``self``."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, obj: F, owner: type) -> Callable[P, F]:
        """Bind to an instance."""

        def call(*args: P.args, **kwargs: P.kwargs) -> F:
            obj._portal.run(self._method(obj._wrapped, *args, **kwargs))
            return obj

        return _described(call, self._method)


class renewed(Generic[P]):
    """A plain method that returns another object of the same kind."""

    def __init__(self, method: Callable[Concatenate[Any, P], Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, obj: F, owner: type) -> Callable[P, F]:
        """Bind to an instance."""

        def call(*args: P.args, **kwargs: P.kwargs) -> F:
            return type(obj)(self._method(obj._wrapped, *args, **kwargs), obj._portal)

        return _described(call, self._method)


class iterated(Generic[P, R]):
    """A method that hands out what an asynchronous iterator gives."""

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncIterator[R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, obj: Facade[Any], owner: type) -> Callable[P, Iterator[R]]:
        """Bind to an instance."""

        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            return obj._portal.iterate(self._method(obj._wrapped, *args, **kwargs))

        return _described(call, self._method)


class shown(Generic[A, T]):
    """A property that is read from the asynchronous object, after ``first`` has run."""

    def __init__(
        self, read: Callable[[A], T], doc: str, *,
        first: Callable[[A], Coroutine[Any, Any, Any]] | None = None,
    ) -> None:  # fmt: skip
        self._read = read
        self._first = first
        self.__doc__ = doc

    def __get__(self, obj: Facade[A], owner: type) -> T:
        """Read."""
        if self._first is not None:
            obj._portal.run(self._first(obj._wrapped))
        return self._read(obj._wrapped)


def _described(call: Callable[P, R], method: Callable[..., Any]) -> Callable[P, R]:
    call.__name__, call.__qualname__, call.__doc__ = method.__name__, method.__qualname__, method.__doc__
    return call


async def _next(source: AsyncIterator[T]) -> T:
    return await source.__anext__()


async def _awaited(closing: Closer) -> None:
    await closing()


def _stop(running: _Running, closers: list[Closer]) -> None:
    loop, thread = running.loop, running.thread
    if not loop.is_closed() and thread is not threading.current_thread():
        asyncio.run_coroutine_threadsafe(_finish(running, closers), loop)
        thread.join(5.0)
        if not thread.is_alive():
            loop.close()


async def _finish(running: _Running, closers: list[Closer]) -> None:
    # calls first, so that each takes down what it has started; then whatever is left
    await _cancelled(running.tasks)
    while closers:
        with contextlib.suppress(Exception):
            await closers.pop()()
    await _cancelled(asyncio.all_tasks(running.loop))
    await running.loop.shutdown_asyncgens()
    await running.loop.shutdown_default_executor()
    running.loop.stop()


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    others = [task for task in tasks if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
