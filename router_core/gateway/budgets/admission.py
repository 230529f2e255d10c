"""Holds calls to the limits of their workspace, their caller and their model, all of them or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from router_core.errors import HTTPError
from router_core.gateway.budgets.plan import Plan, Rates
from router_core.gateway.budgets.told import Told
from router_core.gateway.call import Call, Usage
from router_core.gateway.select.bounds import Bounds
from router_core.gateway.values import GatewayConfig, Limit, Workspace
from router_core.quota.quota import Demand, Exceeded, Quota, Taken
from router_core.quota.waiting import Later
from router_core.types import Allowance, Principal

__all__ = ["Allowed", "Budgets", "subject_of"]

_KEPT: Final = 10_000
"""Callers whose limits are remembered."""

_LONGEST: Final = 900.0
"""Seconds that a call may go on where processes are frozen between calls."""

LimitsOf = Callable[[Principal], Sequence[Limit | Allowance]]


def subject_of(kind: str, name: str) -> str:
    """Return the name of an account: of a ``workspace``, a ``caller`` or a ``model``."""
    return f"{kind}:{name}"


class Allowed:
    """What one call holds of its limits."""

    __slots__ = ("_held", "_plans", "_told")

    def __init__(self, plans: Sequence[Plan], held: Sequence[Taken], told: Told) -> None:
        self._plans = plans
        self._held = held
        self._told = told

    def settle(self, cost_micros: int | None, usage: Usage | None, now: float) -> None:
        """Book what the call has used; what has no price costs nothing."""
        tokens = 0 if usage is None else usage.input_tokens + usage.output_tokens
        for plan, taken in zip(self._plans, self._held, strict=False):
            taken.settle(plan.used(cost_micros or 0, tokens))

    def release(self, now: float) -> None:
        """Give everything back but the request, which was made."""
        for plan, taken in zip(self._plans, self._held, strict=True):
            taken.settle(plan.used(0, 0))

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return how the limits by the minute stand, in the headers that clients of OpenAI know."""
        return self._told.headers(self._held)


class Budgets:
    """The admission of a gateway. Where nothing is limited it costs a look into two tables."""

    __slots__ = ("_bounds", "_callers", "_config", "_config_of", "_limits_of", "_models", "_rates", "_told",
                 "_who", "_workspaces", "quota")  # fmt: skip

    def __init__(
        self, quota: Quota, config_of: Callable[[], GatewayConfig], rates: Rates, *,
        limits_of: LimitsOf | None = None, who: Callable[[Call], tuple[str, ...]] | None = None,
    ) -> None:  # fmt: skip
        """``limits_of`` tells what a caller may use, by default what its key says; ``who`` the models of a
        call that leaves them to rules, in their order."""
        self.quota = quota
        self._config_of = config_of
        self._rates = rates
        self._limits_of = limits_of
        self._told = Told()
        self._who = who
        self._config: GatewayConfig | None = None
        self._workspaces: dict[str, Plan] = {}
        self._models: dict[str, Plan] = {}
        self._callers: dict[str, tuple[object, Plan]] = {}
        self._bounds: dict[int, tuple[Bounds | None, Bounds]] = {}

    def admit(self, call: Call, now: float) -> Allowed | Awaitable[Allowed] | None:
        """Return what a call holds, or None where nothing limits it. Raises 429, or 503 where the shared
        state cannot be asked."""
        config = self._config_of()
        if config is not self._config:
            self._follow(config)
        plans = self._plans(call)
        name = call.model_name
        all_of: tuple[str, ...] = ()
        if (plans or self._models) and self._who is not None and name not in self._rates.models:
            all_of = self._who(call)
            name = all_of[0]
        if name in self._models:
            plans.append(self._models[name])
            if plans[-1].priced:
                call.bounds = self._priced(call.bounds)
        if not plans:
            return None
        rate = self._rates.of_all(all_of, now) if len(all_of) > 1 else self._rates.of(name, now)
        demands = [Demand(plan.subject, plan.caps, plan.wants(call, rate)) for plan in plans]
        try:
            taken = self.quota.take_all(demands, within=min(call.deadline - now, _LONGEST))
        except Exceeded as error:
            raise refused(error) from None
        if isinstance(taken, list):
            allowed = call.allowance = Allowed(plans, taken, self._told)
            return allowed
        return Later(lambda: self._wait(call, plans, taken))

    async def _wait(self, call: Call, plans: Sequence[Plan], taken: Awaitable[list[Taken]]) -> Allowed:
        try:
            allowed = call.allowance = Allowed(plans, await taken, self._told)
        except Exceeded as error:
            raise refused(error) from None
        return allowed

    def plan(self, workspace: str) -> Plan | None:
        """Return the limits of a workspace that has any."""
        config = self._config_of()
        if config is not self._config:
            self._follow(config)
        return self._workspaces.get(workspace)

    def _priced(self, bounds: Bounds | None) -> Bounds:
        """Return the bounds of a call that may be served by what has a price alone."""
        known = self._bounds.get(id(bounds))
        if known is None or known[0] is not bounds:
            if len(self._bounds) >= _KEPT:
                self._bounds.clear()
            known = self._bounds[id(bounds)] = (bounds, replace(bounds or Bounds(), priced=True))
        return known[1]

    def _plans(self, call: Call) -> list[Plan]:
        plans = []
        if call.workspace:
            found = self._workspaces.get(call.workspace)
            if found is not None:
                plans.append(found)
        limits = call.principal.limits if self._limits_of is None else self._limits_of(call.principal)
        if limits:
            plans.append(self._caller(call.principal, limits))
        return plans

    def _caller(self, principal: Principal, limits: Sequence[Limit | Allowance]) -> Plan:
        known = self._callers.get(principal.id)
        if known is not None and (known[0] is limits or known[0] == limits):
            return known[1]
        if len(self._callers) >= _KEPT:
            self._callers.clear()
        plan = Plan(subject_of("caller", principal.id), [_limit(each) for each in limits])
        self._callers[principal.id] = (limits, plan)
        return plan

    def _follow(self, config: GatewayConfig) -> None:
        self._workspaces = {each.id: _plan(each) for each in config.workspaces if each.limits}
        self._models = {
            name: plan
            for model in config.models if model.limits
            for plan in [Plan(subject_of("model", model.id), model.limits)]
            for name in (model.id, *model.aliases)
        }  # fmt: skip
        self._rates.follow(config)
        self._config = config


def refused(error: Exceeded) -> HTTPError:
    """Return what the caller is told."""
    kind, _, name = error.subject.partition(":")
    whose = {"workspace": f"the workspace {name}", "model": f"the model {name}"}.get(kind, "this caller")
    what = _WORDS.get(error.cap.name, "limit")
    return HTTPError(
        429, f"{whose} has reached its {what}", code=error.code, headers=error.headers,
        extra={"limit": error.cap.name, "of": kind},
    )  # fmt: skip


_WORDS: Final = {
    "daily": "budget of the day", "weekly": "budget of the week", "monthly": "budget of the month",
    "requests": "limit of requests by the minute", "tokens": "limit of tokens by the minute",
    "concurrency": "limit of calls at once",
}  # fmt: skip


def _plan(workspace: Workspace) -> Plan:
    return Plan(subject_of("workspace", workspace.id), workspace.limits)


def _limit(given: Limit | Allowance) -> Limit:
    """Return a limit of a caller, who may have been given it by another part than the gateway's."""
    return Limit(
        given.kind, given.amount, "open" if given.on_store_failure == "open" else "closed",
        tuple(given.alerts),
    )  # fmt: skip
