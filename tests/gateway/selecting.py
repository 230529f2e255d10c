"""Models, candidates and calls for the tests of selection; the standings are real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

from router_core.gateway.call import Call
from router_core.gateway.outcome import OK, Outcome
from router_core.gateway.reply import Reply
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.select.filters import PriceOf
from router_core.gateway.select.selector import Selector
from router_core.gateway.values import Deployment, Model, StrategyName

__all__ = [
    "FAILED", "Client", "Embedder", "answer", "break_circuit", "cool", "deployment", "make_call", "select",
    "served", "standing",
]  # fmt: skip

FAILED = Outcome("server_error", "retry", failure=True, status=500)


class Client:
    """Speaks to nobody; selection asks it only for its endpoints."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"chat/completions": "/chat/completions"}

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    async def send(self, call: Call, deadline: float) -> Reply:
        """Never happens: selection sends nothing."""
        raise AssertionError("selection has sent something")

    async def aclose(self) -> None:
        """Hold nothing."""


class Embedder(Client):
    """One with another endpoint."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"embeddings": "/embeddings"}


def deployment(name: str, **values: Any) -> Deployment:
    """Make a deployment of model ``m``."""
    return Deployment(name, "m", "openai", "upstream", **values)


def select(
    strategy: StrategyName, *deployments: Deployment, seed: int = 1, price_of: PriceOf | None = None,
    clients: Mapping[str, type[Client]] | None = None, **model: Any,
) -> Selector:  # fmt: skip
    """Make the selector of a model; three deployments a, b and c unless others are given."""
    found = deployments or tuple(deployment(name) for name in "abc")
    values = {"deployments": found, "strategy": strategy} | model
    made = replace(Model("m", "text-generation", ()), **values)
    candidates = [
        Candidate(each, Standing(each, made.breaker, lambda *_: None, Random(seed).random),
                  (clients or {}).get(each.id, Client)(each))
        for each in found
    ]  # fmt: skip
    return Selector(made, candidates, rng=Random(seed), price_of=price_of)


def make_call(**values: Any) -> Call:
    """Make a chat call with some of its members set."""
    call = Call(values.pop("endpoint", "chat/completions"), "m")
    for name, value in values.items():
        setattr(call, name, value)
    return call


def served(selector: Selector, count: int, call: Call | None = None, now: float = 0.0) -> dict[str, int]:
    """Pick so many times, with nobody in flight, and return how often each was chosen."""
    call = call or make_call()
    found = {each.id: 0 for each in selector.candidates}
    for _ in range(count):
        chosen = selector.pick(call, now)
        assert chosen is not None
        found[chosen.id] += 1
    return found


def standing(selector: Selector, name: str) -> Standing:
    """Return the standing of one."""
    return next(each.standing for each in selector.candidates if each.id == name)


def break_circuit(selector: Selector, *names: str, now: float = 0.0) -> None:
    """Let calls fail until the circuits of these are open."""
    for name in names:
        target = standing(selector, name)
        while not target.out(now):
            permit = target.begin(now)
            assert permit is not None
            target.end(permit, FAILED, now, 0.1)


def cool(selector: Selector, name: str, seconds: float, now: float = 0.0) -> None:
    """Let one ask to be left alone."""
    target = standing(selector, name)
    permit = target.begin(now)
    assert permit is not None
    target.end(permit, Outcome("rate_limited", "retry", cooldown=seconds, status=429), now, 0.1)


def answer(selector: Selector, name: str, seconds: float, now: float = 0.0) -> None:
    """Let one answer a call in so many seconds."""
    target = standing(selector, name)
    permit = target.begin(now)
    assert permit is not None
    target.end(permit, OK, now, seconds)
