"""Gateways with trials for tests: scripted models, a clock that is moved, one store for several of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from router_core.errors import RouterError, StoreError
from router_core.gateway.config.load import parse_config
from router_core.gateway.gateway import Gateway
from router_core.gateway.pipeline import Served
from router_core.gateway.select.bounds import Bounds
from router_core.gateway.trials.experiment import Experiment
from router_core.gateway.trials.parse import parse_experiment, parse_rollout
from router_core.gateway.trials.rollout import Rollout
from router_core.gateway.values import GatewayConfig
from router_core.state import Entry, StatePage, StateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Note
from tests.gateway.calling import make_call

__all__ = ["FAILING", "GOOD", "Breakable", "Moved", "Place", "config", "experiment", "gone", "rollout"]


GOOD = {"old": "seed: 1", "new": "seed: 2"}
FAILING = {"old": "seed: 1", "new": "fail_rate: 0.5, fail_status: 500, seed: 2"}
"""Models: the canary fails half of its calls."""


class Moved:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        """Return the time."""
        return self.at

    def monotonic(self) -> float:
        """Return the time."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Move it."""
        self.at += seconds


class Breakable:
    """A store that can be away, and lets others have their turn before it answers."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.away = False
        self.writes = 0

    def _here(self) -> StateStore:
        if self.away:
            raise StoreError("it is away")
        return self._store

    async def get(self, key: str) -> Entry | None:
        """Pass on."""
        found = await self._here().get(key)
        await asyncio.sleep(0)
        return found

    async def put(self, key: str, value: bytes, **how: Any) -> str:
        """Pass on."""
        self.writes += 1
        await asyncio.sleep(0)
        return await self._here().put(key, value, **how)

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Pass on."""
        return await self._here().delete(key, if_version=if_version)

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Pass on."""
        return await self._here().increment(key, by, ttl=ttl, limit=limit)

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """Pass on."""
        return await self._here().entries(prefix, cursor=cursor, limit=limit)

    async def ping(self) -> None:
        """Pass on."""
        await self._here().ping()

    async def open(self) -> None:
        """Pass on."""

    async def close(self) -> None:
        """Pass on."""


def config(models: Mapping[str, str], *trials: Rollout | Experiment, more: str = "") -> GatewayConfig:
    """Return a configuration: name of a model -> args of its scripted deployment, in YAML."""
    lines = ["models:"]
    for name, args in models.items():
        lines += [f"  - id: {name}", "    type: text-generation", "    clients:",
                  f"      - {{id: {name}-1, type: scripted, model: up, args: {{{args}}}}}"]  # fmt: skip
    made = parse_config("\n".join([*lines, more, ""]), "gateway.yaml", {})
    return replace(
        made,
        rollouts=tuple(each for each in trials if isinstance(each, Rollout)),
        experiments=tuple(each for each in trials if isinstance(each, Experiment)),
    )


def rollout(**more: Any) -> Rollout:
    """Return a rollout from ``old`` to ``new``; how long calls take here says nothing about models."""
    return parse_rollout({
        "id": "r", "model": "old", "canary": "new", "intervalSeconds": 60, "minRequests": 20,
        "success": {"maxErrorRateIncrease": 0.02}, "rollback": {"maxErrorRateIncrease": 0.05},
    } | more)  # fmt: skip


def experiment(**more: Any) -> Experiment:
    """Return an experiment between ``old`` and ``new``."""
    two = [{"name": "a", "modelId": "old"}, {"name": "b", "modelId": "new"}]
    return parse_experiment({"id": "e", "model": "old", "variants": two} | more)


class Place:
    """A gateway without an app, and what came of its calls."""

    def __init__(self, made: GatewayConfig, store: StateStore | None = None) -> None:
        self.clock = Moved()
        self.store = store or MemoryStateStore(self.clock)
        self.gateway = Gateway(made, environ={}, rng=random.Random(7), clock=self.clock, state=self.store)
        self.trials = self.gateway.trials
        self.seen: list[Any] = []
        self.gateway.events.subscribe(self.seen.append)
        self.arms: dict[str, int] = {}
        """Arm -> calls that fell to it."""
        self.failed = 0
        self._calls = 0

    async def call(
        self, user: str = "", model: str = "old", bounds: Bounds | None = None, **more: Any
    ) -> Served | None:
        """Make one call, each of another user unless one is named; None: it failed."""
        self._calls += 1
        call = make_call("chat/completions", {
            "model": model, "messages": [{"role": "user", "content": "Hello!"}], "user": user, **more,
        })  # fmt: skip
        call.bounds = bounds
        call.sticky = user or f"user {self._calls}"
        call.started = time.monotonic()
        call.request_id = f"request-{id(self)}-{self._calls}"
        served: Served | None = None
        try:
            served = await self.gateway.pipeline.serve(call)
        except RouterError:
            self.failed += 1
        self.arms[call.trial] = self.arms.get(call.trial, 0) + 1
        self.last = call
        return served

    async def calls(self, count: int, *, tick_every: int = 0) -> None:
        """Make calls of so many users."""
        for place in range(count):
            await self.call()
            if tick_every and place % tick_every == tick_every - 1:
                await self.trials.tick()

    def status(self, trial: str = "r") -> str:
        """Return how a trial stands here."""
        kind = "rollout" if trial == "r" else "experiment"
        state = self.trials.get(trial, kind).state
        return "unknown" if state is None else state.status

    def notes(self, prefix: str = "rollout_") -> list[str]:
        """Return what was told of trials."""
        notes = [each.name for each in self.seen if isinstance(each, Note)]
        return [name for name in notes if name.startswith(prefix)]


@contextmanager
def gone(store: Breakable) -> Iterator[None]:
    """Let the store be away for a while."""
    store.away = True
    try:
        yield
    finally:
        store.away = False
