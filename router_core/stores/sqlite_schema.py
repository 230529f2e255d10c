"""Tables of the SQLite job store, and how an older file becomes a current one.

The partial indices are the queues: a job stands only in those that its state needs, so that records which
have ended cost a submission, a claim and a poll nothing, however many there are.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["APPLICATION_ID", "MIGRATIONS", "migrate"]

APPLICATION_ID: Final = 0x526A6F62
"""Marks a database file as ours ("Rjob")."""

_JOBS: Final = (
    # what filters and guards read stands first: SQLite reads a row from its start, and a long value at its
    # end lies on overflow pages that are then never touched
    """CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        owner TEXT NOT NULL,
        route TEXT NOT NULL,
        state TEXT NOT NULL,
        version INTEGER NOT NULL DEFAULT 1,
        epoch INTEGER NOT NULL DEFAULT 0,
        token TEXT NOT NULL DEFAULT '',
        rank REAL NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        not_before REAL NOT NULL DEFAULT 0,
        deadline_at REAL NOT NULL DEFAULT 0,
        lease_until REAL NOT NULL DEFAULT 0,
        started_at REAL NOT NULL DEFAULT 0,
        finished_at REAL NOT NULL DEFAULT 0,
        expires_at REAL NOT NULL DEFAULT 0,
        attempt INTEGER NOT NULL DEFAULT 0,
        crash_count INTEGER NOT NULL DEFAULT 0,
        releases INTEGER NOT NULL DEFAULT 0,
        max_attempts INTEGER NOT NULL DEFAULT 3,
        priority INTEGER NOT NULL DEFAULT 0,
        timeout REAL NOT NULL DEFAULT 0,
        cancel_requested_at REAL NOT NULL DEFAULT 0,
        progress REAL NOT NULL DEFAULT 0,
        dispatch_pending INTEGER NOT NULL DEFAULT 0,
        event_seq INTEGER NOT NULL DEFAULT 0,
        event_first INTEGER NOT NULL DEFAULT 1,
        event_bytes INTEGER NOT NULL DEFAULT 0,
        has_blobs INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '',
        worker_id TEXT NOT NULL DEFAULT '',
        idem_hash TEXT NOT NULL DEFAULT '',
        request_id TEXT NOT NULL DEFAULT '',
        message TEXT NOT NULL DEFAULT '',
        webhook TEXT NOT NULL DEFAULT '',
        input_ref TEXT NOT NULL DEFAULT '',
        result_ref BLOB NOT NULL DEFAULT x'',
        meta TEXT NOT NULL DEFAULT '{}',
        error BLOB NOT NULL DEFAULT x'',
        attempts BLOB NOT NULL DEFAULT x'',
        steps BLOB NOT NULL DEFAULT x'',
        input BLOB NOT NULL DEFAULT x'',
        result BLOB NOT NULL DEFAULT x''
    )""",
    "CREATE UNIQUE INDEX jobs_id ON jobs (id)",
    "CREATE INDEX jobs_ready ON jobs (route, rank) WHERE state = 'queued'",
    "CREATE INDEX jobs_later ON jobs (state, route, not_before) WHERE state IN ('retrying', 'scheduled')",
    "CREATE INDEX jobs_later_due ON jobs (not_before) WHERE state IN ('retrying', 'scheduled')",
    "CREATE INDEX jobs_lease ON jobs (lease_until) WHERE lease_until > 0",
    "CREATE INDEX jobs_deadline ON jobs (deadline_at) WHERE deadline_at > 0 AND finished_at = 0",
    "CREATE INDEX jobs_expiry ON jobs (expires_at) WHERE expires_at > 0",
    "CREATE INDEX jobs_owner ON jobs (owner, id)",
    # the rare ends only: a listing of successes finds them everywhere
    """CREATE INDEX jobs_owner_ended ON jobs (owner, state, id)
        WHERE state IN ('cancelled', 'expired', 'failed')""",
)
_BESIDE: Final = (
    """CREATE TABLE keys (
        scope_hash TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, job_id TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX keys_expiry ON keys (expires_at)",
    """CREATE TABLE events (
        job_id TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, attempt INTEGER NOT NULL,
        type TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (job_id, seq)
    ) WITHOUT ROWID""",
    """CREATE TABLE outbox (
        id TEXT PRIMARY KEY, job_id TEXT NOT NULL, url TEXT NOT NULL, created_at REAL NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX outbox_next ON outbox (next_at)",
    """CREATE TABLE tombstones (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX tombstones_expiry ON tombstones (expires_at)",
    """CREATE TABLE blob_refs (
        key TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (key, job_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX blob_refs_job ON blob_refs (job_id)",
    "CREATE TABLE pulse (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL)",
    "INSERT INTO pulse VALUES (1, 0)",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = ((*_JOBS, *_BESIDE),)
"""Step n turns schema n into n + 1. Steps are only ever added: files in the field stand at any of them."""


def migrate(
    connection: sqlite3.Connection, path: str, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS
) -> None:
    """Bring the file to the current schema, all steps in one transaction.

    Raises Misconfigured for a database that is not ours, or that a newer version of this package wrote.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        _steps(connection, path, migrations)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _steps(connection: sqlite3.Connection, path: str, migrations: tuple[tuple[str, ...], ...]) -> None:
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and mark != APPLICATION_ID:
        raise Misconfigured(
            f"{path} is a SQLite database of another program; name another file in ROUTER_JOBS"
        )
    if version > len(migrations):
        raise Misconfigured(
            f"{path} has schema {version} and this version of router-core knows {len(migrations)}: "
            "upgrade router-core, or name another file in ROUTER_JOBS"
        )
    for statements in migrations[version:]:
        for statement in statements:
            connection.execute(statement)
    if version < len(migrations):
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
