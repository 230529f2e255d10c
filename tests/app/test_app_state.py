"""What processes share: chosen by a URL, lent to extensions, opened when it is first asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from router_core import Router
from router_core.app import Host, Upkeep
from router_core.backends import open_state
from router_core.clock import SystemClock
from router_core.errors import Misconfigured, StoreError
from router_core.settings import Settings
from router_core.state import StateStore
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events
from router_core.wiring import build_app


def chosen(url: str, jobs: str = "memory://") -> StateStore:
    """Return the store of a URL."""
    return open_state(Settings(state=url, jobs=jobs), SystemClock(), Events())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("sqlite:///state.db", "SqliteStateStore"),
        ("dynamodb://table", "DynamoStateStore"),
        ("redis://localhost", "RedisStateStore"),
        ("redis://cache:6379/2", "RedisStateStore"),
        ("rediss://user:secret@[::1]:6380/0", "RedisStateStore"),
    ],
)
def test_what_is_shared_has_a_guard(url: str, kind: str) -> None:
    """Each scheme names a technology, and nothing is opened yet."""
    store = chosen(url)
    assert isinstance(store, GuardedStateStore)
    assert type(store._store).__name__ == kind
    assert "secret" not in repr(store) + repr(store._store)


def test_memory_needs_none() -> None:
    """It is no further away than the caller."""
    assert isinstance(chosen("memory://"), MemoryStateStore)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("foo://x", "the scheme must be one of dynamodb, memory, redis, rediss, sqlite"),
        ("foo://me:secret@x", "ROUTER_STATE is 'foo://***@x'"),
        ("nothing", "must be a URL such as memory://"),
        ("sqlite://state.db", "write sqlite:///relative/state.db"),
        ("dynamodb://", "write dynamodb://table"),
        ("redis://", "write redis://host:6379/0"),
        ("redis://:6379", "write redis://host:6379/0"),
        ("redis://cache:port/0", "write redis://host:6379/0"),
        ("redis://cache/zero", "write redis://host:6379/0"),
        ("rediss://me:secret@cache/0?ssl_cert_reqs=none", "is 'rediss://***@cache/0?ssl_"),
        ("redis://me:se@cret@cache:0/0", "is 'redis://***@cache:0/0'"),
        ("redis://[::1/0", "write redis://host:6379/0"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, text: str) -> None:
    """In one line, when the app is built, and without its password."""
    with pytest.raises(Misconfigured) as caught:
        build_app(Router(), Settings(jobs="memory://", blobs="memory://", state=url))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "se@cret" not in str(caught.value)


def test_jobs_and_state_have_files_of_their_own(tmp_path: Path) -> None:
    """However the one file is written."""
    with pytest.raises(Misconfigured, match="a file of its own"):
        chosen(f"sqlite:///{tmp_path}/x/../jobs.db", f"sqlite:///{tmp_path}/jobs.db")


class Counter:
    """An extension that counts something with other processes."""

    def bind(self, host: Host) -> Sequence[Upkeep]:
        """Keep what is lent."""
        self.state = host.state
        return ()


def site() -> tuple[Counter, Router]:
    """Return a router with such an extension."""
    router, counter = Router(), Counter()
    router.extend(counter)
    return counter, router


async def test_extensions_share_through_it(tmp_path: Path) -> None:
    """Two apps on one file count together; a stopped one lets go of it, and may be started again."""
    path = tmp_path / "state.db"
    settings = Settings(jobs="memory://", blobs="memory://", state=f"sqlite:///{path}")
    (one, first), (two, second) = site(), site()
    apps = [build_app(first, settings), build_app(second, settings)]
    await asyncio.gather(*(app.start() for app in apps))
    assert not await asyncio.to_thread(path.exists)
    assert [await each.state.increment("room/n") for each in (one, two, one)] == [1, 2, 3]
    await apps[0].stop(0)
    with pytest.raises(StoreError):
        await one.state.increment("room/n")
    assert await two.state.increment("room/n") == 4
    await apps[0].start()
    await one.state.open()
    assert await one.state.increment("room/n") == 5
    for app in apps:
        await app.stop(0)
