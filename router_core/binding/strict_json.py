"""Read JSON from strangers: nothing that two parsers would read differently, nothing too deep."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import pydantic_core

from router_core.errors import BadRequest

__all__ = ["DEFAULT_DEPTH", "check_value", "loads"]

DEFAULT_DEPTH: Final = 64

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.S)
_KEY_ENDS = re.compile(rb'"[ \t\r\n]*:')
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
# what a float cannot hold: three digits of exponent, or more digits than the largest float has
_OVERFLOW = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{309}")


def loads(body: bytes, max_depth: int = DEFAULT_DEPTH) -> Any:
    """Return the value of a JSON text.

    Raises BadRequest for anything but strict JSON in UTF-8: NaN and Infinity, numbers too large for a float,
    a key twice in one object, half a surrogate pair, a byte order mark, more than ``max_depth`` levels.
    """
    if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper(body, max_depth):
        raise BadRequest(f"the JSON body is nested more than {max_depth} levels deep", code="json_too_deep")
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise _invalid(str(exc)) from None
    # Every key ends in a quote and a colon, and so may a text: no more of them than keys that were read
    # means that none was given twice. Otherwise a parser that sees every pair has to decide.
    if len(_KEY_ENDS.findall(body)) != _count_keys(value):
        _check_keys(body)
    if _OVERFLOW.search(body) is not None:
        _check_finite(value)
    return value


def check_value(value: Any, max_depth: int = DEFAULT_DEPTH) -> None:
    """Hold a JSON value that somebody else has parsed to the same rules, as far as they still show."""
    try:
        text = pydantic_core.to_json(value, inf_nan_mode="constants")
    except (ValueError, UnicodeError, RecursionError) as exc:
        raise _invalid(str(exc)[:200].encode("utf-8", "replace").decode()) from None
    if text.count(b"[") + text.count(b"{") > max_depth and _is_deeper(text, max_depth):
        raise BadRequest(f"the JSON value is nested more than {max_depth} levels deep", code="json_too_deep")
    if b"NaN" in text or b"Infinity" in text:
        _check_finite(value)


def _is_deeper(body: bytes, max_depth: int) -> bool:
    # Every pass takes the innermost pair of brackets away, so what is left after max_depth passes was deeper.
    brackets = _STRINGS.sub(b"", body).translate(_SQUARE, _NOT_BRACKETS)
    for _ in range(max_depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    if not brackets:
        return False
    try:
        pydantic_core.from_json(body)
    except ValueError as exc:
        # unbalanced rather than deep; jiter itself stops at 200 levels
        if "recursion" not in str(exc):
            raise _invalid(str(exc)) from None
    return True


def _count_keys(value: Any) -> int:
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            count += len(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return count


def _check_keys(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_unique)
    except BadRequest:
        raise
    except (ValueError, RecursionError) as exc:
        raise _invalid(str(exc)) from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        name = double[:100].encode("utf-8", "replace").decode()
        raise BadRequest(f"the JSON body gives the key {name!r} twice", code="duplicate_key")


def _check_finite(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise BadRequest(
                "the JSON body holds a number that is too large or not a number", code="invalid_json"
            )
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"the body is not valid JSON: {reason}", code="invalid_json")
