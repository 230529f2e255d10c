"""The database file: who may open it, how it is opened, and what its errors mean."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from router_core.errors import Misconfigured, StoreError

__all__ = ["FileLock", "connect_reader", "connect_writer", "has_wal_reset_bug", "prepare", "translate"]

BUSY_SECONDS: Final = 5.0
"""How long a write waits for another process before it is refused."""
_WAL_LIMIT: Final = 32 * 1024 * 1024
_CHECKPOINT_PAGES: Final = 6000
_WRITER_CACHE_KIB: Final = 8 * 1024
_READER_CACHE_KIB: Final = 4 * 1024
"""Small: ids grow with time, so what is busy is close together, and the rest is in the cache of the system.
What is given here is taken over days, as the file grows, and looks like a leak."""


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Return whether two processes that write to one WAL file may corrupt it with this SQLite.

    In 3.7.0 to 3.51.2 a writer may miss that another connection has just reset the log during a checkpoint.
    """
    return (3, 7, 0) <= version <= (3, 51, 2)


def prepare(path: Path, store: str = "job store", variable: str = "ROUTER_JOBS") -> None:
    """Make the directories and an empty file that only this user may read; raises Misconfigured."""
    try:
        _make_directories(path.parent)
        if path.is_dir():
            raise Misconfigured(
                f"{path} is a directory; {variable} must name a file, as in sqlite:///{path}/router.db"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Misconfigured(f"{path} is not a regular file; name another in {variable}")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Misconfigured(f"the {store} cannot use {path}: {error.strerror or error}") from error


def _make_directories(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        # a directory is durable when its own entry in its parent is
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """A lock beside the database that keeps other processes out; released by the kernel when we die."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._descriptor = -1

    def take(self, *, shared: bool) -> None:
        """Take the lock or raise Misconfigured; ``shared`` holders only keep an exclusive one out."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(
                f"the job store cannot use {self._path}: {error.strerror or error}"
            ) from error
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Misconfigured(self._refusal()) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others in; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _refusal(self) -> str:
        return (
            f"another process uses {self._path.with_suffix('')}, and SQLite {sqlite3.sqlite_version} may "
            "corrupt a file that two processes write to (fixed in 3.51.3): stop the other process, give this "
            "one a file of its own in ROUTER_JOBS, or use a Python with SQLite 3.51.3 or newer"
        )


def connect_writer(path: Path, *, busy: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints."""
    connection = _connect(path, "rw")
    try:
        # bounded before the first lock is asked for, or the mode change below could wait for ever
        connection.execute(f"PRAGMA busy_timeout = {int(busy * 1000)}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise Misconfigured(
                f"{path} cannot use a write-ahead log (journal mode {mode}); use a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that can only read, so that it never checkpoints."""
    connection = _connect(path, "ro")
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        timeout=BUSY_SECONDS,
    )


_MEANINGS: Final = {
    sqlite3.SQLITE_BUSY: "the {} is locked by another process",
    sqlite3.SQLITE_LOCKED: "the {} is locked",
    sqlite3.SQLITE_FULL: "the disk of the {} is full",
    sqlite3.SQLITE_IOERR: "the disk of the {} reports an error",
    sqlite3.SQLITE_CORRUPT: "the file of the {} is damaged",
    sqlite3.SQLITE_NOTADB: "the file of the {} is damaged",
    sqlite3.SQLITE_READONLY: "the file of the {} is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file of the {} cannot be opened",
    sqlite3.SQLITE_NOMEM: "the {} is out of memory",
}


def translate(error: sqlite3.Error, store: str = "job store") -> StoreError:
    """Turn a driver's error into ours: the only place that knows SQLite's codes."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, sqlite3.ProgrammingError) and not code:
        return StoreError(f"the {store} is closed")
    return StoreError(
        _MEANINGS.get(code, "the {} cannot answer").format(store), retry_after=5.0 if code else 1.0
    )
