"""Upstreams that are killed, hang and come back, under load: all processes, as is the gateway."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.gateways.failover import Callers, Made, Upstreams
from tests.served import Served, served

pytestmark = pytest.mark.process

_CIRCUIT = re.compile(r'model_router_circuit_state\{deployment="d(\d)"\} (\d)')
OPEN = 2


@dataclass(slots=True)
class Scene:
    """Everything of one test."""

    upstreams: Upstreams
    gateway: Served
    callers: Callers

    async def circuits(self) -> dict[int, int]:
        """Return the state of each circuit, by the number of the upstream."""

        def read() -> str:
            with urllib.request.urlopen(f"{self.gateway.url}/metrics", timeout=60) as answer:
                text: str = answer.read().decode()
                return text

        text = await asyncio.to_thread(read)
        return {int(number): int(state) for number, state in _CIRCUIT.findall(text)}

    async def until_circuits(self, holds: Callable[[dict[int, int]], bool], *, timeout: float) -> float:
        """Wait for a state of the circuits, and return how many seconds that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(timeout):
            while not holds(await self.circuits()):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
        return loop.time() - began


def configured(upstreams: Upstreams, model: str, first_byte: float) -> str:
    """Return a configuration with one model at all of the upstreams."""
    timeouts = f"{{connect: 1, first_byte: {first_byte}, idle: {first_byte}}}"
    clients = "".join(
        f"      - {{id: d{number}, model: up, type: vllm, args: {{base_url: 'http://127.0.0.1:{port}/v1'}},"
        f" timeouts: {timeouts}}}\n"
        for number, port in zip(upstreams.numbers, upstreams.ports, strict=True)
    )
    return f"models:\n  - id: m\n    type: text-generation\n    {model}\n    clients:\n{clients}"


ROUNDS = 4


@asynccontextmanager
async def scene(folder: Path, model: str, *, first_byte: float, pause: float) -> AsyncIterator[Scene]:
    """Yield four upstreams, a gateway in front of them, and 64 callers who call."""
    async with Upstreams(4) as upstreams:
        config = folder / "gateway.yaml"
        config.write_text(configured(upstreams, model, first_byte))
        environ = {"ROUTER_GATEWAY": str(config), "ROUTER_LOG_LEVEL": "error"}
        with served("router_core.gateway.app:create_app", folder, **environ) as gateway:
            async with Callers(gateway.port, "m", pause=pause).calling() as callers:
                yield Scene(upstreams, gateway, callers)


def told(made: list[Made]) -> str:
    """Return what a failure of the test shows of calls."""
    return "\n".join(f"{each.began:.3f}-{each.ended:.3f} {each.stream} {each.detail}" for each in made[:5])


async def through_it(one: Scene, *, timeout: float) -> None:
    """Kill half of them, let a third one hang, and bring all of them back."""
    upstreams, callers = one.upstreams, one.callers
    await callers.until(lambda: callers.served_since(0.0) == {1, 2, 3, 4}, timeout=timeout)
    upstreams.kill(1, 2)
    out = await one.until_circuits(lambda found: found[1] == found[2] == OPEN, timeout=timeout)
    # the threshold takes a moment to be reached, and this machine may be busy
    assert out < 3.0, f"left out {out:.2f} s after they were killed"
    upstreams.pause(3)
    await one.until_circuits(lambda found: found[3] == OPEN, timeout=timeout)
    await upstreams.start(1, 2)
    upstreams.resume(3)
    back = asyncio.get_running_loop().time()
    recovered = await callers.until(lambda: callers.served_since(back) == {1, 2, 3, 4}, timeout=30)
    assert recovered - back < 30.0
    await one.until_circuits(lambda found: set(found.values()) == {0}, timeout=timeout)


def judged(callers: Callers, rounds: int = 1) -> None:
    """Nothing has failed; streams that had begun at what was killed or hung have been told so."""
    failed = callers.of("failed")
    assert not failed, f"{len(failed)} of {len(callers.made)}:\n{told(failed)}"
    broken = callers.of("interrupted")
    assert all(each.stream and "stream_interrupted" in each.detail for each in broken), told(broken)
    assert {each.by for each in broken} <= {1, 2, 3}
    # as many as may have been under way when half were killed, and when one stood still
    assert len(broken) <= rounds * (64 + 32), Counter(each.by for each in broken)


async def test_half_are_killed_one_hangs_and_all_come_back(tmp_path: Path) -> None:
    """64 callers, whole answers and streams: none fails that anybody else could have served."""
    model = "breaker: {open_for: 0.4, open_max: 0.8}"
    async with scene(tmp_path, model, first_byte=0.3, pause=0.15) as one:
        await through_it(one, timeout=10)
    judged(one.callers)
    assert len(one.callers.made) > 200


@pytest.mark.soak
async def test_again_and_again_as_it_is_configured_by_default(tmp_path: Path) -> None:
    """The same with the product's own policy, several times over; circuits are open for up to 20 s. Three of
    four are ill for a moment, and a call may happen to meet them all."""
    async with scene(tmp_path, "", first_byte=2.0, pause=0.05) as one:
        for _ in range(ROUNDS):
            await through_it(one, timeout=40)
    judged(one.callers, ROUNDS)
    assert len(one.callers.made) > 3_000
