"""Do trials fit to the models and rules that they name, and to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.rollout import Rollout
from router_core.gateway.values import GatewayConfig, Model

__all__ = ["unfit_trials"]


def unfit_trials(config: GatewayConfig) -> list[str]:
    """Return what is wrong with the trials of a configuration, in words; empty: nothing."""
    if not (config.rollouts or config.experiments):
        return []
    models = {name: model for model in config.models for name in (model.id, *model.aliases)}
    rules = {rule.key: rule for rule in config.rules}
    return [*_clashes(config), *(
        f"{each.kind} {each.id}: {told}"
        for each in (*config.rollouts, *config.experiments)
        for told in _unfit(each, models, rules)
    )]  # fmt: skip


def _clashes(config: GatewayConfig) -> Iterator[str]:
    ids: set[str] = set()
    taken: dict[tuple[str, str], str] = {}
    for each in (*config.rollouts, *config.experiments):
        if each.id in ids:
            yield f"two trials are called {each.id!r}"
        ids.add(each.id)
        rule = getattr(each, "rule", "")
        place = ("rule", rule) if rule else ("model", each.model)
        if not each.enabled or not place[1]:
            continue
        if place in taken:
            yield f"{each.kind} {each.id}: {place[0]} {place[1]!r} is in trial {taken[place]} already"
        taken.setdefault(place, each.id)


def _unfit(
    trial: Rollout | Experiment, models: Mapping[str, Model], rules: Mapping[str, Any]
) -> Iterator[str]:
    if isinstance(trial, Experiment):
        named = [each.model_id for each in trial.variants]
        if trial.model:
            named.insert(0, trial.model)
    elif trial.rule:
        rule = rules.get(trial.rule)
        if rule is None or len(rule.targets) < 2:
            yield f"there is no rule {trial.rule!r} with two targets"
            return
        named = [each.model_id for each in rule.targets[:2]]
    else:
        named = [trial.model, trial.canary]
    unknown = [name for name in named if name not in models]
    if unknown:
        yield f"there is no model {unknown[0]!r}"
        return
    other = next((name for name in named if models[name].type != models[named[0]].type), "")
    if other:
        yield f"model {other!r} is of another type than {named[0]!r}"
    aliases = [name for name in named if models[name].id != name]
    if aliases:
        yield f"{aliases[0]!r} is an alias; name model {models[aliases[0]].id!r} itself"
