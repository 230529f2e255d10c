"""Read how deployments and models are treated: timeouts, retries, breakers, health, prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from router_core.gateway.config.section import Section
from router_core.gateway.values import (
    BreakerPolicy,
    EjectionPolicy,
    HealthPolicy,
    HedgePolicy,
    Price,
    RetryPolicy,
    Timeouts,
)

__all__ = ["breaker", "ejection", "health", "hedge", "price", "retry", "timeouts"]

Range = tuple[float, float]
Policy = TypeVar("Policy")

_DAY: Final = 86400.0
_TIMEOUTS: Final[Mapping[str, Range]] = {
    "connect": (0.001, 600), "first_byte": (0.001, _DAY), "idle": (0.001, _DAY), "total": (0.001, _DAY),
}  # fmt: skip
_RETRY: Final[Mapping[str, Range]] = {
    "max_attempts": (1, 20), "budget_ratio": (0, 1), "budget_floor": (0, 1e6), "backoff": (0, 60),
    "backoff_max": (0, 600), "retry_after_max": (0, 3600),
}  # fmt: skip
_BREAKER: Final[Mapping[str, Range]] = {
    "window": (1, 3600), "ratio": (0.01, 1), "minimum": (1, 1e6), "in_a_row": (1, 1e6),
    "open_for": (0.01, 3600), "open_max": (0.01, 3600), "probes": (1, 1000), "successes": (1, 1000),
    "probe_lease": (0.1, 3600),
}  # fmt: skip
_EJECTION: Final[Mapping[str, Range]] = {
    "interval": (0.1, 3600), "minimum": (1, 1e6), "failure_gap": (0, 1), "latency_factor": (1, 1e6),
    "eject_for": (0, 3600), "max_share": (0, 1), "panic": (0, 1),
}  # fmt: skip
_HEDGE: Final[Mapping[str, Range]] = {"after": (0.001, 3600), "max_share": (0, 1)}
_HEALTH: Final[Mapping[str, Range]] = {"interval": (0, _DAY), "timeout": (0.01, 600)}


def _policy(section: Section, kind: type[Policy], ranges: Mapping[str, Range], **base: Any) -> Policy:
    """Read the fields of a policy by their types; what is not written keeps its default."""
    values = dict(base)
    for each in fields(kind):  # type: ignore[arg-type]  # they are all dataclasses
        name = each.name
        if section.find(name) is None:
            continue
        if each.type == "bool":
            values[name] = section.flag(name)
        elif each.type == "str":
            values[name] = section.text(name)
        elif each.type == "int":
            least, most = ranges[name]
            whole = section.whole(name, least=int(least), most=int(most))
            values[name] = each.default if whole is None else whole
        else:
            least, most = ranges[name]
            fallback = each.default if isinstance(each.default, float) else least
            values[name] = section.number(name, default=fallback, least=least, most=most)
    section.close()
    return kind(**values)


def timeouts(section: Section, base: Timeouts) -> Timeouts:
    """Read ``timeout`` (one number, as Albert has it) and ``timeouts`` (phase by phase, which wins).

    One number is how long the upstream may be silent: that is what it meant to the client it was written for.
    """
    seconds = section.number("timeout", "api_timeout", default=0.0, least=0.001, most=_DAY)
    if seconds:
        base = Timeouts(
            min(base.connect, seconds), seconds, min(base.idle, seconds), max(base.total, seconds)
        )
    phases = section.section("timeouts")
    if phases is None:
        return base
    return _policy(phases, Timeouts, _TIMEOUTS, connect=base.connect, first_byte=base.first_byte,
                   idle=base.idle, total=base.total)  # fmt: skip


def retry(section: Section) -> RetryPolicy:
    """Read ``retry``."""
    if section.off("retry"):
        return RetryPolicy(max_attempts=1)
    found = section.section("retry")
    return RetryPolicy() if found is None else _policy(found, RetryPolicy, _RETRY)


def breaker(section: Section) -> BreakerPolicy:
    """Read ``breaker``."""
    found = section.section("breaker")
    if found is None:
        return BreakerPolicy()
    policy = _policy(found, BreakerPolicy, _BREAKER)
    if policy.open_max < policy.open_for:
        found.wrong("open_max", f"is less than open_for ({policy.open_for:g}); make it at least that")
    return policy


def ejection(section: Section) -> EjectionPolicy:
    """Read ``ejection``."""
    if section.off("ejection"):
        return EjectionPolicy(enabled=False)
    found = section.section("ejection")
    return EjectionPolicy() if found is None else _policy(found, EjectionPolicy, _EJECTION)


def hedge(section: Section) -> HedgePolicy | None:
    """Read ``hedge``; there is no hedging without it."""
    if section.off("hedge"):
        return None
    found = section.section("hedge")
    if found is None:
        return None
    if found.find("after") is None:
        found.problems.add(found.line, f"{found.name} needs an after: seconds without an answer")
    return _policy(found, HedgePolicy, _HEDGE, after=1.0)


def health(section: Section, base: HealthPolicy) -> HealthPolicy:
    """Read ``health``; ``false`` switches the active probes off."""
    if section.off("health"):
        return HealthPolicy(interval=0.0, timeout=base.timeout)
    found = section.section("health")
    if found is None:
        return base
    policy = _policy(found, HealthPolicy, _HEALTH, interval=base.interval, timeout=base.timeout,
                     billed=base.billed, path=base.path)  # fmt: skip
    if policy.path and not (policy.path.startswith("/") and policy.path.isascii() and " " not in policy.path):
        found.wrong("path", "must begin with / and hold no spaces")
    return policy


def price(section: Section, base: Price | None) -> Price | None:
    """Read what a million tokens cost, in dollars, in any of the ways in which it is written."""
    flat = _price(section, "cost_prompt_tokens", "cost_completion_tokens")
    flat = _price(section, "model_cost_prompt_tokens", "model_cost_completion_tokens") or flat
    costs = section.section("costs")
    if costs is not None:
        flat = _price(costs, "prompt_tokens", "completion_tokens") or flat
        costs.close()
    own = section.section("price")
    if own is None:
        return flat or base
    if flat is not None:
        section.wrong("price", "says the same as the costs beside it; keep one of them")
    read = _price(own, "input", "output", "cached_input", "request")
    own.close()
    return read


def _price(section: Section, *names: str) -> Price | None:
    there = [section.find(name) for name in names]  # all are asked for, so that all are known
    if there == [None] * len(names):
        return None
    found = [section.money(name) for name in names]
    first, second, cached, request = [*found, None, None][:4]
    return Price(first or 0, second or 0, cached, request or 0)
