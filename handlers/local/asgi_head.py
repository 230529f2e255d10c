"""Read the head of a request out of an ASGI scope, strictly and cheaply.

Nothing here is repaired: a path with ``//``, ``..``, ``;`` or an escaped slash names no route rather than
another one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from itertools import chain
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from router_core.errors import BadRequest, HeadersTooLarge, HTTPError, NotFound, UnsupportedMedia
from router_core.http.message import Headers, Request
from router_core.settings import Settings
from router_core.types import ANONYMOUS, Counted

__all__ = ["MAX_HEADERS", "MAX_TARGET", "Head", "LazyHeaders", "read_fields", "read_head"]

MAX_HEADERS: Final = 100
"""How many header fields one request may have."""
MAX_TARGET: Final = 8192
"""Longest path and longest query, in bytes."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DIGITS: Final = re.compile(rb"[0-9]{1,19}\Z")


class LazyHeaders(Headers):
    """Headers that stay as the server gave them until somebody asks for more than one by name."""

    __slots__ = ("_fields", "raw")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]], fields: Mapping[bytes, bytes]) -> None:
        # the slots of the parent are left empty on purpose: __getattr__ fills them when they are needed
        self.raw = raw
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        if name == "_items":
            self._items = tuple([(key.decode("latin-1"), value.decode("latin-1")) for key, value in self.raw])
            return self._items
        if name == "_first":
            self._first = None
            return None
        raise AttributeError(name)

    def __getitem__(self, name: str) -> str:
        return self._fields[_KEYS.get(name) or _key(name)].decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (_KEYS.get(name) or _key(name)) in self._fields

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first value of ``name``."""
        value = self._fields.get(_KEYS.get(name) or _key(name))
        return default if value is None else value.decode("latin-1")


def _key(name: str) -> bytes:
    return name.lower().encode("latin-1", "replace")


_KEYS: Final = {
    name: name.encode()
    for name in ("accept", "content-type", "host", "idempotency-key", "origin", "prefer", "sec-fetch-site")
}
"""Those that are looked up in every request."""


class Head:
    """What is known before the body is read."""

    __slots__ = (
        "body_limit",
        "has_body",
        "headers",
        "length",
        "path",
        "query",
        "request_id",
        "timer",
        "unread",
    )

    def __init__(
        self,
        headers: LazyHeaders,
        path: str,
        query: str,
        length: int,
        has_body: bool,
        body_limit: int,
        request_id: str,
    ) -> None:
        self.headers = headers
        self.path = path
        self.query = query
        self.length = length
        self.has_body = has_body
        self.unread = has_body
        """Whether some of the body is still to come."""
        self.timer: asyncio.Timeout | None = None
        """Limits how long the body may take, from its first wait on."""
        self.body_limit = body_limit
        self.request_id = request_id

    def request(
        self,
        scope: MutableMapping[str, Any],
        body: bytes,
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> Request:
        """Return the neutral request."""
        client = scope.get("client")
        return Request(
            scope["method"],
            self.path,
            self.query,
            self.headers,
            body,
            self.request_id,
            client[0] if client else "",
            scope.get("scheme", "http"),
            ANONYMOUS,
            {},
            scope,
            scope.get("root_path", "").rstrip("/"),
            disconnected,
        )


def read_head(scope: MutableMapping[str, Any], settings: Settings, ids: Counted) -> Head:
    """Return the head; raises the error to answer with when the request cannot be taken."""
    raw = scope["headers"]
    if not isinstance(raw, list):
        raw = list(raw)
    return read_fields(
        raw, _path(scope), scope["query_string"], scope["http_version"] in _HTTP_1, settings, ids
    )


def read_fields(
    raw: list[tuple[bytes, bytes]],
    path: str,
    query: bytes,
    is_http_1: bool,
    settings: Settings,
    ids: Counted,
    size: int | None = None,
) -> Head:
    """Return the head made of header fields with lower-case names and of a path that was judged already.

    ``size`` is as many bytes as the fields can have at most, where that is known.
    """
    limit = settings.max_header_bytes
    if len(raw) > MAX_HEADERS:
        raise HeadersTooLarge(f"a request may have {MAX_HEADERS} header fields, this one has {len(raw)}")
    if (size is None or size > limit) and sum(map(len, chain.from_iterable(raw))) > limit:
        raise HeadersTooLarge(f"all header fields together may have {limit} bytes")
    fields = dict(reversed(raw))  # the first of equal names wins
    given = fields.get(b"x-request-id")
    request_id = given.decode() if given is not None and _REQUEST_ID.match(given) else ids.new()

    stated = fields.get(b"content-length")
    if stated is None:
        # HTTP/1 without a length has a body only when it is chunked; HTTP/2 may always have one
        has_body = b"transfer-encoding" in fields or not is_http_1
        length = 0
    else:
        if not _DIGITS.match(stated):
            raise BadRequest("Content-Length is not a number")
        length = int(stated)
        has_body = length > 0
    if has_body and fields.get(b"content-encoding", b"identity").lower() != b"identity":
        # not unpacked: a few bytes can become gigabytes, and a client has to ask for it
        raise UnsupportedMedia(
            "bodies are read as they are, without a coding", headers={"Accept-Encoding": "identity"}
        )
    limit = settings.max_body_bytes
    if has_body and settings.max_upload_bytes > limit:
        media = fields.get(b"content-type")
        if media is not None and media[:19].lower() == b"multipart/form-data":
            limit = settings.max_upload_bytes
    text = _query(query) if query else ""
    return Head(LazyHeaders(raw, fields), path, text, length, has_body, limit, request_id)


_HTTP_1: Final = frozenset({"1.1", "1.0"})


def _query(raw: bytes) -> str:
    if len(raw) > MAX_TARGET:
        raise _target_too_long()
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("the query holds bytes that are not percent-encoded") from None


def _path(scope: MutableMapping[str, Any]) -> str:
    path: str = scope["path"]
    if len(path) > MAX_TARGET:
        raise _target_too_long()
    raw = scope.get("raw_path")
    if raw is None:
        if "\ufffd" in path:
            raise BadRequest("the path is not UTF-8")
    elif b"%" in raw:
        # servers decode with replacement characters, so what they give cannot be judged
        path = _decoded(raw.partition(b"?")[0])
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


def _decoded(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw):
        raise BadRequest("the path holds a % that is not followed by two hexadecimal digits")
    if b"%2F" in raw or b"%2f" in raw:
        # decoding it would make another route of it
        raise NotFound("no route has an escaped slash in its path")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None


def _target_too_long() -> HTTPError:
    error = HTTPError(414, f"path and query may have {MAX_TARGET} bytes each", code="uri_too_long")
    error.title = "URI Too Long"
    return error
