"""Does a condition hold: compiled once into small checks for the hot path, and in words for those who ask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from datetime import datetime, tzinfo
from typing import Final

from router_core.gateway.call import Attributes
from router_core.gateway.rules.parse import zone
from router_core.gateway.rules.rule import DAYS, Condition, ContentLength, TimeOfDay

__all__ = ["FIELDS", "Check", "Clocks", "Compiler", "in_window", "misses"]

Check = Callable[[Attributes, float], bool]
"""Of what is known of the call, and the seconds since 1970."""

FIELDS: Final = ("workspace_id", "agent_type", "request_type", "user_tier")
"""Fields of Condition and Attributes alike, of which a call has one value each."""
_NAMES: Final = {
    "agent_type": "agentType", "request_type": "requestType", "workspace_id": "workspaceId",
    "user_tier": "userTier",
}  # fmt: skip
_DAY: Final = 1440


class Clocks:
    """The clock on the wall of each time zone; a thousand rules of one zone read it once a minute."""

    __slots__ = ("_read", "_zones")

    def __init__(self) -> None:
        self._zones: dict[str, tzinfo] = {}
        self._read: dict[str, tuple[int, int, int]] = {}

    def at(self, name: str, now: float) -> tuple[int, int]:
        """Return the day of the week, Monday being 0, and the minute of the day."""
        stamp = int(now // 60)  # offsets are whole minutes, so that within one nothing changes
        read = self._read.get(name)
        if read is None or read[0] != stamp:
            local = datetime.fromtimestamp(stamp * 60, self._zone(name))
            read = self._read[name] = (stamp, local.weekday(), local.hour * 60 + local.minute)
        return read[1], read[2]

    def _zone(self, name: str) -> tzinfo:
        found = self._zones.get(name)
        if found is None:
            found = self._zones[name] = zone(name)
        return found


def in_window(window: TimeOfDay, day: int, minute: int) -> bool:
    """Return whether a minute lies in a window, which after midnight belongs to the day it began on."""
    if window.start < window.end:
        inside = window.start <= minute < window.end
    elif minute >= window.start:
        inside = True
    else:
        inside, day = minute < window.end, (day - 1) % 7
    return inside and (not window.days or day in window.days)


class Compiler:
    """Makes checks, each only once: of ten thousand rules most ask for the same few things, and what is in
    use all the time is in the processor's cache."""

    __slots__ = ("_made", "clocks")

    def __init__(self) -> None:
        self.clocks = Clocks()
        self._made: dict[Hashable, Check] = {}

    def checks(self, condition: Condition, known: Collection[str] = ()) -> tuple[Check, ...]:
        """Return the checks that all have to say yes, cheap ones first; fields that are ``known`` to hold are
        not looked at again."""
        made = [
            self._once(_one_of, field, values)
            for field in FIELDS
            if field not in known and (values := getattr(condition, field))
        ]
        if condition.content_length is not None:
            made.append(self._once(_length, condition.content_length))
        if condition.tags and "tags" not in known:
            made.append(self._once(_tags, condition.tags))
        made += [
            self._once(_custom, key, values)
            for key, values in condition.custom
            if f"custom.{key}" not in known
        ]
        if condition.time_of_day is not None:
            made.append(self._once(_time, condition.time_of_day, self.clocks))
        return tuple(made)

    def _once(self, make: Callable[..., Check], *what: Hashable) -> Check:
        key = (make, *what)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make(*what)
        return found


def _one_of(field: str, values: tuple[str, ...]) -> Check:
    """Write the attribute out: ``getattr`` with a name costs twice as much."""
    wanted = frozenset(values)
    if field == "workspace_id":
        return lambda attributes, now: attributes.workspace_id in wanted
    if field == "agent_type":
        return lambda attributes, now: attributes.agent_type in wanted
    if field == "request_type":
        return lambda attributes, now: attributes.request_type in wanted
    return lambda attributes, now: attributes.user_tier in wanted


def _length(length: ContentLength) -> Check:
    least = length.min or 0
    if length.max is None:
        return lambda attributes, now: attributes.content_length >= least
    most = length.max
    return lambda attributes, now: least <= attributes.content_length <= most


def _tags(values: tuple[str, ...]) -> Check:
    wanted = frozenset(values)
    return lambda attributes, now: not wanted.isdisjoint(attributes.tags)


def _custom(key: str, values: tuple[str, ...]) -> Check:
    wanted = frozenset(values)
    return lambda attributes, now: attributes.custom.get(key) in wanted


def _time(window: TimeOfDay, clocks: Clocks) -> Check:
    at, name = clocks.at, window.timezone

    def check(attributes: Attributes, now: float) -> bool:
        day, minute = at(name, now)
        return in_window(window, day, minute)

    return check


# --- in words -----------------------------------------------------------------------------------


def misses(condition: Condition, attributes: Attributes, now: float, clocks: Clocks) -> list[str]:
    """Return what does not hold, in words, each beginning with its field; empty: the condition holds."""
    found = [
        f"{_NAMES[field]} is {_shown(getattr(attributes, field))}, not {_any(getattr(condition, field))}"
        for field in FIELDS
        if getattr(condition, field) and getattr(attributes, field) not in getattr(condition, field)
    ]
    length = condition.content_length
    if length is not None and not _length(length)(attributes, now):
        found.append(f"contentLength is {attributes.content_length}, not {_between(length)}")
    if condition.tags and attributes.tags.isdisjoint(condition.tags):
        tags = _any(tuple(sorted(attributes.tags))) if attributes.tags else "none"
        found.append(f"tags are {tags}, not {_any(condition.tags)}")
    for key, values in condition.custom:
        if attributes.custom.get(key) not in values:
            found.append(f"custom.{key} is {_shown(attributes.custom.get(key, ''))}, not {_any(values)}")
    window = condition.time_of_day
    if window is not None:
        day, minute = clocks.at(window.timezone, now)
        if not in_window(window, day, minute):
            found.append(f"timeOfDay: it is {DAYS[day]} {minute // 60:02}:{minute % 60:02} {window.timezone},"
                         f" not {_when(window)}")  # fmt: skip
    return found


def _shown(value: str) -> str:
    return ascii(value[:80]) if value else "not given"


def _any(values: tuple[str, ...]) -> str:
    text = ", ".join(_shown(value) for value in values[:5])
    return text + (f" or {len(values) - 5} more" if len(values) > 5 else "")


def _between(length: ContentLength) -> str:
    if length.max is None:
        return f"at least {length.min}"
    return f"between {length.min or 0} and {length.max}"


def _when(window: TimeOfDay) -> str:
    days = " on " + ", ".join(DAYS[day] for day in sorted(window.days)) if window.days else ""
    start, end = window.start, window.end % _DAY if window.end < window.start else window.end
    return f"{start // 60:02}:{start % 60:02} to {end // 60:02}:{end % 60:02}{days}"
