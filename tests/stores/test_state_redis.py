"""The state store on Redis: the contract, its races, and a server that stops, dies and comes back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from router_core.clock import SystemClock
from router_core.errors import BadRequest, Conflict, Misconfigured, StoreError
from router_core.state import StateStore
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_redis import RedisStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.testing.state_store_contract import StateStoreContract
from tests.parts import RedisProcess

pytest.importorskip("redis", reason="the package redis is not installed")
_number = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server for these tests; each takes a prefix of its own."""
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        yield server


def made(server: RedisProcess, clock: FakeClock | None = None) -> RedisStateStore:
    """Return a store that is alone on the server."""
    return RedisStateStore(server.url, clock, prefix=f"t{next(_number)}")


class TestRedis(StateStoreContract):
    """The contract over a prefix of its own for each test."""

    @pytest.fixture
    async def store(self, clock: FakeClock, server: RedisProcess) -> AsyncIterator[StateStore]:
        """A fresh prefix."""
        store = made(server, clock)
        await store.open()
        yield store
        await store.close()


@pytest.fixture
async def store(server: RedisProcess) -> AsyncIterator[RedisStateStore]:
    """A store by the time of the server."""
    store = made(server)
    yield store
    await store.close()


async def test_two_hundred_at_once_and_room_for_ten(store: RedisStateStore) -> None:
    """Exactly ten get through, whatever connection they take."""
    answers = await asyncio.gather(*(store.increment("room/n", limit=10, ttl=60) for _ in range(200)))
    assert sorted(answer for answer in answers if answer is not None) == list(range(1, 11))


async def test_the_server_keeps_the_time(store: RedisStateStore) -> None:
    """Values and counts expire there, and their names go with the writes that follow."""
    for number in range(4):
        await store.put(f"room/{number}", b"", ttl=0.001)
        await store.increment(f"room/n{number}", ttl=0.001)
    await asyncio.sleep(0.01)
    assert await store.get("room/0") is None
    lease = await store.put("room/lease", b"mine", if_absent=True, ttl=60)
    with pytest.raises(Conflict):
        await store.put("room/lease", b"yours", if_absent=True)
    assert await _names(store) == [b"lease"]
    left = await store._server.command("PTTL", f"{store._prefix}:{{room}}/lease")
    assert 50_000 < left <= 60_000
    await store.put("room/brief", b"", ttl=0.001)
    await asyncio.sleep(0.01)
    assert await store.increment("room/n0", 7) == 7
    assert await _names(store) == [b"lease", b"n0"]
    await store.delete("room/lease", if_version=lease)
    assert await _names(store) == [b"n0"]


async def _names(store: RedisStateStore) -> list[bytes]:
    """Return the names that the room remembers, expired or not."""
    found: list[bytes] = await store._server.command("ZRANGE", f"{store._prefix}:{{room}}:names", 0, -1)
    return found


async def test_a_listing_is_cut_by_its_size(store: RedisStateStore) -> None:
    """One answer holds about a megabyte; the pages together hold everything."""
    for number in range(8):
        await store.put(f"room/{number}", b"x" * 300_000)
    keys: list[str] = []
    cursor, pages = "", 0
    while True:
        page = await store.entries("room/", cursor=cursor)
        keys += [entry.key for entry in page.entries]
        cursor, pages = page.cursor, pages + 1
        if not cursor:
            break
    assert keys == [f"room/{number}" for number in range(8)]
    assert pages == 2


async def test_counts_that_redis_would_round_are_refused(store: RedisStateStore) -> None:
    """Its scripts count in doubles; up to there every number is exact."""
    assert await store.increment("room/n", 2**53 - 1) == 2**53 - 1
    for by in (1, 2**60):
        with pytest.raises(BadRequest):
            await store.increment("room/n", by)
    assert await store.increment("room/n", -1) == 2**53 - 2


def test_every_loop_has_connections_of_its_own(server: RedisProcess) -> None:
    """One store may be asked from one event loop after the other, as functions of Lambda do."""
    store = made(server)
    for number in range(1, 4):
        assert asyncio.run(_once(store)) == number


async def _once(store: RedisStateStore) -> int | None:
    made = await store.increment("room/n")
    await store._server._client().connection_pool.disconnect()
    return made


async def test_a_password_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    """A wrong one is a fault of the settings, and so is none."""
    with RedisProcess(tmp_path, "--requirepass", "right-secret") as server:
        for user in ("", ":wrong-secret@"):
            store = RedisStateStore(f"redis://{user}{server.address}/3")
            with pytest.raises(Misconfigured, match="ROUTER_STATE") as caught:
                await store.open()
            assert "secret" not in str(caught.value) + repr(store)
            await store.close()
        store = RedisStateStore(f"redis://:right-secret@{server.address}/3")
        await store.open()
        await store.put("room/key", b"1")
        await store.close()


@pytest.mark.process
def test_without_the_package_it_says_what_to_install() -> None:
    """In one line, and nothing of it is imported before."""
    code = (
        "import asyncio, sys\n"
        "from router_core.stores.state_redis import RedisStateStore\n"
        "assert 'redis' not in sys.modules\n"
        "sys.modules['redis'] = None\n"
        "asyncio.run(RedisStateStore('redis://127.0.0.1:1/0').open())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "Misconfigured: state on Redis needs the package redis" in done.stderr
    assert "router-core[redis]" in done.stderr


# --- a server that is away --------------------------------------------------------------------------


@pytest.fixture
def shaky(tmp_path: Path) -> Iterator[RedisProcess]:
    """A server that a test may stop and kill."""
    with RedisProcess(tmp_path) as server:
        yield server


async def test_a_stopped_server_holds_nobody_up(shaky: RedisProcess) -> None:
    """Every call ends in time, then at once; when the server goes on, no answer goes to the wrong call."""
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    keys = [f"room/{number}" for number in range(40)]
    patient = RedisStateStore(shaky.url)
    await patient.open()
    for key in keys:
        await patient.put(key, key.encode())
    await patient.close()
    store = GuardedStateStore(RedisStateStore(shaky.url), SystemClock(), events, patience=0.1, rest=0.05)
    await store.open()
    shaky.signal(signal.SIGSTOP)
    answers = await asyncio.gather(*(store.get(key) for key in keys), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreError}
    with pytest.raises(StoreError, match="does not answer"):
        await store.get(keys[0])
    shaky.signal(signal.SIGCONT)
    await _back(store)
    found = await asyncio.gather(*(store.get(key) for key in keys))
    assert [entry.value for entry in found if entry is not None] == [key.encode() for key in keys]
    assert [note.name for note in notes] == ["state_store_down", "state_store_up"]
    await store.close()


async def test_a_killed_server_comes_back(shaky: RedisProcess) -> None:
    """It has forgotten everything, its scripts too, and is used again."""
    notes: list[Note] = []
    events = Events(lambda event: notes.append(event) if isinstance(event, Note) else None)
    store = GuardedStateStore(RedisStateStore(shaky.url), SystemClock(), events, rest=0.05)
    assert await store.increment("room/n", 5) == 5
    shaky.kill()
    for _ in range(6):
        with pytest.raises(StoreError):
            await store.increment("room/n")
    shaky.start()
    await _back(store)
    assert await store.increment("room/n", 5) == 5
    assert [note.name for note in notes] == ["state_store_down", "state_store_up"]
    await store.close()


async def test_a_server_that_is_no_longer_the_first_is_left(server: RedisProcess) -> None:
    """One that became a replica refuses writes; the next call looks where the name leads now."""
    store = made(server)
    await store.put("room/key", b"1")
    try:
        await store._server.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreError, match="refuses: ReadOnlyError"):
            await store.put("room/key", b"2")
        assert not store._server._client().connection_pool._available_connections[0].is_connected
    finally:
        await store._server.command("REPLICAOF", "NO", "ONE")
    await store.put("room/key", b"3")
    await store.close()


async def _back(store: GuardedStateStore) -> None:
    for _ in range(500):
        try:
            await store.ping()
        except StoreError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the store did not come back")
