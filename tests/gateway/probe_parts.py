"""Upstreams that answer probes as a test says, and a prober whose clock stands still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.call import Call
from router_core.gateway.clients.probe import HEALTH, Probe
from router_core.gateway.health.probes import Prober
from router_core.gateway.outcome import OK, Outcome
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.resilience.standing import Standings
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import BreakerPolicy, Deployment, EjectionPolicy, HealthPolicy, Model
from router_core.telemetry.events import Events, Note

DOWN = UpstreamFailure("refused", "connect", "nobody listens")
FAILED = Outcome("server_error", "retry", failure=True)


def replied(status: int = 200, body: bytes = b"{}") -> Reply:
    """Return an answer."""
    return Reply(status, {"content-type": "application/json"}, body)


class Upstream:
    """The client of a deployment, answering what it is told to."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {}

    def __init__(self, deployment: Deployment, probe: Probe | None = HEALTH) -> None:
        self.deployment = deployment
        self.probe = probe
        self.metrics: Probe | None = None
        self.says: Reply | Exception = replied()
        self.metrics_say: Reply | Exception = replied(404)
        self.asked: list[str] = []
        self.calls: list[Call] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    async def probe_once(self, timeout: float, probe: Probe | None = None) -> Reply:
        """Answer a probe."""
        path = (probe or HEALTH).path
        self.asked.append(path)
        return await self._answer(self.metrics_say if path == "/metrics" else self.says)

    async def send(self, call: Call, deadline: float) -> Reply:
        """Answer a call."""
        self.calls.append(call)
        return await self._answer(self.says)

    async def aclose(self) -> None:
        """Hold nothing."""

    async def _answer(self, says: Reply | Exception) -> Reply:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if isinstance(says, Exception):
            raise says
        return says


class Place:
    """A registry of stand-ins and a prober that looks after them."""

    def __init__(
        self, *deployments: Deployment, probe: Probe | None = HEALTH, kind: str = "text-generation",
        ready: Callable[[str], bool] | None = None, ledger: Ledger | None = None, at_once: int = 16,
        ejection: EjectionPolicy | None = None,
    ) -> None:  # fmt: skip
        self.now = 1000.0
        self.events = Events()
        self.notes: list[Note] = []
        self.events.subscribe(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        self.standings = Standings(self.events, random.Random(1))
        self.kind = kind
        self.ejection = ejection or EjectionPolicy(enabled=False)
        self.probe = probe
        self.snapshot: Any = None
        self.upstreams: dict[str, Upstream] = {}
        self.apply(*deployments)
        self.prober = Prober(
            self, self.events, ready=ready, ledger=ledger, rng=random.Random(7), time=lambda: self.now,
            at_once=at_once,
        )  # fmt: skip

    def apply(self, *deployments: Deployment) -> None:
        """Replace the configuration; clients of those that stay are kept."""
        kept = self.upstreams
        self.upstreams = {
            each.id: kept[each.id] if each.id in kept else Upstream(each, self.probe) for each in deployments
        }
        models = {}
        for name in {each.model_id for each in deployments}:
            own = tuple(each for each in deployments if each.model_id == name)
            model = Model(name, self.kind, own, ejection=self.ejection)
            candidates = tuple(
                Candidate(each, self.standings.get(each, BreakerPolicy()), self.upstreams[each.id])
                for each in own
            )
            models[name] = SimpleNamespace(model=model, candidates=candidates)
        self.snapshot = SimpleNamespace(models=models)

    def __getitem__(self, name: str) -> Upstream:
        return self.upstreams[name]

    def standing(self, name: str) -> Any:
        """Return how one stands."""
        return self.standings.find(name)

    async def round(self, seconds: float = 15.0) -> None:
        """Let so much time pass, and do what is due at the end of it."""
        self.now += seconds
        await self.prober.tick()
        await self.prober.idle()

    async def begin(self) -> None:
        """Have everybody asked for the first time."""
        await self.round(0.0)
        await self.round(3.0)

    def serve(self, name: str, outcome: Outcome = OK, times: int = 1) -> None:
        """Let calls end so at a deployment."""
        standing = self.standing(name)
        for _ in range(times):
            standing.end(standing.begin(self.now), outcome, self.now, 0.1)

    @property
    def told(self) -> list[str]:
        """Names of what was reported."""
        return [note.name for note in self.notes]


def place(name: str = "a", kind: str = "vllm", model: str = "m", **more: Any) -> Deployment:
    """Return a deployment that is probed every ten seconds."""
    more.setdefault("base_url", f"http://{name}.test/v1")
    more.setdefault("health", HealthPolicy())
    return Deployment(name, model, kind, "llama", **more)
