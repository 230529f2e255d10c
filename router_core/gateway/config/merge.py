"""Put two configurations together."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from router_core.gateway.values import GatewayConfig, Model

__all__ = ["merge"]


def merge(first: GatewayConfig, second: GatewayConfig) -> GatewayConfig:
    """Return the first with what the second has besides; the first wins by name."""
    names = {name for model in first.models for name in (model.id, *model.aliases)}
    places = {spec.name for spec in first.endpoints}
    merged = replace(
        first,
        models=first.models + tuple(_without(each, names) for each in second.models if each.id not in names),
        endpoints=first.endpoints + tuple(each for each in second.endpoints if each.name not in places),
        rules=first.rules or second.rules, selector=first.selector or second.selector,
        default_model=first.default_model or second.default_model, source=first.source or second.source,
    )  # fmt: skip
    if merged == first:
        return first
    versions = f"{first.version} {second.version}"
    return replace(merged, version=hashlib.sha256(versions.encode()).hexdigest()[:12])


def _without(model: Model, names: set[str]) -> Model:
    return replace(model, aliases=tuple(alias for alias in model.aliases if alias not in names))
