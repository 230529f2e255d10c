"""Read JSON from strangers: nothing that two parsers would read differently, nothing too deep."""

from __future__ import annotations

import json
import math
import re
from array import array
from itertools import accumulate
from typing import Any, Final

import pydantic_core

from router_core.errors import BadRequest

__all__ = ["DEFAULT_DEPTH", "check_value", "is_finite", "loads"]

DEFAULT_DEPTH: Final = 64

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.S)
_KEY_ENDS = re.compile(rb'"[ \t\r\n]*:')
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What a bracket does to the depth, as signed bytes."""
_BLOCK: Final = 64 * 1024
_CONFIRMED: Final = 1024 * 1024
"""Up to this size a body that looks too deep is parsed, to tell a deep one from an unbalanced one."""
# what a float cannot hold: three digits of exponent, or more digits than the largest float has
_OVERFLOW = re.compile(rb"[0-9][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{309}")
_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")


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


def is_finite(body: bytes) -> bool:
    """Return False where a JSON text might hold a number that is none, or none that a float can hold."""
    return (
        b"NaN" not in body
        and b"Infinity" not in body
        and _EXPONENT.search(body) is None  # half the time of the other, which short bodies do not need
        and (len(body) < 309 or _OVERFLOW.search(body) is None)
    )


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
    steps = array("b", _STRINGS.sub(b"", body).translate(_STEPS, _NOT_BRACKETS))
    depth = 0
    for start in range(0, len(steps), _BLOCK):
        depths = list(accumulate(steps[start : start + _BLOCK], initial=depth))
        if max(depths) > max_depth:
            break
        depth = depths[-1]
    else:
        return False
    if len(body) > _CONFIRMED:
        return True
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
