"""Read the head of a request out of an ASGI scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.http.head import MAX_TARGET, Head, decoded_path, read_fields, target_too_long
from router_core.http.message import Request
from router_core.settings import Settings
from router_core.types import ANONYMOUS, Counted

__all__ = ["read_head", "to_request"]

_HTTP_1: Final = frozenset({"1.1", "1.0"})


def read_head(scope: MutableMapping[str, Any], settings: Settings, ids: Counted) -> Head:
    """Return the head; raises the error to answer with when the request cannot be taken."""
    raw = scope["headers"]
    if not isinstance(raw, list):
        raw = list(raw)
    return read_fields(
        raw, _path(scope), scope["query_string"], scope["http_version"] in _HTTP_1, settings, ids
    )


def to_request(
    head: Head,
    scope: MutableMapping[str, Any],
    body: bytes,
    disconnected: Callable[[], Awaitable[None]] | None = None,
) -> Request:
    """Return the neutral request."""
    client = scope.get("client")
    return Request(
        scope["method"],
        head.path,
        head.query,
        head.headers,
        body,
        head.request_id,
        client[0] if client else "",
        scope.get("scheme", "http"),
        ANONYMOUS,
        {},
        scope,
        scope.get("root_path", "").rstrip("/"),
        disconnected,
    )


def _path(scope: MutableMapping[str, Any]) -> str:
    path: str = scope["path"]
    if len(path) > MAX_TARGET:
        raise target_too_long()
    raw = scope.get("raw_path")
    if raw is None:
        if "\ufffd" in path:
            raise BadRequest("the path is not UTF-8")
    elif b"%" in raw:
        # servers decode with replacement characters, so what they give cannot be judged
        path = decoded_path(raw.partition(b"?")[0])
    if "\0" in path:
        raise BadRequest("the path holds a NUL character")
    root = scope.get("root_path", "")
    if root and path.startswith(root):
        rest = path[len(root) :]
        if not rest:
            return "/"
        if rest[0] == "/" or root[-1] == "/":
            return rest if rest[0] == "/" else "/" + rest
    return path
