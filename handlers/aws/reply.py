"""From a response to what a Lambda reply is made of: checked headers, and a body as text or base64."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

__all__ = ["Pair", "Reply", "checked", "joined", "json_size", "listed_headers", "make"]

Pair = tuple[str, str]
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PLATFORM: Final = frozenset({"content-length", "transfer-encoding", "connection"})
"""Headers that the front door writes itself."""
_TEXTS: Final = frozenset(
    {"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/xml",
     "application/javascript", "application/x-www-form-urlencoded", "application/yaml", "image/svg+xml"}
)  # fmt: skip
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class Reply(NamedTuple):
    """What every shape of reply holds; header names are lower case."""

    status: int
    headers: tuple[Pair, ...]
    body: str
    is_base64: bool


def make(status: int, headers: tuple[Pair, ...], body: bytes, *, base64_only: bool = False) -> Reply:
    """Return the reply; the body stands in it as text wherever that is what it is."""
    if not body:
        return Reply(status, headers, "", False)
    if not base64_only and _is_text(headers):
        try:
            return Reply(status, headers, body.decode(), False)
        except UnicodeDecodeError:  # it only claims to be text
            pass
    return Reply(status, headers, base64.b64encode(body).decode("ascii"), True)


def _is_text(headers: tuple[Pair, ...]) -> bool:
    media = ""
    for name, value in headers:
        if name == "content-encoding" and value.lower() != "identity":
            return False
        if name == "content-type" and not media:
            media = value
    if media == "application/json":
        return True
    kind, _, parameters = media.lower().partition(";")
    kind = kind.strip()
    if not (kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))):
        return False
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "')
    return not charset or charset in _CHARSETS


def checked(headers: Iterable[Pair]) -> tuple[Pair, ...]:
    """Return the header fields that are ours to send, names in lower case.

    Raises ValueError for what may not be a header: half an answer would be worse than none.
    """
    fields = []
    for name, value in headers:
        lower = name.lower()
        if lower in _PLATFORM:
            continue
        if not _NAME.match(lower):
            raise ValueError(f"{name!r} is not a header name")
        if _BAD_VALUE.search(value):
            raise ValueError(f"the value of the header {name!r} holds a control character")
        value.encode("latin-1")
        fields.append((lower, value))
    return tuple(fields)


def joined(headers: Iterable[Pair]) -> dict[str, str]:
    """Return one value for each name; those of a repeated one joined by commas (RFC 9110 section 5.2)."""
    fields: dict[str, str] = {}
    for name, value in headers:
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def listed_headers(headers: Iterable[Pair]) -> dict[str, list[str]]:
    """Return all values of each name."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields


def json_size(reply: dict[str, Any], limit: int) -> int:
    """Return how large a reply is as JSON; exactly only where it comes near the limit."""
    body = len(reply["body"])
    if body * 6 + 65_536 < limit:  # no character takes more than six
        return body
    # the older runtimes escape everything that is not ASCII, so that is what is counted
    return len(json.dumps(reply))
