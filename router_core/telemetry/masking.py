"""Keep secrets and control characters out of what operators read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MASK", "mask_fields", "mask_text", "printable"]

MASK: Final = "***"
# Patterns are compiled when they are first needed (and kept by ``re``): a function that starts for a call of
# which nothing has to be masked does not wait for them.
_MASKED_NAMES: Final = (
    r"(?i)authorization|api[_-]?key|(?:^|[_-])token(?:$|[_-])|secret|passw|cookie|signature|credential|"
    r"private[_-]?key"
)


def _without_query(match: re.Match[str]) -> str:
    return f"{match[1]}?{MASK}" if match[2] else match[0]


_PATTERNS: Final = (
    # a header quoted in a message; the scheme may stay
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", rf"\1 {MASK}"),
    (r"\b(rk_[a-z0-9]{4,32}_)[A-Za-z0-9_-]{8,}", rf"\1{MASK}"),
    (r"\b(sk|rpa|whsec|ghp|hf)([-_])[A-Za-z0-9+/=_-]{12,}", rf"\1\2{MASK}"),
    # name and password in a URL, and its query, where signed URLs carry their right of access
    (r"(://)[^\s/@'\"]+@", rf"\1{MASK}@"),
    # one without a query is taken, too: else a text of addresses alone is gone through from each of them on
    (r"(?i)\b(https?://[^\s?'\"]+)(\?[^\s'\"]+)?", _without_query),
    (
        r"(?i)([\"']?\b(?:x-)?(?:api[_-]?key|authorization|password|passwd|secret|token|client_secret)\b[\"']?"
        r"\s*[:=]\s*)([\"']?)(?!\*\*\*|(?:bearer|basic)\s)[^\s\"',;&}]+\2",
        rf"\1{MASK}",
    ),
)
_CONTROL: Final = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
_MAX_DEPTH: Final = 6


def mask_text(text: str) -> str:
    """Return the text without what looks like a credential."""
    for pattern, replacement in _PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text


def mask_fields(fields: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return a copy with secrets masked, by the name of the field and by the look of the value."""
    return {
        str(name): MASK if re.search(_MASKED_NAMES, str(name)) else _masked(value, depth)
        for name, value in fields.items()
    }


def _masked(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if depth >= _MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return mask_fields(value, depth + 1)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    return mask_text(str(value))


def printable(text: str) -> str:
    """Return the text with line breaks, escape sequences and other control characters spelled out.

    Otherwise a caller could write whole lines of a log, or recolour the terminal that shows it.
    """
    return re.sub(_CONTROL, _spell, text)


def _spell(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode("ascii")
