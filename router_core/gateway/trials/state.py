"""How a trial stands, as all processes know it: one small document in the state store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from hashlib import blake2b
from typing import Any, Final, Literal

from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.rollout import Rollout
from router_core.records import dataclass
from router_core.types import new_id

__all__ = ["MAX_DECISIONS", "Decision", "Status", "Trial", "TrialState", "begun", "definition"]

Trial = Rollout | Experiment
Status = Literal["running", "paused", "rolled_back", "promoted", "stopped", "concluded"]
_STATUSES: Final = ("running", "paused", "rolled_back", "promoted", "stopped", "concluded")
MAX_DECISIONS: Final = 100
_MOST_TEXT: Final = 2000


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that was decided about a trial, and why."""

    at: float
    """Seconds since 1970."""
    action: str
    """started, advanced, held, paused, resumed, rolled_back, promoted, stopped, concluded."""
    by: str
    """``gateway``, or who ordered it."""
    why: str
    share: float | None = None
    """Percent of the calls that the canary gets from then on."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was known of each arm."""


@dataclass(frozen=True, slots=True)
class TrialState:
    """The document."""

    run: str
    """Counts of other runs do not count."""
    definition: str
    """Of what it was begun with: who changes the models of a trial begins it anew."""
    status: Status = "running"
    stage: int = 0
    since: float = 0.0
    """When the stage began, in seconds since 1970."""
    started: float = 0.0
    ended: float = 0.0
    holding: str = ""
    """What keeps it at its stage, in a word or two."""
    winner: str = ""
    """Arm that all calls go to once it is promoted."""
    least_p: Mapping[str, float] = field(default_factory=dict)
    """Variant -> smallest p-value until now."""
    decisions: tuple[Decision, ...] = ()
    """The last ones."""

    def decided(self, decision: Decision, **changes: Any) -> TrialState:
        """Return the state after a decision."""
        kept = (*self.decisions, decision)[-MAX_DECISIONS:]
        return replace(self, decisions=kept, **changes)

    def encode(self) -> bytes:
        """Return the document as it is kept."""
        data = {name: getattr(self, name) for name in self.__slots__ if name != "decisions"}
        decisions = [{name: getattr(one, name) for name in one.__slots__} for one in self.decisions]
        return json.dumps(data | {"least_p": dict(self.least_p), "decisions": decisions}).encode()

    @classmethod
    def decode(cls, data: bytes) -> TrialState | None:
        """Return what was kept; None for what is no such document."""
        try:
            found = json.loads(data)
            if found["status"] not in _STATUSES:
                return None
            decisions = tuple(_decision(each) for each in found["decisions"][-MAX_DECISIONS:])
            return cls(
                run=str(found["run"]), definition=str(found["definition"]), status=found["status"],
                stage=int(found["stage"]), since=float(found["since"]), started=float(found["started"]),
                ended=float(found["ended"]), holding=str(found["holding"]), winner=str(found["winner"]),
                least_p={str(name): float(p) for name, p in found["least_p"].items()}, decisions=decisions,
            )  # fmt: skip
        except (ValueError, LookupError, TypeError, AttributeError):
            return None


def _decision(data: Mapping[str, Any]) -> Decision:
    share = data["share"]
    return Decision(
        float(data["at"]), str(data["action"]), str(data["by"]), str(data["why"])[:_MOST_TEXT],
        None if share is None else float(share), dict(data["figures"]),
    )  # fmt: skip


def definition(trial: Trial, arms: Sequence[str]) -> str:
    """Return a hash of what makes a trial another one: its models and its question, not its criteria."""
    data: dict[str, Any] = {"arms": list(arms)}
    if isinstance(trial, Rollout):
        data["rule"] = trial.rule
    else:
        names = ("model", "condition", "variants", "metric", "stickyBy")
        data |= {name: value for name, value in trial.to_json().items() if name in names}
    told = json.dumps(data, sort_keys=True)
    return blake2b(told.encode(), digest_size=8).hexdigest()


def begun(
    trial: Trial, definition: str, now: float, by: str, why: str, before: TrialState | None = None
) -> TrialState:
    """Return the state of a trial that begins, or begins anew: what was decided ``before`` stays known."""
    share = trial.shares[0] if isinstance(trial, Rollout) else None
    state = TrialState(new_id(), definition, since=now, started=now)
    known = () if before is None else before.decisions
    return replace(state, decisions=known).decided(Decision(now, "started", by, why, share))
