"""Small readers of untrusted JSON, each naming the exact place of what it refuses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NoReturn

__all__ = ["MAX_TEXT", "MAX_VALUES", "flag", "members", "number", "refuse", "text", "texts", "whole"]

MAX_TEXT: Final = 256
"""Characters of one name or value."""
MAX_VALUES: Final = 10_000
"""Values in one list."""
_LARGEST: Final = 10**12


def refuse(path: str, what: str) -> NoReturn:
    """Raise the ValueError for one place."""
    raise ValueError(f"{path or 'rule'}: {what}")


def members(data: object, path: str, known: Collection[str]) -> dict[str, Any]:
    """Return the members of an object; null is as good as left out, an unknown name is refused."""
    if not isinstance(data, Mapping):
        refuse(path, f"has to be an object, not {_shown(data)}")
    for name in data:
        if name not in known:
            refuse(_under(path, name), "there is no such field" + _near(name, known))
    return {name: value for name, value in data.items() if value is not None}


def text(value: object, path: str) -> str:
    """Return a name: some text of one line, without spaces around it."""
    if not isinstance(value, str):
        refuse(path, f"has to be a string, not {_shown(value)}")
    if not value or value != value.strip() or not value.isprintable():
        refuse(path, f"has to be printable, not empty and without spaces around it, not {_shown(value)}")
    if len(value) > MAX_TEXT:
        refuse(path, f"has {len(value):,} characters, at most {MAX_TEXT} are allowed")
    return value


def texts(value: object, path: str) -> tuple[str, ...]:
    """Return a list of names without its duplicates."""
    if not isinstance(value, (list, tuple)):
        hint = f"; write [{_shown(value)}]" if isinstance(value, str) else ""
        refuse(path, f"has to be a list of strings, not {_shown(value)}{hint}")
    if not value:
        refuse(path, "is an empty list, which nothing fits; leave the field out to ask for nothing")
    if len(value) > MAX_VALUES:
        refuse(path, f"has {len(value):,} values, at most {MAX_VALUES:,} are allowed")
    return tuple(dict.fromkeys(text(each, f"{path}[{index}]") for index, each in enumerate(value)))


def flag(value: object, path: str) -> bool:
    """Return true or false; texts and numbers that look alike are refused."""
    if not isinstance(value, bool):
        refuse(path, f"has to be true or false, not {_shown(value)}")
    return value


def number(value: object, path: str) -> float:
    """Return a number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(path, f"has to be a number, not {_shown(value)}")
    if not 0 <= value <= _LARGEST:  # neither is NaN
        refuse(path, f"has to be between 0 and {_LARGEST:,}, not {_shown(value)}")
    return float(value)


def whole(value: object, path: str, least: int = 0) -> int:
    """Return a whole number; 5.0 is one."""
    real = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) or not (isinstance(value, int) or real):
        refuse(path, f"has to be a whole number, not {_shown(value)}")
    found = int(value)  # type: ignore[call-overload]
    if not least <= found <= _LARGEST:
        refuse(path, f"has to be between {least:,} and {_LARGEST:,}, not {_shown(value)}")
    return int(found)


def _under(path: str, name: object) -> str:
    shown = name if isinstance(name, str) and name.isprintable() and len(name) <= 40 else _shown(name)
    return f"{path}.{shown}" if path else str(shown)


def _near(name: object, known: Collection[str]) -> str:
    from difflib import get_close_matches  # only for what is wrong anyway

    plain = {each.lower(): each for each in known}
    asked = str(name)[:MAX_TEXT].replace("_", "").replace("-", "").lower()
    near = get_close_matches(asked, plain, n=1, cutoff=0.6)
    return f"; did you mean {plain[near[0]]}?" if near else f"; there are {', '.join(sorted(known))}"


def _shown(value: object) -> str:
    """Show a value that may be anything of any size, in one short line."""
    if isinstance(value, (Mapping, list, tuple)):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "so large a number"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    cut = value[:60] if isinstance(value, str) else value
    return ascii(cut)[:62].replace("'", '"')
