"""From the JSON of a rollout or an experiment to the value: everything is checked here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any, Final, get_args

from router_core.gateway.rules.parse import parse_condition
from router_core.gateway.rules.read import flag, members, number, refuse, text, whole
from router_core.gateway.trials.criteria import CRITERIA, Criteria
from router_core.gateway.trials.experiment import METRICS, Experiment, Variant
from router_core.gateway.trials.rollout import (
    MAX_STAGES,
    ROLLBACK,
    SUCCESS,
    Rollout,
    RolloutStrategy,
    StickyBy,
)

__all__ = ["parse_experiment", "parse_rollout"]

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_VARIANTS: Final = 20
_YEAR: Final = 366 * 24 * 3600.0
_ROLLOUT: Final = (
    "id", "model", "canary", "rule", "strategy", "startShare", "step", "stages", "intervalSeconds",
    "minRequests", "success", "rollback", "alpha", "stickyBy", "enabled",
)  # fmt: skip
_EXPERIMENT: Final = (
    "id", "model", "condition", "variants", "metric", "alpha", "power", "minSamples", "minDetectableEffect",
    "guardrails", "maxDurationSeconds", "onVerdict", "stickyBy", "enabled",
)  # fmt: skip
_CRITERIA: Final = tuple(wire for _, wire, _ in CRITERIA)


def parse_rollout(data: Mapping[str, Any]) -> Rollout:
    """Return the rollout that a JSON object says. Raises ValueError, beginning with the wrong field."""
    given = members(data, "", _ROLLOUT)
    usual = _defaults(Rollout)
    strategy = _word(given.get("strategy", "linear"), "strategy", get_args(RolloutStrategy))
    stages = _stages(given["stages"]) if "stages" in given else ()
    for name in ("startShare", "step"):
        if stages and name in given:
            refuse(name, "is not looked at beside stages; leave one of them out")
    step_usual = 2.0 if strategy == "exponential" else usual["step"]
    step = _within(given.get("step", step_usual), "step", 0.01, 100.0)
    if strategy == "exponential" and step < 1.01:
        refuse("step", "is the factor of an exponential rollout, and has to be 1.01 at least")
    return Rollout(
        id=_id(given, "id"),
        **_models(given),
        strategy=strategy,
        start_share=_within(given.get("startShare", usual["start_share"]), "startShare", 0.01, 100.0),
        step=step,
        stages=stages,
        interval=_within(given.get("intervalSeconds", usual["interval"]), "intervalSeconds", 0.0, _YEAR),
        min_requests=whole(given.get("minRequests", usual["min_requests"]), "minRequests", least=1),
        success=_criteria(given["success"], "success") if "success" in given else SUCCESS,
        rollback=_criteria(given["rollback"], "rollback") if "rollback" in given else ROLLBACK,
        alpha=_within(given.get("alpha", usual["alpha"]), "alpha", 1e-6, 0.5),
        sticky_by=_word(given.get("stickyBy", "session"), "stickyBy", get_args(StickyBy)),
        enabled=flag(given.get("enabled", True), "enabled"),
    )


def parse_experiment(data: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a JSON object says. Raises ValueError, beginning with the wrong field."""
    given = members(data, "", _EXPERIMENT)
    usual = _defaults(Experiment)
    if "variants" not in given:
        refuse("variants", "is missing")
    if ("model" in given) is ("condition" in given):
        refuse("model", "or condition has to be given, one of them: whose calls take part")
    metric = _word(given.get("metric", "successRate"), "metric", METRICS)
    most = 1.0 if metric == "successRate" else 1e9
    effect = given.get("minDetectableEffect", usual["min_effect"])
    return Experiment(
        id=_id(given, "id"),
        variants=_variants(given["variants"]),
        model=text(given["model"], "model") if "model" in given else "",
        condition=parse_condition(given["condition"]) if "condition" in given else None,
        metric=metric,
        alpha=_within(given.get("alpha", usual["alpha"]), "alpha", 1e-6, 0.5),
        power=_within(given.get("power", usual["power"]), "power", 0.5, 0.999),
        min_samples=whole(given.get("minSamples", usual["min_samples"]), "minSamples", least=10),
        min_effect=_within(effect, "minDetectableEffect", 1e-6, most),
        guardrails=_criteria(given["guardrails"], "guardrails") if "guardrails" in given else Criteria(),
        max_duration=_within(given.get("maxDurationSeconds", 0.0), "maxDurationSeconds", 0.0, 10 * _YEAR),
        on_verdict=_word(given.get("onVerdict", "report"), "onVerdict", ("report", "promote")),
        sticky_by=_word(given.get("stickyBy", "session"), "stickyBy", get_args(StickyBy)),
        enabled=flag(given.get("enabled", True), "enabled"),
    )


def _defaults(kind: type) -> dict[str, Any]:
    return {each.name: each.default for each in fields(kind)}


def _models(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the two models of a rollout, or the rule that names them."""
    if "rule" in given:
        for name in ("model", "canary"):
            if name in given:
                refuse(name, "is that of the rule; leave one of them out")
        return {"rule": text(given["rule"], "rule")}
    for name in ("model", "canary"):
        if name not in given:
            refuse(name, "is missing; a rollout names model and canary, or a rule")
    model, canary = text(given["model"], "model"), text(given["canary"], "canary")
    if model == canary:
        refuse("canary", "is the model that it is to take over from")
    return {"model": model, "canary": canary}


def _id(given: Mapping[str, Any], path: str) -> str:
    if "id" not in given:
        refuse(path, "is missing")
    return _name(given["id"], path)


def _name(value: object, path: str) -> str:
    name = text(value, path)
    if not _ID.fullmatch(name):
        refuse(path, "has to be up to 64 letters, digits, points, lines and underscores")
    return name


def _word(value: object, path: str, known: tuple[Any, ...]) -> Any:
    word = text(value, path)
    if word not in known:
        refuse(path, f"{word!a} is not known; there are {', '.join(known)}")
    return word


def _within(value: object, path: str, least: float, most: float) -> float:
    found = number(value, path)
    if not least <= found <= most:
        refuse(path, f"has to be between {least:g} and {most:g}, not {found:g}")
    return found


def _stages(value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        refuse("stages", "has to be a list of percents, one at least")
    if len(value) > MAX_STAGES:
        refuse("stages", f"has {len(value):,} stages, at most {MAX_STAGES} are allowed")
    found = tuple(_within(each, f"stages[{place}]", 0.01, 100.0) for place, each in enumerate(value))
    for place, (before, after) in enumerate(pairwise(found)):
        if after <= before:
            refuse(f"stages[{place + 1}]", f"is {after:g}, which is not above {before:g} before it")
    return found


def _criteria(value: object, path: str) -> Criteria:
    given = members(value, path, _CRITERIA)
    found: dict[str, float] = {}
    for name, wire, scale in CRITERIA:
        if wire in given:
            most = 1.0 if "error_rate" in name else 1e9
            found[name] = _within(given[wire], f"{path}.{wire}", 0.0, most) / scale
    return Criteria(**found)


def _variants(value: object) -> tuple[Variant, ...]:
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= _MAX_VARIANTS:
        refuse("variants", f"has to be a list of 2 to {_MAX_VARIANTS} objects with name and modelId")
    found: list[Variant] = []
    for place, each in enumerate(value):
        path = f"variants[{place}]"
        variant = _variant(each, path)
        for other in found:
            if other.name == variant.name:
                refuse(f"{path}.name", f"{variant.name!a} is a variant already")
            if other.model_id == variant.model_id:
                refuse(f"{path}.modelId", f"{variant.model_id!a} is a variant already")
        found.append(variant)
    return tuple(found)


def _variant(value: object, path: str) -> Variant:
    given = members(value, path, ("name", "modelId", "weight"))
    for name in ("name", "modelId"):
        if name not in given:
            refuse(f"{path}.{name}", "is missing")
    return Variant(
        _name(given["name"], f"{path}.name"),
        text(given["modelId"], f"{path}.modelId"),
        _within(given.get("weight", 1.0), f"{path}.weight", 0.001, 1e6),
    )
