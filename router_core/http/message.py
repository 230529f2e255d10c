"""The neutral request and response: what every adapter builds and what every adapter sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import field, fields
from math import inf
from typing import Any, Final
from urllib.parse import parse_qsl

import pydantic_core

from router_core.records import dataclass
from router_core.types import ANONYMOUS, Principal

__all__ = ["Headers", "Request", "Response"]


class Headers(Mapping[str, str]):
    """Header fields in the order they came; names are matched without regard to case.

    ``headers["x"]`` is the first value; ``getlist`` gives all of them.
    """

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple(items)
        self._first: dict[str, str] | None = None

    @classmethod
    def from_bytes(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Build from the pairs that ASGI gives (latin-1, RFC 9110 section 5.5)."""
        return cls([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])

    def _index(self) -> dict[str, str]:
        if self._first is None:
            first: dict[str, str] = {}
            for name, value in self._items:
                first.setdefault(name.lower(), value)
            self._first = first
        return self._first

    def __getitem__(self, name: str) -> str:
        return self._index()[name.lower()]

    def __contains__(self, name: object) -> bool:
        # Mapping's own answer raises and catches a KeyError for every header that is absent
        return isinstance(name, str) and name.lower() in self._index()

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())

    def getlist(self, name: str) -> list[str]:
        """Return every value of ``name``, in order."""
        wanted = name.lower()
        return [value for key, value in self._items if key.lower() == wanted]

    def repeats(self, name: str) -> bool:
        """Return whether ``name`` came more than once."""
        return len(self.getlist(name)) > 1

    def items_list(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs, duplicates included, as they came."""
        return self._items

    def __repr__(self) -> str:
        # values may be credentials
        return f"Headers({sorted(self._index())})"


@dataclass(frozen=True, slots=True, init=False)
class Request:
    """One call, whatever platform it came through."""

    method: str
    """Upper case."""
    path: str
    """Percent-decoded, starting with ``/``, without the query."""
    query: str = ""
    """The raw query string, without ``?``."""
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    """The whole body; the adapter has already held it to the limits."""
    id: str = ""
    """Request id: given by the caller (if well formed) or made by the adapter."""
    client: str = ""
    """Network address of the peer, for logs; never a basis for trust."""
    scheme: str = "http"
    principal: Principal = ANONYMOUS
    path_params: Mapping[str, str] = field(default_factory=dict)
    native: Mapping[str, Any] = field(default_factory=dict)
    """Raw platform data (ASGI scope, Lambda event); the core never looks inside."""
    root: str = ""
    """Where the app is mounted inside another (``/ai``, no slash at the end): ``path`` comes without it,
    links that go out come with it."""
    disconnected: Callable[[], Awaitable[None]] | None = None
    """``await request.disconnected()`` returns once the peer has gone; None where nobody can tell."""
    max_reply_bytes: int = 0
    """Bytes that the body of the answer may have, before any encoding of the platform's; 0: no such limit.
    The adapter knows it. A larger result is answered by a redirect to the blob store, where that can sign
    addresses."""
    answer_by: float = inf
    """When the platform gives an answer up, in seconds of the app's monotonic clock: whoever waits for a job,
    or follows one, is answered before. Infinite where the platform sets no limit."""

    def __init__(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: Headers | None = None,
        body: bytes = b"",
        id: str = "",
        client: str = "",
        scheme: str = "http",
        principal: Principal = ANONYMOUS,
        path_params: Mapping[str, str] | None = None,
        native: Mapping[str, Any] | None = None,
        root: str = "",
        disconnected: Callable[[], Awaitable[None]] | None = None,
        max_reply_bytes: int = 0,
        answer_by: float = inf,
    ) -> None:
        # What dataclasses write for a frozen one takes four times as long, and every call makes one: so it
        # is filled while it is of a class that can be written, and becomes a Request with that.
        _REFORM(self, "__class__", _Open)
        open_: Any = self
        open_.method = method
        open_.path = path
        open_.query = query
        open_.headers = Headers() if headers is None else headers
        open_.body = body
        open_.id = id
        open_.client = client
        open_.scheme = scheme
        open_.principal = principal
        open_.path_params = {} if path_params is None else path_params
        open_.native = {} if native is None else native
        open_.root = root
        open_.disconnected = disconnected
        open_.max_reply_bytes = max_reply_bytes
        open_.answer_by = answer_by
        open_.__class__ = Request

    def query_items(self) -> list[tuple[str, str]]:
        """Return the decoded query as pairs, duplicates and blank values included.

        Raises UnicodeDecodeError when an escape is not UTF-8.
        """
        return parse_qsl(self.query, keep_blank_values=True, errors="strict") if self.query else []


_REFORM: Final = object.__setattr__


class _Open:
    """A Request that is being filled."""

    __slots__ = tuple(field.name for field in fields(Request))


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. ``body`` is bytes, or an async iterator of byte chunks for a stream.

    Whoever sends a stream must ``aclose()`` it when the peer goes away.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncIterator[bytes] = b""

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Build a JSON answer; ``value`` may hold anything that pydantic can encode."""
        body = pydantic_core.to_json(value, inf_nan_mode="null")
        return cls(status, (("content-type", "application/json"), *headers), body)

    @classmethod
    def text(
        cls, value: str, status: int = 200, content_type: str = "text/plain; charset=utf-8",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Response:  # fmt: skip
        """Build a text answer."""
        return cls(status, (("content-type", content_type), *headers), value.encode())

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        wanted = name.lower()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value
        return None

    def with_headers(self, *pairs: tuple[str, str]) -> Response:
        """Return a copy with more headers."""
        return Response(self.status, (*self.headers, *pairs), self.body)
