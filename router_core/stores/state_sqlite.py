"""The state store on one SQLite file, for the processes of one machine.

One thread does everything, one operation after the other and each in a transaction of its own. A write has
reached the kernel when it is answered: it outlives the process, and a power cut may take the last moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from router_core.clock import Clock, SystemClock
from router_core.errors import BadRequest, Conflict, Misconfigured, RouterError, StoreError
from router_core.state import Entry, StatePage, check_key, check_prefix, check_value
from router_core.stores.lane import Lane, Op
from router_core.stores.sqlite_file import connect_writer, prepare, translate

__all__ = ["SqliteStateStore"]

_STORE: Final = "state store"
_BUSY: Final = 2.0
"""Seconds that an operation waits for other processes."""
_APPLICATION: Final = 0x52435354
_SCHEMA: Final = 1
_TABLES: Final = (
    "CREATE TABLE state "
    "(key TEXT PRIMARY KEY, held BLOB, count INTEGER, version TEXT NOT NULL, expires REAL)",
    "CREATE INDEX state_expires ON state (expires) WHERE expires IS NOT NULL",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_SCHEMA}",
)
_COLUMNS: Final = "key, held, count, version, expires"
_LARGEST: Final = 2**63 - 1
_PAGE_BYTES: Final = 4 * 1024 * 1024
"""What a page of a listing holds at most, but one entry."""
_PURGED: Final = 16
"""Expired rows that a write takes along."""
_UNUSABLE: Final = frozenset(
    {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)
_HARMLESS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class _Row(NamedTuple):
    key: str
    held: bytes | None
    number: int | None
    version: str
    expires: float | None

    def entry(self) -> Entry:
        value = str(self.number).encode() if self.held is None else bytes(self.held)
        return Entry(self.key, value, self.version)


class SqliteStateStore:
    """Values in one table of a file on a local disk (a network file system breaks SQLite's locks)."""

    multi_process = True

    def __init__(self, path: str | Path, clock: Clock | None = None, *, busy: float = _BUSY) -> None:
        self._file = _File(Path(path).expanduser(), (clock or SystemClock()).now, busy)
        self._lane: Lane | None = None
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        found: Entry | None = await self._run(self._file.get, check_key(key))
        return found

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:
        """Write a value if the condition holds."""
        check_key(key)
        check_value(value)
        version: str = await self._run(self._file.put, key, bytes(value), if_version, if_absent, ttl)
        return version

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove a value if the condition holds."""
        deleted: bool = await self._run(self._file.delete, check_key(key), if_version)
        return deleted

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count unless that takes it above the limit."""
        count: int | None = await self._run(self._file.increment, check_key(key), by, ttl, limit)
        return count

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List keys in their order."""
        check_prefix(prefix, cursor)
        page: StatePage = await self._run(self._file.entries, prefix, cursor, max(1, limit))
        return page

    async def ping(self) -> None:
        """Begin a write."""
        await self._run(self._file.ping)

    async def open(self) -> None:
        """Make the file where there is none; raises Misconfigured when it cannot be used."""
        self._closed = False
        await self._run(self._file.ping)

    async def close(self) -> None:
        """Do what was asked before, and close the file."""
        self._closed = True
        lane, self._lane = self._lane, None
        if lane is not None:
            await asyncio.to_thread(lane.stop)

    async def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._closed:
            raise StoreError("the state store is closed")
        if self._lane is None:
            self._lane = Lane("state", self._file.run_batch, self._file.close, store=_STORE)
            self._lane.start()
        return await self._lane.call(work, *args)


class _File:
    """The connection, and what is done with it; all of it in the store's thread."""

    def __init__(self, path: Path, now: Callable[[], float], busy: float) -> None:
        self._path = path
        self._now = now
        self._busy = busy
        self._turn = _Turn(path.with_name(path.name + ".lock"), busy)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def run_batch(self, ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
        """Do one operation after the other, but not those whose callers have gone."""
        for op in ops:
            if not op.future.done():
                self._do(op)
            yield (op,)

    def _do(self, op: Op) -> None:
        try:
            op.result = op.run(*op.args)
        except sqlite3.Error as error:
            op.error = translate(error, _STORE)
            op.error.__cause__ = error
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _HARMLESS:
                self.close()
        except RouterError as error:
            op.error = error
        except Exception as error:
            op.error = StoreError("the state store cannot answer")
            op.error.__cause__ = error
            self.close()

    # --- operations -------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        found = self._live(self._connected(), key)
        return None if found is None else found.entry()

    def put(self, key: str, value: bytes, if_version: str | None, if_absent: bool, ttl: float | None) -> str:
        version = secrets.token_hex(8)
        with self._writing() as connection:
            held = self._live(connection, key)
            _compare(key, held, if_version)
            if if_absent and held is not None:
                raise Conflict(f"something stands under {key} already")
            self._set(connection, _Row(key, value, None, version, self._until(ttl)))
        return version

    def delete(self, key: str, if_version: str | None) -> bool:
        with self._writing() as connection:
            held = self._live(connection, key)
            _compare(key, held, if_version)
            connection.execute("DELETE FROM state WHERE key = ?", (key,))
        return held is not None

    def increment(self, key: str, by: int, ttl: float | None, limit: int | None) -> int | None:
        with self._writing() as connection:
            held = self._live(connection, key)
            if held is not None and held.number is None:
                raise Conflict(f"{key} holds a value, not a count")
            count = by + (0 if held is None else held.number or 0)
            if by > 0 and limit is not None and count > limit:
                return None
            if abs(count) > _LARGEST:
                raise BadRequest(f"{key} cannot count any further")
            expires = self._until(ttl) if held is None else held.expires
            self._set(connection, _Row(key, None, count, secrets.token_hex(8), expires))
        return count

    def entries(self, prefix: str, cursor: str, limit: int) -> StatePage:
        begin, past = (cursor, ">") if cursor > prefix else (prefix, ">=")
        rows = self._connected().execute(
            f"SELECT {_COLUMNS} FROM state WHERE key {past} ? "  # noqa: S608 - no input in it
            "AND (expires IS NULL OR expires > ?) ORDER BY key",
            (begin, self._now()),
        )
        with contextlib.closing(rows):
            return _page(map(_Row._make, rows), prefix, limit)

    def ping(self) -> None:
        with self._writing():
            return

    # --- inside a transaction ---------------------------------------------------------------

    def _live(self, connection: sqlite3.Connection, key: str) -> _Row | None:
        row = connection.execute(f"SELECT {_COLUMNS} FROM state WHERE key = ?", (key,)).fetchone()  # noqa: S608
        if row is None:
            return None
        held = _Row._make(row)
        return None if held.expires is not None and held.expires <= self._now() else held

    def _set(self, connection: sqlite3.Connection, row: _Row) -> None:
        connection.execute(
            "DELETE FROM state WHERE rowid IN (SELECT rowid FROM state WHERE expires <= ? LIMIT ?)",
            (self._now(), _PURGED),
        )
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?)", row)

    def _until(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._now() + ttl

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Have the file to ourselves for one transaction."""
        connection = self._connected()
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # --- the file ---------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """Return the connection to the file that bears our name: another may have taken its place."""
        with contextlib.suppress(OSError):
            if self._connection is not None and os.stat(self._path).st_ino == self._inode:
                return self._connection
        self.close()
        prepare(self._path, _STORE, "ROUTER_STATE")
        with self._turn:
            try:
                self._connection = self._opened()
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
                    told = translate(error, _STORE)
                    raise Misconfigured(
                        f"the state store cannot use {self._path}: {told.detail} ({error})"
                    ) from error
                raise
        self._inode = os.stat(self._path).st_ino
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        connection = connect_writer(self._path, busy=self._busy)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            kind = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if kind == _APPLICATION and version == _SCHEMA:
                return connection
            if kind or version or tables:
                raise Misconfigured(
                    f"{self._path} is no state store of this version; name a file of its own in ROUTER_STATE"
                )
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Let go of the file; the last connection folds the log into it, which is a write."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error, StoreError), self._turn:
                connection.close()
        self._turn.release()


class _Turn:
    """A lock beside the database that one process holds while it writes, or begins and ends to use it.

    SQLite has such a lock, but up to 3.51.2 a process that writes may miss that another one resets the log,
    and then the file is damaged; with this lock the two never meet.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._descriptor = -1

    def __enter__(self) -> None:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise Misconfigured(
                    f"the state store cannot use {self._path}: {error.strerror or error}"
                ) from error
        until, pause = time.monotonic() + self._patience, 0.0005
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError(
                        "the state store is locked by another process", retry_after=5.0
                    ) from None
            time.sleep(pause)
            pause = min(0.005, pause * 1.5)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def release(self) -> None:
        """Close the lock's file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _page(rows: Iterable[_Row], prefix: str, limit: int) -> StatePage:
    found: list[Entry] = []
    size = 0
    for row in rows:
        if not row.key.startswith(prefix):
            break
        if len(found) == limit or size > _PAGE_BYTES:
            return StatePage(tuple(found), found[-1].key)
        found.append(row.entry())
        size += len(found[-1].value)
    return StatePage(tuple(found))


def _compare(key: str, held: _Row | None, if_version: str | None) -> None:
    if if_version is not None and (held is None or held.version != if_version):
        raise Conflict(f"{key} has changed")
