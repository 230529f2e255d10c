"""The state store on SQLite: the contract, several processes on one file, and files that cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_core.errors import BadRequest, Misconfigured, StoreError
from router_core.state import StateStore
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.testing.clock import FakeClock
from router_core.testing.state_store_contract import StateStoreContract

ROOT = Path(__file__).parents[2]


class TestSqlite(StateStoreContract):
    """The contract over a file of its own for each test."""

    @pytest.fixture
    async def store(self, clock: FakeClock, tmp_path: Path) -> AsyncIterator[StateStore]:
        """A fresh file."""
        store = SqliteStateStore(tmp_path / "deep" / "state.db", clock)
        await store.open()
        yield store
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStateStore]:
    """A store on the machine's clock."""
    store = SqliteStateStore(tmp_path / "state.db")
    await store.open()
    yield store
    await store.close()


_CHILD = """
import asyncio, sys
from router_core.errors import Conflict
from router_core.stores.state_sqlite import SqliteStateStore

async def main(path, name):
    store = SqliteStateStore(path, busy=30)
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    passed = await asyncio.gather(*(store.increment("room/n", limit=10) for _ in range(50)))
    first = None
    try:
        await store.put("room/lock", name.encode(), if_absent=True)
        first = name
    except Conflict:
        pass
    for _ in range(25):
        while True:
            found = await store.get("room/sum")
            try:
                await store.put("room/sum", str(int(found.value) + 1).encode(), if_version=found.version)
                break
            except Conflict:
                continue
    await store.close()
    print(sum(number is not None for number in passed), first, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def _spawn(path: Path) -> list[subprocess.Popen[str]]:
    """Start four processes, and return when they have the file open."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), f"p{number}"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    return children


def _query(path: Path, statement: str) -> object:
    """Ask the file behind the store's back."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchone()[0]


@pytest.mark.process
async def test_four_processes_share_a_file(store: SqliteStateStore, tmp_path: Path) -> None:
    """200 additions at once, of which 10 fit; one founder; and no update is lost between them."""
    await store.put("room/sum", b"0")
    children = _spawn(tmp_path / "state.db")
    told = [child.communicate("go\n", 60)[0].split() for child in children]
    assert sum(int(passed) for passed, _ in told) == 10
    (founder,) = (name for _, name in told if name != "None")
    lock, total = await store.get("room/lock"), await store.get("room/sum")
    assert lock is not None
    assert total is not None
    assert (lock.value.decode(), total.value) == (founder, b"100")
    assert _query(tmp_path / "state.db", "PRAGMA integrity_check") == "ok"


def test_what_was_answered_outlives_the_process(tmp_path: Path) -> None:
    """A process that is killed at once leaves what it has written."""
    code = (
        "import asyncio, os, sys\n"
        "from router_core.stores.state_sqlite import SqliteStateStore\n"
        "async def main():\n"
        "    store = SqliteStateStore(sys.argv[1])\n"
        "    await store.put('room/key', b'kept')\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "state.db"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert asyncio.run(_read(path, "room/key")) == b"kept"


async def _read(path: Path, key: str) -> bytes | None:
    """Read a value as a process of its own would."""
    store = SqliteStateStore(path)
    found = await store.get(key)
    await store.close()
    return None if found is None else found.value


async def test_another_who_holds_the_lock_keeps_nobody_for_long(tmp_path: Path) -> None:
    """A process that was stopped in the middle of a write: reading goes on, writing is StoreError."""
    store = SqliteStateStore(tmp_path / "state.db", busy=0.05)
    await store.put("room/key", b"1")
    descriptor = os.open(tmp_path / "state.db.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(StoreError, match="locked by another process"):
            await store.put("room/key", b"2")
        found = await store.get("room/key")
        assert found is not None
        assert found.value == b"1"
    finally:
        os.close(descriptor)
    await store.put("room/key", b"2")
    await store.close()


async def test_callers_who_have_gone_leave_no_work(store: SqliteStateStore) -> None:
    """What was given up before its turn is not done."""
    first, *others = (asyncio.ensure_future(store.increment("room/n")) for _ in range(50))
    await asyncio.sleep(0)
    for other in others:
        other.cancel()
    await asyncio.gather(first, *others, return_exceptions=True)
    count = await store.increment("room/n")
    assert count is not None
    assert count < 51


async def test_a_file_that_was_removed_is_made_again(store: SqliteStateStore, tmp_path: Path) -> None:
    """Instead of writing to one that nobody else will find; and so is one that another has made."""
    await store.put("room/key", b"1")
    for path in _files(tmp_path):
        path.unlink()
    assert await store.get("room/key") is None
    await store.put("room/key", b"2")
    for path in _files(tmp_path):
        path.unlink()
    other = SqliteStateStore(tmp_path / "state.db")
    await other.put("room/key", b"3")
    await other.close()
    found = await store.get("room/key")
    assert found is not None
    assert found.value == b"3"


def _files(folder: Path) -> list[Path]:
    """Return the database and what stands beside it."""
    return list(folder.glob("state.db*"))


async def test_expired_rows_do_not_gather(tmp_path: Path) -> None:
    """Counters of windows that are over leave the file with the writes that follow."""
    clock = FakeClock()
    store = SqliteStateStore(tmp_path / "state.db", clock)
    for number in range(200):
        await store.increment(f"rate/{number}", ttl=1)
        clock.advance(1)
    assert _query(tmp_path / "state.db", "SELECT count(*) <= 2 FROM state")
    await store.close()


async def test_a_count_has_an_end(store: SqliteStateStore) -> None:
    """One that SQLite cannot hold is refused, and the one before stays."""
    assert await store.increment("room/n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(BadRequest):
        await store.increment("room/n")
    assert await store.increment("room/n", -1) == 2**63 - 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("other.db", "ROUTER_STATE"), ("text.db", "damaged"), ("folder.db", "a directory; ROUTER_STATE")],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Whether it is another database or none at all; and it is left as it was."""
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE mine (a)")
    (tmp_path / "text.db").write_text("no database at all, but long enough to be read as one " * 20)
    (tmp_path / "folder.db").mkdir()
    before = (tmp_path / name).stat().st_size
    with pytest.raises(Misconfigured, match=text):
        asyncio.run(_opened(tmp_path / name))
    assert (tmp_path / name).stat().st_size == before


async def _opened(path: Path) -> None:
    store = SqliteStateStore(path)
    try:
        await store.open()
    finally:
        await store.close()


async def test_only_this_user_may_read_the_file(store: SqliteStateStore, tmp_path: Path) -> None:
    """And the files beside it."""
    await store.put("room/key", b"1")
    assert {path.stat().st_mode & 0o777 for path in _files(tmp_path)} == {0o600}
