"""All rules of one configuration: which one holds for a call, and which models it is sent to, in order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from router_core.gateway.call import Attributes
from router_core.gateway.rules.conditions import Compiler, misses
from router_core.gateway.rules.index import Entry, Node
from router_core.gateway.rules.route import Route, RuleMatch
from router_core.gateway.rules.rule import Rule

__all__ = ["RuleMatch", "RuleTable"]


class RuleTable:
    """Rules, ready to be matched. Never changes; a new configuration makes a new one.

    The rule of the highest priority decides, of equals the one that stands first. Disabled rules are left
    out; shadow rules are only asked by ``shadows`` and ``explain``.
    """

    __slots__ = ("_clocks", "_live", "_places", "_rng", "_shadow", "has_shadows", "rules")

    def __init__(self, rules: Iterable[Rule] = (), *, rng: random.Random | None = None) -> None:
        self.rules = tuple(sorted((rule for rule in rules if rule.enabled), key=lambda rule: -rule.priority))
        """Those that are enabled, in the order in which they are asked."""
        compiler = Compiler()
        self._clocks = compiler.clocks
        self._rng = rng or random.Random()  # noqa: S311 - spreads calls, keeps no secret
        entries = [
            Entry(rule, place, compiler, frozenset(), Route(rule)) for place, rule in enumerate(self.rules)
        ]
        self._live = Node([each for each in entries if not each.rule.shadow])
        shadows = [each for each in entries if each.rule.shadow]
        self._shadow = Node(shadows)
        self.has_shadows = bool(shadows)
        """Whether there is any shadow rule to ask."""
        self._places = entries
        for name in {
            each.condition.time_of_day.timezone for each in self.rules if each.condition.time_of_day
        }:
            self._clocks.at(name, 0.0)  # one that is not known here is refused now, not at a call

    def __len__(self) -> int:
        return len(self.rules)

    def __bool__(self) -> bool:
        """Return whether any rule can decide, or would like to."""
        return bool(self.rules)

    def match(self, attributes: Attributes, now: float, key: str = "") -> RuleMatch | None:
        """Return what the first rule that holds says, or None. ``now`` is in seconds since 1970.

        Calls of one ``key`` (a user, a session, a request) are sent to the same target of a rule for as long
        as its weights stay; without one, those of one user are, and those of nobody are drawn anew.
        """
        found = self._live.find(attributes, now)
        return None if found is None else self._drawn(found.route, attributes, key)

    def shadows(self, attributes: Attributes, now: float, key: str = "") -> tuple[RuleMatch, ...]:
        """Return what the shadow rules that hold would have said, the highest priority first."""
        found = {each.place: each for each in self._shadow.candidates(attributes)}
        return tuple(
            self._drawn(found[place].route, attributes, key)
            for place in sorted(found)
            if found[place].holds(attributes, now)
        )

    def explain(self, attributes: Attributes, now: float, key: str = "", limit: int = 50) -> dict[str, Any]:
        """Return as JSON what would match, which rules were considered, and why they do not hold.

        Of more rules than ``limit``, those that share a value with the call come first: the others belong to
        other workspaces, agents and so on.
        """
        entry = self._live.find(attributes, now)
        found = None
        if entry is not None:  # as one key, so that to ask changes nothing
            found = entry.route.drawn(key or attributes.user_id or "dry run")
        near = self._nearest(attributes, limit)
        return {
            "rule": found.rule.key if found else None,
            "targets": list(found.targets) if found else [],
            "arm": found.arm if found else "",
            "considered": [self._judged(each, attributes, now, entry) for each in near],
            "left_out": len(self._places) - len(near),
        }

    def _drawn(self, route: Route, attributes: Attributes, key: str) -> RuleMatch:
        if route.alone is not None:
            return route.alone
        key = key or attributes.user_id
        return route.drawn(key) if key else route.at(self._rng.getrandbits(64))

    def _nearest(self, attributes: Attributes, limit: int) -> list[Entry]:
        if len(self._places) <= limit:
            return list(self._places)
        near = {each.place: each for each in self._live.candidates(attributes)}
        near |= {each.place: each for each in self._shadow.candidates(attributes)}
        return [near[place] for place in sorted(near)][:limit]

    def _judged(
        self, entry: Entry, attributes: Attributes, now: float, chosen: Entry | None
    ) -> dict[str, Any]:
        rule = entry.rule
        why = misses(rule.condition, attributes, now, self._clocks)
        report: dict[str, Any] = {"rule": rule.key, "name": rule.name, "priority": rule.priority}
        if rule.shadow:
            report["shadow"] = True
        report["holds"] = not why
        if why:
            report["why_not"] = why
        elif chosen is not None and entry.place == chosen.place:
            report["decides"] = True
        elif chosen is not None and not rule.shadow:
            report["why_not"] = [f"{chosen.rule.key} stands before it"]
        return report
