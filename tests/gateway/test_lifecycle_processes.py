"""Two real gateways on one state, before the stand-in for Hugging Face: they wake and sleep as one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from router_core.state import StateStore
from router_core.stores.state_redis import RedisStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.testing.huggingface_api import HuggingFaceApi
from router_core.testing.runpod_http import Reply
from tests.parts import RedisProcess
from tests.served import Served, served

pytestmark = pytest.mark.process

CONFIG = """
endpoints:
  - name: big
    driver: huggingface
    url: https://endpoints.huggingface.co/ann/endpoints/big
    api_url: {api}
    token: {token}
    auto_sleep: {auto_sleep}
models:
  - id: big
    type: text-generation
    deployments: [{{id: one, type: huggingface, endpoint: big, key: {token}, model: tgi}}]
"""
BODY = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
LEASE = "endpoints/wake:big"


@pytest.fixture
def hub() -> Iterator[HuggingFaceApi]:
    """The provider: its endpoint starts in a second, and is told of in half of one."""
    with HuggingFaceApi() as hub:
        hub.habits.lag, hub.habits.pending, hub.habits.initializing = 0.5, 0.2, 0.3
        hub.fault("update", status=403, times=10**6)
        yield hub


class Losing(HuggingFaceApi):
    """A provider that loses the first order to resume."""

    lost = False

    async def _faulty(self, action: str) -> Reply | None:
        first, self.lost = action == "resume" and not self.lost, self.lost or action == "resume"
        reply = await super()._faulty(action)
        return Reply(504) if first else reply


class Pair:
    """Two gateways, and what they share."""

    def __init__(self, one: Served, two: Served, state: Callable[[], StateStore]) -> None:
        self.one = one
        self.two = two
        self._state = state

    async def lease(self) -> bool:
        """Whether a process has the right to wake."""
        store = self._state()
        try:
            return await store.get(LEASE) is not None
        finally:
            await store.close()


@contextlib.contextmanager
def pair(hub: HuggingFaceApi, folder: Path, kind: str, auto_sleep: float = 0.0) -> Iterator[Pair]:
    """Serve two gateways on one state."""
    with contextlib.ExitStack() as stack:
        url, state = f"sqlite:///{folder}/state.db", lambda: SqliteStateStore(folder / "state.db")
        made: Callable[[], StateStore] = state
        if kind == "redis":
            pytest.importorskip("redis", reason="the package redis is not installed")
            server = stack.enter_context(RedisProcess(folder))
            url, made = server.url, lambda: RedisStateStore(server.url)
        config = folder / "gateway.yaml"
        config.write_text(CONFIG.format(api=hub.api_url, token=hub.token, auto_sleep=auto_sleep))
        environ = {
            "ROUTER_STATE": url, "ROUTER_GATEWAY": str(config), "ROUTER_JOBS": "memory://",
            "ROUTER_BLOBS": "memory://",
        }  # fmt: skip
        app = "router_core.gateway.app:create_app"
        one, two = (stack.enter_context(served(app, folder, **environ)) for _ in range(2))
        yield Pair(one, two, made)


async def calls(*services: Served, number: int = 100) -> Counter[int]:
    """Make as many calls at once to each, and count the answers by status."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        answers = await asyncio.gather(
            *(
                client.post(f"{service.url}/v1/chat/completions", json=BODY)
                for service in services
                for _ in range(number)
            )
        )
    return Counter(answer.status_code for answer in answers)


async def comes(holds: Callable[[], Awaitable[bool]], within: float = 30.0) -> None:
    """Wait until something holds."""
    until = time.monotonic() + within
    while not await holds():
        assert time.monotonic() < until, "it never came to hold"
        await asyncio.sleep(0.05)


def orders(hub: HuggingFaceApi, action: str) -> int:
    """Count the orders that the provider was given."""
    return len(hub.actions(action))


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("sqlite", 25),
        pytest.param("sqlite", 100, marks=pytest.mark.soak),
        pytest.param("redis", 100, marks=pytest.mark.soak),
    ],
)
async def test_many_calls_to_two_processes_wake_once(
    hub: HuggingFaceApi, tmp_path: Path, kind: str, number: int
) -> None:
    """All are answered, and the provider got one order."""
    hub.add("ann", "big", state="paused")
    with pair(hub, tmp_path, kind) as both:
        assert await calls(both.one, both.two, number=number) == {200: 2 * number}
        assert orders(hub, "resume") == 1
        assert await both.lease()
        for service in (both.one, both.two):
            assert "endpoint_store_down" not in service.log


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.soak
async def test_another_takes_over_from_a_killed_process(tmp_path: Path, kind: str) -> None:
    """A process is killed while it has the lease: once that has run out, the other gives the order."""
    with Losing() as hub, pair(hub, tmp_path, kind) as both:
        hub.habits.lag, hub.habits.pending, hub.habits.initializing = 0.5, 0.2, 0.3
        hub.add("ann", "big", state="paused")
        fault = hub.fault("resume", "hold")
        first = asyncio.ensure_future(calls(both.one, number=1))
        await comes(both.lease)
        began = time.monotonic()
        both.one.stop(signal.SIGKILL)
        fault.released.set()
        with contextlib.suppress(httpx.HTTPError):
            await first
        assert await calls(both.two) == {200: 100}
        took = time.monotonic() - began
        assert [seen.status for seen in hub.actions("resume")] == [504, 200]
    # the lease was taken up to a moment before, and a look comes every five seconds
    assert 55 < took < 90


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.soak
async def test_calls_of_one_process_keep_the_other_from_sleep(
    hub: HuggingFaceApi, tmp_path: Path, kind: str
) -> None:
    """An endpoint that one of them calls stays awake for as long, and then one of them puts it to sleep."""
    hub.add("ann", "big")
    with pair(hub, tmp_path, kind, auto_sleep=6.0) as both:
        until = time.monotonic() + 35
        while time.monotonic() < until:
            assert await calls(both.one, number=1) == {200: 1}
            await asyncio.sleep(0.5)
        assert orders(hub, "scale-to-zero") == 0

        async def asleep() -> bool:
            return orders(hub, "scale-to-zero") > 0

        await comes(asleep, within=60)
        await asyncio.sleep(12)
    assert orders(hub, "scale-to-zero") == 1
