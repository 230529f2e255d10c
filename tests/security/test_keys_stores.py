"""Keys in each of the four stores: listed whole, changed by many at once, revoked for all processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router_core.clock import SystemClock
from router_core.errors import HTTPError, NotFound, Unauthorized
from router_core.security.known_keys import KnownKeys
from router_core.security.stored_keys import KeyRoom, hash_of
from router_core.state import StateStore
from router_core.stores.state_dynamodb import DynamoStateStore, create_state_table
from router_core.stores.state_memory import MemoryStateStore
from router_core.stores.state_redis import RedisStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.testing.clock import FakeClock
from tests.parts import RedisProcess

_number = count()


async def _made(name: str, request: pytest.FixtureRequest, folder: Path) -> StateStore:
    if name == "memory":
        return MemoryStateStore()
    if name == "sqlite":
        return SqliteStateStore(str(folder / "state.db"), SystemClock())
    if name == "redis":
        return RedisStateStore(request.getfixturevalue("redis_url"))
    request.getfixturevalue("aws")
    table = f"keys{next(_number)}"
    await asyncio.to_thread(create_state_table, table, expire=False)
    return DynamoStateStore(table, SystemClock(), patience=60)


@pytest.fixture
def redis_url(tmp_path: Path) -> object:
    """A server of its own."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    with RedisProcess(tmp_path) as server:
        yield server.url


@pytest.fixture(params=["memory", "sqlite", "redis", "dynamodb"])
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyRoom]:
    """The keys of a fresh store."""
    store = await _made(request.param, request, tmp_path)
    await store.open()
    yield KeyRoom(store, SystemClock())
    await store.close()


async def test_the_life_of_keys(room: KeyRoom) -> None:
    """Made, found, listed page by page, changed by many at once without a loss, revoked everywhere."""
    assert await room.empty()
    made = [(await room.create({"roles": ("viewer",)}, "tests"))[1] for _ in range(5)]
    assert not await room.empty()
    found, cursor, more = [], "", True
    while more:
        page, cursor = await room.page(cursor, 2)
        assert len(page) <= 2
        found += [kept.record.id for kept in page]
        more = bool(cursor)
    assert found == sorted(key.id for key in made)

    key, clock = made[0], FakeClock()
    first, second = KnownKeys(room, clock), KnownKeys(room, clock)
    for process in (first, second):
        assert (await process.identify(key.id, hash_of(key.key))).roles == {"viewer"}
    wishes: list[dict[str, Any]] = [
        {"name": "other"},
        {"tier": "gold"},
        {"workspaces": ("ws-1",)},
        {"scopes": ("paint",)},
    ]
    await asyncio.gather(*(room.update(key.id, wish, lambda *_: None) for wish in wishes))
    kept = await room.get(key.id)
    record = kept.record
    assert (record.name, record.tier, record.workspaces, record.scopes) == (
        "other",
        "gold",
        ("ws-1",),
        ("paint",),
    )

    _, rotated = await room.rotate(key.id, 60, lambda _: None, kept.version)
    with pytest.raises(HTTPError, match="changed meanwhile"):
        await room.rotate(key.id, 60, lambda _: None, kept.version)
    clock.advance(5.01)
    for secret in (key.key, rotated.key):
        assert (await first.identify(key.id, hash_of(secret))).tier == "gold"
    await room.revoke(key.id, lambda _: None)
    clock.advance(5.01)
    for process in (first, second):
        with pytest.raises(Unauthorized):
            await process.identify(key.id, hash_of(rotated.key))
    await room.used(made[1].id, 1_700_000_000.0)
    assert await room.last_used([made[1].id, made[2].id]) == [1_700_000_000.0, None]
    with pytest.raises(NotFound):
        await room.get("nothing0")
    for process in (first, second):
        await process.close()
