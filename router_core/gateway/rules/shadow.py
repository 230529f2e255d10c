"""What shadow rules would have done: how often they hold, and how often that makes a difference."""

from __future__ import annotations

from typing import Any, Final

from router_core.gateway.rules.route import RuleMatch

__all__ = ["ShadowCounts"]

_MOST: Final = 1000
"""Rules that are counted, and pairs of models for each."""
_SHOWN: Final = 20


class _Count:
    __slots__ = ("agreed", "held", "instead", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = 0
        self.agreed = 0
        self.instead: dict[tuple[str, str], int] = {}
        """Model that was asked first, and model that the rule would have asked -> calls."""


class ShadowCounts:
    """Counts of one process since it started, by rule."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def saw(self, match: RuleMatch, model_id: str) -> bool:
        """Take a shadow rule that holds for a call which goes to a model (empty: to none); returns whether
        the rule would have done the same."""
        count = self._counts.get(match.rule.key)
        if count is None:
            if len(self._counts) >= _MOST:
                self._counts.clear()
            count = self._counts[match.rule.key] = _Count(match.rule.name)
        count.held += 1
        same = match.targets[0] == model_id
        if same:
            count.agreed += 1
        elif len(count.instead) < _MOST or (model_id, match.targets[0]) in count.instead:
            pair = (model_id, match.targets[0])
            count.instead[pair] = count.instead.get(pair, 0) + 1
        return same

    def report(self) -> list[dict[str, Any]]:
        """Return all counts as JSON, what differs most often first."""
        return [
            {
                "rule": key, "name": count.name, "matches": count.held, "agreements": count.agreed,
                "disagreements": [
                    {"modelId": live or None, "shadowModelId": shadow, "requests": many}
                    for (live, shadow), many in sorted(
                        count.instead.items(), key=lambda item: (-item[1], item[0])
                    )[:_SHOWN]
                ],
            }
            for key, count in sorted(self._counts.items())
        ]  # fmt: skip
