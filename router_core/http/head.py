"""The head of a request, read strictly and cheaply, whatever brought it.

Nothing here is repaired: a path with ``//``, ``..``, ``;`` or an escaped slash names no route rather than
another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from router_core.errors import BadRequest, HeadersTooLarge, HTTPError, NotFound, UnsupportedMedia
from router_core.http.message import Headers
from router_core.settings import Settings
from router_core.types import Counted

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "MAX_HEADERS",
    "MAX_TARGET",
    "Head",
    "LazyHeaders",
    "TextHeaders",
    "decoded_path",
    "read_fields",
    "target_too_long",
]

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

    def within(self, names: frozenset[bytes]) -> bool:
        """Return whether there are no fields but some of these, which are in lower case."""
        return names.issuperset(self._fields)

    def repeats(self, name: str) -> bool:
        """Return whether ``name`` came more than once; most often nothing did."""
        raw = self.raw
        return not (isinstance(raw, list) and len(raw) == len(self._fields)) and len(self.getlist(name)) > 1

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first value of ``name``."""
        value = self._fields.get(_KEYS.get(name) or _key(name))
        return default if value is None else value.decode("latin-1")


class TextHeaders(Headers):
    """Headers that came as one dictionary of texts: ASCII, names in lower case, none twice."""

    __slots__ = ()

    def __init__(self, fields: dict[str, str]) -> None:
        self._first = fields  # the other slot of the parent is filled when it is needed

    def __getattr__(self, name: str) -> Any:
        if name == "_items":
            self._items = tuple(self._index().items())
            return self._items
        raise AttributeError(name)

    def __contains__(self, name: object) -> bool:
        fields = self._first or {}
        return name in fields or (name not in _KEYS and isinstance(name, str) and name.lower() in fields)

    def repeats(self, name: str) -> bool:
        """Return whether ``name`` came more than once."""
        return False

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of ``name``."""
        return (self._first or {}).get(name if name in _KEYS else name.lower(), default)


def _key(name: str) -> bytes:
    return name.lower().encode("latin-1", "replace")


_KEYS: Final = {
    name: name.encode()
    for name in (
        "accept", "authorization", "content-type", "host", "idempotency-key", "origin", "prefer",
        "sec-fetch-site", "x-api-key",
    )
}  # fmt: skip
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


def _query(raw: bytes) -> str:
    if len(raw) > MAX_TARGET:
        raise target_too_long()
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("the query holds bytes that are not percent-encoded") from None


def decoded_path(raw: bytes) -> str:
    """Return a path that came percent-encoded; raises what a path that names no route is answered with."""
    if _BAD_ESCAPE.search(raw):
        raise BadRequest("the path holds a % that is not followed by two hexadecimal digits")
    if b"%2F" in raw or b"%2f" in raw:
        # decoding it would make another route of it
        raise NotFound("no route has an escaped slash in its path")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None


def target_too_long() -> HTTPError:
    """Return the error for a path or query longer than ``MAX_TARGET``."""
    error = HTTPError(414, f"path and query may have {MAX_TARGET} bytes each", code="uri_too_long")
    error.title = "URI Too Long"
    return error
