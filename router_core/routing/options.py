"""Check what a decorator was given, by type and by range: a slip is told where the function is defined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Final

from router_core.errors import Misconfigured

__all__ = ["check_options"]

Check = Callable[[Any], bool]


def check_options(options: Mapping[str, Any], where: str) -> None:
    """Raise Misconfigured, naming the function, the option, its value and what is allowed."""
    for name, value in options.items():
        allowed, check = _RULES[name]
        if not check(value):
            raise Misconfigured(f"{where}: {name} is {_shown(value)}; it must be {allowed}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _whole(least: float, most: float = math.inf) -> Check:
    return lambda value: _is(value, Integral) and least <= value <= most


def _seconds(value: Any) -> bool:
    return _is(value, Real) and math.isfinite(value) and value >= 0


def _some_seconds(value: Any) -> bool:
    return _seconds(value) and value > 0


def _is(value: Any, kind: type) -> bool:
    # True is 1 to Python, and a slip here
    return isinstance(value, kind) and not isinstance(value, bool)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _words(value: Any) -> bool:
    # one text is a sequence of letters to Python
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(word, str) for word in value)


def _errors(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in value
    )


def _members(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


_RULES: Final[Mapping[str, tuple[str, Check]]] = {
    "queue_size": ("a whole number of jobs, 1 or more", _whole(1)),
    "concurrency": ("a whole number, 0 (choose for me) or more", _whole(0)),
    "timeout": ("a number of seconds, more than 0, or None for no limit", _or_none(_some_seconds)),
    "max_attempts": ("a whole number of tries, 1 or more, or None", _or_none(_whole(1))),
    "priority": ("a whole number between -100 and 100", _whole(-100, 100)),
    "isolation": ("'thread' or 'process'", lambda value: _text(value) and value in ("thread", "process")),
    "retry_on": ("a tuple of exception classes, such as (ConnectionError,)", _errors),
    "backoff": ("a number of seconds, 0 or more", _seconds),
    "retention": ("a number of seconds, more than 0, or None for the setting", _or_none(_some_seconds)),
    "job": ("True, False or None", _or_none(_flag)),
    "name": ("text", _text),
    "summary": ("text", _text),
    "description": ("text", _text),
    "tags": ("a list of texts", _words),
    "status": (
        "a whole number from 200 to 399, as of a successful answer (raise HTTPError for others)",
        _whole(200, 399),
    ),
    "scopes": ("a list of texts", _words),
    "public": ("True or False", _flag),
    "include_in_schema": ("True or False", _flag),
    "deprecated": ("True or False", _flag),
    "max_body_bytes": ("a whole number of bytes, 1 or more, or None for the setting", _or_none(_whole(1))),
    "meta": ("a dict whose keys are texts", _members),
}
