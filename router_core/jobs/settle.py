"""Write how an attempt ended: once, by its owner only, and through a store that may not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import pydantic_core

from router_core.clock import Clock
from router_core.errors import Fenced, StoreError
from router_core.jobs import moves
from router_core.jobs.blobs import BlobStore
from router_core.jobs.execution import Run, Stop
from router_core.jobs.failpoints import failpoint
from router_core.jobs.job import Job, Reason, State
from router_core.jobs.moves import Move
from router_core.jobs.retry import Failure, decide, history
from router_core.jobs.store import JobStore, Moved, NewEvent
from router_core.routing.route import JobOptions
from router_core.telemetry.events import Events, Note

__all__ = [
    "MAX_INLINE",
    "MAX_INLINE_FILE",
    "MAX_RESULT",
    "Done",
    "Outputs",
    "Settlement",
    "StoreSink",
    "TooLarge",
]

T = TypeVar("T")

MAX_INLINE: Final = 256 * 1024
"""A larger result goes to the blob store."""
MAX_INLINE_FILE: Final = 190 * 1024
"""A larger file would be too large for the record in base64: its bytes go to the blob store as they are."""
MAX_RESULT: Final = 100 * 1024 * 1024
"""A larger result fails its job."""
PATIENCE: Final = 120.0
"""Seconds for which an unreachable blob store is asked again before the attempt counts as failed."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Done:
    """The function returned."""

    result: bytes
    """JSON, or the bytes of a file."""
    content_type: str = "application/json"
    filename: str | None = None
    """Set, if only to an empty name, when the result is a file: it goes to the blob store, however small."""


class TooLarge(Exception):
    """The result is larger than any job may have."""

    def __init__(self, size: int) -> None:
        text = f"the result has {size} bytes; {MAX_RESULT} are allowed"
        super().__init__(text)
        self.failure = Failure("ResultTooLarge", text, False, Reason.RESULT_TOO_LARGE)


class Outputs:
    """What a generator yielded so far: the items of the list that is the result, each as JSON."""

    __slots__ = ("_items", "_size")

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._size = 1  # the brackets, less the comma that the first item has none of

    def add(self, item: bytes) -> None:
        """Keep an item; raises TooLarge when the list has become larger than a result may be."""
        self._size += len(item) + 1
        if self._size > MAX_RESULT:
            raise TooLarge(self._size)
        self._items.append(item)

    def result(self) -> bytes:
        """Return the list."""
        return b"[" + b",".join(self._items) + b"]"


class Settlement:
    """Ends attempts in the record."""

    __slots__ = (
        "_blobs", "_clock", "_draw", "_events", "_retention", "_retry_at", "_store", "external", "fenced",
    )  # fmt: skip

    def __init__(
        self, *, store: JobStore, blobs: BlobStore, clock: Clock, events: Events, retention: float,
        draw: Callable[[], float] = random.random, retry_at: Callable[[float], None] | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._events = events
        self._retention = retention
        self._draw = draw
        self._retry_at = retry_at
        self.external = False
        """The queue lives outside the record store: a job that is put back is marked, for the sweeper to tell
        the queue again unless whoever gave out the job does."""
        self.fenced = 0
        """Attempts whose outcome was thrown away, as they were not the owner any more."""

    async def settle(self, run: Run, outcome: Done | Failure) -> None:
        """Write the outcome. Blob before record (C6), events before the end, nothing after it."""
        if run.stopped in (Stop.FENCED, Stop.ABANDON):
            self.discard(run)
            return
        if run.journal is not None:
            await self._flush(run)
        options = run.route.job if run.route is not None else JobOptions()
        move = await self._move(run, outcome, options)
        failpoint("before_settle")
        await self._write(run, move)
        failpoint("after_settle")

    async def _move(self, run: Run, outcome: Done | Failure, options: JobOptions) -> Move:
        if isinstance(outcome, Done):
            result = await self._keep_result(run, outcome, options)
            if not isinstance(result, Failure):
                return self._succeed(run, *result, options)
            outcome = result
        move = decide(
            run.job, outcome, options, now=self._clock.now(), retention=self._keep(options), draw=self._draw
        )
        return _with_progress(move, run)

    def _keep(self, options: JobOptions) -> float:
        return self._retention if options.retention is None else options.retention

    def _succeed(self, run: Run, result: bytes, result_ref: bytes, options: JobOptions) -> Move:
        now = self._clock.now()
        message = run.journal.progress.latest()[1] if run.journal is not None else ""
        return moves.succeed(
            run.job.fence, now=now, retention=self._keep(options), result=result, result_ref=result_ref,
            attempts=history(run.job, State.SUCCEEDED.value, now), message=message or None,
        )  # fmt: skip

    async def _keep_result(
        self, run: Run, outcome: Done, options: JobOptions
    ) -> tuple[bytes, bytes] | Failure:
        size = len(outcome.result)
        if size <= MAX_INLINE and outcome.filename is None:
            return outcome.result, b""
        if size > MAX_RESULT:
            return TooLarge(size).failure
        failpoint("before_blob")
        try:
            blob = await self.patiently(
                run, lambda: self._blobs.put(outcome.result, content_type=outcome.content_type)
            )
        except Exception as error:
            if run.stopped is Stop.RELEASE:
                return Failure("Draining", "the worker is shutting down", True, Reason.RELEASED)
            text = "the result could not be kept: the blob store does not answer"
            return Failure("StoreError", text, True, ours=True, error=error)
        failpoint("after_blob")
        ref = {
            "key": blob.key, "sha256": blob.sha256, "size": blob.size, "content_type": outcome.content_type,
        }  # fmt: skip
        if outcome.filename is not None:
            ref["filename"] = outcome.filename
        return b"", pydantic_core.to_json(ref)

    async def patiently(self, run: Run, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that may meet a store which is away for a while; raises its last StoreError."""
        pause = _FIRST_PAUSE
        until = self._clock.monotonic() + PATIENCE
        while True:
            try:
                return await work()
            except StoreError:
                now = self._clock.monotonic()
                if now >= until or now >= run.lease_ends or run.stopped is not None:
                    raise
            await self._clock.sleep(pause * (0.5 + self._draw() / 2))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _flush(self, run: Run) -> None:
        journal = run.journal
        if journal is None:
            return
        try:
            await self.patiently(run, journal.flush)
        except Exception as error:
            self._events.emit(_note("events_lost", run, "events of a job could not be kept", error=error))
        if journal.dropped:
            self._events.emit(
                _note("events_dropped", run, f"{journal.dropped} events came faster than they could be kept")
            )

    async def _write(self, run: Run, move: Move) -> None:
        """Write the move until it is certain what became of it (C3), while the lease lives."""
        pause = _FIRST_PAUSE
        while run.stopped not in (Stop.FENCED, Stop.ABANDON):
            try:
                moved = await self._store.move(run.job.id, self._for_queue(move))
            except StoreError as error:
                self._events.emit(_note("settle_unclear", run, "the store did not answer", error=error))
            else:
                if moved.applied:
                    self._tell_retry(move)
                    return
                after = self._after_refusal(run, move, moved.job)
                if after is None:
                    return
                if after is not move:
                    move = after
                    continue
            if self._clock.monotonic() >= run.lease_ends:
                break
            await self._clock.sleep(pause * (0.5 + self._draw() / 2))
            pause = min(_LONGEST_PAUSE, pause * 2)
        self.discard(run)

    def _for_queue(self, move: Move) -> Move:
        if self.external and move.to in (State.QUEUED, State.RETRYING):
            return replace(move, sets={**move.sets, "dispatch_pending": True})
        return move

    def _after_refusal(self, run: Run, move: Move, record: Job | None) -> Move | None:
        """Read what the record says instead: None when there is nothing left to write."""
        if record is None or record.epoch != run.job.epoch:
            self.discard(run)
            return None
        if record.state is move.to and record.reason == move.sets.get("reason", record.reason):
            self._tell_retry(move)
            return None  # an earlier try of ours got through after all
        if record.token != run.job.token:
            self.discard(run)
            return None
        if record.state is State.CANCELLING:
            # cancel came first (C5): whatever the function has made is not published
            now = self._clock.now()
            keep = self._keep(run.route.job if run.route is not None else JobOptions())
            attempts = history(run.job, State.CANCELLED.value, now)
            return moves.cancelled(run.job.fence, now=now, retention=keep, attempts=attempts)
        if record.state is State.RUNNING and move.name == "cancelled":
            # a cancel that the record knows nothing of: give the job back, nobody asked for its end
            attempts = history(run.job, Reason.RELEASED.value, self._clock.now())
            return moves.release(run.job.fence, attempts=attempts)
        return move

    def _tell_retry(self, move: Move) -> None:
        if self._retry_at is not None and move.to is State.RETRYING:
            self._retry_at(float(move.sets["not_before"]))

    def discard(self, run: Run) -> None:
        """Throw away what an attempt has made and count it."""
        if run.journal is not None:
            run.journal.close()
        if run.stopped is Stop.ABANDON:
            return
        self.fenced += 1
        self._events.emit(
            _note("fenced", run, "another worker may own this job now; what was made here is thrown away")
        )


def _with_progress(move: Move, run: Run) -> Move:
    """Let the last progress travel with the move that ends the attempt, instead of a write of its own."""
    if run.journal is None or move.to is State.QUEUED:
        return move
    fraction, message = run.journal.progress.latest()
    if not fraction and not message:
        return move
    return replace(move, sets={**move.sets, "progress": fraction, "message": message}, progress_floor=True)


def _note(name: str, run: Run, message: str, error: BaseException | None = None) -> Note:
    fields = {"job_id": run.job.id, "route": run.job.route, "attempt": run.job.attempt}
    return Note(name, "warning", message, fields, error)


class StoreSink:
    """Writes what a journal collects to the job's record, as long as the job is ours."""

    __slots__ = ("_known", "_last_seq", "_lock", "_run", "_steps", "_store", "_unclear")

    def __init__(self, store: JobStore, run: Run, steps: dict[str, bytes]) -> None:
        self._store = store
        self._run = run
        self._steps = steps
        self._last_seq = run.job.event_seq
        self._unclear: Sequence[NewEvent] = ()
        """Events of the last append, when it is not known whether they were kept."""
        self._known: list[NewEvent] = []
        """Events that are kept, of those that will be handed in again."""
        self._lock = asyncio.Lock()

    async def progress(self, fraction: float, message: str) -> None:
        """Write the latest progress."""
        moved = await self._store.move(
            self._run.job.id, moves.progress(self._run.job.fence, fraction=fraction, message=message)
        )
        if not moved.applied:
            self._lost(moved.job)

    async def events(self, events: Sequence[NewEvent]) -> None:
        """Append events; after an unclear answer, look first which of them are there already.

        Those of a call that raised are handed in again, with others behind them and perhaps without the
        oldest. That may happen several times over before one gets through.
        """
        if self._unclear:
            self._known += self._unclear[: await self._kept()]
            self._unclear = ()
        known = {id(event) for event in self._known}
        fresh = [event for event in events if id(event) not in known]
        try:
            if fresh:
                self._last_seq = await self._store.append(self._run.job.fence, fresh)
        except Fenced:
            self._lost(await self._record())
        except StoreError:
            self._unclear = fresh
            raise
        self._known = []

    async def _kept(self) -> int:
        """Return how many events an unclear append did write: nobody else appends to a job of ours, so
        what came after our last number is the beginning of that batch."""
        record = await self._record()
        if record is None or record.epoch != self._run.job.epoch:
            return 0
        kept, self._last_seq = record.event_seq - self._last_seq, record.event_seq
        return max(0, kept)

    async def step(self, name: str, outcome: bytes) -> None:
        """Record a step. Raises StoreError when the store is away for long, Fenced when it is not ours."""
        async with self._lock:
            steps = {**self._steps, name: outcome}
            move = moves.step(self._run.job.fence, steps=_object(steps))
            moved = await self._insist(move)
            if not moved.applied:
                self._lost(moved.job)
                raise Fenced("this attempt may not write any more")
            self._steps = steps

    async def _insist(self, move: Move) -> Moved:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._store.move(self._run.job.id, move)
            except StoreError:
                if self._run.stopped is not None or pause > _LONGEST_PAUSE:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _record(self) -> Job | None:
        record = await self._store.get(self._run.job.id)
        return record if isinstance(record, Job) else None

    def _lost(self, record: Job | None) -> None:
        """A write was refused: the job is cancelled, or it is not ours."""
        job = self._run.job
        ours = record is not None and record.epoch == job.epoch and record.token == job.token
        cancelling = record is not None and record.state is State.CANCELLING
        self._run.stop(Stop.CANCEL if ours and cancelling else Stop.FENCED)


def _object(steps: dict[str, bytes]) -> bytes:
    """Return a JSON object out of names and values that are JSON already."""
    members = (pydantic_core.to_json(name) + b":" + value for name, value in steps.items())
    return b"{" + b",".join(members) + b"}"
