"""Which candidate was chosen, and what spoke against the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from router_core.gateway.select.filters import PASSING, Removal

__all__ = ["Decision"]

_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@+")
_LONGEST: Final = 48
"""Characters of one name in a header."""
_SHOWN: Final = 8
"""Removed candidates that a header names."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice. What it says is put into words only when somebody asks."""

    model_id: str
    strategy: str
    chosen: str
    """Id of the deployment; empty: nobody was left."""
    kept: tuple[str, ...]
    """Ids of those that the strategy drew from."""
    removals: tuple[Removal, ...] = ()
    rule: str = ""
    """The routing rule that led to the model; empty without one."""
    reason: str = ""
    """``panic``: too few were healthy, so health was ignored. ``last_resort``: nobody but unhealthy ones was
    left. Where nobody was chosen: the word of the filter that leaves the most to hope for."""
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Id -> what the strategy goes by. Of a dry run only: to look them up for every call would cost more
    than the call's own choice."""
    text: str = ""
    """The header, where it was written already."""

    @property
    def considered(self) -> int:
        """How many deployments the model has."""
        return len(self.kept) + len(self.removals)

    @property
    def removed(self) -> tuple[tuple[str, str], ...]:
        """Id and reason of those that were removed."""
        return tuple((each.id, each.reason) for each in self.removals)

    @property
    def passing(self) -> bool:
        """Return whether to wait may help: something removed somebody that goes away by itself."""
        return any(each.reason in PASSING for each in self.removals)

    def under(self, rule: str) -> Decision:
        """Return the same choice as one that a rule led to."""
        return replace(self, rule=rule, text="")

    def header(self) -> str:
        """Return it as the value of a header: short, ASCII, and nothing in it can end the line."""
        if self.text:
            return self.text
        parts = [f"model={_safe(self.model_id)}", f"chosen={_safe(self.chosen) or 'none'}"]
        parts += [f"strategy={_safe(self.strategy)}", f"considered={self.considered}"]
        if self.removals:
            shown = [f"{_safe(each.id)}:{each.reason}" for each in self.removals[:_SHOWN]]
            more = len(self.removals) - len(shown)
            parts.append(f"removed={','.join(shown)}" + (f",+{more}" if more else ""))
        if self.rule:
            parts.append(f"rule={_safe(self.rule)}")
        if self.reason:
            parts.append(f"reason={self.reason}")
        return "; ".join(parts)

    def explain(self) -> dict[str, Any]:
        """Return everything as JSON: each candidate, whether it was kept, and why not."""
        candidates: list[dict[str, Any]] = [
            {"id": each, "kept": True, "chosen": each == self.chosen, **self.figures.get(each, {})}
            for each in self.kept
        ]
        candidates += [
            {"id": each.id, "kept": False, "chosen": False, "reason": each.reason, "detail": each.detail,
             **self.figures.get(each.id, {})}
            for each in self.removals
        ]  # fmt: skip
        return {
            "model": self.model_id,
            "strategy": self.strategy,
            "chosen": self.chosen or None,
            "considered": self.considered,
            "rule": self.rule or None,
            "reason": self.reason or None,
            "candidates": candidates,
        }


def _safe(text: str) -> str:
    """Return a name with everything replaced that has a meaning in a header, or no place there."""
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "+"
    if _SAFE.issuperset(text):
        return text
    return "".join(each if each in _SAFE else "_" for each in text)
