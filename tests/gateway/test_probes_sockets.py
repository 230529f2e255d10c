"""Probes of real clients over real sockets, into the registry that calls go by."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router_core.gateway.health.probes import Prober
from router_core.gateway.registry import Registry
from router_core.gateway.resilience.standing import Standing, Standings
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Deployment, GatewayConfig, HealthPolicy, Model, Secret
from router_core.telemetry.events import Events, Note
from router_core.testing.upstream import Behaviour, Seen, Upstream, closed_port
from router_core.testing.upstream_faults import endless_line, gzip_bomb, hang, ok, reset_before, status

METRICS = b'vllm:num_requests_waiting{engine="0"} 6.0\nvllm:num_requests_running{engine="0"} 9.0\n'
CANARY = "sk-canary-0123456789abcdef"


class World:
    """A registry with one model, and its prober."""

    def __init__(self, pool: ConnectionPool, *deployments: Deployment) -> None:
        self.notes: list[Note] = []
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        self.standings = Standings(events, random.Random(1))
        self.registry = Registry(pool, self.standings, events)
        self.registry.apply(GatewayConfig(models=(Model("turbo", "text-generation", deployments),)))
        self.ahead = 0.0
        self.prober = Prober(self.registry, events, rng=random.Random(7), time=self.time)

    def time(self) -> float:
        """Return the time of the loop, moved forward by the test."""
        return asyncio.get_running_loop().time() + self.ahead

    async def round(self, seconds: float = 15.0) -> None:
        """Let so much time pass, and do what is due at the end of it."""
        self.ahead += seconds
        await self.prober.tick()
        await self.prober.idle()

    def standing(self, name: str) -> Standing:
        """Return how one stands."""
        found = self.standings.find(name)
        assert found is not None
        return found


def place(name: str, url: str, kind: str = "vllm", **more: Any) -> Deployment:
    """Return a deployment."""
    health = more.pop("health", None) or HealthPolicy(timeout=30.0)
    return Deployment(
        name, "turbo", kind, "llama", base_url=f"{url}/v1", key=Secret(CANARY), health=health, **more
    )


@asynccontextmanager
async def world(*deployments: Deployment) -> AsyncIterator[World]:
    """Have everybody asked once."""
    pool = ConnectionPool()
    try:
        made = World(pool, *deployments)
        await made.round(0.0)
        await made.round(3.0)
        yield made
    finally:
        await pool.aclose()


def vllm(health: Behaviour) -> Any:
    """Answer as vLLM does, with this health."""

    def script(request: Seen) -> Behaviour:
        return ok(METRICS, headers={"content-type": "text/plain"}) if request.path == "/metrics" else health

    return script


async def test_a_server_of_ones_own_is_asked_for_health_and_metrics() -> None:
    """By GET, with our key, beside the traffic; nothing is generated."""
    async with Upstream(vllm(ok(b""))) as upstream, world(place("a", upstream.url)) as made:
        assert [(seen.method, seen.path) for seen in upstream.requests] == [
            ("GET", "/health"),
            ("GET", "/metrics"),
        ]
        assert made.standing("a").probe_ok is True
        assert made.standing("a").queue == 6


async def test_a_provider_is_asked_for_its_models() -> None:
    """Which is free; a key that it refuses is reported without being shown."""
    async with Upstream() as upstream, world(place("a", upstream.url, "openai")) as made:
        assert [(seen.method, seen.path) for seen in upstream.requests] == [("GET", "/v1/models")]
        assert made.standing("a").probe_ok is True
        upstream.script = ok({"error": {"message": f"{CANARY} is wrong"}}, code=401)
        await made.round()
        await made.round()
        assert made.standing("a").out(made.time()) == ""
        assert [note.name for note in made.notes] == ["probe_misconfigured"]
        assert CANARY not in repr(made.notes)


@pytest.mark.parametrize(
    "behaviour",
    [status(503), hang(), reset_before(), ok(code=302, headers={"location": "/"}), gzip_bomb(200_000_000),
     endless_line(200_000_000)],
    ids=["503", "hang", "reset", "redirect", "bomb", "endless"],
)  # fmt: skip
async def test_what_marks_down(behaviour: Behaviour) -> None:
    """Twice in a row, whatever it is; and it comes back with the first good answer."""
    health = HealthPolicy(timeout=0.1 if behaviour.name == "hang" else 30.0)
    async with Upstream(behaviour) as upstream, world(place("a", upstream.url, health=health)) as made:
        assert made.standing("a").out(made.time()) == ""
        await made.round(4.0)
        assert made.standing("a").out(made.time()) == "unhealthy"
        upstream.script = vllm(ok(b""))
        while made.standing("a").out(made.time()):  # a busy machine may not answer a probe in time
            assert made.ahead < 600
            await made.round()


async def test_one_that_is_down_from_the_start() -> None:
    """Is registered, found unhealthy, and used again when somebody listens there."""
    with closed_port() as port:
        async with world(place("a", f"http://127.0.0.1:{port}")) as made:
            await made.round(4.0)
            assert made.standing("a").out(made.time()) == "unhealthy"
            assert "refused" in made.standing("a").probe_detail


async def test_when_all_are_down_somebody_is_asked_all_the_same() -> None:
    """That every probe fails may be the fault of the probes."""
    from router_core.gateway.call import Call

    with closed_port() as port:
        places = [place(name, f"http://127.0.0.1:{port}") for name in "ab"]
        async with world(*places) as made:
            await made.round(4.0)
            now = made.time()
            assert [made.standing(name).out(now) for name in "ab"] == ["unhealthy"] * 2
            router = made.registry.snapshot.models["turbo"]
            assert router.selector.pick(Call("chat/completions", "turbo"), now, ()) is not None
