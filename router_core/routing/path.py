"""Path patterns: ``/items/{item_id}``, ``/files/{rest:path}``, ``/pages/{number:int}``."""

from __future__ import annotations

import re
from typing import Final

from router_core.errors import Misconfigured
from router_core.records import dataclass

__all__ = ["PathPattern", "Segment", "join", "parse_path"]

KINDS: Final = ("str", "int", "path")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")


@dataclass(frozen=True, slots=True)
class Segment:
    """One part between two slashes: a literal text, or a parameter of a kind."""

    text: str
    """The literal, or the parameter's name."""
    kind: str = ""
    """Empty for a literal; else str (one segment), int (ASCII digits), path (all that remains)."""


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A parsed pattern."""

    path: str
    segments: tuple[Segment, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(segment.text for segment in self.segments if segment.kind)

    @property
    def shape(self) -> tuple[str, ...]:
        """What the pattern matches, whatever its parameters are called: equal shapes collide."""
        return tuple(f"{{{segment.kind}}}" if segment.kind else segment.text for segment in self.segments)

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it, without kinds."""
        return "/" + "/".join(f"{{{s.text}}}" if s.kind else s.text for s in self.segments)


def parse_path(path: str) -> PathPattern:
    """Parse a pattern; raises Misconfigured with what is wrong.

    A parameter is a whole segment and matches at least one character. ``.`` and ``..`` are no segments, and
    a trailing slash is a path of its own: nothing is redirected or folded together.
    """
    if not path.startswith("/"):
        raise Misconfigured(f"the path {path!r} must start with '/'")
    parts = path[1:].split("/")
    segments = tuple(_segment(path, part, last=i == len(parts) - 1) for i, part in enumerate(parts))
    pattern = PathPattern(path, segments)
    if len(set(pattern.names)) != len(pattern.names):
        raise Misconfigured(f"the path {path!r} has two parameters of one name")
    return pattern


def _segment(path: str, part: str, *, last: bool) -> Segment:
    found = _PARAMETER.fullmatch(part)
    if found is None:
        return _literal(path, part, last=last)
    name, kind = found[1], found[2] or "str"
    if kind not in KINDS:
        raise Misconfigured(
            f"the path {path!r}: {kind!r} is no kind of parameter; use one of {', '.join(KINDS)}"
        )
    if kind == "path" and not last:
        raise Misconfigured(
            f"the path {path!r}: {{{name}:path}} takes all that remains, so it must come last"
        )
    return Segment(name, kind)


def _literal(path: str, part: str, *, last: bool) -> Segment:
    if part == "" and last:
        return Segment("")
    if part in ("", ".", ".."):
        raise Misconfigured(f"the path {path!r} has an empty, '.' or '..' segment")
    if "{" in part or "}" in part:
        raise Misconfigured(
            f"the path {path!r}: a parameter such as {{name}} must be a whole segment, not {part!r}"
        )
    if not _LITERAL.fullmatch(part):
        raise Misconfigured(f"the path {path!r}: {part!r} holds a character that a path cannot hold as it is")
    return Segment(part)


def join(prefix: str, path: str) -> str:
    """Return ``path`` below ``prefix``; an empty path is the prefix itself."""
    prefix = prefix.rstrip("/")
    if prefix and not prefix.startswith("/"):
        raise Misconfigured(f"the prefix {prefix!r} must start with '/'")
    if not prefix:
        return path
    if path and not path.startswith("/"):
        raise Misconfigured(f"the path {path!r} must start with '/'")
    return prefix + path
