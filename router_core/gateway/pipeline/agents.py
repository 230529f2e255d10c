"""Which models serve agents of a type where no rule decides: what they prefer, if it is good enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from router_core.gateway.call import Call
from router_core.gateway.registry import ModelRouter, Snapshot
from router_core.gateway.values import AgentPreferences, Requirements

__all__ = ["AgentChoice", "AgentTable"]

_FRESH: Final = 1.0
"""Seconds for which what was measured holds."""
_KEPT: Final = 1024
_FEW: Final = 20
"""Calls below which a share of failures says nothing."""
_MEASURED: Final = frozenset({"success_rate", "latency"})
"""Reasons that are opinions: given up where nobody else is left."""
_ABSENT: Final = frozenset({"unknown", "inactive", "endpoint"})
_IMPLIED: Final = {"image-text-to-text": frozenset({"image-text-to-text", "text-generation", "vision"})}
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """What the preferences of an agent come to at a moment."""

    agent_type: str
    routers: tuple[ModelRouter, ...]
    """In the order to ask them."""
    removed: tuple[tuple[str, str, str], ...] = ()
    """Model, word and words for what speaks against it."""
    reason: str = ""
    """``last_resort``: nobody was good enough, so what was measured is ignored."""
    needs: frozenset[str] = frozenset()
    """What the deployment has to be able to do, beside what its model does anyway."""

    @property
    def absent(self) -> bool:
        """Return whether there is nothing here of what the agent asks for: no model, not one too bad."""
        return not self.routers and all(reason in _ABSENT for _, reason, _ in self.removed)

    def explain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "agentType": self.agent_type,
            "models": [each.id for each in self.routers],
            "reason": self.reason or None,
            "removed": [
                {"modelId": model, "reason": reason, "detail": detail}
                for model, reason, detail in self.removed
            ],
        }


class AgentTable:
    """The preferences of one configuration."""

    __slots__ = ("_by_type", "_kept", "_time")

    def __init__(self, preferences: Iterable[AgentPreferences], time: Callable[[], float]) -> None:
        """``time`` is the clock of the standings of deployments."""
        self._by_type = {each.agent_type: each for each in preferences}
        self._kept: dict[tuple[str, str], tuple[float, AgentChoice]] = {}
        self._time = time

    def choose(self, call: Call, snapshot: Snapshot) -> AgentChoice | None:
        """Return whom the agent of a call is served by, or None where nothing is said about such agents."""
        name = call.attributes.agent_type
        preferences = self._by_type.get(name)
        if preferences is None:
            return None
        now = self._time()
        held = self._kept.get((name, call.endpoint))
        if held is not None and now - held[0] < _FRESH:
            return held[1]
        choice = _choose(preferences, call.endpoint, snapshot, now)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[name, call.endpoint] = (now, choice)
        return choice


def _choose(wanted: AgentPreferences, endpoint: str, snapshot: Snapshot, now: float) -> AgentChoice:
    removed: list[tuple[str, str, str]] = []
    routers: list[ModelRouter] = []
    doubted: list[ModelRouter] = []
    for name in dict.fromkeys((*wanted.preferred, *wanted.fallback)):
        router = snapshot.models.get(name)
        if router is None:
            removed.append((name, *_missing(name, snapshot)))
            continue
        against = _against(router, wanted.requirements, endpoint, now)
        if against is None:
            routers.append(router)
            continue
        removed.append((name, *against))
        if against[0] in _MEASURED:
            doubted.append(router)
    reason = "last_resort" if doubted and not routers else ""
    needs = _needs(wanted.requirements.capabilities, [each.type for each in routers or doubted])
    return AgentChoice(wanted.agent_type, tuple(routers or doubted), tuple(removed), reason, needs)


def _missing(name: str, snapshot: Snapshot) -> tuple[str, str]:
    status = next((each.status for each in snapshot.config.models if each.id == name), "")
    return ("inactive", f"its status is {status}") if status else ("unknown", "there is no such model")


def _against(router: ModelRouter, asked: Requirements, endpoint: str, now: float) -> tuple[str, str] | None:
    """Return what speaks against a model, the gravest first: a word and words."""
    model = router.model
    if not model.fits(endpoint):
        return "endpoint", f"it cannot be called through {endpoint}"
    needs = _needs(asked.capabilities, [model.type])
    able = [each for each in router.candidates
            if not each.deployment.capabilities or needs <= each.deployment.capabilities]  # fmt: skip
    if not able:
        return "capabilities", f"none of its deployments has {', '.join(sorted(needs))[:200]}"
    return _too_dear(router, asked) or _too_bad(router, asked, now)


def _needs(capabilities: frozenset[str], types: list[str]) -> frozenset[str]:
    """Return the capabilities that do not follow from what kind of model it is."""
    for each in types:
        capabilities = capabilities - _IMPLIED.get(each, frozenset({each}))
    return capabilities


def _too_dear(router: ModelRouter, asked: Requirements) -> tuple[str, str] | None:
    most = asked.max_cost_per_token
    if not most:
        return None
    for candidate in router.candidates:
        deployment = candidate.deployment
        reading = router.selector.cost(
            deployment, Call("chat/completions", "", input_tokens=_MILLION, max_tokens=0)
        )
        writing = router.selector.cost(deployment, Call("chat/completions", "", max_tokens=_MILLION))
        if reading is None or writing is None:
            return "unpriced", f"the price of {deployment.id} is not known"
        dearest = max(reading, writing) / _MILLION / 1e6
        if dearest > most:
            return (
                "cost",
                f"a token costs up to {dearest:.9f} dollars at {deployment.id}, allowed are {most:g}",
            )
    return None


def _too_bad(router: ModelRouter, asked: Requirements, now: float) -> tuple[str, str] | None:
    totals = [each.standing.totals(now) for each in router.candidates]
    good, bad = sum(each[0] for each in totals), sum(each[1] for each in totals)
    if asked.min_success_rate and good + bad >= _FEW and good < asked.min_success_rate * (good + bad):
        rate = good / (good + bad)
        return (
            "success_rate",
            f"{rate:.1%} of its last calls succeeded, asked are {asked.min_success_rate:.1%}",
        )
    # as they fade: a model that is not asked any more gets another chance
    latencies = [
        each.standing.load(now) / (each.standing.inflight + 1)
        for each in router.candidates
        if each.standing.latency
    ]
    if asked.max_latency and latencies and min(latencies) > asked.max_latency:
        told = (
            f"its calls take about {min(latencies) * 1000:.0f} ms, asked are {asked.max_latency * 1000:.0f}"
        )
        return "latency", told
    return None
