"""Check a configuration as a whole: what is right by itself may still not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from router_core.gateway.config.merge import merge
from router_core.gateway.config.models import CHAINS, Mention, ModelRead
from router_core.gateway.config.section import Problems, near
from router_core.gateway.rules.rule import Rule
from router_core.gateway.values import MODEL_TYPES, ControlPolicy, EndpointSpec, GatewayConfig, Model

__all__ = ["Draft", "check", "check_chains"]


@dataclass(slots=True)
class Draft:
    """Everything that one file says, each with its line."""

    models: list[ModelRead] = field(default_factory=list)
    endpoints: list[tuple[int, EndpointSpec]] = field(default_factory=list)
    rules: list[tuple[int, Rule]] = field(default_factory=list)
    default_model: tuple[int, str] = (1, "")
    named: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    """Workspaces, agents, rollouts and experiments."""
    control: ControlPolicy = field(default_factory=ControlPolicy)
    workspaces_required: bool = False


def check(draft: Draft, beside: GatewayConfig, problems: Problems) -> GatewayConfig:
    """Return the file with what stands beside it (the file wins by name); what does not fit is noted."""
    names = _names(draft, beside, problems)
    _deployments(draft, beside, problems)
    for read in draft.models:
        for mention in read.mentions:
            _mentioned(mention, names, problems)
    models = [_resolved(read.model, names) for read in draft.models]
    specs = tuple(spec for _, spec in draft.endpoints)
    rules = tuple(rule for _, rule in draft.rules)
    default = names.get(draft.default_model[1], "")
    values: dict[str, Any] = {key: tuple(value for _, value in listed) for key, listed in draft.named.items()}
    own = GatewayConfig(
        tuple(models), specs, rules, default_model=default, control=draft.control,
        workspaces_required=draft.workspaces_required, **values,
    )  # fmt: skip
    config = merge(own, beside)
    places = {mention.what: mention.line for read in draft.models for mention in reversed(read.mentions)}
    check_chains(config.models, places, problems)
    line, written = draft.default_model
    if written:
        _mentioned(Mention(line, "default_model", written), names, problems)
    _rules(draft.rules, names, problems)
    _named(draft, names, problems)
    return config


def check_chains(models: Iterable[Model], places: Mapping[str, int], problems: Problems) -> None:
    """Note fallbacks that cannot serve the same calls, or go round; ``places`` has the lines of chains."""
    models = tuple(models)
    for chain in (*CHAINS, "wake_fallback"):
        _chain(chain, models, places, problems)


def _names(draft: Draft, beside: GatewayConfig, problems: Problems) -> dict[str, str]:
    """Return name or alias -> id of all models; no name may mean two."""
    lines: dict[str, int] = {}
    names: dict[str, str] = {}
    for read in draft.models:
        if read.model.id in lines:
            problems.add(
                read.line, f"there is a model {read.model.id!r} already, in line {lines[read.model.id]}"
            )
            continue
        lines[read.model.id] = read.line
        names[read.model.id] = read.model.id
    others = {model.id: model for model in beside.models if model.id not in names}
    names.update({name: name for name in others})
    for read in draft.models:
        for alias, line in {alias: line for line, alias in read.aliases}.items():
            if names.get(alias) == read.model.id:
                problems.add(line, f"alias {alias!r} is the id of its own model; take it away")
            elif alias in names:
                problems.add(line, f"alias {alias!r} names the model {names[alias]!r} already")
            else:
                names[alias] = read.model.id
    for model in others.values():
        for alias in model.aliases:
            names.setdefault(alias, model.id)
    return names


def _deployments(draft: Draft, beside: GatewayConfig, problems: Problems) -> None:
    ids: dict[str, int] = {}
    endpoints: dict[str, int] = {}
    for line, spec in draft.endpoints:
        if spec.name and spec.name in endpoints:
            problems.add(line, f"there is an endpoint {spec.name!r} already, in line {endpoints[spec.name]}")
        endpoints.setdefault(spec.name, line)
    known = {*endpoints, *(spec.name for spec in beside.endpoints)}
    for read in draft.models:
        for each in read.deployments:
            own = each.deployment
            if own.id in ids:
                problems.add(each.line, f"there is a deployment {own.id!r} already, in line {ids[own.id]}")
            ids.setdefault(own.id, each.line)
            if own.endpoint and own.endpoint not in known:
                hint = near(own.endpoint, known) or "; define it under endpoints:"
                problems.add(
                    each.endpoint_line, f"deployment {own.id!r} names no endpoint: {own.endpoint!r}{hint}"
                )


def _mentioned(mention: Mention, names: Mapping[str, str], problems: Problems) -> None:
    if mention.name not in names:
        hint = near(mention.name, names)
        problems.add(mention.line, f"{mention.what}: there is no model {mention.name[:60]!r}{hint}")


def _resolved(model: Model, names: Mapping[str, str]) -> Model:
    """Put ids where aliases were written, so that nobody has to look them up again."""

    def ids(chain: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in chain)

    return replace(
        model, fallbacks=ids(model.fallbacks), context_fallbacks=ids(model.context_fallbacks),
        policy_fallbacks=ids(model.policy_fallbacks),
        wake_fallback=names.get(model.wake_fallback, model.wake_fallback),
    )  # fmt: skip


def _chain(chain: str, models: Iterable[Model], places: Mapping[str, int], problems: Problems) -> None:
    """Refuse fallbacks that go round in a circle, and those that cannot serve the same calls."""
    table = {model.id: model for model in models}
    done: set[str] = set()
    for model in table.values():
        line = places.get(f"{chain} of model {model.id!r}", 1)
        for name in _next(model, chain):
            other = table.get(name)
            if other is not None and not _alike(model, other):
                problems.add(
                    line, f"{chain} of model {model.id!r}: {name!r} is of type {other.type}, which serves "
                    f"none of the calls of {model.type}",
                )  # fmt: skip
        circle = _circle(model.id, table, chain, done)
        if circle:
            line = places.get(f"{chain} of model {circle[0]!r}", line)
            problems.add(line, f"{chain} go round in a circle: {' > '.join(circle)}")


def _next(model: Model, chain: str) -> tuple[str, ...]:
    if chain == "wake_fallback":
        return (model.wake_fallback,) if model.wake_fallback else ()
    named: tuple[str, ...] = getattr(model, chain)
    return named


def _alike(one: Model, other: Model) -> bool:
    first, second = MODEL_TYPES.get(one.type), MODEL_TYPES.get(other.type)
    return first is None or second is None or bool(set(first) & set(second))


def _circle(start: str, table: Mapping[str, Model], chain: str, done: set[str]) -> list[str]:
    """Return the names of a circle that is reached from a model, if there is one. Walks no model twice."""
    path: dict[str, None] = {}  # in order, and quick to look into
    waiting = [iter((start,))]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            if path:
                done.add(path.popitem()[0])
        elif name in path:
            done.update(path)
            walked = list(path)
            return [*walked[walked.index(name) :], name]
        elif name in table and name not in done:
            path[name] = None
            waiting.append(iter(_next(table[name], chain)))
    return []


def _rules(rules: Iterable[tuple[int, Rule]], names: Mapping[str, str], problems: Problems) -> None:
    seen: dict[str, int] = {}
    for line, rule in rules:
        if rule.key in seen:
            problems.add(line, f"there is a rule {rule.key!r} already, in line {seen[rule.key]}")
        seen.setdefault(rule.key, line)
        for target in rule.targets:
            _mentioned(Mention(line, f"targetModels of rule {rule.name!r}", target.model_id), names, problems)


def _named(draft: Draft, names: Mapping[str, str], problems: Problems) -> None:
    """Refuse names that stand twice, and models that there are not."""
    for key, listed in draft.named.items():
        seen: dict[str, int] = {}
        for line, value in listed:
            name = value.agent_type if key == "agents" else value.id
            word = f"{key[:-1]} {name!r}"
            if name in seen:
                problems.add(line, f"there is a {word} already, in line {seen[name]}")
            seen.setdefault(name, line)
            for what, model in _models_of(key, value):
                _mentioned(Mention(line, f"{what} of {word}", model), names, problems)


def _models_of(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Go through the models that a value names: field and name."""
    if key == "agents":
        yield from (("preferredModels", name) for name in value.preferred)
        yield from (("fallbackModels", name) for name in value.fallback)
    elif key == "workspaces":
        yield from (("modelRestrictions", name) for name in value.models)
    elif key == "rollouts":
        yield from ((name, getattr(value, name)) for name in ("model", "canary") if getattr(value, name))
    else:
        yield from (("model", name) for name in (value.model,) if name)
        yield from (("variants", each.model_id) for each in value.variants)
