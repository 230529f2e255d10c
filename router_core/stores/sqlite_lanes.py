"""What the two threads of the SQLite job store do with a batch of operations."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from router_core.errors import Misconfigured, RouterError, StoreError
from router_core.stores.lane import Op
from router_core.stores.sqlite_file import connect_reader, connect_writer, translate
from router_core.stores.sqlite_reads import SqliteReads
from router_core.stores.sqlite_schema import migrate
from router_core.stores.sqlite_writes import SqliteWrites, needs_savepoint, needs_sync

__all__ = ["SqliteReader", "SqliteWriter"]

_BRIEF: Final = 0.1
"""Seconds to wait for a lock after one wait was in vain, so that callers in line do not wait in turn."""
_END_LEASES: Final = (
    "UPDATE jobs SET lease_until = ?, version = version + 1 WHERE lease_until > ? "
    "AND instr(worker_id, '/') = 0"  # the id of a worker elsewhere has a slash: it lives on
)
_LOOK_AFTER: Final = 512
"""Batches between two looks at the size of the log."""
_LOG_LIMIT: Final = 48 * 1024 * 1024
_UNUSABLE: Final = frozenset(
    {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)
_OP_ONLY: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What is wrong with one statement or its values; anything else means the file or the disk."""


class SqliteWriter:
    """Owns the writing connection: one transaction for each batch, and recovery when one fails."""

    def __init__(self, path: Path, ops: SqliteWrites, busy: float) -> None:
        self.ops = ops
        self._path = path
        self._busy = busy
        self._connection: sqlite3.Connection | None = None
        self._brief = False
        self._batches = 0
        self._sync = ""
        self._inode = 0

    def open(self) -> None:
        """Open the file and bring it to the current schema; raises Misconfigured or StoreError."""
        try:
            connection = connect_writer(self._path, busy=self._busy)
            try:
                migrate(connection, str(self._path))
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            told = translate(error)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
                raise Misconfigured(
                    f"the job store cannot use {self._path}: {told.detail} ({error})"
                ) from error
            raise told from error
        self._use(connection)
        self._inode = os.stat(self._path).st_ino

    def end_leases(self, now: float) -> None:
        """End every lease: the file is ours alone, so nobody can still be working under one.

        A worker that should be alive against all reason is fenced by its rescue like any other.
        """
        if self._connection is not None:
            with self._connection:
                self._connection.execute(_END_LEASES, (now - 0.001, now))

    def close(self) -> None:
        """Close the file; the last connection also folds the log into it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def ping(self) -> None:
        """Write into the file that bears our name: a removed one goes on working until it is lost."""
        try:
            inode = os.stat(self._path).st_ino
        except OSError as error:
            raise StoreError(f"the file of the job store is gone: {error.strerror}") from error
        if inode != self._inode:
            raise StoreError("the file of the job store was replaced; restart this process")
        self.ops.ping()

    def run_batch(self, ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
        """Do the operations in at most two transactions: first those that need not be on the disk before
        they are answered, so that work can begin while the disk is busy with the others."""
        soft = [op for op in ops if not needs_sync(op.run, op.args)]
        if soft:
            self._transact(soft, "NORMAL")
            yield soft
            if len(soft) == len(ops):
                return
            ops = [op for op in ops if needs_sync(op.run, op.args)]
        self._transact(ops, "FULL")
        yield ops

    def _transact(self, ops: Sequence[Op], sync: str) -> None:
        """Do all operations in one transaction; if it cannot be committed, each of them has failed."""
        try:
            connection = self._begin(sync)
            for op in ops:
                self._run(connection, op)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._spoil(
                ops,
                translate(error),
                error,
                keep=getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY,
            )
        except Exception as error:
            self._spoil(ops, StoreError("the job store cannot answer"), error, keep=False)
        else:
            self._batches += 1
            if self._batches % _LOOK_AFTER == 0:
                self._bound_log(connection)

    def _begin(self, sync: str) -> sqlite3.Connection:
        connection = self._connection
        if connection is None:
            connection = connect_writer(self._path, busy=_BRIEF)
            self._use(connection)
            self._brief = True
        if sync != self._sync:
            connection.execute(f"PRAGMA synchronous = {sync}")
            self._sync = sync
        connection.execute("BEGIN IMMEDIATE")
        if self._brief:
            self._wait_for_locks(self._busy)
            self._brief = False
        return connection

    def _run(self, connection: sqlite3.Connection, op: Op) -> None:
        guarded = needs_savepoint(op.run, op.args)
        try:
            if guarded:
                connection.execute("SAVEPOINT op")
            op.result = op.run(*op.args)
            if guarded:
                connection.execute("RELEASE op")
            return
        except sqlite3.Error as error:
            if not isinstance(error, _OP_ONLY) or not connection.in_transaction:
                raise
            op.error = translate(error)
            op.error.__cause__ = error
        except (
            Exception
        ) as error:  # a refusal, or a value that cannot be stored: the caller's, not the batch's
            op.error = error
        if guarded:
            connection.execute("ROLLBACK TO op")
            connection.execute("RELEASE op")

    def _spoil(self, ops: Sequence[Op], told: StoreError, cause: Exception, *, keep: bool) -> None:
        for op in ops:
            # one error each: they are raised, and gather tracebacks, in different places
            op.error = StoreError(told.detail, retry_after=told.retry_after)
            op.error.__cause__ = cause
        self.ops.forget()
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if keep:
            with contextlib.suppress(sqlite3.Error):
                self._wait_for_locks(_BRIEF)
                self._brief = True
        else:
            self.close()

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = self.ops.connection = connection
        self._sync = "FULL"

    def _wait_for_locks(self, seconds: float) -> None:
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def _bound_log(self, connection: sqlite3.Connection) -> None:
        """Empty the log when readers have kept the ordinary checkpoints from starting it over."""
        with contextlib.suppress(sqlite3.Error, OSError):
            if os.stat(f"{self._path}-wal").st_size > _LOG_LIMIT:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


class SqliteReader:
    """Owns the reading connection: one snapshot for each batch."""

    def __init__(self, path: Path, ops: SqliteReads) -> None:
        self.ops = ops
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file; raises StoreError."""
        try:
            self._connected()
        except sqlite3.Error as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def run_batch(self, ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
        """Do all operations on one snapshot, which holds every write that was answered before they came."""
        try:
            connection = self._connected()
            connection.execute("BEGIN")
            for op in ops:
                try:
                    op.result = op.run(*op.args)
                except (RouterError, ValueError, OverflowError, *_OP_ONLY) as error:
                    op.error = error if not isinstance(error, sqlite3.Error) else translate(error)
            connection.execute("COMMIT")
        except Exception as error:
            told = (
                translate(error)
                if isinstance(error, sqlite3.Error)
                else StoreError("the job store cannot answer")
            )
            for op in ops:
                op.error = StoreError(told.detail, retry_after=told.retry_after)
                op.error.__cause__ = error
            self.close()
        yield ops

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self.ops.connection = connect_reader(self._path)
        return self._connection
