"""Do what time brings: start scheduled jobs, end those past their deadline, forget what has expired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

from router_core.clock import Clock
from router_core.jobs import moves
from router_core.jobs.blobs import BlobStore
from router_core.jobs.dispatch import Dispatcher, tell
from router_core.jobs.job import Job, State
from router_core.jobs.store import JobQuery, Store
from router_core.jobs.upkeep import Loop, Pulse
from router_core.routing.route import Route
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import first_id

__all__ = ["KnowsBlobs", "KnowsUndispatched", "Sweeper"]

TICK: Final = 1.0
RESEND: Final = 10.0
PURGE: Final = 30.0
REMIND: Final = 6 * 3600.0
FORGETFUL: Final = 3 * 24 * 3600.0
"""Seconds after which a queue may have forgotten a message that nobody fetched (SQS keeps one for 4 days)."""
ORPHANS: Final = 3600.0
ORPHAN_AGE: Final = 24 * 3600.0
"""A blob is written before the record that names it; younger ones may be about to be named."""
_PATIENCE: Final = 5.0
"""A step counts as alive for three of these at least: another step may take a few seconds."""
_PAGE: Final = 100
_UNDISPATCHED: Final = 1000
_PURGE_PAGE: Final = 500
_OLD_KEYS: Final = 100_000
"""Blobs looked at in one search for orphans."""
_PURGE_PAGES: Final = 10
_PAGES: Final = 50
"""Pages of one step in one tick: the other steps have their turn, and the rest is done a second later."""


@runtime_checkable
class KnowsBlobs(Protocol):
    """A store that can tell which blobs its records name. Without it orphans are left alone."""

    async def unreferenced(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of the keys that no record names."""


@runtime_checkable
class KnowsUndispatched(Protocol):
    """A store that finds the jobs which their queue has to be told of without reading all that wait."""

    async def undispatched(self, before: float, limit: int = 100) -> Sequence[Job]:
        """Return queued and retrying jobs marked ``dispatch_pending`` that were added before a time."""


@dataclass(slots=True)
class _Step:
    """One of the sweeper's duties, with its own rhythm and its own readiness."""

    name: str
    work: Callable[[], Awaitable[None]]
    interval: float
    pulse: Pulse
    vital: bool = True
    """Whether the process is unready when it fails."""
    next_at: float = 0.0


class Sweeper:
    """Runs its steps one after another, each at its own interval; one that fails hinders no other."""

    name = "sweeper"

    def __init__(
        self, *, store: Store, blobs: BlobStore, dispatcher: Dispatcher, routes: Mapping[str, Route],
        clock: Clock, settings: Settings, events: Events, interval: float = TICK,
    ) -> None:  # fmt: skip
        self._store = store
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._routes = routes
        self._clock = clock
        self._retention = settings.retention
        self._events = events
        self._cursor = ""
        self._reminded = ""
        self._searched = ""
        self._loop = Loop(self.name, self.tick, clock=clock, events=events, interval=interval)
        self._steps = [
            self._step("due", self.due, interval),
            self._step("resend", self.resend, RESEND),
            self._step("remind", self.remind, REMIND, vital=False),
            self._step("purge", self.purge, PURGE),
            self._step("orphans", self.orphans, ORPHANS, vital=False),
        ]

    def _step(
        self, name: str, work: Callable[[], Awaitable[None]], interval: float, *, vital: bool = True
    ) -> _Step:
        return _Step(name, work, interval, Pulse(self._clock, max(interval, _PATIENCE)), vital)

    @property
    def last_success_at(self) -> float:
        """When the step that is furthest behind last succeeded; 0 before the first time."""
        return min(step.pulse.last_success_at for step in self._steps if step.vital)

    def ready(self, now: float) -> bool:
        """Whether every vital step did its work within the last three of its ticks."""
        return all(step.pulse.alive for step in self._steps if step.vital)

    async def run(self) -> None:
        """Work until cancelled; never raises."""
        await self._loop.run()

    async def idle(self) -> None:
        """Nothing goes on after a tick."""

    async def tick(self) -> None:
        """Run each step whose time has come."""
        for step in self._steps:
            if self._clock.monotonic() < step.next_at:
                continue
            step.next_at = self._clock.monotonic() + step.interval
            try:
                await step.work()
            except Exception as error:
                text = f"the step {step.name} of the sweeper failed; it is tried again"
                self._events.emit(Note("sweeper_step_failed", "error", text, {"step": step.name}, error))
            else:
                step.pulse.beat()

    # -- what has become due -----------------------------------------------------------------------

    async def due(self) -> None:
        """Queue scheduled jobs whose time has come; end waiting jobs whose deadline has passed."""
        stuck: set[str] = set()
        for _ in range(_PAGES):
            page = await self._store.due(_PAGE + len(stuck))
            jobs = [job for job in page if job.id not in stuck]
            for job in jobs:
                if not await self._safely("due", job, self._advance):
                    stuck.add(job.id)
            if len(jobs) < _PAGE:
                return

    async def _advance(self, job: Job) -> None:
        now = self._clock.now()
        if job.deadline_at and job.deadline_at <= now:
            route = self._routes.get(job.route)
            own = None if route is None else route.job.retention
            kept = self._retention if own is None else own
            await self._store.move(job.id, moves.deadline(job, now=now, retention=kept))
            return
        move = moves.due(now=now)
        move = replace(move, sets={**move.sets, "dispatch_pending": self._dispatcher.abilities.external})
        moved = await self._store.move(job.id, move)
        if moved.applied and moved.job is not None:
            await self._tell(moved.job)

    async def _tell(self, job: Job) -> None:
        await tell(self._dispatcher, self._store, job)

    async def _safely(self, step: str, job: Job, work: Callable[[Job], Awaitable[None]]) -> bool:
        try:
            await work(job)
        except Exception as error:
            text = f"job {job.id} is passed over; it is tried again"
            self._events.emit(Note("sweeper_row_failed", "error", text, {"step": step}, error))
            return False
        return True

    # -- what the queue has not taken --------------------------------------------------------------

    async def resend(self) -> None:
        """Tell the queue of jobs that it was not told of, or did not take, and that nobody has claimed.

        Among them are jobs that a worker put back: the queue may have the message of that worker still, so
        they are left alone until they have been due for a while.
        """
        if not self._dispatcher.abilities.external:
            return
        inner = getattr(self._store, "inner", self._store)
        if isinstance(inner, KnowsUndispatched):
            await self._tell_all(await inner.undispatched(self._clock.now() - RESEND, _UNDISPATCHED))
            return
        waiting = frozenset({State.QUEUED, State.RETRYING})
        for _ in range(_PAGES):
            page = await self._store.find(JobQuery(states=waiting, cursor=self._cursor, limit=_PAGE))
            await self._tell_all(page.jobs)
            self._cursor = page.cursor
            if not page.cursor:
                return

    async def _tell_all(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            since = max(job.created_at, job.not_before)
            if job.dispatch_pending and since <= self._clock.now() - RESEND:
                await self._safely("resend", job, self._tell)

    async def remind(self) -> None:
        """Tell the queue again of jobs that have waited for days: it may have dropped their messages."""
        if not self._dispatcher.abilities.external:
            return
        waiting = frozenset({State.QUEUED, State.RETRYING})
        before = self._clock.now() - FORGETFUL
        for _ in range(_PAGES):
            cursor = self._reminded or first_id(before)  # younger jobs are not even looked at
            page = await self._store.find(JobQuery(states=waiting, cursor=cursor, limit=_PAGE))
            for job in page.jobs:
                if max(job.created_at, job.not_before) <= before:
                    await self._safely("remind", job, self._tell)
            self._reminded = page.cursor
            if not page.cursor:
                return
        self._soon(self.remind)

    # -- what nobody needs any more ----------------------------------------------------------------

    async def purge(self) -> None:
        """Forget expired records and their blobs."""
        for _ in range(_PURGE_PAGES):
            purged = await self._store.purge(_PURGE_PAGE)
            for key in purged.blobs:
                await self._forget(key)
            if purged.jobs < _PURGE_PAGE:
                return
        self._soon(self.purge)

    def _soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """There is more: go on with the next tick, after the other steps."""
        for step in self._steps:
            if step.work == work:
                step.next_at = 0.0

    async def orphans(self) -> None:
        """Delete blobs that no record names: left by a process that died between blob and record."""
        inner = getattr(self._store, "inner", self._store)
        if not isinstance(inner, KnowsBlobs):
            return
        old = await self._blobs.keys(self._clock.now() - ORPHAN_AGE, _OLD_KEYS, self._searched)
        # the next search goes on where this one ends, or every orphan behind many living blobs would stay
        self._searched = old[-1] if len(old) == _OLD_KEYS else ""
        found = 0
        for start in range(0, len(old), _PURGE_PAGE):
            for key in await inner.unreferenced(old[start : start + _PURGE_PAGE]):
                found += await self._forget(key)
        if found:
            text = f"{found} blobs without a record were deleted"
            self._events.emit(Note("orphan_blobs", "info", text, {"count": found}))

    async def _forget(self, key: str) -> bool:
        try:
            await self._blobs.delete(key)
        except Exception as error:  # the next search for orphans finds it
            self._events.emit(Note("blob_left", "warning", f"blob {key} could not be deleted", error=error))
            return False
        return True
