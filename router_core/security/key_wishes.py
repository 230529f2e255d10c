"""What a body asks of a key, read strictly: a field that is not understood is refused by its name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.security.credentials import is_workspace
from router_core.types import Allowance

__all__ = ["LIMIT_KINDS", "MAX_OVERLAP", "read_overlap", "read_wishes", "wrong"]

LIMIT_KINDS: Final = ("daily", "weekly", "monthly", "requests", "tokens", "concurrency")
MAX_OVERLAP: Final = 30 * 86400
_USUAL_OVERLAP: Final = 86400
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@/-]{0,127}\Z")
_WORD: Final = re.compile(r"(?:\*|[A-Za-z0-9/][A-Za-z0-9_.:/{}-]{0,127})\Z")
_TIER: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}\Z")
_MOST: Final = 100
_LARGEST: Final = 10**15
_CENTURY: Final = 100 * 365 * 86400.0
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC).timestamp()


class _Wrong(Exception):
    """A field and what is wrong with it."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path, text)
        self.path = path
        self.text = text


def read_wishes(body: bytes, now: float) -> dict[str, Any]:
    """Return the fields of a record that a body wants to set; raises BadRequest with the field's name."""
    try:
        return _wishes(_object(body), now)
    except _Wrong as raised:
        raise _refused(raised) from None


def read_overlap(body: bytes) -> float:
    """Return for how many seconds the old secret is to go on."""
    try:
        data = _object(body) if body.strip() else {}
        _known(data, ("overlapSeconds",))
        seconds = data.get("overlapSeconds", _USUAL_OVERLAP)
        if not _number(seconds) or not 0 <= seconds <= MAX_OVERLAP:
            raise _Wrong("overlapSeconds", f"must be a number from 0 to {MAX_OVERLAP}")
        return float(seconds)
    except _Wrong as raised:
        raise _refused(raised) from None


def wrong(place: str, path: str, text: str) -> BadRequest:
    """Return the refusal of a field of the body or the query."""
    where = [place, *path.split(".")] if path else [place]
    errors = [{"loc": where, "msg": text, "type": "value_error"}]
    return BadRequest(f"{path or 'the body'} {text}", code="validation_failed", extra={"errors": errors})


def _refused(raised: _Wrong) -> BadRequest:
    return wrong("body", raised.path, raised.text)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _Wrong("", "must be a JSON object") from None
    if not isinstance(data, dict):
        raise _Wrong("", "must be a JSON object")
    return data


def _known(data: Mapping[str, Any], names: tuple[str, ...], path: str = "") -> None:
    for name in data:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise _Wrong(f"{path}{name[:80]}", f"is no field{hint}")


def _wishes(data: Mapping[str, Any], now: float) -> dict[str, Any]:
    _known(data, (*_READERS, "limits", "expiresAt", "expiresIn"))
    if "expiresAt" in data and "expiresIn" in data:
        raise _Wrong("expiresIn", "cannot stand beside expiresAt")
    wishes: dict[str, Any] = {
        name: reader(name, data[name]) for name, reader in _READERS.items() if name in data
    }
    if "limits" in data:
        wishes["limits"] = _limits(data["limits"])
    if "expiresAt" in data:
        wishes["expires_at"] = _moment(data["expiresAt"])
    if data.get("expiresIn") is not None:
        seconds = data["expiresIn"]
        if not _number(seconds) or not 0 <= seconds <= _CENTURY:
            raise _Wrong("expiresIn", "must be a number of seconds from now on")
        wishes["expires_at"] = now + seconds
    return wishes


def _text(pattern: re.Pattern[str], words: str) -> Callable[[str, Any], str]:
    def read(path: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.match(value):
            raise _Wrong(path, words)
        return value

    return read


def _texts(path: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise _Wrong(path, f"must be a list of at most {_MOST} texts")
    for index, each in enumerate(value):
        if not isinstance(each, str) or not _WORD.match(each):
            raise _Wrong(f"{path}.{index}", "must be a text of letters, digits and _ . : / -")
    return tuple(dict.fromkeys(value))


def _workspaces(path: str, value: Any) -> tuple[str, ...]:
    listed = _texts(path, value)
    for index, each in enumerate(listed):
        if each != "*" and not is_workspace(each):
            raise _Wrong(f"{path}.{index}", "must be the id of a workspace, or *")
    if not listed:
        raise _Wrong(path, "must name a workspace, or * for all")
    return listed


def _workspace(path: str, value: Any) -> str:
    if not isinstance(value, str) or (value and not is_workspace(value)):
        raise _Wrong(path, "must be the id of a workspace")
    return value


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "name": _text(_NAME, "must be a text of 1 to 128 letters, digits, spaces and . _ @ / -"),
    "roles": _texts,
    "scopes": _texts,
    "workspaces": _workspaces,
    "workspace": _workspace,
    "tier": _text(_TIER, "must be a text of at most 64 letters, digits and _ . -"),
}


def _limits(value: Any) -> tuple[Allowance, ...]:
    if not isinstance(value, list) or len(value) > len(LIMIT_KINDS):
        raise _Wrong("limits", "must be a list with at most one limit of each kind")
    limits = tuple(_limit(f"limits.{index}", each) for index, each in enumerate(value))
    if len({each.kind for each in limits}) != len(limits):
        raise _Wrong("limits", "must not have two limits of one kind")
    return limits


def _limit(path: str, data: Any) -> Allowance:
    if not isinstance(data, dict):
        raise _Wrong(path, "must be an object with kind and amount")
    _known(data, ("kind", "amount", "onStoreFailure", "alerts"), f"{path}.")
    kind, amount = data.get("kind"), data.get("amount")
    otherwise, alerts = data.get("onStoreFailure", "closed"), data.get("alerts", [])
    if kind not in LIMIT_KINDS:
        raise _Wrong(f"{path}.kind", f"must be one of {', '.join(LIMIT_KINDS)}")
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= _LARGEST:
        raise _Wrong(f"{path}.amount", "must be a whole number: micro-dollars of money, else a count")
    if otherwise not in ("open", "closed"):
        raise _Wrong(f"{path}.onStoreFailure", "must be open or closed")
    if not isinstance(alerts, list) or len(alerts) > 10 or not all(_percent(each) for each in alerts):
        raise _Wrong(f"{path}.alerts", "must be a list of at most 10 percentages, 1 to 100")
    return Allowance(kind, amount, otherwise, tuple(alerts))


def _percent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _moment(value: Any) -> float | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
        moment = 0.0 if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        if 0.0 < moment < _LATEST:  # an offset moves the first day of all out of every calendar
            return moment
    except (ValueError, OverflowError):
        pass
    raise _Wrong("expiresAt", "must be a time such as 2030-01-31T12:00:00Z, or null for never")
