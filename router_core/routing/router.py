"""The author's object: decorators that only record, and ``start``."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, Unpack

from router_core.binding.signature import location
from router_core.errors import Misconfigured
from router_core.records import dataclass
from router_core.routing.build import JobKeywords, Record, RouteKeywords, build_route, normal_methods
from router_core.routing.path import join, parse_path
from router_core.routing.providers import find_provider
from router_core.routing.route import Route
from router_core.settings import Settings

__all__ = ["JobKeywords", "RouteKeywords", "Router", "loading"]

F = TypeVar("F", bound=Callable[..., Any])
Hook = Callable[[], Any]
"""Sync or async."""
ErrorHandler = Callable[..., Any]

_loading: contextvars.ContextVar[bool] = contextvars.ContextVar("router_core_loading", default=False)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Import a module for its router: a ``router.start()`` at its end does nothing meanwhile."""
    token = _loading.set(True)
    try:
        yield
    finally:
        _loading.reset(token)


@dataclass(frozen=True, slots=True)
class _Inclusion:
    """One router inside another."""

    parent: Router
    child: Router
    prefix: str
    tags: tuple[str, ...]
    scopes: tuple[str, ...]

    def move(self, record: Record) -> Record:
        path = join(self.prefix, record.path)
        return replace(
            record, path=path, tags=(*self.tags, *record.tags), scopes=(*self.scopes, *record.scopes),
            plan=record.plan if path == record.path else None,
        )  # fmt: skip


class Router:
    """Collects functions and where they are served.

    ``provider`` and ``environment``, and any other setting by its name, override what the environment
    variables say. Nothing runs before ``start``, or before something serves the router by name.
    """

    def __init__(
        self,
        *,
        prefix: str = "",
        title: str = "",
        version: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        scopes: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.prefix = prefix
        self.title = title
        self.version = version
        self.description = description
        self.settings_overrides: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
        unknown = set(self.settings_overrides) - {f.name for f in fields(Settings)}
        if unknown:
            raise Misconfigured(f"Router() has no argument and no setting named {min(unknown)!r}")
        self.dependency_overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        """Dependency -> its replacement, for tests."""
        self._tags = tuple(tags)
        self._scopes = tuple(scopes)
        self._records: list[Record] = []
        self._routes: list[Route] = []
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._handlers: dict[type[BaseException], ErrorHandler] = {}
        self._parents: list[_Inclusion] = []
        self._children: list[_Inclusion] = []
        self._extensions: list[Any] = []

    # --- what was recorded ---

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every route, those of included routers too, in the order of registration."""
        return tuple(self._routes)

    @property
    def startup_hooks(self) -> tuple[Hook, ...]:
        """What to run before the first request, in this order."""
        return (*self._startup, *(hook for each in self._children for hook in each.child.startup_hooks))

    @property
    def shutdown_hooks(self) -> tuple[Hook, ...]:
        """What to run after the last request, in this order: the reverse of how things were started."""
        return (*(hook for each in reversed(self._children) for hook in each.child.shutdown_hooks),
                *reversed(self._shutdown))  # fmt: skip

    @property
    def extensions(self) -> tuple[Any, ...]:
        """What was given to ``extend``, here and in included routers."""
        return (*self._extensions, *(each for child in self._children for each in child.child.extensions))

    @property
    def exception_handlers(self) -> dict[type[BaseException], ErrorHandler]:
        """Exception -> handler; an outer router's handler wins over an included one's."""
        merged: dict[type[BaseException], ErrorHandler] = {}
        for each in reversed(self._children):
            merged.update(each.child.exception_handlers)
        merged.update(self._handlers)
        return merged

    # --- registering ---

    def route(
        self, path: str, *, methods: Sequence[str] = ("POST",), **options: Unpack[RouteKeywords]
    ) -> Callable[[F], F]:
        """Serve the function as a job: a call is answered with 202 and runs in the background.

        A generator without any job option is served as a stream instead. ``job=False`` makes it a plain call.
        """
        return self._decorator(path, methods, options, job_by_default=True)

    def add_route(
        self, path: str, *, methods: Sequence[str] = ("POST",), **options: Unpack[RouteKeywords]
    ) -> Callable[[F], F]:
        """Do the same as ``route``, under its older name."""
        return self._decorator(path, methods, options, job_by_default=True)

    def get(self, path: str, **options: Unpack[RouteKeywords]) -> Callable[[F], F]:
        """Serve GET (and HEAD) requests."""
        return self._decorator(path, ("GET",), options)

    def post(self, path: str, **options: Unpack[RouteKeywords]) -> Callable[[F], F]:
        """Serve POST requests; with ``job=True`` or any job option, as a job."""
        return self._decorator(path, ("POST",), options)

    def put(self, path: str, **options: Unpack[RouteKeywords]) -> Callable[[F], F]:
        """Serve PUT requests."""
        return self._decorator(path, ("PUT",), options)

    def patch(self, path: str, **options: Unpack[RouteKeywords]) -> Callable[[F], F]:
        """Serve PATCH requests."""
        return self._decorator(path, ("PATCH",), options)

    def delete(self, path: str, **options: Unpack[RouteKeywords]) -> Callable[[F], F]:
        """Serve DELETE requests."""
        return self._decorator(path, ("DELETE",), options)

    def include_router(
        self, router: Router, prefix: str = "", *, tags: Sequence[str] = (), scopes: Sequence[str] = ()
    ) -> None:
        """Serve the routes of another router below ``prefix``, also those it gets later.

        Its hooks and exception handlers come along; its settings and dependency overrides do not.
        """
        if router is self or router._contains(self):
            raise Misconfigured("a router cannot include itself")
        inclusion = _Inclusion(
            self, router, join(self.prefix, prefix), (*self._tags, *tags), (*self._scopes, *scopes)
        )
        for record in router._records:
            self._register(inclusion.move(record))
        router._parents.append(inclusion)
        self._children.append(inclusion)

    def _contains(self, other: Router) -> bool:
        return any(each.child is other or each.child._contains(other) for each in self._children)

    def on_startup(self, hook: F) -> F:
        """Run the function before the first request: load a model, open a connection. Sync or async."""
        _check_hook(hook)
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: F) -> F:
        """Run the function after the last request, also when starting failed half-way. Sync or async."""
        _check_hook(hook)
        self._shutdown.append(hook)
        return hook

    def extend(self, extension: Any) -> None:
        """Add a part that lives with the app (``router_core.app.Extension``): it is lent the app's events
        and metrics, and its loops run beside the app's own."""
        if not callable(getattr(extension, "bind", None)):
            raise Misconfigured(f"an extension has a method bind(host), and {extension!r} has none")
        self._extensions.append(extension)

    def exception_handler(self, kind: type[BaseException]) -> Callable[[F], F]:
        """Answer an exception and its subclasses with what the function returns for ``(request, error)``."""
        given: Any = kind
        if not inspect.isclass(given) or not issubclass(given, BaseException):
            raise Misconfigured(f"exception_handler needs an exception class, not {kind!r}")

        def decorate(handler: F) -> F:
            if kind in self._handlers:
                raise Misconfigured(
                    f"{location(handler)}: {kind.__name__} has a handler: {location(self._handlers[kind])}"
                )
            self._handlers[kind] = handler
            return handler

        return decorate

    def start(self, **overrides: Any) -> Any:
        """Serve the router: on this machine, as a RunPod worker or as a Lambda function, by settings.

        Does nothing while the module is imported by something that serves it already, or in a child process
        that runs a job of it.
        """
        if _loading.get() or _is_child_process():
            return None
        settings = Settings.from_env(os.environ, **{**self.settings_overrides, **overrides})
        return find_provider(settings.provider)(self, settings)

    # --- registration ---

    def _decorator(
        self, path: str, methods: Sequence[str], options: RouteKeywords, *, job_by_default: bool = False
    ) -> Callable[[F], F]:
        if callable(path):
            raise Misconfigured(f"{location(path)}: the decorator needs a path: @router.get('/path')")
        if not isinstance(path, str):
            raise Misconfigured(f"a path is text, such as '/path', not {path!r}")
        record = Record(
            _undecorated,
            join(self.prefix, path),
            normal_methods(methods),
            options,
            job_by_default,
            self._tags,
            self._scopes,
        )

        def decorate(func: F) -> F:
            self._register(replace(record, func=func))
            return func

        return decorate

    def _register(self, record: Record) -> None:
        route = build_route(record)
        self._check_free(route)
        self._records.append(replace(record, plan=route.plan))
        self._routes.append(route)
        self._name_keys(route.path)
        for inclusion in self._parents:
            inclusion.parent._register(inclusion.move(self._records[-1]))

    def _check_free(self, route: Route) -> None:
        for other in self._routes:
            both = set(other.methods) & set(route.methods)
            if both and _is_same(other.path, route.path):
                raise Misconfigured(
                    f"{location(route.func)}: {min(both)} {route.path} is served already, "
                    f"by {location(other.func)}" + (f" as {other.path}" if other.path != route.path else "")
                )

    def _name_keys(self, path: str) -> None:
        """Name a route by its path alone for as long as no other route shares the path."""
        same = [at for at, route in enumerate(self._routes) if route.path == path]
        if len(same) > 1:
            for at in same:
                route = self._routes[at]
                self._routes[at] = replace(route, key=f"{','.join(route.methods)} {path}")


def _is_same(path: str, other: str) -> bool:
    """Return whether two patterns match the same paths, whatever their parameters are called."""
    if "{" not in path or "{" not in other:
        return path == other
    return parse_path(path).shape == parse_path(other).shape


def _undecorated() -> None:
    """Stand in until the decorator is given its function."""


def _check_hook(hook: Any) -> None:
    wanted = [
        name for name, parameter in inspect.signature(hook).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]  # fmt: skip
    if wanted:
        raise Misconfigured(
            f"{location(hook)}: a hook is called without arguments, but it needs {wanted[0]!r}"
        )


def _is_child_process() -> bool:
    # a spawned child imports the main module again, with the start() at its end
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None
