"""Read the members that HTTP events share, whatever types they come with."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from handlers.aws.limits import Door
from router_core.errors import BadRequest
from router_core.http.head import MAX_TARGET, decoded_path, target_too_long

__all__ = ["Pairs", "Raw", "body_of", "listed", "member", "method_of", "pair", "pairs_of", "path_of", "text",
           "under_stage", "wire"]  # fmt: skip

Pairs = list[tuple[bytes, bytes]]
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_METHOD: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}\Z")


class Raw(NamedTuple):
    """One HTTP event, read; the path is decoded, header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: Pairs
    body: bytes
    client: str
    scheme: str
    root: str
    door: Door
    received_ms: object
    """When the front door took the request, if it says so."""


def text(value: object, name: str, default: str = "") -> str:
    """Return a member that is text, or the default where it is missing or null. Raises BadRequest."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadRequest(f"{name} of the event is a {type(value).__name__}, not text")
    return value


def method_of(value: object) -> str:
    """Return the method in upper case."""
    if value in _METHODS:
        return value
    method = text(value, "the method")
    if not _METHOD.match(method):
        raise BadRequest("the event names no method")
    return method.upper()


def member(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a member that is an object; an empty one where it is missing or null. Raises BadRequest."""
    value = event.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} of the event is a {type(value).__name__}, not an object")
    return value


def pair(name: str, value: object) -> tuple[bytes, bytes]:
    """Return one header field as HTTP carries it, its name in lower case."""
    if type(value) is not str:
        value = text(value, f"the header {name}")
    try:
        return name.lower().encode("latin-1"), value.encode("latin-1")
    except UnicodeEncodeError:
        return wire(name.lower(), "a header"), wire(value, "a header")


def wire(value: str, name: str) -> bytes:
    """Return the bytes that a client has put on the wire for a text."""
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest(f"{name} holds half a character") from None


def pairs_of(event: Mapping[str, Any]) -> Pairs:
    """Return all header fields: from the lists where the event has them, else one value for a name."""
    lists = event.get("multiValueHeaders")
    if lists is None:
        return _singles(event)
    return [
        pair(name, value)
        for name, values in member(event, "multiValueHeaders").items()
        for value in listed(values, f"the header {name}")
    ]


def _singles(event: Mapping[str, Any]) -> Pairs:
    fields = member(event, "headers")
    try:
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    except (AttributeError, UnicodeEncodeError):
        return [pair(name, value) for name, value in fields.items()]


def listed(values: object, name: str) -> list[Any]:
    """Return a list of values; none where there is null."""
    if values is None:
        return []
    if not isinstance(values, list):
        raise BadRequest(f"{name} of the event is a {type(values).__name__}, not a list")
    return values


def body_of(event: Mapping[str, Any]) -> bytes:
    """Return the body; raises BadRequest for one that is no text or no base64."""
    body = event.get("body")
    if not body:
        if body is None or body == "":
            return b""
        raise BadRequest(f"the body of the event is a {type(body).__name__}, not text")
    if not isinstance(body, str):
        raise BadRequest(f"the body of the event is a {type(body).__name__}, not text")
    try:
        if event.get("isBase64Encoded"):
            return base64.b64decode(body, validate=True)
        return body.encode()
    except (binascii.Error, ValueError):
        kind = "base64, as the event says it is" if event.get("isBase64Encoded") else "valid text"
        raise BadRequest(f"the body is not {kind}", code="body_unreadable") from None


def under_stage(path: str, stage: object) -> tuple[str, bool]:
    """Return the path without the stage that it begins with, and whether it did."""
    if not isinstance(stage, str) or not stage or stage == "$default":
        return path, False
    prefix = f"/{stage}"
    if path == prefix:
        return "/", True
    return (path[len(prefix) :], True) if path.startswith(prefix + "/") else (path, False)


def path_of(path: str, encoded: bool) -> str:
    """Return the path as the core takes it; ``encoded`` says whether the front door left the escapes in."""
    if len(path) > MAX_TARGET:
        raise target_too_long()
    if encoded and ("%" in path or not path.isascii()):
        path = decoded_path(wire(path, "the path"))
    if "\0" in path:
        raise BadRequest("the path holds a NUL character")
    return path if path.startswith("/") else f"/{path}"
