"""From the JSON of a workspace, or of limits alone, to the values, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from router_core.gateway.rules.read import members, number, refuse, text, texts, whole
from router_core.gateway.values import Limit, Requirements, Workspace

__all__ = ["LIMIT_FIELDS", "limits_json", "parse_limits", "parse_workspace", "workspace_json"]

Value = TypeVar("Value")

_MICROS: Final = 1_000_000
_MAX_DOLLARS: Final = 10**9
_MONEY: Final = {"daily": "daily", "weekly": "weekly", "monthly": "monthly"}
_RATES: Final = {
    "requestsPerMinute": "requests", "tokensPerMinute": "tokens", "concurrency": "concurrency",
}  # fmt: skip
_WIRE: Final = {kind: name for name, kind in (*_MONEY.items(), *_RATES.items())}
"""Kind of a limit -> its name on the wire."""

LIMIT_FIELDS: Final = ("budgetLimits", "rateLimits", "onStoreFailure", "unpriced", "alerts")
"""What ``parse_limits`` reads."""
_WORKSPACE: Final = (
    "modelRestrictions", *LIMIT_FIELDS, "qualityRequirements", "complianceRequirements", "regions", "webhook",
)  # fmt: skip
_MAX_ALERTS: Final = 20
_MAX_URL: Final = 2048


def parse_workspace(id: str, data: Mapping[str, Any]) -> Workspace:
    """Return the workspace that a JSON object says. Raises ValueError, beginning with the wrong field."""
    name = text(id, "workspaceId")
    given = members(data, "", _WORKSPACE)
    return Workspace(
        name,
        models=texts(given["modelRestrictions"], "modelRestrictions") if "modelRestrictions" in given else (),
        limits=_limits(given, ""),
        requirements=_quality(given.get("qualityRequirements", {}), "qualityRequirements"),
        compliance=_set(given.get("complianceRequirements", ()), "complianceRequirements"),
        regions=_set(given.get("regions", ()), "regions"),
        webhook=_url(given["webhook"], "webhook") if "webhook" in given else "",
    )


def workspace_json(workspace: Workspace) -> dict[str, Any]:
    """Return what ``parse_workspace`` makes the same workspace of."""
    told: dict[str, Any] = {}
    if workspace.models:
        told["modelRestrictions"] = list(workspace.models)
    told |= limits_json(workspace.limits)
    asked = workspace.requirements
    quality: dict[str, Any] = {}
    if asked.min_success_rate:
        quality["minSuccessRate"] = asked.min_success_rate
    if asked.max_latency:
        quality["maxLatency"] = _short(asked.max_latency * 1000)
    if quality:
        told["qualityRequirements"] = quality
    if workspace.compliance:
        told["complianceRequirements"] = sorted(workspace.compliance)
    if workspace.regions:
        told["regions"] = sorted(workspace.regions)
    if workspace.webhook:
        told["webhook"] = workspace.webhook
    return told


def parse_limits(data: Mapping[str, Any], path: str = "") -> tuple[Limit, ...]:
    """Return the limits of an object with the fields ``LIMIT_FIELDS``, each of which may be left out.

    ``path`` is where the object stands. Raises ValueError, beginning with the wrong field.
    """
    return _limits(members(data, path, LIMIT_FIELDS), path)


def limits_json(limits: Sequence[Limit]) -> dict[str, Any]:
    """Return what ``parse_limits`` makes the same limits of."""
    told: dict[str, Any] = {}
    money = {_WIRE[each.kind]: _short(each.amount / _MICROS) for each in limits if each.kind in _MONEY}
    rates = {_WIRE[each.kind]: each.amount for each in limits if each.kind not in _MONEY}
    if money:
        told["budgetLimits"] = {name: money[name] for name in _MONEY if name in money}
    if rates:
        told["rateLimits"] = {name: rates[name] for name in _RATES if name in rates}
    told |= _common("onStoreFailure", {_WIRE[each.kind]: each.on_store_failure for each in limits}, "closed")
    told |= _common(
        "unpriced", {_WIRE[each.kind]: each.unpriced for each in limits if each.kind in _MONEY}, "allow"
    )
    told |= _common("alerts", {_WIRE[each.kind]: list(each.alerts) for each in limits if each.kind in _MONEY},
                    [])  # fmt: skip
    return told


def _common(field: str, values: Mapping[str, Value], usual: Value) -> dict[str, Any]:
    """Return a field that says one value for all limits, or one for each, or is not needed."""
    first = next(iter(values.values()), usual)
    if any(each != first for each in values.values()):
        return {field: dict(values)}
    return {} if first == usual else {field: first}


def _limits(given: Mapping[str, Any], path: str) -> tuple[Limit, ...]:
    under = f"{path}." if path else ""
    amounts: dict[str, int] = {}
    if "budgetLimits" in given:
        place = f"{under}budgetLimits"
        for name, value in members(given["budgetLimits"], place, _MONEY).items():
            amounts[name] = _dollars(value, f"{place}.{name}")
    if "rateLimits" in given:
        place = f"{under}rateLimits"
        for name, value in members(given["rateLimits"], place, _RATES).items():
            amounts[name] = whole(value, f"{place}.{name}")
    failures = _each(given, under, "onStoreFailure", amounts, _one_of("closed", "open"))
    money = {name: amount for name, amount in amounts.items() if name in _MONEY}
    unpriced = _each(given, under, "unpriced", money, _one_of("allow", "refuse"))
    alerts = _each(given, under, "alerts", money, _percents)
    return tuple(
        Limit(
            kind, amounts[name], failures.get(name, "closed"), alerts.get(name, ()),
            unpriced.get(name, "allow"),
        )
        for name, kind in (*_MONEY.items(), *_RATES.items())
        if name in amounts
    )  # fmt: skip


def _each(
    given: Mapping[str, Any], under: str, field: str, known: Mapping[str, int],
    read: Callable[[object, str], Any],
) -> dict[str, Any]:  # fmt: skip
    """Return limit -> value of a field that says one for all limits, or an object with one for each."""
    if field not in given:
        return {}
    value, path = given[field], f"{under}{field}"
    if isinstance(value, Mapping):
        return {name: read(each, f"{path}.{name}") for name, each in members(value, path, known).items()}
    found = read(value, path)
    return dict.fromkeys(known, found)


def _one_of(*words: str) -> Callable[[object, str], str]:
    def read(value: object, path: str) -> str:
        word = text(value, path)
        if word not in words:
            refuse(path, f"has to be {' or '.join(words)}, not {word!a}")
        return word

    return read


def _percents(value: object, path: str) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        refuse(path, "has to be a list of percents such as [50, 80, 100]")
    if len(value) > _MAX_ALERTS:
        refuse(path, f"has {len(value):,} entries, at most {_MAX_ALERTS} are allowed")
    found = {whole(each, f"{path}[{index}]", least=1) for index, each in enumerate(value)}
    over = next((each for each in found if each > 100), None)
    if over is not None:
        refuse(path, f"has {over} percent; nothing is alerted above 100")
    return tuple(sorted(found))


def _dollars(value: object, path: str) -> int:
    """Return micro-dollars."""
    dollars = number(value, path)
    if dollars > _MAX_DOLLARS:
        refuse(path, f"has to be up to {_MAX_DOLLARS:,} dollars")
    micros = round(Decimal(str(value)) * _MICROS)
    if dollars and not micros:
        refuse(path, "is less than a millionth of a dollar")
    return micros


def _quality(value: object, path: str) -> Requirements:
    given = members(value, path, ("minSuccessRate", "maxLatency"))
    rate = number(given.get("minSuccessRate", 0), f"{path}.minSuccessRate")
    if rate > 1:
        refuse(f"{path}.minSuccessRate", f"has to be between 0 and 1, not {rate:g}")
    latency = number(given.get("maxLatency", 0), f"{path}.maxLatency")
    return Requirements(min_success_rate=rate, max_latency=latency / 1000)


def _set(value: object, path: str) -> frozenset[str]:
    return frozenset() if value in ([], ()) else frozenset(texts(value, path))


def _url(value: object, path: str) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        refuse(path, "has to be a URL")
    if len(value) > _MAX_URL:
        refuse(path, f"has {len(value):,} characters, at most {_MAX_URL} are allowed")
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        named = "@" in parts.netloc
    except ValueError:
        good = named = False
    if not good:
        refuse(path, "has to be a URL that begins with https:// (or http://)")
    if named:
        refuse(path, "must not hold a user or a password")
    return value


def _short(value: float) -> int | float:
    """Return a number as JSON writes it best."""
    value = round(value, 6)
    return int(value) if value.is_integer() else value
