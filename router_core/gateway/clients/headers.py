"""Header lines that go out: nothing in them but what we mean to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["PASSED_ON", "credential", "header_lines", "passed_on"]

PASSED_ON: Final = frozenset({"idempotency-key", "openai-beta", "traceparent", "tracestate", "x-request-id"})
"""Headers of the caller that an upstream may see. Everything else (credentials and cookies, addresses, the
headers of its SDK) ends here."""
_MAX_VALUE: Final = 1024
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_KEY: Final = re.compile(r"[\x21-\x7e]+")
_OURS: Final = frozenset({
    "connection", "content-length", "content-type", "expect", "host", "keep-alive", "proxy-authorization",
    "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


def header_lines(headers: Iterable[tuple[str, str]], where: str) -> bytes:
    """Return configured headers as they go out, of equal names the last.

    Raises Misconfigured; a value is never shown.
    """
    lines: dict[str, str] = {}
    for name, value in headers:
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise Misconfigured(f"{where}: {name[:80]!r} cannot be set as a header")
        if not _VALUE.fullmatch(value):
            raise Misconfigured(f"{where}: the value of {name} holds what a header must not (a line break?)")
        lines[name.lower()] = f"{name.lower()}: {value.strip()}\r\n"
    return "".join(lines.values()).encode("ascii")


def credential(value: str, where: str) -> str:
    """Return a key that fits into a header; a line break at its end, as files leave one, is taken off."""
    value = value.strip()
    if value and not _KEY.fullmatch(value):
        raise Misconfigured(f"{where}: the key holds a space, a line break or something that is not ASCII")
    return value


def passed_on(headers: Mapping[str, str]) -> bytes:
    """Return those of a caller's headers that an upstream may see; what could break a line is left away."""
    lines = [
        f"{name}: {value}\r\n"
        for name, value in headers.items()
        if name in PASSED_ON and len(value) <= _MAX_VALUE and value.isascii() and value.isprintable()
    ]
    return "".join(lines).encode("ascii")
