"""Who may serve a call: the model that it names, or what the rules say where it names none."""

from __future__ import annotations

import time as wall
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from router_core.errors import HTTPError
from router_core.gateway.call import Call
from router_core.gateway.pipeline.agents import AgentChoice, AgentTable
from router_core.gateway.pipeline.arms import Split, arms_of
from router_core.gateway.pipeline.failure import nobody
from router_core.gateway.registry import ModelRouter, Snapshot
from router_core.gateway.rules.engine import RuleMatch
from router_core.gateway.rules.shadow import ShadowCounts
from router_core.gateway.trials.live import Live
from router_core.gateway.trials.trials import Trials

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
    plain: bool = False
    """Whether the first of them never sleeps, so that it is asked without more ado."""
    split: Split | None = None
    """Where a trial decides which of several such values holds for a call."""
    of: Any = None
    """What its key is the identity of, beside a match."""
    ids: tuple[str, ...] = ()
    """Of the routers."""


class Resolver:
    """Turns the name in a call into the models to ask; remembers what it came to, for one snapshot."""

    __slots__ = ("_agents", "_on_rule", "_resolved", "_snapshot", "_time", "_trials",
                 "shadows")  # fmt: skip

    def __init__(
        self, on_rule: Callable[[str], None], trials: Trials | None = None,
        time: Callable[[], float] = wall.monotonic,
    ) -> None:  # fmt: skip
        """``on_rule`` is told of the rule that decided, by name; ``time`` is the clock of deployments."""
        self._on_rule = on_rule
        self._trials = trials
        self._time = time
        self.shadows = ShadowCounts()
        self._agents = AgentTable((), time)
        self._snapshot: Snapshot | None = None
        self._resolved: dict[tuple[int, str], Resolved] = {}
        """By match, model, trial or choice of an agent, and endpoint."""

    def follow(self, snapshot: Snapshot) -> None:
        """Forget what was remembered of another snapshot."""
        self._snapshot = snapshot
        self._agents = AgentTable(snapshot.config.agents, self._time)
        self._resolved.clear()

    def agent(self, call: Call, snapshot: Snapshot) -> AgentChoice | None:
        """Return what the agent of a call prefers, for whoever asks why."""
        table = self._agents
        if snapshot is not self._snapshot:
            table = AgentTable(snapshot.config.agents, self._time)
        return table.choose(call, snapshot)

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
        bounds = call.bounds
        if bounds is not None and bounds.models and router.id not in bounds.models:
            text = "this workspace may not use this model"
            raise HTTPError(403, text, code="model_not_allowed", extra={"param": "model"})
        if not router.model.fits(call.endpoint):
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        resolved = self._resolved.get((id(router), ""))
        if resolved is None or resolved.routers[0] is not router or snapshot is not self._snapshot:
            resolved = self._on_trial(call, _resolved((router,)), self._trial_of(router.id), snapshot)
            self._keep(resolved, (id(router), ""), snapshot)
        return resolved if resolved.split is None else resolved.split.of(call)

    def _by_rules(self, call: Call, snapshot: Snapshot, dry: bool) -> Resolved:
        key, now = split_by(call), wall.time()
        if self._trials is not None and self._trials.by_condition:
            tried = self._by_condition(call, snapshot, now)
            if tried is not None:
                return tried
        match = snapshot.rules.match(call.attributes, now, key=key)
        choice = None
        if match is None and snapshot.config.agents:
            choice = self.agent(call, snapshot)
            if choice is not None and choice.absent:
                choice = None
        which = match if choice is None else choice
        resolved = self._resolved.get((id(which), call.endpoint))
        if resolved is None or resolved.of is not which or snapshot is not self._snapshot:
            resolved = self._look_up(call, match, snapshot) if choice is None else self._by_agent(
                call, choice, snapshot
            )  # fmt: skip
        if resolved.rule and not dry:
            self._on_rule(resolved.rule)
        if snapshot.rules.has_shadows and not dry:
            self._shadow(snapshot.rules.shadows(call.attributes, now, key=key), resolved)
        if choice is not None and choice.needs:
            call.needs |= choice.needs
        return resolved if resolved.split is None else resolved.split.of(call)

    def _shadow(self, matches: Iterable[RuleMatch], resolved: Resolved) -> None:
        for match in matches:
            self._on_rule(f"{match.rule.name} (shadow)")
            if self.shadows.saw(match, resolved.routers[0].id):
                self._on_rule(f"{match.rule.name} (shadow agrees)")

    def _by_agent(self, call: Call, choice: AgentChoice, snapshot: Snapshot) -> Resolved:
        if not choice.routers:
            text = "no model is what this agent requires"
            raise HTTPError(422, text, code="no_model", extra={"agent": choice.explain()})
        resolved = _resolved(choice.routers, of=choice)
        resolved = self._on_trial(call, resolved, self._trial_of(choice.routers[0].id), snapshot)
        return self._keep(resolved, (id(choice), call.endpoint), snapshot)

    def _by_condition(self, call: Call, snapshot: Snapshot, now: float) -> Resolved | None:
        """Return what the first experiment whose condition holds makes of a call, or None."""
        for live in () if self._trials is None else self._trials.by_condition:
            if not live.holds(call, now):
                continue
            key = (id(live), call.endpoint)
            resolved = self._resolved.get(key)
            if resolved is None or resolved.of is not live or snapshot is not self._snapshot:
                routers = tuple(
                    router
                    for router in map(snapshot.models.get, live.arms)
                    if router is not None and router.model.fits(call.endpoint)
                )
                if not routers:
                    continue
                resolved = self._on_trial(call, _resolved(routers, of=live), live, snapshot, plain=_NOBODY)
                self._keep(resolved, key, snapshot)
            found: Resolved = resolved if resolved.split is None else resolved.split.of(call)
            if found is not _NOBODY:
                return found
        return None

    def _trial_of(self, model_id: str) -> Live | None:
        return None if self._trials is None else self._trials.by_model.get(model_id)

    def _on_trial(
        self, call: Call, resolved: Resolved, live: Live | None, snapshot: Snapshot, *,
        plain: Resolved | None = None,
    ) -> Resolved:  # fmt: skip
        """Return what a trial makes of it: the arm of the call decides which model is asked first."""
        if live is None:
            return resolved
        rule, match, of = resolved.rule, resolved.match, resolved.of

        def make(routers: tuple[ModelRouter, ...]) -> Resolved:
            return _resolved(routers, rule, match, of)

        arms = arms_of(live, resolved.routers, call, snapshot, make)
        return Resolved(resolved.routers, rule, match, False, Split(live, plain or resolved, arms), of)

    def _look_up(self, call: Call, match: RuleMatch | None, snapshot: Snapshot) -> Resolved:
        names = [snapshot.default_model] if match is None else list(match.targets)
        live = None
        if match is not None and self._trials is not None:
            live = self._trials.by_rule.get(match.rule.key)
            if live is not None:  # its stages stand in the place of the rule's own split
                names = [each.model_id for each in match.rule.targets]
        routers = []
        for name in names:
            router = snapshot.models.get(name)
            if router is not None and router.model.fits(call.endpoint):
                routers.append(router)
        if not routers:
            raise nobody(call, match is not None)
        resolved = _resolved(tuple(routers), "" if match is None else match.rule.name, match, match)
        live = live or self._trial_of(routers[0].id)
        return self._keep(
            self._on_trial(call, resolved, live, snapshot), (id(match), call.endpoint), snapshot
        )

    def _keep(self, resolved: Resolved, key: tuple[int, str], snapshot: Snapshot) -> Resolved:
        """Note it for the next call of the kind; it holds on to what its key is the identity of."""
        if snapshot is self._snapshot:
            if len(self._resolved) >= _KEPT:
                self._resolved.clear()
            self._resolved[key] = resolved
        return resolved


def _resolved(
    routers: tuple[ModelRouter, ...], rule: str = "", match: RuleMatch | None = None, of: Any = None
) -> Resolved:
    first = routers[0]
    plain = not (first.sleepers or first.model.wake_fallback)
    return Resolved(routers, rule, match, plain, None, of, tuple([each.id for each in routers]))


_NOBODY: Final = Resolved(())
"""What an experiment makes of calls that take no part: the rules are asked."""


def split_by(call: Call) -> str:
    """Return what shares of rules are drawn by: the same for all calls of one session or user."""
    return call.sticky or call.attributes.user_id or call.request_id
