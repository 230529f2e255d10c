"""A coordinator of several processes, as behind a load balancer: none knows what the others have counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from handlers.remote.worker import served_routes
from router_core.clock import SystemClock
from router_core.errors import StoreError
from router_core.jobs.job import Fence
from router_core.settings import Settings
from router_core.stores.coordinator import CoordinatorStore
from router_core.stores.coordinator_link import CoordinatorLink
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events
from router_core.types import new_id
from router_core.vendors.httpx import Answer
from router_core.wiring import build_app
from tests.remote.remote_bench import BOX, CALLER
from tests.remote.remote_inside import URL, AppSender, Site, service, site


class Balanced:
    """Carries each request to one of two processes."""

    def __init__(self, processes: list[AppSender], choose: Callable[[str], int]) -> None:
        self._processes = processes
        self._choose = choose
        self.seen: Counter[str] = Counter()

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", silence: float
    ) -> Answer:
        """Send."""
        path = url.rpartition("/")[2]
        self.seen[path] += 1
        process = self._processes[self._choose(path)]
        return await process.send(method, url, headers=headers, body=body, silence=silence)

    async def aclose(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def balanced(choose: Callable[[str], int]) -> AsyncIterator[tuple[Site, Balanced]]:
    """Run a worker before two processes over one store."""
    store = MemoryJobStore()
    settings = Settings(
        jobs="memory://", blobs="memory://", queue="pull", api_keys=f"ann:{CALLER}", worker_keys=f"box:{BOX}",
        lease=3.0, heartbeat=1.0,
    ).checked()  # fmt: skip
    other = build_app(service(), settings, store=store)
    await other.start()
    try:
        async with site(store=store) as running:
            sender = Balanced([running.sender, AppSender(other)], choose)
            running.sender = sender  # type: ignore[assignment]
            sender.down = False  # type: ignore[attr-defined]
            yield running, sender
    finally:
        await other.stop(0.0)


_turn = count()
CHOICES: dict[str, Callable[[str], int]] = {
    "waits here, claims there": lambda path: int(path == "wait"),
    "by turns": lambda path: next(_turn) % 2,
}


@pytest.mark.parametrize("choice", CHOICES)
async def test_an_idle_worker_does_not_ask_without_pause(choice: str) -> None:
    """Counts of two processes differ, which is no news."""
    async with balanced(CHOICES[choice]) as (running, sender):
        running.work()
        await running.noted("working")
        await asyncio.sleep(1.0)
        assert sender.seen["wait"] + sender.seen["claim"] < 10, sender.seen
        job_id = await running.submit("/double", x=2)
        assert (await running.ended(job_id)).result == b"4"


async def test_leases_are_renewed_some_at_a_time() -> None:
    """A coordinator may need a write for each; what fails later hides nothing that was renewed before."""
    async with site() as running:
        events, clock = Events(), SystemClock()
        store = CoordinatorStore(
            CoordinatorLink(URL, BOX, running.sender), served_routes(service()), clock, events
        )
        fences = [Fence(new_id(), 1, "0" * 32) for _ in range(250)]
        assert [one.job_id for one in await store.renew(fences, 3.0)] == [fence.job_id for fence in fences]
        assert running.sender.seen == ["POST /worker/heartbeat"] * 3
        send = running.sender.send

        async def once(*args: Any, **named: Any) -> Answer:
            answer = await send(*args, **named)
            running.sender.down = True
            return answer

        running.sender.send = once  # type: ignore[method-assign]
        assert len(await store.renew(fences, 3.0)) == 100
        with pytest.raises(StoreError):
            await store.renew(fences, 3.0)
