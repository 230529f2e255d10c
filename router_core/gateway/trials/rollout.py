"""A canary deployment as a value: one model takes over from another, a share at a time."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from router_core.gateway.trials.criteria import Criteria
from router_core.records import dataclass

__all__ = [
    "BASELINE",
    "CANARY",
    "MAX_STAGES",
    "ROLLBACK",
    "SUCCESS",
    "Rollout",
    "RolloutStrategy",
    "StickyBy",
]

RolloutStrategy = Literal["linear", "exponential", "manual"]
StickyBy = Literal["session", "user", "principal"]

BASELINE: Final = "baseline"
CANARY: Final = "canary"
"""The arms of every rollout."""
MAX_STAGES: Final = 100
SUCCESS: Final = Criteria(max_error_rate_increase=0.02, max_latency_increase=0.3)
"""What holds where nothing is said: a rollout that asks for nothing would promote anything."""
ROLLBACK: Final = Criteria(max_error_rate_increase=0.05, max_latency_increase=0.5)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout."""

    id: str
    model: str = ""
    """The model that callers name: the baseline. Empty: that of ``rule``."""
    canary: str = ""
    """The model that is to take over."""
    rule: str = ""
    """Id (or name, where it has none) of a routing rule instead: its first target is the baseline, its second
    the canary, and the stages stand in the place of its weights."""
    strategy: RolloutStrategy = "linear"
    """``manual`` advances when it is told to."""
    start_share: float = 5.0
    """Percent of the calls."""
    step: float = 10.0
    """Percent that a stage adds; of ``exponential``, the factor by which it multiplies."""
    stages: tuple[float, ...] = ()
    """Percent of each stage, rising; empty: by ``start_share`` and ``step`` up to 100."""
    interval: float = 300.0
    """Seconds that a stage lasts at least."""
    min_requests: int = 100
    """Judged calls of the canary that a stage needs."""
    success: Criteria = SUCCESS
    """What the figures of a stage have to be for the next one."""
    rollback: Criteria = ROLLBACK
    """What takes everything back once it is certain enough to be exceeded."""
    alpha: float = 0.05
    """Probability that a canary which exceeds nothing is taken back all the same, over the whole rollout."""
    sticky_by: StickyBy = "session"
    enabled: bool = True
    kind: ClassVar[Literal["rollout"]] = "rollout"

    @property
    def shares(self) -> tuple[float, ...]:
        """Percent of each stage."""
        return self.stages or _shares(self)

    def to_json(self) -> dict[str, Any]:
        """Return what ``parse_rollout`` reads: reading it back gives an equal rollout."""
        data: dict[str, Any] = {"id": self.id}
        data |= {"rule": self.rule} if self.rule else {"model": self.model, "canary": self.canary}
        data |= {"strategy": self.strategy}
        if self.stages:
            data["stages"] = list(self.stages)
        else:
            data |= {"startShare": self.start_share, "step": self.step}
        return data | {
            "intervalSeconds": self.interval, "minRequests": self.min_requests,
            "success": self.success.to_json(), "rollback": self.rollback.to_json(), "alpha": self.alpha,
            "stickyBy": self.sticky_by, "enabled": self.enabled,
        }  # fmt: skip


def _shares(rollout: Rollout) -> tuple[float, ...]:
    share, found = rollout.start_share, list[float]()
    while share < 100.0 and len(found) < MAX_STAGES - 1:
        found.append(round(share, 6))
        share = share * rollout.step if rollout.strategy == "exponential" else share + rollout.step
    return (*found, 100.0)
