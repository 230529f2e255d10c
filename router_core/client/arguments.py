"""Arguments of a function call -> path, query, headers and body of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import pydantic_core

from router_core.client.files import as_upload, is_file, to_object
from router_core.client.multipart import Multipart, Part
from router_core.client.schema import Operation
from router_core.client.transport import Payload

__all__ = ["Encoded", "encode", "jsonable"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A call, ready to be sent."""

    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Payload = b""


def encode(operation: Operation, values: Mapping[str, Any]) -> Encoded:
    """Put each argument where its route expects it; raises TypeError for one that cannot be sent."""
    bodiless = operation.method in ("GET", "HEAD", "DELETE")
    slots = {slot[1]: slot[2] for slot in _SLOT.finditer(operation.path)}
    filled: dict[str, str] = {}
    query: list[tuple[str, str]] = []
    headers: list[tuple[str, str]] = []
    fields: dict[str, Any] = {}
    for name, value in values.items():
        place = operation.places.get(name, "query" if bodiless else "body")
        if name in slots:
            filled[name] = _in_path(operation, name, value, slashes=slots[name] == ":path")
        elif place == "query" and value is not None:
            several = value if isinstance(value, (list, tuple, set)) else (value,)
            query += [(name, _text(item)) for item in several]
        elif place == "header" and value is not None:
            headers.append((name, _one_line(_text(value))))
        elif place == "cookie" and value is not None:
            headers.append(("cookie", f"{name}={quote(_text(value), safe='')}"))
        elif place == "body":
            fields[name] = value
    path = _path(operation, filled)
    if bodiless and not fields:
        return Encoded(path, tuple(query), tuple(headers))
    content_type, body = _body(operation, fields)
    pairs = [*headers, ("content-type", content_type)]
    size = len(body) if isinstance(body, bytes) else body.size
    if size is not None:
        pairs.append(("content-length", str(size)))
    return Encoded(path, tuple(query), tuple(pairs), body)


def jsonable(value: Any) -> Any:
    """Replace the files inside a value by base64 objects."""
    if is_file(value):
        return to_object(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return value


def _body(operation: Operation, fields: dict[str, Any]) -> tuple[str, bytes | Payload]:
    if operation.multipart and not operation.whole and any(_has_files(value) for value in fields.values()):
        parts = [part for name, value in fields.items() for part in _parts(name, value)]
        form = Multipart(parts)
        return form.content_type, form
    value: Any = jsonable(fields)
    if operation.whole and operation.whole in value and len(value) == 1:
        value = value[operation.whole]
    return "application/json", _json(value)


def _has_files(value: Any) -> bool:
    return is_file(value) or (isinstance(value, (list, tuple)) and any(is_file(item) for item in value))


def _parts(name: str, value: Any) -> list[Part]:
    if value is None:
        return []
    if is_file(value):
        return [Part(name, as_upload(value))]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _parts(name, item)]
    if isinstance(value, (str, int, float, bool)):
        return [Part(name, _text(value).encode())]
    return [Part(name, _json(jsonable(value)), "application/json")]


def _json(value: Any) -> bytes:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="constants")
    except (ValueError, TypeError) as error:
        raise TypeError(f"an argument cannot be sent as JSON: {error}") from None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    encoded = _json(value).decode()
    return encoded[1:-1] if encoded[:1] == '"' else encoded


_DOTS: Final = frozenset({".", ".."})
"""Steps within a path rather than values: another route would be called."""
_SLOT: Final = re.compile(r"\{([^{}:]+)(:[a-z]+)?\}")


def _path(operation: Operation, values: Mapping[str, str]) -> str:
    """Put the values into the path, all at once: a value may look like a place for another one."""
    missing = [slot[1] for slot in _SLOT.finditer(operation.path) if slot[1] not in values]
    if missing:
        raise TypeError(f"{operation.name}() needs a value for {missing[0]!r}, which is a part of its path")
    return quote(_SLOT.sub(lambda slot: values[slot[1]], operation.path), safe="/%:@")


def _in_path(operation: Operation, name: str, value: Any, *, slashes: bool) -> str:
    text = "" if value is None else _text(value)
    if not text:
        raise TypeError(f"{operation.name}(): {name!r} is a part of its path, so it cannot be empty")
    if not _DOTS.isdisjoint(text.split("/")):
        raise TypeError(f"{operation.name}(): {name!r} is a part of its path, so it cannot be {text!r}")
    return quote(text, safe="/" if slashes else "")


def _one_line(text: str) -> str:
    if "\r" in text or "\n" in text:
        raise TypeError("a header value cannot hold a line break")
    return text
