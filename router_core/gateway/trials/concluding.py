"""What becomes of an experiment: by its figures, or by order. Nothing here asks or writes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from router_core.errors import Conflict
from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.judge import Breach, figures
from router_core.gateway.trials.staging import SELF
from router_core.gateway.trials.state import Decision, Status, TrialState, begun
from router_core.gateway.trials.tally import Tally
from router_core.gateway.trials.verdict import Verdict, compare, conclude

__all__ = ["ORDERS", "found", "tested", "told_to"]

ORDERS = ("start", "stop")


def found(experiment: Experiment, state: TrialState | None, tallies: Mapping[str, Tally]) -> Verdict:
    """Return what the figures say at this moment."""
    least = {} if state is None else state.least_p
    compared = [
        compare(experiment, variant, tallies, least.get(variant.name, 1.0))
        for variant in experiment.variants[1:]
    ]
    return conclude(experiment, tuple(compared))


def tested(
    experiment: Experiment, state: TrialState, tallies: Mapping[str, Tally], now: float,
    guilty: tuple[Breach, ...],
) -> TrialState | None:  # fmt: skip
    """Return the state that the figures lead to, or None where all stays as it is."""
    if state.status != "running":
        return None
    verdict = found(experiment, state, tallies)
    least = {each.variant.name: each.p for each in verdict.compared}
    after = replace(state, least_p=least)
    if guilty:
        why = "a guardrail: " + "; ".join(f"{each.criterion}: {each.text}" for each in guilty)
        return _ended(after, "stopped", SELF, why, tallies, now)
    if verdict.decided:
        promotes = experiment.on_verdict == "promote" and verdict.winner
        status: Status = "promoted" if promotes else "concluded"
        return _ended(after, status, SELF, verdict.text, tallies, now, verdict.winner)
    if experiment.max_duration and now - state.started >= experiment.max_duration:
        return _ended(after, "stopped", SELF, "its time is over, and nothing is decided", tallies, now)
    return after if _fell(state.least_p, least) else None


def told_to(
    experiment: Experiment, state: TrialState, order: str, by: str, tallies: Mapping[str, Tally], now: float
) -> TrialState:
    """Return the state after an order (one of ORDERS). Raises Conflict where it does not fit."""
    if order == "start" and state.status != "running":
        return begun(experiment, state.definition, now, by, "by order", state)
    if order == "stop" and state.status in ("running", "promoted"):
        return _ended(state, "stopped", by, "by order", tallies, now)
    raise Conflict(f"experiment {experiment.id} is {state.status}: there is nothing to {order}")


def _ended(
    state: TrialState, status: Status, by: str, why: str, tallies: Mapping[str, Tally], now: float,
    winner: str = "",
) -> TrialState:  # fmt: skip
    known = {name: figures(tally) for name, tally in tallies.items()}
    decision = Decision(now, status, by, why, figures=known)
    return state.decided(decision, status=status, since=now, ended=now, winner=winner)


def _fell(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Return whether a smallest p-value has become so much smaller that it is worth being written down."""
    return any(p < 0.9 * before.get(name, 1.0) for name, p in after.items())
