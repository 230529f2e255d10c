"""From a document to the configuration that calls go by, beside what the file and the environment say.

What is new has to be right, and to fit; what was there before and fits no more (the file has a model of that
name now, a key is gone) is left out with a remark, for calls have to be served whatever somebody edits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from router_core.errors import Conflict, Misconfigured
from router_core.gateway.config.checks import check_chains
from router_core.gateway.config.section import Problems
from router_core.gateway.control.kinds import AGENTS, EXPERIMENTS, KINDS, MODELS, ROLLOUTS, RULES, WORKSPACES
from router_core.gateway.control.model_value import Made, made_of
from router_core.gateway.control.resource import Document, Resource
from router_core.gateway.control.secrets import Secrets
from router_core.gateway.values import SERVING, GatewayConfig, Model, Workspace
from router_core.security.url_guard import UrlGuard, UrlRefused

__all__ = ["BY_FILE", "Builder", "Built", "Invalid", "by_file", "referrers"]

BY_FILE: Final = "configured_by_file"

_CHAINS: Final = {
    "fallbacks": "fallbacks", "context_fallbacks": "contextFallbacks", "policy_fallbacks": "policyFallbacks",
}  # fmt: skip

Key = tuple[str, str]
"""Kind and id."""


class Invalid(ValueError):
    """A resource that cannot be: the text begins with the field."""

    def __init__(self, kind: str, key: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.key = key


@dataclass(frozen=True, slots=True)
class Built:
    """A configuration, and what an operator should know about its resources."""

    config: GatewayConfig = field(default_factory=GatewayConfig)
    remarks: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    left_out: frozenset[Key] = frozenset()
    fenced: frozenset[str] = frozenset()
    """Hosts that the API alone has named."""
    urls: Mapping[Key, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Addresses of models, by their fields."""


def by_file(kind: str, key: str) -> Conflict:
    """Return the error for what the file says, and the API can therefore not."""
    return Conflict(
        f"{KINDS[kind].word} {key} is configured by the file, and changes there", code=BY_FILE,
        extra={"managedBy": "file"},
    )  # fmt: skip


class Builder:
    """Makes configurations; remembers what it made of each resource."""

    def __init__(
        self, base: GatewayConfig, secrets: Secrets, *, private: bool, private_hooks: bool = False
    ) -> None:
        """``private``: deployments may have addresses that are not public; ``private_hooks``: webhooks."""
        self.base = base
        self.private = private
        self._hooks = UrlGuard(allow_private=private_hooks)
        self._secrets = secrets
        self._made: dict[Key, tuple[Resource, Any]] = {}
        self._taken = {
            kind.name: {kind.id_of(value) for value in getattr(base, kind.values)} for kind in KINDS.values()
        }
        self._names = {name for model in base.models for name in (model.id, *model.aliases)}
        self._hosts = _hosts(base)

    def has(self, kind: str, key: str) -> bool:
        """Return whether the file says this one."""
        return key in self._taken[kind] or (kind == MODELS and key in self._names)

    def build(self, document: Document, touched: Collection[Key] = (), number: int = 0) -> Built:
        """Return the configuration of a document. Raises Invalid, or Conflict, for what was touched."""
        remarks: dict[Key, list[str]] = {}
        left_out: set[Key] = set()
        values: dict[str, list[Any]] = {}
        made: dict[Key, tuple[Resource, Any]] = {}
        for kind in KINDS:
            values[kind] = []
            for resource in document.of(kind):
                key = (kind, resource.id)
                value = self._value(resource, touched=key in touched)
                made[key] = (resource, value)
                if isinstance(value, str):
                    left_out.add(key)
                    remarks[key] = [value]
                else:
                    values[kind].append(value)
        self._made = made
        models = self._models(values[MODELS], touched, remarks, left_out)
        own = GatewayConfig(
            models=tuple(models), rules=tuple(values[RULES]), workspaces=tuple(values[WORKSPACES]),
            agents=tuple(values[AGENTS]), rollouts=tuple(values[ROLLOUTS]),
            experiments=tuple(values[EXPERIMENTS]),
        )  # fmt: skip
        config = self._together(own, number) if number else self.base
        _referred(own, config, remarks)
        _hooked(own.workspaces, self._hooks, remarks)
        if any(kind == MODELS for kind, _ in touched):
            _chains(config, touched)
        return Built(
            config, {key: tuple(told) for key, told in remarks.items()}, frozenset(left_out),
            frozenset() if self.private else _hosts(own) - self._hosts,
            {(MODELS, one.model.id): one.urls for one in values[MODELS]},
        )  # fmt: skip

    def _value(self, resource: Resource, *, touched: bool) -> Any:
        """Return what a resource stands for; a text says why it is left out."""
        kind, key = resource.kind, resource.id
        if self.has(kind, key):
            if touched:
                raise by_file(kind, key)
            return f"the file configures the {KINDS[kind].word} {key}, and that holds"
        held = self._made.get((kind, key))
        if held is not None and held[0] is resource and not isinstance(held[1], str):
            return held[1]
        parse = KINDS[kind].parse
        try:
            return made_of(resource, self._secrets) if parse is None else parse(key, resource.body)
        except ValueError as error:
            # a model that serves nobody may be as wrong as it likes: it has to be possible to switch it off
            if touched and resource.body.get("status", "active") in SERVING:
                raise Invalid(kind, key, str(error)) from None
            return str(error)

    def _models(
        self, made: Iterable[Made], touched: Collection[Key], remarks: dict[Key, list[str]],
        left_out: set[Key],
    ) -> list[Model]:  # fmt: skip
        """Return the models whose names nobody else bears, with what is to be said about them."""
        names = dict.fromkeys(self._names, "the file")
        models: list[Model] = []
        for one in sorted(made, key=lambda each: (MODELS, each.model.id) in touched):
            model, key = one.model, (MODELS, one.model.id)
            if one.remarks:
                remarks.setdefault(key, []).extend(one.remarks)
            taken = next((name for name in (model.id, *model.aliases) if name in names), "")
            if not taken:
                names.update(dict.fromkeys((model.id, *model.aliases), f"model {model.id}"))
                models.append(model)
                continue
            told = f"aliases: {taken!a} is a name in {names[taken]} already"
            if key in touched:
                raise Conflict(told, code="name_taken")
            left_out.add(key)
            remarks.setdefault(key, []).append(told)
        return sorted(models, key=lambda each: (each.created, each.id))

    def _together(self, own: GatewayConfig, number: int) -> GatewayConfig:
        base = self.base
        return replace(
            base, models=base.models + own.models, rules=base.rules + own.rules,
            agents=base.agents + own.agents, workspaces=base.workspaces + own.workspaces,
            rollouts=base.rollouts + own.rollouts, experiments=base.experiments + own.experiments,
            version=f"{base.version}+{number}",
        )  # fmt: skip


def _hosts(config: GatewayConfig) -> frozenset[str]:
    urls = [each.base_url for model in config.models for each in model.deployments]
    urls += [each.base_url for each in config.selector]
    urls += [url for each in config.endpoints for url in (each.url, each.api_url)]
    return frozenset((urlsplit(url).hostname or "").lower() for url in urls if url)


def _referred(own: GatewayConfig, config: GatewayConfig, remarks: dict[Key, list[str]]) -> None:
    """Remark upon names of models that there are not: not an error, for they may come later."""
    names = {name for model in config.models for name in (model.id, *model.aliases)}
    for kind, key, field_name, name in _mentions(own):
        if name not in names:
            remarks.setdefault((kind, key), []).append(f"{field_name}: there is no model {name[:80]!a}")


def _hooked(workspaces: Iterable[Workspace], guard: UrlGuard, remarks: dict[Key, list[str]]) -> None:
    """Remark upon webhooks that are never sent, as far as their address tells without being looked up."""
    for one in workspaces:
        try:
            if one.webhook:
                guard.parse(one.webhook)
        except UrlRefused as error:
            remarks.setdefault((WORKSPACES, one.id), []).append(f"webhook: is not sent: {error.detail}")


def referrers(config: GatewayConfig, names: Collection[str]) -> list[str]:
    """Return what speaks of a model by one of its names, as ``kind/id``."""
    return list(dict.fromkeys(f"{kind}/{key}" for kind, key, _, name in _mentions(config) if name in names))


def _mentions(config: GatewayConfig) -> Iterator[tuple[str, str, str, str]]:
    """Go through all names of models: kind, id, field and name."""
    for rule in config.rules:
        for at, target in enumerate(rule.targets):
            yield RULES, rule.key, f"targetModels[{at}].modelId", target.model_id
    for agent in config.agents:
        for field_name, names in (("preferredModels", agent.preferred), ("fallbackModels", agent.fallback)):
            yield from ((AGENTS, agent.agent_type, field_name, name) for name in names)
    for workspace in config.workspaces:
        yield from ((WORKSPACES, workspace.id, "modelRestrictions", name) for name in workspace.models)
    for model in config.models:
        for chain in _CHAINS:
            yield from ((MODELS, model.id, _CHAINS[chain], name) for name in getattr(model, chain))
    yield from _trials(config)


def _trials(config: GatewayConfig) -> Iterator[tuple[str, str, str, str]]:
    for trial in config.rollouts:
        named = ((name, getattr(trial, name)) for name in ("model", "canary"))
        yield from ((ROLLOUTS, trial.id, field_name, name) for field_name, name in named if name)
    for trial in config.experiments:
        if trial.model:
            yield EXPERIMENTS, trial.id, "model", trial.model
        for at, each in enumerate(trial.variants):
            yield EXPERIMENTS, trial.id, f"variants[{at}].modelId", each.model_id


def _chains(config: GatewayConfig, touched: Collection[Key]) -> None:
    """Refuse fallbacks that cannot serve, or that go round in a circle."""
    problems = Problems("config")
    check_chains(config.models, {}, problems)
    try:
        problems.check()
    except Misconfigured as error:
        key = next((one for kind, one in touched if kind == MODELS), "")
        told = error.detail.splitlines()[0].removeprefix("config:1: ")
        raise Invalid(MODELS, key, f"fallbacks: {told}") from None
