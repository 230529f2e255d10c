"""The ``Prefer`` header (RFC 7240) and its reserved query parameter ``sync``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from router_core.errors import BadRequest
from router_core.http.message import Request

__all__ = ["Wish", "parse_prefer", "query_value", "read_wish"]

_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"false", "0"})
_PREFERENCE: Final = re.compile(
    r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*"""  # a token
    r"""(?:=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*))?"""  # its value, quoted or not
)
_MAX_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class Wish:
    """How the caller would like to be answered."""

    wait: float | None = None
    """Seconds to wait for the result; None does not wait. Infinite: as long as the server likes."""
    background: bool = False
    """``respond-async``: an answer that names a job is fine, also where a plain result is usual."""
    by_header: bool = False
    """The wait was asked for by ``Prefer``, so ``Preference-Applied`` is due."""
    cancel_on_disconnect: bool = False
    """Cancel the job when the caller goes away while waiting."""


def parse_prefer(values: Iterable[str]) -> dict[str, str]:
    """Return preferences by lower-case name; of one given twice, the first counts.

    What cannot be read is ignored, as the RFC asks: a preference is not a condition.
    """
    found: dict[str, str] = {}
    for part in _split(",".join(values)[:_MAX_LENGTH]):
        match = _PREFERENCE.match(part)
        if match is not None:
            text = match[2] or ""
            if text.startswith('"'):
                text = re.sub(r"\\(.)", r"\1", text[1:-1])
            found.setdefault(match[1].lower(), text)
    return found


def _split(text: str) -> list[str]:
    """Split at commas that stand outside of quotes."""
    parts, start, quoted, escaped = [], 0, False, False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def read_wish(request: Request) -> Wish:
    """Read ``Prefer`` and the query; ``?sync=`` wins. Raises BadRequest if it is no yes or no."""
    preferences = parse_prefer(request.headers.getlist("prefer")) if "prefer" in request.headers else {}
    wait = preferences.get("wait", "")
    seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 10 else None
    background = "respond-async" in preferences
    if not request.query:
        return Wish(seconds, background, seconds is not None)
    sync = query_value(request, "sync")
    leave = _yes(query_value(request, "cancel_on_disconnect"), "cancel_on_disconnect")
    if sync is None:
        return Wish(seconds, background, seconds is not None, leave)
    if not _yes(sync, "sync"):
        return Wish(None, background, False, leave)
    return Wish(float("inf") if seconds is None else seconds, background, seconds is not None, leave)


def query_value(request: Request, name: str) -> str | None:
    """Return one query parameter, or None. Raises BadRequest when it is given twice or is not UTF-8."""
    try:
        values = [value for key, value in request.query_items() if key == name]
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    if len(values) > 1:
        raise BadRequest(f"the query parameter {name} is given {len(values)} times")
    return values[0] if values else None


def _yes(value: str | None, name: str) -> bool:
    if value is None:
        return False
    word = value.lower()
    if word not in _TRUE | _FALSE:
        raise BadRequest(f"the query parameter {name} must be true or false")
    return word in _TRUE
