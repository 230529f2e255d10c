"""Which arm of a trial a call falls to, as models to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from router_core.gateway.call import Call
from router_core.gateway.registry import ModelRouter, Snapshot
from router_core.gateway.trials.live import Live

__all__ = ["Split", "arms_of"]

T = TypeVar("T")


class Split:
    """What to make of the calls of a trial: one way for each arm, and one for calls that take no part."""

    __slots__ = ("_arms", "_live", "_plain")

    def __init__(self, live: Live, plain: Any, arms: Sequence[Any]) -> None:
        """An arm that is None cannot serve: its calls go the plain way and take no part."""
        self._live = live
        self._plain = plain
        self._arms = tuple(arms)

    def of(self, call: Call) -> Any:
        """Return the way of a call, and note in it which arm that is."""
        place = self._live.arm_of(call)
        arm = self._arms[place] if place >= 0 else None
        if arm is None or not _may_use(call, self._live.arms[place]):
            return self._plain
        call.trial = self._live.labels[place]
        return arm


def _may_use(call: Call, model_id: str) -> bool:
    """Return whether the workspace of a call may use a model: that stands above every trial."""
    bounds = call.bounds
    return bounds is None or not bounds.models or model_id in bounds.models


def arms_of(
    live: Live, routers: tuple[ModelRouter, ...], call: Call, snapshot: Snapshot,
    make: Callable[[tuple[ModelRouter, ...]], T],
) -> list[T | None]:  # fmt: skip
    """Return for each arm what ``make`` makes of the models to ask: the arm's own first, then the others, so
    that a canary which cannot serve costs nobody an answer."""
    found: list[T | None] = []
    for name in live.arms:
        router = snapshot.models.get(name)
        if router is None or not router.model.fits(call.endpoint):
            found.append(None)
            continue
        found.append(make((router, *(each for each in routers if each is not router))))
    return found
