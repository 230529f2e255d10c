"""Who may serve a call: the model that it names, or what the rules say where it names none."""

from __future__ import annotations

import time as wall
from collections.abc import Callable
from typing import Final

import msgspec

from router_core.errors import HTTPError
from router_core.gateway.call import Call
from router_core.gateway.pipeline.failure import nobody
from router_core.gateway.registry import ModelRouter, Snapshot
from router_core.gateway.rules.engine import RuleMatch

__all__ = ["AUTO", "Resolved", "Resolver", "split_by"]

_KEPT: Final = 4096
"""What the rules came to, that is remembered of one snapshot."""

AUTO: Final = "auto"
"""The name of a model by which a caller leaves the choice to the rules."""


class Resolved(msgspec.Struct, frozen=True, eq=False):
    """The models that may serve a call, in the order in which they are asked."""

    routers: tuple[ModelRouter, ...]
    rule: str = ""
    """Name of the rule that decided; empty: the caller named the model."""
    match: RuleMatch | None = None
    alone: bool = False
    """Whether there is one model that never sleeps, which is asked without more ado."""


class Resolver:
    """Turns the name in a call into the models to ask; remembers what it came to, for one snapshot."""

    __slots__ = ("_on_rule", "_resolved", "_snapshot")

    def __init__(self, on_rule: Callable[[str], None]) -> None:
        """``on_rule`` is told of the rule that decided, by name."""
        self._on_rule = on_rule
        self._snapshot: Snapshot | None = None
        self._resolved: dict[tuple[int, str], Resolved] = {}
        """By match, or model, and endpoint."""

    def follow(self, snapshot: Snapshot) -> None:
        """Forget what was remembered of another snapshot."""
        self._snapshot = snapshot
        self._resolved.clear()

    def resolve(self, call: Call, snapshot: Snapshot, *, dry: bool = False) -> Resolved:
        """Return who may serve a call: the model it names, or what the rules say where it names none.

        Raises NotFound for a name that nobody bears, 422 for a model of another type.
        """
        name = call.model_name
        if name == AUTO and name not in snapshot.models:
            return self._by_rules(call, snapshot, dry)
        router = snapshot.models.get(name)
        if router is None:
            raise HTTPError(404, "Model not found", code="model_not_found")
        if not router.model.fits(call.endpoint):
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        resolved = self._resolved.get((id(router), ""))
        if resolved is None or resolved.routers[0] is not router:
            resolved = self._keep(_resolved((router,)), (id(router), ""), snapshot)
        return resolved

    def _by_rules(self, call: Call, snapshot: Snapshot, dry: bool) -> Resolved:
        key, now = split_by(call), wall.time()
        match = snapshot.rules.match(call.attributes, now, key=key)
        if snapshot.rules.has_shadows and not dry:
            for shadow in snapshot.rules.shadows(call.attributes, now, key=key):
                self._on_rule(f"{shadow.rule.name} (shadow)")
        resolved = self._resolved.get((id(match), call.endpoint))
        if resolved is None or resolved.match is not match or snapshot is not self._snapshot:
            resolved = self._look_up(call, match, snapshot)
        if resolved.rule and not dry:
            self._on_rule(resolved.rule)
        return resolved

    def _look_up(self, call: Call, match: RuleMatch | None, snapshot: Snapshot) -> Resolved:
        names = [snapshot.default_model] if match is None else list(match.targets)
        routers = []
        for name in names:
            router = snapshot.models.get(name)
            if router is not None and router.model.fits(call.endpoint):
                routers.append(router)
        if not routers:
            raise nobody(call, match is not None)
        resolved = _resolved(tuple(routers), "" if match is None else match.rule.name, match)
        return self._keep(resolved, (id(match), call.endpoint), snapshot)

    def _keep(self, resolved: Resolved, key: tuple[int, str], snapshot: Snapshot) -> Resolved:
        """Note it for the next call of the kind; it holds on to what its key is the identity of."""
        if snapshot is self._snapshot:
            if len(self._resolved) >= _KEPT:
                self._resolved.clear()
            self._resolved[key] = resolved
        return resolved


def _resolved(routers: tuple[ModelRouter, ...], rule: str = "", match: RuleMatch | None = None) -> Resolved:
    return Resolved(routers, rule, match, len(routers) == 1 and not routers[0].sleepers)


def split_by(call: Call) -> str:
    """Return what shares of rules are drawn by: the same for all calls of one session or user."""
    return call.sticky or call.attributes.user_id or call.request_id
