"""Every write of the SQLite job store; runs in the writer's thread, inside its transaction.

Each function either raises before its first write or writes all it has to. Those with several writes are
``guarded``: the writer puts a savepoint around them, so that a failure in the middle leaves nothing behind.
"""

# ruff: noqa: S608 - only column names and words of this package are put into SQL; values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Conflict, Fenced, Gone, KeyReused
from router_core.jobs.job import TERMINAL, Fence, Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Added, Claim, IdempotencyKey, Moved, NewEvent, Purged, Renewal
from router_core.stores.blob_refs import input_keys, result_keys
from router_core.stores.limits import EVENT_BYTES, EVENT_COUNT, TOMBSTONE_SECONDS
from router_core.stores.outbox_row import webhook_url
from router_core.stores.sqlite_claims import Claims
from router_core.stores.sqlite_queues import Queues
from router_core.stores.sqlite_rows import COLUMNS, INSERTS, MoveStatements, job_of

__all__ = ["SqliteWrites", "needs_savepoint", "needs_sync"]

_BY_ID: Final = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"
_RENEW: Final = (
    "UPDATE jobs SET lease_until = ?, version = version + 1 WHERE id = ? AND epoch = ? AND token = ? "
    "AND +state IN ('running', 'cancelling') RETURNING state"
)
_EVENT_HEAD: Final = (
    "SELECT event_seq, event_first, event_bytes, attempt FROM jobs "
    "WHERE id = ? AND epoch = ? AND token = ? AND +state = 'running'"
)
_EXPIRED: Final = (
    "SELECT id, owner, has_blobs FROM jobs INDEXED BY jobs_expiry WHERE expires_at > 0 AND expires_at <= ? "
    "ORDER BY expires_at LIMIT ?"
)


class SqliteWrites:
    """The writes of one store; ``connection`` is replaced when the writer has to reopen the file."""

    connection: sqlite3.Connection

    def __init__(self, clock: Clock, *, shared: bool) -> None:
        self._now = clock.now
        self._queues = Queues(clock.monotonic, shared=shared)
        self._claims = Claims(clock.now, self._queues)
        self._moves = MoveStatements()

    def forget(self) -> None:
        """Drop what is carried in memory: a transaction has failed."""
        self._queues.forget()

    # --- records ----------------------------------------------------------------------------

    def add(self, job: Job, queue_limit: int | None, key: IdempotencyKey | None) -> Added:
        """Insert a record and its key."""
        earlier = self.foresee(job.route, queue_limit, key)
        if earlier is not None:
            return Added(earlier, replayed=True)
        keys = input_keys(job)
        sql, parameters = INSERTS.statement(job, bool(keys))
        try:
            self.connection.execute(sql, parameters)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"a job with the id {job.id} exists") from error
        self._refer(job.id, keys)
        if key is not None:
            self.connection.execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)",
                (key.scope_hash, key.fingerprint, job.id, key.expires_at),
            )
        self._queues.added(job)
        return Added(job)

    def foresee(self, route: str, queue_limit: int | None, key: IdempotencyKey | None) -> Job | None:
        """Look the key up and count the queue; here, because only the writer knows the queue exactly."""
        earlier = None if key is None else self._earlier(key)
        if earlier is None and queue_limit is not None:
            self._queues.admit(self.connection, route, queue_limit)
        return earlier

    def _earlier(self, key: IdempotencyKey) -> Job | None:
        row = self.connection.execute(
            "SELECT fingerprint, job_id FROM keys WHERE scope_hash = ? AND expires_at > ?",
            (key.scope_hash, self._now()),
        ).fetchone()
        if row is None:
            return None
        fingerprint, job_id = row
        if fingerprint != key.fingerprint:
            raise KeyReused("this idempotency key was used with another request")
        job = self._record(job_id)
        if job is None or (job.expires_at and job.expires_at <= self._now()):
            raise Gone("the job of this idempotency key has expired")
        return job

    def _record(self, job_id: str) -> Job | None:
        row = self.connection.execute(_BY_ID, (job_id,)).fetchone()
        return None if row is None else job_of(row)

    def _refer(self, job_id: str, keys: Iterable[str]) -> None:
        for key in keys:
            self.connection.execute("INSERT OR IGNORE INTO blob_refs VALUES (?, ?)", (key, job_id))

    def claim(self, claim: Claim) -> list[Job]:
        """Hand out ready jobs."""
        return self._claims.take(self.connection, claim)

    def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move."""
        if move.fence is not None and move.fence.job_id != job_id:
            return Moved(False, self._record(job_id))
        sql, parameters = self._moves.statement(job_id, move)
        applied = self.connection.execute(sql, parameters).rowcount > 0
        # a second statement costs less than RETURNING this many columns, and is needed for a refusal anyway
        job = self._record(job_id)
        if job is not None and applied and move.to is not None:
            if move.to in TERMINAL:
                self._ended(job)
            self._queues.moved(job, move.frm, move.to)
        return Moved(applied, job)

    def _ended(self, job: Job) -> None:
        if job.webhook:
            self.connection.execute(
                "INSERT OR IGNORE INTO outbox (id, job_id, url, created_at, next_at) VALUES (?, ?, ?, ?, ?)",
                (
                    f"{job.id}.{job.state.value}",
                    job.id,
                    webhook_url(job.webhook),
                    job.finished_at,
                    job.finished_at,
                ),
            )
        if job.result_ref:
            self._refer(job.id, result_keys(job.result_ref))
            self.connection.execute("UPDATE jobs SET has_blobs = 1 WHERE id = ?", (job.id,))

    def renew(self, fences: Sequence[Fence], lease: float) -> list[Renewal]:
        """Extend leases."""
        until = self._now() + lease
        answers = []
        for fence in fences:
            rows = self.connection.execute(_RENEW, (until, fence.job_id, fence.epoch, fence.token)).fetchall()
            held = bool(rows)
            answers.append(Renewal(fence.job_id, held, held and rows[0][0] == State.CANCELLING.value))
        return answers

    # --- events -----------------------------------------------------------------------------

    def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Number and keep events, dropping the oldest beyond the ring's size."""
        head = self.connection.execute(_EVENT_HEAD, (fence.job_id, fence.epoch, fence.token)).fetchone()
        if head is None:
            raise Fenced(f"job {fence.job_id} belongs to another worker, or has ended")
        last, first, size, attempt = head
        if not events:
            return int(last)
        now = self._now()
        rows = []
        for event in events:
            last += 1
            rows.append((fence.job_id, last, now, attempt, event.type, event.data))
            size += len(event.data)
        self.connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
        if size > EVENT_BYTES or last - first >= EVENT_COUNT:
            first, size = self._drop_oldest(fence.job_id, first, last, size)
        self.connection.execute(
            "UPDATE jobs SET event_seq = ?, event_first = ?, event_bytes = ?, version = version + 1 "
            "WHERE id = ?",
            (last, first, size, fence.job_id),
        )
        return int(last)

    def _drop_oldest(self, job_id: str, first: int, last: int, size: int) -> tuple[int, int]:
        kept = self.connection.execute(
            "SELECT seq, length(data) FROM events WHERE job_id = ? AND seq >= ? ORDER BY seq", (job_id, first)
        )
        for seq, length in kept.fetchall():
            if size <= EVENT_BYTES and last - seq < EVENT_COUNT:
                break
            first, size = seq + 1, size - length
        self.connection.execute("DELETE FROM events WHERE job_id = ? AND seq < ?", (job_id, first))
        return first, size

    # --- upkeep -----------------------------------------------------------------------------

    def purge(self, limit: int) -> Purged:
        """Turn expired records into tombstones; drop old tombstones and keys."""
        now = self._now()
        rows = self.connection.execute(_EXPIRED, (now, limit)).fetchall()
        blobs: list[str] = []
        for job_id, owner, has_blobs in rows:
            blobs += self._bury(job_id, owner, bool(has_blobs), now)
        for table, column in (("tombstones", "id"), ("keys", "scope_hash")):
            self.connection.execute(
                f"DELETE FROM {table} WHERE {column} IN "
                f"(SELECT {column} FROM {table} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                (now, limit),
            )
        return Purged(len(rows), blobs)

    def delete(self, job_id: str) -> Job | None:
        """Turn one terminal record into a tombstone."""
        job = self._record(job_id)
        if job is None or not job.terminal:
            return None
        self._bury(job_id, job.owner, True, self._now())
        return job

    def _bury(self, job_id: str, owner: str, has_blobs: bool, now: float) -> list[str]:
        run = self.connection.execute
        run("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", (job_id, owner, now + TOMBSTONE_SECONDS))
        run("DELETE FROM events WHERE job_id = ?", (job_id,))
        run("DELETE FROM jobs WHERE id = ?", (job_id,))
        if not has_blobs:
            return []
        keys = [key for (key,) in run("SELECT key FROM blob_refs WHERE job_id = ?", (job_id,)).fetchall()]
        run("DELETE FROM blob_refs WHERE job_id = ?", (job_id,))
        return [
            key
            for key in keys
            if run("SELECT 1 FROM blob_refs WHERE key = ? LIMIT 1", (key,)).fetchone() is None
        ]

    def ping(self) -> None:
        """Write something."""
        self.connection.execute("UPDATE pulse SET at = ? WHERE id = 1", (self._now(),))

    # --- outbox -----------------------------------------------------------------------------

    def delivered(self, delivery_id: str) -> None:
        """Forget a delivery."""
        self.connection.execute("DELETE FROM outbox WHERE id = ?", (delivery_id,))

    def postpone(self, delivery_id: str, attempt: int, next_at: float) -> None:
        """Note a failed delivery."""
        self.connection.execute(
            "UPDATE outbox SET attempt = ?, next_at = ? WHERE id = ?", (attempt, next_at, delivery_id)
        )


def needs_savepoint(run: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Return whether an operation writes more than once."""
    name = run.__name__
    if name == "add":
        return args[2] is not None or bool(args[0].input_ref) or b'"$file"' in args[0].input
    if name == "move":
        return args[1].to in TERMINAL
    return name in ("append", "purge", "delete")


def needs_sync(run: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Return whether an operation has to be on the disk before it is answered.

    What says that a worker has a job and how far it is need not be: a process that is killed loses none of
    it, as the log is with the kernel. Only when the whole machine goes down may the last moments be missing,
    and then the job is still there, queued, and runs again, which is what becomes of it anyway.
    """
    name = run.__name__
    return not (
        name in ("claim", "renew", "append", "foresee") or (name == "move" and args[1].name == "progress")
    )
