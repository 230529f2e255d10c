"""Where a rule that holds sends a call: the draw between its targets, and the order of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from router_core.gateway.rules.rule import Rule
from router_core.gateway.select.stable import digest, draw

__all__ = ["Route", "RuleMatch"]

_ARMS: Final = ("primary", "canary", "experimental")


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """The rule that holds, and where the call goes."""

    rule: Rule
    targets: tuple[str, ...]
    """Ids of models in the order to try: the one that was drawn, then the others in order of fallback."""
    arm: str = ""
    """primary, canary or experimental; empty without a split."""


class Route:
    """The targets of one rule, ready to be drawn from."""

    __slots__ = ("_arms", "_matches", "alone", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        ids = [target.model_id for target in rule.targets]
        arms = tuple(_arms(rule))
        self._arms = tuple((digest(target), weight) for target, (weight, _) in zip(ids, arms, strict=True))
        self._matches = tuple(
            RuleMatch(rule, (target, *(other for other in ids if other != target)), name)
            for target, (_, name) in zip(ids, arms, strict=True)
        )
        able = [match for match, (weight, _) in zip(self._matches, arms, strict=True) if weight]
        self.alone: Final = able[0] if len(able) == 1 else None
        """What it always says, where there is nothing to draw."""

    def drawn(self, key: str) -> RuleMatch:
        """Return the match that a caller's key falls to; other rules draw independently of this one."""
        return self.alone or self.at(digest(f"{self.rule.key}\0{key}"))

    def at(self, point: int) -> RuleMatch:
        """Return the match that a point of 64 bits falls to."""
        return self._matches[draw(point, self._arms)]


def _arms(rule: Rule) -> Iterator[tuple[float, str]]:
    """Return weight and name for each target, in order of fallback."""
    split = rule.split
    shares = (split.primary, split.canary, split.experimental) if split else ()
    for place, target in enumerate(rule.targets):
        if split is None:
            yield target.weight, ""
        elif place < len(_ARMS):
            yield shares[place], _ARMS[place]
        else:
            yield 0.0, ""
