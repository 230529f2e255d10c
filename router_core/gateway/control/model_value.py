"""From the JSON of a model, as it is kept, to the model that calls go by; and back, for the file's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from router_core.gateway.budgets.parse import parse_limits
from router_core.gateway.clients.address import parse_address
from router_core.gateway.config.agents import ABILITIES
from router_core.gateway.config.clients import problem_of
from router_core.gateway.control.providers import MODEL_KINDS, PROVIDERS, kind_of
from router_core.gateway.control.resource import Resource
from router_core.gateway.control.secrets import Secrets
from router_core.gateway.values import Deployment, HealthPolicy, Model, Price, Secret, StrategyName, Timeouts

__all__ = ["DEFAULTS", "Made", "abilities", "made_of", "told_of"]

DEFAULTS: Final = {
    "temperature": "temperature", "maxTokens": "max_tokens", "topP": "top_p", "seed": "seed", "stop": "stop",
    "frequencyPenalty": "frequency_penalty", "presencePenalty": "presence_penalty",
}  # fmt: skip
"""Name of a parameter -> name of the field of a body."""
_LEVELS: Final = {"secondary": 10, "fallback": 20}
"""Of types of endpoints that are asked when the others cannot serve."""


@dataclass(frozen=True, slots=True)
class Made:
    """A model, and what an operator should know about it."""

    model: Model
    remarks: tuple[str, ...] = ()
    """Why it does not serve, or not everywhere: a key that is not set here, no endpoint yet."""
    urls: tuple[tuple[str, str], ...] = ()
    """Field and address of each of its endpoints."""


def abilities(words: Any) -> frozenset[str]:
    """Return what calls may need, of words for what a model can do; empty: nothing is known."""
    return frozenset(ABILITIES[word.lower()] for word in words if word.lower() in ABILITIES)


def made_of(resource: Resource, secrets: Secrets) -> Made:
    """Return the model of a resource. Raises ValueError for one that cannot be at all; a key that is not set
    in this process leaves its deployments out, and is remarked upon."""
    body = resource.body
    remarks: list[str] = []
    deployments: list[Deployment] = []
    for path, one in _places(body):
        ref = _reference(body, path, one, secrets)
        made = _deployment(resource, one, secrets.reveal(ref) if ref else Secret())
        wrong = problem_of(MODEL_KINDS[body["modelType"]], made)
        if wrong and ref and not made.key:
            remarks.append(f"{ref} is not set, so {made.id} serves nobody here")
        elif wrong:
            raise ValueError(f"{path}: {wrong}")
        else:
            deployments.append(made)
    if not _places(body):
        remarks.append("it has no endpoint yet, and its provider no address of its own, so it serves nobody")
    urls = tuple((f"{path}.url", one["url"]) for path, one in _places(body) if path.startswith("endpoints"))
    return Made(_model(resource, tuple(deployments)), tuple(remarks), urls)


def _places(body: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the endpoints, or the one that the provider has for whoever names none."""
    provider = PROVIDERS[body["provider"]]
    if body["endpoints"]:
        return [(f"endpoints[{at}]", one) for at, one in enumerate(body["endpoints"])]
    if provider.url or provider.type == "scripted":
        return [("provider", {"id": body["provider"], "url": provider.url, "type": "primary", "weight": 1.0})]
    return []


def _reference(body: Mapping[str, Any], path: str, one: Mapping[str, Any], secrets: Secrets) -> str:
    """Return the name of the key of an endpoint; empty: it needs none. Raises ValueError for one that may
    not be sent there."""
    provider, url = body["provider"], one["url"]
    ref: str = one.get("apiKeyRef") or body.get("apiKeyRef") or secrets.usual(provider, url)
    wrong = secrets.misplaced(ref, provider, url) if ref else ""
    if wrong:
        raise ValueError(f"{path}.apiKeyRef: {wrong}")
    return ref


def _deployment(resource: Resource, one: Mapping[str, Any], key: Secret) -> Deployment:
    body = resource.body
    return Deployment(
        id=f"{resource.id}/{one['id']}", model_id=resource.id, type=PROVIDERS[body["provider"]].type,
        model=one.get("model") or body.get("version") or resource.id, base_url=one["url"], key=key,
        weight=float(one["weight"]), priority=_LEVELS.get(one["type"], 0),
        tags=frozenset((*body["tags"], *one.get("tags", ()))),
        region=one.get("region", body.get("region", "")),
        compliance=frozenset(word.lower() for word in one.get("compliance", body.get("compliance", ()))),
        capabilities=abilities(each["type"] for each in body["capabilities"]),
        max_context_length=body.get("contextLength"), max_concurrency=one.get("maxConcurrency"),
        timeouts=_timeouts(one), price=_price(body.get("price")), health=_health(one),
        defaults={DEFAULTS[name]: value for name, value in body["parameters"].items()},
    )  # fmt: skip


def _timeouts(one: Mapping[str, Any]) -> Timeouts:
    usual = Timeouts()
    if "timeout" not in one:
        return usual
    seconds = one["timeout"] / 1000
    return Timeouts(
        min(usual.connect, seconds), seconds, min(usual.idle, seconds), max(usual.total, seconds)
    )  # fmt: skip


def _health(one: Mapping[str, Any]) -> HealthPolicy:
    """Return how it is looked after: by the path of its health check, where it names one."""
    if "healthCheckUrl" not in one:
        return HealthPolicy()
    path = "/" + "/".join(one["healthCheckUrl"].split("/")[3:])
    root = parse_address(one["url"]).root
    return HealthPolicy(path=path.removeprefix(root) if root and path.startswith(f"{root}/") else path)


def _price(price: Mapping[str, float] | None) -> Price | None:
    if price is None:
        return None
    micros = {name: round(value * 1_000_000) for name, value in price.items()}
    return Price(
        micros.get("input", 0), micros.get("output", 0), micros.get("cachedInput"), micros.get("request", 0)
    )


def _model(resource: Resource, deployments: tuple[Deployment, ...]) -> Model:
    body = resource.body
    longest = max([each.timeouts.total for each in deployments], default=600.0)
    strategy = body.get("strategy", "priority")
    return Model(
        id=resource.id, type=MODEL_KINDS[body["modelType"]], deployments=deployments,
        aliases=tuple(body.get("aliases", ())), strategy=cast("StrategyName", strategy),
        owned_by=body.get("ownedBy", body["provider"]), created=int(resource.created_at),
        fallbacks=tuple(body.get("fallbacks", ())),
        context_fallbacks=tuple(body.get("contextFallbacks", ())),
        policy_fallbacks=tuple(body.get("policyFallbacks", ())), total_timeout=max(600.0, longest),
        status=body["status"], tags=frozenset(body["tags"]), limits=parse_limits(body.get("limits", {})),
    )  # fmt: skip


def told_of(model: Model) -> dict[str, Any]:
    """Return what the API says of a model that it does not keep. Keys and headers are not in it."""
    first = model.deployments[0] if model.deployments else None
    words = sorted({word for each in model.deployments for word in each.capabilities})
    told: dict[str, Any] = {
        "name": model.id, "version": first.model if first else "", "provider": first.type if first else "",
        "modelType": kind_of(model.type), "capabilities": [{"type": word} for word in words],
        "parameters": {}, "status": model.status, "tags": sorted(model.tags),
        "aliases": list(model.aliases), "strategy": model.strategy, "fallbacks": list(model.fallbacks),
        "contextFallbacks": list(model.context_fallbacks),
        "policyFallbacks": list(model.policy_fallbacks), "contextLength": model.max_context_length,
        "ownedBy": model.owned_by, "endpoints": [_endpoint(each) for each in model.deployments],
    }  # fmt: skip
    if first:
        back = {ours: wire for wire, ours in DEFAULTS.items()}
        told["parameters"] = {back[name]: value for name, value in first.defaults.items() if name in back}
    return {name: value for name, value in told.items() if value is not None}


def _endpoint(one: Deployment) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": one.id, "url": one.base_url, "type": "primary" if one.priority <= 0 else "fallback",
        "weight": one.weight, "region": one.region, "compliance": sorted(one.compliance),
        "tags": sorted(one.tags), "maxConcurrency": one.max_concurrency, "model": one.model,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value not in (None, "", [])}
