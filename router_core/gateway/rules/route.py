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
    """The targets of one rule, made ready to be drawn from when they first are."""

    __slots__ = ("_arms", "_matches", "_salt", "alone", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.alone: RuleMatch | None = None
        """What it always says, where there is nothing to draw; known after the first time."""
        self._salt = f"{rule.key}\0"
        self._arms: tuple[tuple[int, float], ...] = ()
        self._matches: tuple[RuleMatch, ...] = ()

    def drawn(self, key: str) -> RuleMatch:
        """Return the match that a caller's key falls to; other rules draw independently of this one."""
        return self.alone or self.at(digest(self._salt + key))

    def at(self, point: int) -> RuleMatch:
        """Return the match that a point of 64 bits falls to."""
        place = draw(point, self._arms or self._prepare())
        return self._matches[place]

    def _prepare(self) -> tuple[tuple[int, float], ...]:
        ids = [target.model_id for target in self.rule.targets]
        arms = tuple(_arms(self.rule))
        self._matches = tuple(
            RuleMatch(self.rule, (target, *(other for other in ids if other != target)), name)
            for target, (_, name) in zip(ids, arms, strict=True)
        )
        self._arms = tuple((digest(target), weight) for target, (weight, _) in zip(ids, arms, strict=True))
        able = [match for match, (weight, _) in zip(self._matches, arms, strict=True) if weight]
        self.alone = able[0] if len(able) == 1 else None
        return self._arms


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
