"""What becomes of a rollout: by its figures, or by order. Nothing here asks or writes anything."""

from __future__ import annotations

from collections.abc import Mapping

from router_core.errors import Conflict
from router_core.gateway.trials.judge import Breach, figures, shortfalls
from router_core.gateway.trials.rollout import BASELINE, CANARY, Rollout
from router_core.gateway.trials.state import Decision, Status, TrialState, begun
from router_core.gateway.trials.tally import Tally

__all__ = ["ACTIONS", "SELF", "judged", "ordered", "share_of"]

SELF = "gateway"
"""Who decides where nobody has ordered it."""
ACTIONS = ("advance", "pause", "resume", "rollback", "promote")


def share_of(rollout: Rollout, state: TrialState) -> float:
    """Return the percent of the calls that the canary gets."""
    if state.status == "promoted":
        return 100.0
    if state.status == "rolled_back":
        return 0.0
    return rollout.shares[min(state.stage, len(rollout.shares) - 1)]


def judged(
    rollout: Rollout, state: TrialState, run: Mapping[str, Tally], stage: Mapping[str, Tally], now: float,
    guilty: tuple[Breach, ...],
) -> TrialState | None:  # fmt: skip
    """Return the state that the figures lead to, or None where all stays as it is.

    ``run`` are the figures since the beginning, ``stage`` those of the stage; ``guilty`` is what the canary
    exceeds for certain.
    """
    if state.status not in ("running", "paused"):
        return None
    if guilty:
        why = "; ".join(f"{each.criterion}: {each.text}" for each in guilty)
        return _ended(rollout, state, "rolled_back", SELF, why, run, now)
    if state.status == "paused" or rollout.strategy == "manual" or now - state.since < rollout.interval:
        return None
    canary = stage[CANARY]
    if canary.n < rollout.min_requests:
        why = f"the canary has had {canary.n} of {rollout.min_requests} calls"
        return _held(rollout, state, "minRequests", why, run, now)
    short = shortfalls(rollout.success, run[BASELINE], canary)
    if short:
        word = ", ".join(each.partition(":")[0] for each in short)
        return _held(rollout, state, word, "; ".join(short), run, now)
    why = f"the criteria are met, by {canary.n} calls of the canary"
    return _next(rollout, state, SELF, why, run, now)


def ordered(
    rollout: Rollout, state: TrialState, action: str, by: str, run: Mapping[str, Tally], now: float
) -> TrialState:
    """Return the state after an order (one of ACTIONS). Raises Conflict where it does not fit."""
    on = state.status in ("running", "paused")
    if action == "advance" and on:
        return _next(rollout, state, by, "by order", run, now)
    if action == "pause" and state.status == "running":
        decision = Decision(now, "paused", by, "by order", share_of(rollout, state), _figures(run))
        return state.decided(decision, status="paused", holding="")
    if action == "resume" and state.status == "paused":
        decision = Decision(now, "resumed", by, "by order", share_of(rollout, state), _figures(run))
        return state.decided(decision, status="running", since=now)
    if action == "resume" and state.status == "rolled_back":
        return begun(rollout, state.definition, now, by, "by order, after it was rolled back", state)
    if action == "rollback" and (on or state.status == "promoted"):
        return _ended(rollout, state, "rolled_back", by, "by order", run, now)
    if action == "promote" and on:
        return _ended(rollout, state, "promoted", by, "by order", run, now)
    raise Conflict(f"rollout {rollout.id} is {state.status}: there is nothing to {action}")


def _next(
    rollout: Rollout, state: TrialState, by: str, why: str, run: Mapping[str, Tally], now: float
) -> TrialState:
    if state.stage + 1 >= len(rollout.shares):
        return _ended(rollout, state, "promoted", by, why, run, now)
    share = rollout.shares[state.stage + 1]
    decision = Decision(now, "advanced", by, why, share, _figures(run))
    return state.decided(decision, stage=state.stage + 1, since=now, holding="")


def _held(
    rollout: Rollout, state: TrialState, word: str, why: str, run: Mapping[str, Tally], now: float
) -> TrialState | None:
    """Return the state that says what it waits for, unless it says so already."""
    if state.holding == word:
        return None
    decision = Decision(now, "held", SELF, why, share_of(rollout, state), _figures(run))
    return state.decided(decision, holding=word)


def _ended(
    rollout: Rollout, state: TrialState, status: Status, by: str, why: str, run: Mapping[str, Tally],
    now: float,
) -> TrialState:  # fmt: skip
    share = 100.0 if status == "promoted" else 0.0
    decision = Decision(now, status, by, why, share, _figures(run))
    winner = CANARY if status == "promoted" else BASELINE
    return state.decided(decision, status=status, since=now, ended=now, holding="", winner=winner)


def _figures(run: Mapping[str, Tally]) -> dict[str, object]:
    return {name: figures(tally) for name, tally in run.items()}
