"""What an experiment has found: each variant beside the control, who has won, and how much is missing."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, Literal

from router_core.gateway.trials.experiment import RELATIVE, Experiment, Variant, wants_more
from router_core.gateway.trials.judge import Breach, breaches, figures
from router_core.gateway.trials.msprt import Difference, difference
from router_core.gateway.trials.power import MOST, needed, seconds_left
from router_core.gateway.trials.tally import Tally
from router_core.records import dataclass

__all__ = ["Compared", "Finding", "Verdict", "compare", "conclude", "report"]

Finding = Literal["undecided", "better", "worse", "equivalent"]
_SCALES: Final = {"latency": 1000.0, "cost": 1e-6}
"""What a figure is multiplied with on the wire: milliseconds, dollars."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One variant beside the control."""

    variant: Variant
    difference: Difference
    finding: Finding
    p: float
    """The smallest p-value of all moments at which one has looked."""
    needed: int
    """Samples that the arm with fewer of them needs."""
    have: int
    breaches: tuple[Breach, ...] = ()
    """Guardrails that it exceeds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all comparisons come to."""

    compared: tuple[Compared, ...]
    decided: bool
    winner: str = ""
    """Name of a variant or of the control; empty: nobody."""
    text: str = ""


def compare(
    experiment: Experiment, variant: Variant, tallies: Mapping[str, Tally], before: float = 1.0
) -> Compared:
    """Compare a variant with the control; ``before`` is the smallest p-value until now."""
    control = tallies[experiment.variants[0].name]
    arm = tallies[variant.name]
    alpha = experiment.alpha / (len(experiment.variants) - 1)
    one, other = control.moments(experiment.metric), arm.moments(experiment.metric)
    tau = experiment.min_effect * (one.mean if experiment.metric in RELATIVE else 1.0)
    have = int(min(one.n, other.n))
    found = difference(one, other, tau, alpha)
    ratio = variant.weight / experiment.variants[0].weight
    wanted = needed(one.variance, tau, alpha, experiment.power, other=other.variance, ratio=ratio)
    wanted = max(experiment.min_samples, int(min(wanted * min(1.0, ratio), MOST)))
    if have < experiment.min_samples:
        return Compared(variant, found, "undecided", before, wanted, have)
    finding = _finding(experiment, found, min(before, found.p), alpha, tau)
    hurt = breaches(experiment.guardrails, control, arm, alpha) if experiment.guardrails else ()
    return Compared(variant, found, finding, min(before, found.p), wanted, have, hurt)


def _finding(experiment: Experiment, found: Difference, p: float, alpha: float, tau: float) -> Finding:
    if p <= alpha and found.effect:
        return "better" if (found.effect > 0) is wants_more(experiment.metric) else "worse"
    return "equivalent" if -tau < found.low and found.high < tau else "undecided"


def conclude(experiment: Experiment, compared: tuple[Compared, ...]) -> Verdict:
    """Return what the comparisons come to: decided once each of them is."""
    control = experiment.variants[0].name
    if any(each.finding == "undecided" for each in compared):
        return Verdict(compared, False, text="not decided yet")
    better = [each for each in compared if each.finding == "better"]
    if not better:
        if any(each.finding == "equivalent" for each in compared):
            text = f"no variant is better than {control} by more than is of interest"
        else:
            text = f"{control} is better than every variant"
        return Verdict(compared, True, control, text)
    sign = 1 if wants_more(experiment.metric) else -1
    best = max(better, key=lambda each: sign * each.difference.effect)
    return Verdict(compared, True, best.variant.name, f"{best.variant.name} is better than {control}")


def report(
    experiment: Experiment, verdict: Verdict, tallies: Mapping[str, Tally], running: float
) -> dict[str, Any]:
    """Return results as JSON; ``running`` is for how many seconds calls were counted."""
    by_name = {each.variant.name: each for each in verdict.compared}
    arms = [
        _arm(experiment, each, tallies[each.name], by_name.get(each.name), running)
        for each in experiment.variants
    ]
    return {
        "metric": experiment.metric, "goal": "more" if wants_more(experiment.metric) else "less",
        "alpha": experiment.alpha, "power": experiment.power, "minSamples": experiment.min_samples,
        "minDetectableEffect": experiment.min_effect, "arms": arms,
        "verdict": {"decided": verdict.decided, "winner": verdict.winner or None, "text": verdict.text},
    }  # fmt: skip


def _arm(
    experiment: Experiment, variant: Variant, tally: Tally, compared: Compared | None, running: float
) -> dict[str, Any]:
    scale = _SCALES.get(experiment.metric, 1.0)
    moments = tally.moments(experiment.metric)
    data: dict[str, Any] = {
        "name": variant.name, "modelId": variant.model_id, "weight": variant.weight,
        "control": compared is None, "samples": int(moments.n),
        "mean": round(moments.mean * scale, 9) if moments.n else None, **figures(tally),
    }  # fmt: skip
    if compared is None:
        return data
    return data | {"comparison": _comparison(compared, scale, running)}


def _comparison(compared: Compared, scale: float, running: float) -> dict[str, Any]:
    found = compared.difference
    known = isfinite(found.low)
    left = seconds_left(compared.needed, compared.have, running)
    over = compared.finding != "undecided"
    return {
        "effect": round(found.effect * scale, 9) if known else None,
        "interval": [round(found.low * scale, 9), round(found.high * scale, 9)] if known else None,
        "pValue": round(compared.p, 9), "verdict": compared.finding,
        "guardrails": [{"criterion": each.criterion, "text": each.text} for each in compared.breaches],
        "neededSamples": compared.needed if compared.needed < MOST else None,
        "estimatedDaysLeft": 0.0 if over else None if left is None else round(left / 86400, 4),
    }  # fmt: skip
