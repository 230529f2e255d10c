"""Dependencies: values that a function needs and that are made, shared and cleaned up for it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

from router_core.errors import Misconfigured
from router_core.records import dataclass

__all__ = [
    "Dependency",
    "DependencyScope",
    "Depends",
    "DependsMarker",
    "RunSync",
    "ScopeName",
    "run_hook",
    "run_in_thread",
]

ScopeName = Literal["request", "app"]


class RunSync(Protocol):
    """Run a sync function without blocking the event loop, with the context variables of the caller."""

    def __call__(self, func: Callable[..., Any], /, *args: Any) -> Awaitable[Any]:
        """Return its result."""


async def run_in_thread(func: Callable[..., Any], /, *args: Any) -> Any:
    """Run in the event loop's default executor; the default ``RunSync``."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(context.run, func, *args))


@dataclass(frozen=True, slots=True)
class DependsMarker:
    """What ``Depends(...)`` leaves in a signature."""

    func: Callable[..., Any] | None
    scope: ScopeName
    cached: bool


def Depends(
    func: Callable[..., Any] | None = None, *, scope: ScopeName = "request", cached: bool = True
) -> Any:
    """Fill a parameter with what ``func`` returns, or yields: what follows the ``yield`` is the clean-up.

    ``func`` may be sync or async and may itself have dependencies, injected values and query, header and
    cookie parameters. ``scope="app"`` makes the value once and keeps it until the app stops. Without
    ``func`` the annotation, a class, is called.
    """
    return DependsMarker(func, scope, cached)


async def run_hook(hook: Callable[[], Any]) -> None:
    """Run a start-up or shut-down hook; a sync one in a thread."""
    if inspect.iscoroutinefunction(hook):
        await hook()
        return
    value = await run_in_thread(hook)
    if inspect.isawaitable(value):
        await value


@dataclass(frozen=True, slots=True)
class Dependency:
    """A compiled dependency: the function, and how its own arguments are found."""

    func: Callable[..., Any]
    scope: ScopeName
    cached: bool
    kind: Literal["sync", "async", "generator", "async_generator"]
    params: tuple[str, ...] = ()
    """Names among the validated values."""
    injected: tuple[tuple[str, str], ...] = ()
    """(argument, slot)"""
    depends: tuple[tuple[str, Dependency], ...] = ()


_MISSING: Final = object()
_Cleanup = Callable[[BaseException | None], Awaitable[None]]


class DependencyScope:
    """Holds the values of one request (or job, or app) and cleans them up, last made first.

    ``app`` is the scope that app-wide dependencies are kept in; without one this scope keeps them itself.
    ``overrides`` replaces functions, for tests. Leaving ``async with`` cleans up and lets generators see the
    error that ended the call, as a ``with`` statement around the call would.
    """

    __slots__ = ("_app", "_cleanups", "_locks", "_overrides", "_values", "run_sync")

    def __init__(
        self,
        *,
        app: DependencyScope | None = None,
        run_sync: RunSync | None = None,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self._app = app
        self.run_sync: RunSync = run_sync or (app.run_sync if app is not None else run_in_thread)
        self._overrides: Mapping[Callable[..., Any], Callable[..., Any]] = overrides or (
            {} if app is None else app._overrides
        )
        self._values: dict[Callable[..., Any], Any] = {}
        self._locks: dict[Callable[..., Any], asyncio.Lock] = {}
        self._cleanups: list[_Cleanup] = []

    async def solve(
        self, dependency: Dependency, values: Mapping[str, Any], injected: Mapping[str, Any]
    ) -> Any:
        """Return the value of a dependency; makes it, and what it needs, if this scope has not yet."""
        if dependency.scope == "app":
            if self._app is not None:
                return await self._app.solve(dependency, {}, {})
            # two requests may want it at one moment, and only one may make it
            async with self._locks.setdefault(dependency.func, asyncio.Lock()):
                return await self._solve(dependency, {}, {})
        return await self._solve(dependency, values, injected)

    async def _solve(
        self, dependency: Dependency, values: Mapping[str, Any], injected: Mapping[str, Any]
    ) -> Any:
        key = dependency.func
        if dependency.cached:
            value = self._values.get(key, _MISSING)
            if value is not _MISSING:
                return value
        dependency = self._replaced(dependency)
        arguments = {name: values[name] for name in dependency.params if name in values}
        for name, slot in dependency.injected:
            arguments[name] = injected[slot]
        for name, inner in dependency.depends:
            arguments[name] = await self.solve(inner, values, injected)
        value = await self._make(dependency, arguments)
        if dependency.cached:
            self._values[key] = value
        return value

    def _replaced(self, dependency: Dependency) -> Dependency:
        override = self._overrides.get(dependency.func)
        if override is None:
            return dependency
        from router_core.binding.signature import compile_dependency  # it imports this file

        return compile_dependency(DependsMarker(override, dependency.scope, dependency.cached))[0]

    async def _make(self, dependency: Dependency, arguments: dict[str, Any]) -> Any:
        func = dependency.func
        if dependency.kind == "async":
            return await func(**arguments)
        if dependency.kind == "sync":
            return await self.run_sync(functools.partial(func, **arguments))
        if dependency.kind == "generator":
            generator = func(**arguments)
            value = await self.run_sync(next, generator, _MISSING)
            self._cleanups.append(functools.partial(self._end_generator, generator))
        else:
            stream = func(**arguments)
            value = await anext(stream, _MISSING)
            self._cleanups.append(functools.partial(_end_async_generator, stream))
        if value is _MISSING:
            raise Misconfigured(f"the dependency {func.__qualname__} has to yield a value, once")
        return value

    async def _end_generator(
        self, generator: Generator[Any, None, None], error: BaseException | None
    ) -> None:
        await self.run_sync(_end_sync, generator, error)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Clean up everything, last made first; one that fails does not keep the others from it.

        Raises the first failure, unless ``error`` already ended the call: then it is noted there.
        """
        first: BaseException | None = None
        self._values.clear()
        while self._cleanups:
            try:
                await self._cleanups.pop()(error)
            except BaseException as exc:
                first = first or exc
        if first is None:
            return
        if error is None:
            raise first
        error.add_note(f"while cleaning up, a dependency failed as well: {first!r}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._cleanups:
            await self.aclose(error)


def _end_sync(generator: Generator[Any, None, None], error: BaseException | None) -> None:
    try:
        if error is None:
            next(generator)
        else:
            generator.throw(error)
    except StopIteration:
        return
    except BaseException as exc:
        if exc is error:
            return
        raise
    generator.close()
    raise Misconfigured("a dependency yielded more than once")


async def _end_async_generator(stream: AsyncGenerator[Any, None], error: BaseException | None) -> None:
    try:
        if error is None:
            await anext(stream)
        else:
            await stream.athrow(error)
    except StopAsyncIteration:
        return
    except BaseException as exc:
        if exc is error:
            return
        raise
    await stream.aclose()
    raise Misconfigured("a dependency yielded more than once")
