"""What the models of Anthropic take, told from their names.

A newer model refuses what an older one needs: sampling parameters and budgets for thinking went away with
Opus 4.7 and the fifth generation, ``effort`` and JSON schemas came with the middle of the fourth. A name that
says nothing (an alias, a profile of inference) is treated as the newest generation, but for sampling, where
the request is passed on as it came. Arguments of the deployment overrule all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = ["ModelTraits", "traits_of"]

_NEW: Final = re.compile(r"claude-([a-z]+)-(\d+)(?:[-.](\d{1,2})(?!\d))?")
_OLD: Final = re.compile(r"claude-(?:instant|v?\d)")
_NO_SAMPLING: Final = {"opus": (4, 7), "sonnet": (5, 0), "haiku": (5, 0)}
_ONE_SAMPLER: Final = {"opus": (4, 1), "sonnet": (4, 5), "haiku": (4, 5)}
_EFFORT: Final = {"opus": (4, 5), "sonnet": (4, 6), "haiku": (5, 0)}
_ADAPTIVE: Final = {"opus": (4, 6), "sonnet": (4, 6), "haiku": (5, 0)}
_SCHEMA: Final = {"opus": (4, 1), "sonnet": (4, 5), "haiku": (4, 5)}
_THINKS: Final = {"opus": (4, 0), "sonnet": (4, 0), "haiku": (4, 5)}


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a model takes."""

    sampling: bool = True
    """temperature, top_p, top_k."""
    one_sampler: bool = False
    """temperature or top_p, but not both."""
    effort: bool = True
    """``output_config.effort``."""
    adaptive: bool = True
    """``thinking: {"type": "adaptive"}``."""
    budget: bool = False
    """``thinking: {"type": "enabled", "budget_tokens": ...}``."""
    schema: bool = True
    """``output_config.format``."""


def traits_of(model: str, args: Mapping[str, Any]) -> ModelTraits:
    """Return what a model takes; ``args`` may hold any of the words of ModelTraits as true or false."""
    told = {name: args[name] for name in ModelTraits.__slots__ if isinstance(args.get(name), bool)}
    return replace(_by_name(model.lower()), **told)


def _by_name(model: str) -> ModelTraits:
    found = _NEW.search(model)
    family = found.group(1) if found else ""
    if found is None or family in ("instant", "v"):
        old = _OLD.search(model) is not None
        thinks = "claude-3-7" in model
        if not old:
            return ModelTraits()
        return ModelTraits(effort=False, adaptive=False, budget=thinks, schema=False)
    version = (int(found.group(2)), int(found.group(3) or 0))

    def since(table: Mapping[str, tuple[int, int]]) -> bool:
        return version >= table.get(family, (0, 0))  # families that came later have it all

    adaptive = since(_ADAPTIVE)
    return ModelTraits(
        sampling=not since(_NO_SAMPLING), one_sampler=since(_ONE_SAMPLER), effort=since(_EFFORT),
        adaptive=adaptive, budget=since(_THINKS) and not adaptive, schema=since(_SCHEMA),
    )  # fmt: skip
