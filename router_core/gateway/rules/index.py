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
from router_core.gateway.rules.conditions import FIELDS, Check, Compiler
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
    """One rule, as one leaf of the tree holds it.

    It is made ready when it is first looked at: of ten thousand few ever are, and a new configuration has to
    be there at once. Those that every call looks at are made ready at once.
    """

    __slots__ = ("_checks", "_compiler", "_told", "place", "route", "rule")

    def __init__(
        self, rule: Rule, place: int, compiler: Compiler, told: frozenset[str], route: Route
    ) -> None:  # fmt: skip
        self.rule = rule
        self.place = place
        """In the order of the table: the lowest decides."""
        self.route = route
        self._compiler = compiler
        self._told = told
        """Fields that were looked at on the way to the leaf: they hold."""
        self._checks: tuple[Check, ...] | None = None

    def holds(self, attributes: Attributes, now: float) -> bool:
        """Return whether the rule's condition holds."""
        checks = self._checks
        if checks is None:
            checks = self.ready()
        for check in checks:  # a loop: all() of a generator costs three times as much
            if not check(attributes, now):
                return False
        return True

    def ready(self) -> tuple[Check, ...]:
        """Compile its checks and return them."""
        checks = self._checks = self._compiler.checks(self.rule.condition, self._told)
        return checks

    def under(self, told: frozenset[str]) -> Entry:
        """Return it as a leaf further down holds it."""
        return Entry(self.rule, self.place, self._compiler, told, self.route)


class Node:
    """Some of the rules: those that are told apart by the values of fields, and the rest in order."""

    __slots__ = ("branches", "field", "first", "rest", "values")

    def __init__(self, entries: list[Entry], told: frozenset[str] = frozenset()) -> None:
        self.first = entries[0].place if entries else _LAST
        """The place of the first of them: no need to look when something before it holds."""
        self.rest: tuple[Entry, ...] = ()
        self.field = ""
        """One of FIELDS, of which a call has one value; most often the only branch. Empty: there is none."""
        self.values: dict[Value, Node] = {}
        self.branches: tuple[tuple[str, dict[Value, Node]], ...] = ()
        """Further ones."""
        if len(entries) > _FEW and len(told) < _DEEP:
            entries = self._tell_apart(entries, told)
        self.rest = tuple([each.under(told) for each in entries] if told else entries)
        if not told:
            for each in self.rest:
                each.ready()

    def _tell_apart(self, entries: list[Entry], told: frozenset[str]) -> list[Entry]:
        """Hang the entries on branches; returns the rest."""
        wishes = [(entry, tuple(_asked(entry, told))) for entry in entries]
        crowds = Counter((name, value) for _, wish in wishes for name, values in wish for value in values)
        rest: list[Entry] = []
        buckets: dict[tuple[str, Value], list[Entry]] = {}
        for entry, wish in wishes:
            crowd, name, values = min(
                [(max([crowds[name, value] for value in values]), name, values) for name, values in wish],
                default=(_LAST, "", ()),
            )
            if crowd >= len(entries):  # all of them ask for the same, or this one for nothing
                rest.append(entry)
                continue
            for value in values:
                buckets.setdefault((name, value), []).append(entry)
        fields: dict[str, dict[Value, Node]] = {}
        for (name, value), found in buckets.items():
            fields.setdefault(name.partition(".")[0], {})[value] = Node(found, told | {name})
        self.field = next((field for field in FIELDS if field in fields), "")
        self.values = fields.pop(self.field, {})
        self.branches = tuple(fields.items())
        return rest

    def find(self, attributes: Attributes, now: float, before: int = _LAST) -> Entry | None:
        """Return the first entry that holds and stands before a place."""
        best: Entry | None = None
        node: Node | None = self
        while node is not None and node.first < before:
            for entry in node.rest:
                if entry.place >= before:
                    break
                if entry.holds(attributes, now):
                    best, before = entry, entry.place
                    break
            if node.branches:
                found = node._find_aside(attributes, now, before)
                if found is not None:
                    best, before = found, found.place
            if not node.field:
                break
            node = node.values.get(getattr(attributes, node.field))
        return best

    def _find_aside(self, attributes: Attributes, now: float, before: int) -> Entry | None:
        """Return what ``find`` returns, of the further branches alone."""
        best: Entry | None = None
        for field, values in self.branches:
            for value in _given(attributes, field):
                node = values.get(value)
                found = node.find(attributes, now, before) if node is not None else None
                if found is not None:
                    best, before = found, found.place
        return best

    def candidates(self, attributes: Attributes) -> Iterator[Entry]:
        """Return all that ``find`` may look at, in no order and perhaps twice."""
        yield from self.rest
        for field, values in ((self.field, self.values), *self.branches):
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
    if field == "tags":
        return attributes.tags
    if field == "custom":
        return attributes.custom.items()
    return (getattr(attributes, field),) if field else ()
