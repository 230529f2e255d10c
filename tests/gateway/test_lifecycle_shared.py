"""What processes share about endpoints: over a file, while the store is away, and by the app's settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router_core import Router
from router_core.app import App
from router_core.errors import Misconfigured, StoreError
from router_core.gateway import Gateway
from router_core.gateway.config import parse_config
from router_core.gateway.lifecycle.shared import Record
from router_core.settings import Settings
from router_core.state import Entry
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from router_core.wiring import build_app
from tests.gateway.lifecycle_parts import gateway, hub_on, never, passing, spec_of

CONFIG = """
endpoints:
  - {name: big, driver: huggingface, url: "https://endpoints.huggingface.co/ann/endpoints/big", token: hf_x}
"""


@pytest.fixture
def hub(hub: HuggingFaceApi) -> HuggingFaceApi:
    """The provider, which leaves sleeping to us."""
    hub.fault("update", status=403, times=10**6)
    return hub


class Away(MemoryStateStore):
    """A store that answers while it is there."""

    away = False

    async def get(self, key: str) -> Entry | None:
        if self.away:
            raise StoreError("away")
        return await super().get(key)

    async def put(
        self, key: str, value: bytes, *, if_version: str | None = None, if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:  # fmt: skip
        if self.away:
            raise StoreError("away")
        return await super().put(key, value, if_version=if_version, if_absent=if_absent, ttl=ttl)


async def test_two_processes_on_one_file(hub: HuggingFaceApi, clock: FakeClock, tmp_path: Path) -> None:
    """One order wakes for both, and each knows what the other has seen."""
    hub.add("ann", "big", state="paused")
    hub.habits.lag = 5.0
    specs = [spec_of(hub, "big")]
    stores = [SqliteStateStore(tmp_path / "state.db", clock) for _ in range(2)]
    async with gateway(specs, clock, stores[0]) as one, gateway(specs, clock, stores[1]) as two:
        for each in (one, two):
            await passing(clock, each.lifecycle.status())
        calls = [each.lifecycle.wake("big", never()) for each in (one, two) for _ in range(20)]
        await passing(clock, asyncio.gather(*calls))
        one.lifecycle.touch("big")
        await passing(clock, asyncio.gather(one.upkeep.tick(), asyncio.sleep(0.02)))
        told = [(await each.lifecycle.status())["big"] for each in (one, two)]
    for store in stores:
        await store.close()
    assert len(hub.actions("resume")) == 1
    assert told[0].last_activity == told[1].last_activity is not None


async def test_a_lease_in_a_file_outlives_its_process(
    hub: HuggingFaceApi, clock: FakeClock, tmp_path: Path
) -> None:
    """One that died before it gave the order holds the others up until the lease has run out."""
    hub.add("ann", "big", state="paused")
    dead, store = (SqliteStateStore(tmp_path / "state.db", clock) for _ in range(2))
    await dead.put("endpoints/wake:big", b"one that died", if_absent=True, ttl=60.0)
    await dead.close()
    async with gateway([spec_of(hub, "big")], clock, store) as one:
        await passing(clock, one.lifecycle.status())
        began = clock.monotonic()
        await passing(clock, one.lifecycle.wake("big", never()))
        assert clock.monotonic() - began >= 60.0
    await store.close()
    assert len(hub.actions("resume")) == 1


class Hanging(MemoryStateStore):
    """A store that never answers."""

    async def get(self, key: str) -> Entry | None:
        await asyncio.sleep(3600)
        raise AssertionError

    async def put(
        self, key: str, value: bytes, *, if_version: str | None = None, if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:  # fmt: skip
        await asyncio.sleep(3600)
        raise AssertionError


async def test_a_store_that_hangs_keeps_nothing_asleep(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """What is called is woken all the same, by one order, and the log says once why nobody was asked."""
    hub.add("ann", "big", state="paused")
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    store = GuardedStateStore(Hanging(clock), clock, events, patience=0.01)
    async with gateway([spec_of(hub, "big")], clock, store) as one:
        await passing(clock, one.lifecycle.status())
        await passing(clock, asyncio.gather(*(one.lifecycle.wake("big", never()) for _ in range(20))))
        for _ in range(10):
            one.lifecycle.touch("big")
            clock.advance(31.0)
            await passing(clock, one.upkeep.tick())
        assert len(one.notes_of("endpoint_store_down")) == 1
    await store.close()
    assert len(hub.actions("resume")) == 1
    assert [note.name for note in notes] == ["state_store_down"]


async def test_nothing_is_put_to_sleep_while_the_store_is_away(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Others may be calling it, who cannot say so; when the store is back they can."""
    hub.add("ann", "big")
    state = Away(clock)
    async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
        await passing(clock, one.upkeep.tick())
        state.away = True
        for _ in range(3):
            clock.advance(901.0)
            await passing(clock, one.upkeep.tick())
        assert hub.state("big") == "running"
        state.away = False
        await passing(clock, one.upkeep.tick())
    assert hub.state("big") == "scaledToZero"


async def test_the_timer_is_set_once_the_store_is_back(clock: FakeClock) -> None:
    """What could not be agreed on at the start is not given up."""
    state = Away(clock)
    state.away = True
    with hub_on(clock) as hub:
        hub.add("ann", "big")
        async with gateway([spec_of(hub, "big", auto_sleep=900.0)], clock, state) as one:
            await passing(clock, one.upkeep.tick())
            assert not hub.actions("update")
            state.away = False
            clock.advance(60.0)
            await passing(clock, one.upkeep.tick())
            assert len(hub.actions("update")) == 1


async def test_short_idleness_is_shared_in_time(
    hub: HuggingFaceApi, clock: FakeClock, tmp_path: Path
) -> None:
    """Where half a minute would be too late, others hear of calls sooner."""
    hub.add("ann", "big")
    stores = [SqliteStateStore(tmp_path / "state.db", clock) for _ in range(2)]
    specs = [spec_of(hub, "big", auto_sleep=15.0)]
    async with gateway(specs, clock, stores[0]) as one, gateway(specs, clock, stores[1]) as two:
        for _ in range(100):
            one.lifecycle.touch("big")
            await asyncio.sleep(0.001)
            clock.advance(1.0)
            await passing(clock, two.upkeep.tick())
        assert not hub.actions("scale-to-zero")
        for _ in range(17):
            clock.advance(1.0)
            await passing(clock, two.upkeep.tick())
    for store in stores:
        await store.close()
    assert len(hub.actions("scale-to-zero")) == 1


def app_of(made: Gateway, url: str) -> App:
    """Put a gateway into an app."""
    router = Router()
    router.include_router(made.router)
    return build_app(router, Settings(jobs="memory://", blobs="memory://", state=url))


async def test_a_gateway_shares_by_the_settings_of_its_app(tmp_path: Path) -> None:
    """Two of them with one ROUTER_STATE know the same; one that was given a store keeps that."""
    url = f"sqlite:///{tmp_path}/state.db"
    config = parse_config(CONFIG, "gateway.yaml", {})
    own = MemoryStateStore()
    gateways = (Gateway(config), Gateway(config), Gateway(config, state=own))
    apps = [app_of(made, url) for made in gateways]
    for app in apps:
        await app.start(background=False)
    one, two, alone = (made.lifecycle._shared for made in gateways)
    await one.join("big", Record(last_activity=5.0))
    assert await two.read("big") == Record(last_activity=5.0)
    assert await alone.read("big") is None
    assert alone._store is own
    assert isinstance(one._store, GuardedStateStore)
    for app in apps:
        await app.stop(0)


async def test_state_that_is_set_up_wrongly_is_told_at_the_start(tmp_path: Path) -> None:
    """A file that is none is a fault of the settings; a server that is away is not."""
    folder = tmp_path / "state.db"
    await asyncio.to_thread(folder.mkdir)
    config = parse_config(CONFIG, "gateway.yaml", {})
    for url, text in ((f"sqlite:///{folder}", "is a directory; ROUTER_STATE"), ("redis://127.0.0.1:1/0", "")):
        app = app_of(Gateway(config), url)
        if text:
            with pytest.raises(Misconfigured, match=text):
                await app.start(background=False)
        else:
            pytest.importorskip("redis", reason="the package redis is not installed")
            await app.start(background=False)
        await app.stop(0)
