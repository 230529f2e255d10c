"""What the service's OpenAPI document says about a route: where each argument goes, and in which order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

__all__ = ["Operation", "Schema"]

_METHODS: Final = ("post", "get", "put", "patch", "delete")
"""In the order of preference where a path has several: what a function call most likely means first."""
_MAX_DEPTH: Final = 8
_CONVERTER: Final = re.compile(r":[a-z]+\}")
_PRODUCT_TAGS: Final = ("jobs", "system")
"""Mark the routes that every service has: nobody who misspells a path means one of them."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One route, as a caller needs to know it."""

    path: str
    method: str = "POST"
    order: tuple[str, ...] = ()
    """Names of the parameters, as they stand in the function's signature."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Name -> path, query, header, cookie or body."""
    job: bool = False
    """Answers with a job: a call under an idempotency key may be repeated."""
    multipart: bool = True
    """Takes forms with files."""
    whole: str = ""
    """Name of the one parameter that is the whole body; its members may be passed by name instead."""
    closed: bool = False
    """No other parameters exist, so that a misspelt name can be told at once."""
    summary: str = ""

    @property
    def name(self) -> str:
        """How the call is written in Python, for messages."""
        words = [word for word in self.path.split("/") if word and "{" not in word]
        return ".".join(words).replace("-", "_") or "root"

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Give positional arguments their names; raises TypeError as a Python function would."""
        if len(args) > len(self.order):
            known = ", ".join(self.order) or "none"
            if not self.closed and not self.order:
                raise TypeError(
                    f"{self.name}(): the service does not tell the names of its parameters: pass them by name"
                )
            count = len(self.order)
            raise TypeError(f"{self.name}() takes {count} arguments ({known}), and {len(args)} were given")
        values = dict(zip(self.order, args, strict=False))
        for name, value in kwargs.items():
            if name in values:
                raise TypeError(f"{self.name}() got two values for {name!r}")
            if self.closed and name not in self.places:
                raise TypeError(f"{self.name}() has no parameter {name!r}{_near(name, self.places)}")
            values[name] = value
        return values


class Schema:
    """The routes of a service. Empty when it tells nothing: then calls by name still work."""

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        self.document: Mapping[str, Any] = document or {}
        paths = self.document.get("paths")
        self._paths: Mapping[str, Any] = paths if isinstance(paths, Mapping) else {}

    @property
    def known(self) -> bool:
        """Whether the service has told anything."""
        return bool(self._paths)

    def paths(self) -> list[str]:
        """Return all paths."""
        return list(self._paths)

    def find(self, path: str, method: str = "") -> Operation:
        """Return the route of a path; one that nobody described when there is none."""
        template = self.template(path)
        item = self._paths.get(template)
        if not isinstance(item, Mapping):
            return Operation(path, method.upper() or "POST")
        for name in (method.lower(),) if method else _METHODS:
            if isinstance(item.get(name), Mapping):
                found = self._read(template, name, item[name])
                return found if template == path else _filled_in(found, path)
        return Operation(path, method.upper() or "POST")

    def template(self, path: str) -> str:
        """Return the described path that serves this one (``/items/{id}`` for ``/items/7``), or itself."""
        if path in self._paths:
            return path
        if "{" in path:
            # a place is no value for another place; ``{name:path}`` is how the service's own source has it
            plain = _CONVERTER.sub("}", path)
            return plain if plain in self._paths else path
        templates = (known for known in self._paths if "{" in known)
        return next((known for known in templates if _pattern(known).fullmatch(path)), path)

    def actual(self, path: str) -> str:
        """Return the path that is meant: ``/do_it``, the Python spelling, also finds ``/do-it``."""
        if path not in self._paths:
            wanted = path.lower().replace("-", "_")
            return next((known for known in self._paths if known.lower().replace("-", "_") == wanted), path)
        return path

    def near(self, path: str) -> str:
        """Return a hint for a path that does not exist."""
        own = {known: item for known, item in self._paths.items() if not _is_product(item)} or self._paths
        longer = [known for known in own if known.startswith(f"{path.rstrip('/')}/{{")]
        return f"; did you mean {longer[0]!r}?" if longer else _near(path, own)

    def _read(self, path: str, method: str, operation: Mapping[str, Any]) -> Operation:
        places: dict[str, str] = {}
        for parameter in operation.get("parameters") or ():
            parameter = self._resolved(parameter)
            # headers that every route takes are not parameters of the function
            if parameter.get("name") and parameter.get("x-builtin") is not True:
                places[str(parameter["name"])] = str(parameter.get("in", "query"))
        given = self._resolved(self._resolved(operation.get("requestBody")).get("content"))
        # a charset or the like says nothing about the shape
        content = {str(kind).partition(";")[0].strip().lower(): body for kind, body in given.items()}
        whole, open_ended = self._body(operation, content, places)
        responses = operation.get("responses") or {}
        stated = operation.get("x-parameter-order")
        order = tuple(str(name) for name in stated) if isinstance(stated, list) else tuple(places)
        return Operation(
            path, method.upper(), order, {**places, **{name: "body" for name in order if name not in places}},
            job=_is_job(operation, responses), multipart=not content or "multipart/form-data" in content,
            whole=whole, closed=not open_ended, summary=str(operation.get("summary") or ""),
        )  # fmt: skip

    def _body(
        self, operation: Mapping[str, Any], content: Mapping[str, Any], places: dict[str, str]
    ) -> tuple[str, bool]:
        open_ended = False
        whole = operation.get("x-body-parameter")
        for kind in ("application/json", "multipart/form-data", "application/x-www-form-urlencoded"):
            if kind not in content:
                continue
            schema = self._resolved(content[kind].get("schema") or {})
            open_ended = open_ended or bool(schema.get("additionalProperties"))
            if isinstance(whole, str) and whole:
                places.setdefault(whole, "body")
            for name in schema.get("properties") or ():
                places.setdefault(str(name), "body")
        return (whole if isinstance(whole, str) else ""), open_ended

    def _resolved(self, node: Any) -> Mapping[str, Any]:
        """Follow ``$ref`` within the document, a bounded number of times."""
        for _ in range(_MAX_DEPTH):
            ref = node.get("$ref") if isinstance(node, Mapping) else None
            if not isinstance(ref, str) or not ref.startswith("#/"):
                break
            node = self.document
            for part in ref[2:].split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                node = node.get(key, {}) if isinstance(node, Mapping) else {}
        return node if isinstance(node, Mapping) else {}


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{([^{}]+)\}", template)
    literal = True
    text = ""
    for part in parts:
        text += re.escape(part) if literal else (".+" if part.endswith(":path") else "[^/]+")
        literal = not literal
    return re.compile(text)


def _filled_in(operation: Operation, path: str) -> Operation:
    """The path parameters are written into the path already, so they are no arguments any more."""
    if "{" in path:
        return replace(operation, path=path)
    places = {name: place for name, place in operation.places.items() if place != "path"}
    order = tuple(name for name in operation.order if name in places)
    return replace(operation, path=path, places=places, order=order)


def _is_product(item: Any) -> bool:
    operations = item.values() if isinstance(item, Mapping) else ()
    return any(
        set(_PRODUCT_TAGS) & set(each.get("tags") or ()) for each in operations if isinstance(each, Mapping)
    )


def _is_job(operation: Mapping[str, Any], responses: Mapping[str, Any]) -> bool:
    kind = operation.get("x-router-kind")
    return kind == "job" if isinstance(kind, str) else "202" in responses


def _near(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has {', '.join(list(known)[:12])}" if known else ""
