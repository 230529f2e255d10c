"""Finds the rules that may hold for a call, out of many, without looking at the others.

A tree: each rule hangs on that value which the fewest rules ask for (its workspace, most often), and where
many hang on the same one they are told apart by the next field. Rules that name no value at all (only times
and lengths, or nothing) cannot be told apart this way: they are looked at one after the other, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from router_core.gateway.call import Attributes
from router_core.gateway.rules.conditions import FIELDS, Check
from router_core.gateway.rules.route import Route
from router_core.gateway.rules.rule import Rule

__all__ = ["Entry", "Node"]

_FEW: Final = 8
"""Rules that are looked at faster than told apart."""
_DEEP: Final = 4
"""Levels; a rule with many values in many fields would else be hung up at all combinations of them."""
_LAST: Final = 1 << 62

Value = str | tuple[str, str]
"""What a branch is found by: a value, or for ``custom`` the key and the value."""


class Entry:
    """One rule, ready to be matched."""

    __slots__ = ("checks", "place", "route", "rule")

    def __init__(self, rule: Rule, place: int, checks: tuple[Check, ...]) -> None:
        self.rule = rule
        self.place = place
        """In the order of the table: the lowest decides."""
        self.checks = checks
        self.route = Route(rule)

    def holds(self, attributes: Attributes, now: float) -> bool:
        """Return whether the rule's condition holds."""
        for check in self.checks:  # a loop: all() of a generator costs three times as much
            if not check(attributes, now):
                return False
        return True


class Node:
    """Some of the rules: those that are told apart by the values of fields, and the rest in order."""

    __slots__ = ("branches", "first", "rest")

    def __init__(self, entries: list[Entry], told: frozenset[str] = frozenset()) -> None:
        self.first = entries[0].place if entries else _LAST
        """The place of the first of them: no need to look when something before it holds."""
        self.branches: list[tuple[str, dict[Value, Node]]] = []
        self.rest = tuple(entries)
        if len(entries) > _FEW and len(told) < _DEEP:
            self._tell_apart(entries, told)

    def _tell_apart(self, entries: list[Entry], told: frozenset[str]) -> None:
        asked = Counter(
            (name, value) for entry in entries for name, values in _asked(entry, told) for value in values
        )
        rest: list[Entry] = []
        buckets: dict[tuple[str, Value], list[Entry]] = {}
        for entry in entries:
            crowd, name, values = min(
                ((max(asked[name, value] for value in values), name, values)
                 for name, values in _asked(entry, told)),
                default=(_LAST, "", ()),
            )  # fmt: skip
            if crowd >= len(entries):  # all of them ask for the same, or this one for nothing
                rest.append(entry)
                continue
            for value in values:
                buckets.setdefault((name, value), []).append(entry)
        self.rest = tuple(rest)
        fields: dict[str, dict[Value, Node]] = {}
        for (name, value), found in buckets.items():
            fields.setdefault(name.partition(".")[0], {})[value] = Node(found, told | {name})
        self.branches = list(fields.items())

    def find(self, attributes: Attributes, now: float, before: int = _LAST) -> Entry | None:
        """Return the first entry that holds and stands before a place."""
        best: Entry | None = None
        for entry in self.rest:
            if entry.place >= before:
                break
            if entry.holds(attributes, now):
                best, before = entry, entry.place
                break
        for field, values in self.branches:
            for value in _given(attributes, field):
                node = values.get(value)
                if node is not None and node.first < before:
                    found = node.find(attributes, now, before)
                    if found is not None:
                        best, before = found, found.place
        return best

    def candidates(self, attributes: Attributes) -> Iterator[Entry]:
        """Return all that ``find`` may look at, in no order and perhaps twice."""
        yield from self.rest
        for field, values in self.branches:
            for value in _given(attributes, field):
                if value in values:
                    yield from values[value].candidates(attributes)


def _asked(entry: Entry, told: frozenset[str]) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Return what a rule asks for, by field; one of the values of each has to be there."""
    condition = entry.rule.condition
    for field in (*FIELDS, "tags"):
        values = getattr(condition, field)
        if values and field not in told:
            yield field, values
    for key, values in condition.custom:
        if f"custom.{key}" not in told:
            yield f"custom.{key}", tuple((key, value) for value in values)


def _given(attributes: Attributes, field: str) -> Iterable[Value]:
    """Return the values that a call has in a field."""
    if field == "workspace_id":
        return (attributes.workspace_id,)
    if field == "agent_type":
        return (attributes.agent_type,)
    if field == "request_type":
        return (attributes.request_type,)
    if field == "user_tier":
        return (attributes.user_tier,)
    return attributes.tags if field == "tags" else attributes.custom.items()
