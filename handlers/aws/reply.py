"""From a response to what a Lambda reply is made of: checked headers, and a body as text or base64."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Fields", "Pair", "Reply", "json_size", "listed_headers", "make"]

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


class Fields:
    """The header fields of a response, judged once: names in lower case, without those of the platform.

    Raises ValueError for what may not be a header: half an answer would be worse than none.
    """

    __slots__ = ("cookies", "is_text", "joined", "pairs")

    def __init__(self, headers: Iterable[Pair]) -> None:
        self.pairs = _checked(headers)
        self.cookies = [value for name, value in self.pairs if name == "set-cookie"]
        self.joined = _joined(pair for pair in self.pairs if pair[0] != "set-cookie")
        """One value for each name but set-cookie, which cannot be joined."""
        self.is_text = _is_text(self.joined)


class Reply:
    """What every shape of reply holds."""

    __slots__ = ("body", "fields", "is_base64", "request_id", "status")

    def __init__(self, status: int, fields: Fields, request_id: str, body: str, is_base64: bool) -> None:
        self.status = status
        self.fields = fields
        self.request_id = request_id
        self.body = body
        self.is_base64 = is_base64


def make(status: int, fields: Fields, request_id: str, body: bytes, *, base64_only: bool = False) -> Reply:
    """Return the reply; the body stands in it as text wherever that is what it is."""
    if not body:
        return Reply(status, fields, request_id, "", False)
    if fields.is_text and not base64_only:
        try:
            return Reply(status, fields, request_id, body.decode(), False)
        except UnicodeDecodeError:  # it only claims to be text
            pass
    return Reply(status, fields, request_id, base64.b64encode(body).decode("ascii"), True)


def _checked(headers: Iterable[Pair]) -> tuple[Pair, ...]:
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


def _joined(headers: Iterable[Pair]) -> dict[str, str]:
    """Return one value for each name; those of a repeated one joined by commas (RFC 9110 section 5.2)."""
    fields: dict[str, str] = {}
    for name, value in headers:
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _is_text(headers: dict[str, str]) -> bool:
    if headers.get("content-encoding", "identity").lower() != "identity":
        return False
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if not (kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))):
        return False
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "')
    return not charset or charset in _CHARSETS


def listed_headers(reply: Reply) -> dict[str, list[str]]:
    """Return all values of each name."""
    fields: dict[str, list[str]] = {}
    for name, value in reply.fields.pairs:
        fields.setdefault(name, []).append(value)
    if reply.request_id:
        fields["x-request-id"] = [reply.request_id]
    return fields


def json_size(reply: dict[str, Any], limit: int) -> int:
    """Return how large a reply is as JSON; exactly only where it comes near the limit."""
    body = len(reply["body"])
    if body * 6 + 65_536 < limit:  # no character takes more than six
        return body
    # the older runtimes escape everything that is not ASCII, so that is what is counted
    return len(json.dumps(reply))
