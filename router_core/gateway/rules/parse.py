"""From the JSON of a rule to the rule: everything is checked here, so that matching checks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, tzinfo
from itertools import pairwise
from typing import Any, Final

from router_core.gateway.rules.read import MAX_VALUES, flag, members, number, refuse, text, texts, whole
from router_core.gateway.rules.rule import (
    ANYTHING,
    DAYS,
    Condition,
    ContentLength,
    Rule,
    Target,
    TimeOfDay,
    TrafficSplit,
)

__all__ = ["TOLERANCE", "parse_condition", "parse_rule", "zone"]

TOLERANCE: Final = 0.5
"""Percent by which the shares of a split may miss 100: three times 33.3 is meant to be all."""
_MAX_TARGETS: Final = 64
_RULE: Final = (
    "id", "name", "condition", "targetModels", "trafficSplit", "priority", "enabled", "shadow",
)  # fmt: skip
_CONDITION: Final = (
    "agentType", "requestType", "workspaceId", "userTier", "contentLength", "timeOfDay", "tags", "custom",
)  # fmt: skip
_LISTS: Final = {
    "agentType": "agent_type", "requestType": "request_type", "workspaceId": "workspace_id",
    "userTier": "user_tier", "tags": "tags",
}  # fmt: skip
_ARMS: Final = ("primary", "canary", "experimental")
_DAY_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse_rule(data: Mapping[str, Any]) -> Rule:
    """Return the rule that a JSON object says. Raises ValueError, beginning with the wrong field."""
    given = members(data, "", _RULE)
    for name in ("name", "targetModels"):
        if name not in given:
            refuse(name, "is missing")
    targets = _targets(given["targetModels"])
    split = _split(given["trafficSplit"], targets) if "trafficSplit" in given else None
    if split is None and not any(target.weight for target in targets):
        refuse("targetModels[0].weight", "is 0, as all weights are; one has to be above")
    return Rule(
        name=text(given["name"], "name"),
        targets=targets,
        condition=parse_condition(given["condition"]) if "condition" in given else ANYTHING,
        split=split,
        priority=whole(given.get("priority", 0), "priority", least=-(10**12)),
        enabled=flag(given.get("enabled", True), "enabled"),
        id=text(given["id"], "id") if "id" in given else "",
        shadow=flag(given.get("shadow", False), "shadow"),
    )


def zone(name: str) -> tzinfo:
    """Return a time zone. Raises ValueError for one that is not known here."""
    if name == "UTC":
        return UTC  # needs no database of time zones, which small images leave out
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder of zones, such as "Europe"
        raise ValueError(
            f"there is no time zone {name!a} here; write one such as Europe/Paris"
            " (images without the system's tzdata need the package tzdata)"
        ) from None


# --- targets ------------------------------------------------------------------------------------


def _targets(value: object) -> tuple[Target, ...]:
    if not isinstance(value, (list, tuple)):
        refuse("targetModels", "has to be a list of objects with a modelId")
    if not value:
        refuse("targetModels", "is empty; a rule needs a model to send calls to")
    if len(value) > _MAX_TARGETS:
        refuse("targetModels", f"has {len(value):,} entries, at most {_MAX_TARGETS} are allowed")
    found: list[Target] = []
    for index, each in enumerate(value):
        target = _target(each, f"targetModels[{index}]", index + 1)
        if any(other.model_id == target.model_id for other in found):
            refuse(f"targetModels[{index}].modelId", f"{target.model_id!a} is a target already")
        found.append(target)
    return tuple(sorted(found, key=lambda target: target.fallback_order))


def _target(value: object, path: str, place: int) -> Target:
    given = members(value, path, ("modelId", "weight", "fallbackOrder"))
    if "modelId" not in given:
        refuse(f"{path}.modelId", "is missing")
    return Target(
        model_id=text(given["modelId"], f"{path}.modelId"),
        weight=number(given.get("weight", 1.0), f"{path}.weight"),
        fallback_order=whole(given.get("fallbackOrder", place), f"{path}.fallbackOrder", least=1),
    )


def _split(value: object, targets: tuple[Target, ...]) -> TrafficSplit:
    given = members(value, "trafficSplit", _ARMS)
    shares = {name: number(share, f"trafficSplit.{name}") for name, share in given.items()}
    total = sum(shares.values())
    if abs(total - 100.0) > TOLERANCE:
        refuse("trafficSplit", f"has to sum up to 100, not {total:g}")
    for place, name in enumerate(_ARMS):
        if shares.get(name) and place >= len(targets):
            refuse(f"trafficSplit.{name}", f"there is no target number {place + 1} in targetModels for it")
    for before, after in pairwise(targets):
        if before.fallback_order == after.fallback_order:
            refuse("targetModels", f"fallbackOrder {after.fallback_order} is given twice, so that"
                   " trafficSplit does not say whose share is whose")  # fmt: skip
    return TrafficSplit(*(shares.get(name, 0.0) for name in _ARMS))


# --- condition ----------------------------------------------------------------------------------


def parse_condition(value: object) -> Condition:
    """Return the condition that the field ``condition`` says. Raises ValueError, beginning with the field."""
    given = members(value, "condition", _CONDITION)
    lists = {ours: texts(given[name], f"condition.{name}") for name, ours in _LISTS.items() if name in given}
    return Condition(
        **lists,
        content_length=_length(given["contentLength"]) if "contentLength" in given else None,
        time_of_day=_window(given["timeOfDay"]) if "timeOfDay" in given else None,
        custom=_custom(given["custom"]) if "custom" in given else (),
    )


def _length(value: object) -> ContentLength:
    path = "condition.contentLength"
    given = members(value, path, ("min", "max"))
    if not given:
        refuse(path, "needs min or max")
    ends = {name: whole(end, f"{path}.{name}") for name, end in given.items()}
    if "min" in ends and "max" in ends and ends["min"] > ends["max"]:
        refuse(f"{path}.max", f"is {ends['max']}, which is below min, {ends['min']}")
    return ContentLength(ends.get("min"), ends.get("max"))


def _window(value: object) -> TimeOfDay:
    path = "condition.timeOfDay"
    given = members(value, path, ("start", "end", "timezone", "days"))
    if not given.keys() & {"start", "end", "days"}:
        refuse(path, "needs start, end or days")
    start = _minute(given.get("start", "00:00"), f"{path}.start")
    end = _minute(given.get("end", "24:00"), f"{path}.end")
    if start == end or start == 1440:
        refuse(f"{path}.end", "is start as well, which is no time at all; the whole day is 00:00 to 24:00")
    name = text(given.get("timezone", "UTC"), f"{path}.timezone")
    try:
        zone(name)
    except ValueError as error:
        refuse(f"{path}.timezone", str(error))
    days = texts(given["days"], f"{path}.days") if "days" in given else ()
    return TimeOfDay(start, end, name, frozenset(_day(day, f"{path}.days") for day in days))


def _minute(value: object, path: str) -> int:
    hour, colon, minute = value.partition(":") if isinstance(value, str) else ("", "", "")
    good = colon and len(hour) == len(minute) == 2 and (hour + minute).isascii() and (hour + minute).isdigit()
    total = int(hour) * 60 + int(minute) if good else -1
    if not good or int(minute) > 59 or total > 1440:
        # YAML 1.1 reads 22:00 without quotes as a number of base 60.
        base60 = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1440
        hint = f'; with quotes: "{value // 60:02}:{value % 60:02}"' if base60 else ""  # type: ignore[operator]
        refuse(path, f'has to be a time of the day such as "09:30"{hint}')
    return total


def _day(name: str, path: str) -> int:
    for index, (short, long) in enumerate(zip(DAYS, _DAY_NAMES, strict=True)):
        if name.lower() in (short, long):
            return index
    refuse(path, f"{name!a} is no day; there are {', '.join(DAYS)}")


def _custom(value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    path = "condition.custom"
    if not isinstance(value, Mapping):
        refuse(path, "has to be an object: key -> value, or list of values")
    if not value or len(value) > MAX_VALUES:
        refuse(path, f"has {len(value):,} keys; leave the field out, or give 1 to {MAX_VALUES:,}")
    found = []
    for key, wanted in value.items():
        name = text(key, path)
        place = f"{path}.{name}"
        many = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        found.append((name, texts([_plain(each, place) for each in many], place)))
    return tuple(found)


def _plain(value: object, path: str) -> str:
    """Return a value as attributes carry it: text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(whole(value, path, least=-(10**12)))
    if isinstance(value, float):
        return str(number(abs(value), path) and value)
    return text(value, path)
