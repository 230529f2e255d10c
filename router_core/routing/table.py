"""Find the route of a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final

from router_core.binding.plan import compile_plan
from router_core.errors import MethodNotAllowed, Misconfigured, NotFound
from router_core.http.message import Response
from router_core.records import dataclass
from router_core.routing.path import PathPattern, parse_path
from router_core.routing.route import JobOptions, Route

__all__ = ["Match", "Table"]

_NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})
_INT_DIGITS: Final = 19


@dataclass(frozen=True, slots=True)
class Match:
    """A route, and the values of its path parameters as they stand in the path."""

    route: Route
    path_params: Mapping[str, str]


@dataclass(slots=True)
class _Leaf:
    """All methods of one pattern."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    number: _Node | None = None
    text: _Node | None = None
    rest: _Leaf | None = None
    leaf: _Leaf | None = None


class Table:
    """Routes by path and method; built once, then only read.

    A path without parameters is one dictionary lookup. Elsewhere a literal segment wins over an int
    parameter, that over a plain one, and ``{rest:path}`` comes last, whatever the order of registration;
    a pattern that does not serve the method leaves the path to the next one.
    """

    __slots__ = ("_root", "_static")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._static: dict[str, _Leaf] = {}
        self._root = _Node()
        for route in routes:
            self._place(route)
        for leaf in (*self._static.values(), *_leaves(self._root)):
            _finish(leaf)

    def match(self, method: str, path: str) -> Match:
        """Return the route and its path parameters.

        HEAD finds the GET route, OPTIONS an answer that lists the methods. Raises NotFound, or
        MethodNotAllowed with ``Allow``.
        """
        leaf = self._static.get(path)
        if leaf is not None:
            match = leaf.matches.get(method)
            if match is not None:
                return match
        return self._search(method, path, leaf)

    def _search(self, method: str, path: str, fixed: _Leaf | None) -> Match:
        hits: list[tuple[_Leaf, tuple[str, ...]]] = [] if fixed is None else [(fixed, ())]
        parts = path[1:].split("/")
        # dots are traversal: a client that means well has resolved them already
        if path[:1] == "/" and "\0" not in path and "." not in parts and ".." not in parts:
            hits.extend(_walk(self._root, parts, 0))
        for leaf, values in hits:
            match = leaf.matches.get(method)
            if match is not None:
                return Match(match.route, dict(zip(leaf.names[method], values, strict=True)))
        if not hits:
            raise NotFound(f"there is nothing at {path[:200]!r}")
        allowed = _allow(*(leaf for leaf, _ in hits))
        if method == "OPTIONS":
            return Match(_options_route(path, allowed), _NO_PARAMS)
        raise MethodNotAllowed(f"this path takes {allowed}, not {method[:20]}", headers={"Allow": allowed})

    def _place(self, route: Route) -> None:
        pattern = parse_path(route.path)
        if pattern.names:
            leaf = self._leaf(pattern)
        else:
            leaf = self._static.setdefault(pattern.path, _Leaf())
        for method in route.methods:
            if method in leaf.matches:
                other = leaf.matches[method].route.func
                raise Misconfigured(f"two routes serve {method} {route.path}: {other!r} and {route.func!r}")
            leaf.matches[method] = Match(route, _NO_PARAMS)
            leaf.names[method] = pattern.names

    def _leaf(self, pattern: PathPattern) -> _Leaf:
        node = self._root
        for segment in pattern.segments:
            if segment.kind == "path":
                node.rest = node.rest or _Leaf()
                return node.rest
            if segment.kind == "int":
                node.number = node = node.number or _Node()
            elif segment.kind == "str":
                node.text = node = node.text or _Node()
            else:
                node = node.literals.setdefault(segment.text, _Node())
        node.leaf = node.leaf or _Leaf()
        return node.leaf


def _walk(node: _Node, parts: list[str], at: int) -> Iterator[tuple[_Leaf, tuple[str, ...]]]:
    """Yield every pattern that fits, best first. The depth is that of the patterns, not of the path."""
    if at == len(parts):
        if node.leaf is not None:
            yield node.leaf, ()
        return
    part = parts[at]
    literal = node.literals.get(part)
    if literal is not None:
        yield from _walk(literal, parts, at + 1)
    if node.number is not None and _is_int(part):
        yield from ((leaf, (part, *values)) for leaf, values in _walk(node.number, parts, at + 1))
    if node.text is not None and part:
        yield from ((leaf, (part, *values)) for leaf, values in _walk(node.text, parts, at + 1))
    if node.rest is not None and _is_safe(parts[at:]):
        yield node.rest, ("/".join(parts[at:]),)


def _is_int(part: str) -> bool:
    digits = part.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= _INT_DIGITS


def _is_safe(parts: list[str]) -> bool:
    # an empty first part would make an absolute path of it; a backslash separates on Windows
    return parts[0] != "" and not any(".." in part.split("\\") for part in parts)


def _leaves(node: _Node) -> Iterator[_Leaf]:
    yield from (leaf for leaf in (node.leaf, node.rest) if leaf is not None)
    for child in (*node.literals.values(), node.number, node.text):
        if child is not None:
            yield from _leaves(child)


def _finish(leaf: _Leaf) -> None:
    if "GET" in leaf.matches and "HEAD" not in leaf.matches:
        leaf.matches["HEAD"] = leaf.matches["GET"]
        leaf.names["HEAD"] = leaf.names["GET"]


def _allow(*leaves: _Leaf) -> str:
    methods = {method for leaf in leaves for method in leaf.matches}
    return ", ".join(sorted(methods | {"OPTIONS"}))


def _options_route(path: str, allowed: str) -> Route:
    async def options() -> Response:
        return Response(204, (("allow", allowed),))

    return Route(
        key="OPTIONS *", methods=("OPTIONS",), path=path, func=options, plan=compile_plan(options, path="/"),
        kind="call", job=JobOptions(), status=204, public=True, internal=True, include_in_schema=False,
    )  # fmt: skip
