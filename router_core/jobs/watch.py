"""Tell waiters in this process that a record has changed, without asking the store again and again.

Other processes may change the same records: a waiter still reads the store now and then. The hub only makes
the common case prompt.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Unavailable
from router_core.jobs.job import TERMINAL, Fence, Job, State, Tombstone
from router_core.jobs.moves import Move
from router_core.jobs.store import (
    Added,
    Claim,
    Delivery,
    EventPage,
    IdempotencyKey,
    JobQuery,
    Moved,
    NewEvent,
    Page,
    Purged,
    Renewal,
    Store,
    StoreStats,
)
from router_core.telemetry.events import Events, JobMoved

__all__ = ["Hub", "Watch", "WatchedStore"]

_MAX_WATCHES: Final = 10_000


class Watch:
    """One waiter on one job; made by ``Hub.watch`` and used as a context manager in one event loop."""

    __slots__ = ("_changed", "_future", "_hub", "_job_id", "_latest", "_loop")

    def __init__(self, hub: Hub, job_id: str) -> None:
        self._hub = hub
        self._job_id = job_id
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._changed = False
        self._latest: Job | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self._hub._leave(self._job_id, self)

    def newer(self, job: Job) -> Job | None:
        """Return a version written after ``job``, if one came by: it need not be read again."""
        latest = self._latest
        return latest if latest is not None and latest.version > job.version else None

    def notify(self, job: Job | None = None) -> None:
        """Wake the waiter; may be called from any thread."""
        if job is None or self._latest is None or self._latest.version < job.version:
            self._latest = job  # None: something was written that only the store can tell
        self._changed = True
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._wake()
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # that loop is closed: nobody waits in it any more
            return

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def changed(self, seconds: float, clock: Clock) -> bool:
        """Wait until the job was written since the last call; False when ``seconds`` passed first."""
        if not self._changed and seconds > 0:
            self._future = self._loop.create_future()
            timer = asyncio.ensure_future(clock.sleep(seconds))
            timer.add_done_callback(lambda _: self._wake())
            try:
                if not self._changed:  # a thread may have written while the timer was made
                    await self._future
            finally:
                timer.cancel()
                self._future = None
        changed, self._changed = self._changed, False
        return changed


class Hub:
    """Passes word of written records to whoever waits for them, in any thread and loop.

    ``publish`` never blocks and costs one dictionary lookup when nobody listens.
    """

    def __init__(self, *, max_watches: int = _MAX_WATCHES) -> None:
        self._max = max_watches
        self._count = 0
        self._lock = threading.Lock()
        self._watches: dict[str, tuple[Watch, ...]] = {}
        self._callbacks: dict[str, tuple[Callable[[Job], None], ...]] = {}

    def watch(self, job_id: str) -> Watch:
        """Begin to listen, before reading the record, so that no change falls in between.

        Raises Unavailable when as many waiters as allowed are listening.
        """
        watch = Watch(self, job_id)
        with self._lock:
            if self._count >= self._max:
                raise Unavailable(
                    "too many callers are waiting for jobs", code="too_many_waiters", retry_after=2
                )
            self._count += 1
            self._watches[job_id] = (*self._watches.get(job_id, ()), watch)
        return watch

    def _leave(self, job_id: str, watch: Watch) -> None:
        with self._lock:
            before = self._watches.get(job_id, ())
            after = tuple(one for one in before if one is not watch)
            self._count -= len(before) - len(after)
            if after:
                self._watches[job_id] = after
            else:
                self._watches.pop(job_id, None)

    def subscribe(self, job_id: str, callback: Callable[[Job], None]) -> Callable[[], None]:
        """Call ``callback`` with each new version of a job, in the writer's thread; it must be quick.

        This is how a cancel reaches the worker at once when both are in one process. Returns the way out.
        """
        with self._lock:
            self._callbacks[job_id] = (*self._callbacks.get(job_id, ()), callback)

        def unsubscribe() -> None:
            with self._lock:
                left = tuple(one for one in self._callbacks.get(job_id, ()) if one is not callback)
                if left:
                    self._callbacks[job_id] = left
                else:
                    self._callbacks.pop(job_id, None)

        return unsubscribe

    def publish(self, job_id: str, job: Job | None = None) -> None:
        """Say that a record was written; ``job`` is its new version where it is at hand."""
        for watch in self._watches.get(job_id, ()):
            watch.notify(job)
        if job is not None:
            for callback in self._callbacks.get(job_id, ()):
                # the write has happened: a failing listener must not make its writer believe otherwise
                with suppress(Exception):
                    callback(job)

    def wake(self) -> None:
        """Wake every waiter, whatever it waits for."""
        with self._lock:
            everybody = [watch for watches in self._watches.values() for watch in watches]
        for watch in everybody:
            watch.notify()

    async def wait(self, job_id: str, timeout: float, clock: Clock) -> bool:
        """Return True at the next write of a job, False after ``timeout`` seconds."""
        with self.watch(job_id) as watch:
            return await watch.changed(timeout, clock)

    @property
    def waiting(self) -> int:
        """How many are listening."""
        return self._count


class WatchedStore:
    """A store that publishes each write of this process, and reports each change of state.

    Everything else goes straight through, without another coroutine around it.
    """

    def __init__(self, store: Store, hub: Hub, events: Events) -> None:
        self.inner = store
        self.hub = hub
        self._events = events

    @property
    def multi_process(self) -> bool:
        """Whether several processes may use the store at once."""
        return bool(getattr(self.inner, "multi_process", False))

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Write a new record and publish it."""
        added = await self.inner.add(job, queue_limit=queue_limit, key=key)
        if not added.replayed:
            self._tell("add", added.job)
        return added

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take jobs and publish them."""
        jobs = await self.inner.claim(claim)
        for job in jobs:
            self._tell("claim", job)
        return jobs

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move and publish it if it took effect."""
        moved = await self.inner.move(job_id, move)
        if moved.applied and moved.job is not None:
            if move.to is None:
                self.hub.publish(job_id, moved.job)
            else:
                self._tell(move.name, moved.job)
        return moved

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Keep events and wake those who follow the job."""
        last = await self.inner.append(fence, events)
        self.hub.publish(fence.job_id)
        return last

    async def delete(self, job_id: str) -> Job | None:
        """Delete a terminal record and wake those who follow the job."""
        job = await self.inner.delete(job_id)
        if job is not None:
            self.hub.publish(job_id)
        return job

    def _tell(self, name: str, job: Job) -> None:
        self.hub.publish(job.id, job)
        self._events.emit(
            JobMoved(
                job_id=job.id, route=job.route, move=name, state=job.state.value, reason=job.reason,
                attempt=job.attempt, seconds=_seconds(job), request_id=job.request_id,
                worker_id=job.worker_id,
            )
        )  # fmt: skip

    def foresee(
        self, route: str, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Coroutine[Any, Any, Job | None]:
        """Ask what would become of a submission."""
        return self.inner.foresee(route, queue_limit=queue_limit, key=key)

    def get(self, job_id: str) -> Coroutine[Any, Any, Job | Tombstone | None]:
        """Read one record."""
        return self.inner.get(job_id)

    def renew(self, fences: Sequence[Fence], lease: float) -> Coroutine[Any, Any, Sequence[Renewal]]:
        """Extend leases."""
        return self.inner.renew(fences, lease)

    def find(self, query: JobQuery) -> Coroutine[Any, Any, Page]:
        """List records."""
        return self.inner.find(query)

    def events(self, job_id: str, after: int = 0, limit: int = 100) -> Coroutine[Any, Any, EventPage]:
        """Read kept events."""
        return self.inner.events(job_id, after, limit)

    def overdue(self, limit: int = 100) -> Coroutine[Any, Any, Sequence[Job]]:
        """Return jobs whose lease has ended."""
        return self.inner.overdue(limit)

    def due(self, limit: int = 100) -> Coroutine[Any, Any, Sequence[Job]]:
        """Return jobs whose time or deadline has come."""
        return self.inner.due(limit)

    def next_due(self) -> Coroutine[Any, Any, float | None]:
        """Return when the next job is due."""
        return self.inner.next_due()

    def purge(self, limit: int = 500) -> Coroutine[Any, Any, Purged]:
        """Drop what has expired."""
        return self.inner.purge(limit)

    def stats(self) -> Coroutine[Any, Any, StoreStats]:
        """Count the open jobs."""
        return self.inner.stats()

    def ping(self) -> Coroutine[Any, Any, None]:
        """Raise StoreError unless a write would succeed now."""
        return self.inner.ping()

    def open(self) -> Coroutine[Any, Any, None]:
        """Get ready."""
        return self.inner.open()

    def close(self) -> Coroutine[Any, Any, None]:
        """Finish and let go."""
        return self.inner.close()

    def deliveries(self, limit: int = 100) -> Coroutine[Any, Any, Sequence[Delivery]]:
        """Return webhooks to send."""
        return self.inner.deliveries(limit)

    def delivered(self, delivery_id: str) -> Coroutine[Any, Any, None]:
        """Forget a webhook."""
        return self.inner.delivered(delivery_id)

    def postpone(self, delivery_id: str, *, attempt: int, next_at: float) -> Coroutine[Any, Any, None]:
        """Note a failed try of a webhook."""
        return self.inner.postpone(delivery_id, attempt=attempt, next_at=next_at)


def _seconds(job: Job) -> float:
    if job.state is State.RUNNING:
        return max(0.0, job.started_at - max(job.created_at, job.not_before))
    if job.state in TERMINAL and job.started_at:
        return max(0.0, job.finished_at - job.started_at)
    return 0.0
