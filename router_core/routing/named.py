"""Find the route that an input object names, for platforms whose calls have no path of their own.

    {"path": "/predict", "method": "POST", "strength": 0.5}

``path`` and ``method`` are taken out, the rest are the arguments. Where one method serves the path it need
not be given, and a service of one route needs no path either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.errors import MethodNotAllowed, NotFound, ValidationFailed
from router_core.routing.route import Route
from router_core.routing.table import Match, Table

__all__ = ["Named", "NamedRoutes", "take_key"]

_METHODS: Final = ("POST", "GET", "PUT", "PATCH", "DELETE")
_MAX_PATH: Final = 2048
_SHOWN: Final = 20
_KEYS: Final = ("idempotency_key", "Idempotency-Key")
"""How a caller may spell it in the input; there are no headers to put it into."""
_POLICY_KEYS: Final = ("idempotencyKey", "idempotency_key")


@dataclass(frozen=True, slots=True)
class Named:
    """A route, and the arguments that were given beside its name."""

    route: Route
    arguments: dict[str, Any]


class NamedRoutes:
    """The routes that may be named: those of the author, not the product's own."""

    __slots__ = ("_patterns", "_routes", "_table")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [route for route in routes if not route.internal]
        self._table = Table(self._routes)
        self._patterns: dict[str, dict[str, Match]] = {}
        for route in self._routes:
            methods = self._patterns.setdefault(route.path, {})
            methods.update((method, Match(route, {})) for method in route.methods if method in _METHODS)

    def find(self, values: Mapping[str, Any]) -> Named:
        """Return the route that the object names. Raises ValidationFailed, naming ``path`` or ``method``."""
        arguments = dict(values)
        matches = self._served(arguments.get("path"))
        if matches is None:
            route = self._only_route(arguments)
            return Named(route, _flat(route, arguments))
        del arguments["path"]
        match = _pick(matches, arguments, str(values["path"]))
        return Named(match.route, {**match.path_params, **_flat(match.route, arguments)})

    def _served(self, path: Any) -> dict[str, Match] | None:
        """Return what serves the path, by method; None when the object names no path."""
        if path is None or self._is_argument(path):
            return None
        if not isinstance(path, str):
            raise _wrong("path", "must be text such as '/predict'", "string_type")
        matches = self._matches(path.strip()) if len(path) <= _MAX_PATH else {}
        if not matches:
            raise _wrong("path", f"names no route; the routes are {self._listed()}", "unknown_route")
        return matches

    def _matches(self, path: str) -> dict[str, Match]:
        """Accept a pattern as it was registered, and a path with or without slashes around it."""
        inner = path.strip("/")
        for spelling in dict.fromkeys((path, f"/{inner}", f"/{inner}/")):
            if spelling in self._patterns:
                return self._patterns[spelling]
            found = {method: match for method in _METHODS if (match := self._match(method, spelling))}
            if found:
                return found
        return {}

    def _match(self, method: str, path: str) -> Match | None:
        try:
            return self._table.match(method, path)
        except (NotFound, MethodNotAllowed):
            return None

    def _is_argument(self, path: Any) -> bool:
        """Whether ``path`` is meant for the only function there is, which has a parameter of that name."""
        if len(self._routes) != 1 or not _takes(self._routes[0], "path"):
            return False
        return not (isinstance(path, str) and self._matches(path))

    def _only_route(self, arguments: Mapping[str, Any]) -> Route:
        if len(self._routes) != 1:
            raise _wrong("path", f"is missing; the routes are {self._listed()}", "missing")
        return self._routes[0]

    def _listed(self) -> str:
        paths = list(self._patterns)
        shown = ", ".join(paths[:_SHOWN])
        return f"{shown} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else shown or "none"


def take_key(named: Named, policy: Mapping[str, Any]) -> str:
    """Return the caller's idempotency key, or nothing, and take it out of the arguments.

    It stands among them or in the policy; a parameter of that name is never mistaken for it. Raises
    ValidationFailed for a key that is no text.
    """
    found: Any = None
    for name in _KEYS:
        if name in named.arguments and not _takes(named.route, name):
            found = named.arguments.pop(name)
    for name in _POLICY_KEYS:
        found = policy.get(name) if found is None else found
    if found is None:
        return ""
    if not isinstance(found, str) or not found:
        raise _wrong(_KEYS[0], "must be a text that is not empty", "string_type")
    return found


def _pick(matches: Mapping[str, Match], arguments: dict[str, Any], path: str) -> Match:
    """Choose by method; where there is no choice, ``method`` may be an argument like any other."""
    routes = {id(match.route): match for match in matches.values()}
    only = next(iter(routes.values())) if len(routes) == 1 else None
    if only is not None and ("method" not in arguments or _takes(only.route, "method")):
        return only
    served = ", ".join(sorted(matches))
    if "method" not in arguments:
        raise _wrong("method", f"is missing: {path[:200]} is served by {served}", "missing")
    method = arguments.pop("method")
    match = matches.get(method.upper()) if isinstance(method, str) else None
    if match is None:
        raise _wrong("method", f"must be one of {served}", "unknown_method")
    return match


def _flat(route: Route, arguments: dict[str, Any]) -> dict[str, Any]:
    """Take arguments out of an object called ``request``: fastsdk sends the members of a JSON body in one."""
    inner = arguments.get("request")
    if not isinstance(inner, dict) or _takes(route, "request"):
        return arguments
    return {**inner, **{name: value for name, value in arguments.items() if name != "request"}}


def _takes(route: Route, name: str) -> bool:
    return any(name in (param.name, param.alias) for param in route.plan.params)


def _wrong(field: str, text: str, kind: str) -> ValidationFailed:
    error = {"loc": ["input", field], "msg": text, "type": kind}
    return ValidationFailed(f"input.{field} {text}", errors=[error])
