"""Take jobs back from workers that have vanished (C4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from router_core.clock import Clock
from router_core.jobs import moves
from router_core.jobs.dispatch import Dispatcher, tell
from router_core.jobs.job import MAX_CRASHES, Job, Reason, State
from router_core.jobs.retry import Failure, backoff, history
from router_core.jobs.store import Moved, Store
from router_core.jobs.upkeep import Loop, Pulse
from router_core.routing.route import JobOptions, Route
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note

__all__ = ["Reaper"]

INTERVAL: Final = 5.0
"""Seconds between looks. A worker that is killed is noticed after its lease (30 s) and one of these."""
_PAGE: Final = 100
_PAGES: Final = 50
"""Pages in one tick, so that a great many dead leases do not keep a tick from ending."""


class Reaper:
    """Looks for running jobs whose lease has ended, and puts them back or ends them.

    A row that cannot be handled is reported and passed over; it neither stops the loop nor keeps other rows
    from being reached. The write repeats what was seen, so a worker that comes back in between keeps its job.
    """

    name = "reaper"

    def __init__(
        self, *, store: Store, routes: Mapping[str, Route], clock: Clock, settings: Settings, events: Events,
        dispatcher: Dispatcher | None = None, interval: float = INTERVAL,
        draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._store = store
        self._routes = routes
        self._clock = clock
        self._retention = settings.retention
        self._events = events
        self._dispatcher = dispatcher
        self._external = dispatcher is not None and dispatcher.abilities.external
        self._draw = draw
        interval = min(interval, settings.lease / 3)
        self._pulse = Pulse(clock, interval)
        self._loop = Loop(self.name, self.tick, clock=clock, events=events, interval=interval)
        self._stuck: set[str] = set()
        """Rows that failed in this tick: they come first in every page, so pages grow by them."""

    @property
    def last_success_at(self) -> float:
        """When all that had to be done was last done; 0 before the first time."""
        return self._pulse.last_success_at

    def ready(self, now: float) -> bool:
        """Whether the reaper did its work within the last three ticks."""
        return self._pulse.alive

    async def run(self) -> None:
        """Work until cancelled; never raises."""
        await self._loop.run()

    async def idle(self) -> None:
        """Nothing goes on after a tick."""

    async def tick(self) -> None:
        """Handle every job whose lease has ended. Raises StoreError when the store cannot say which."""
        self._stuck.clear()
        handled = 0
        for _ in range(_PAGES):
            page = await self._store.overdue(_PAGE + len(self._stuck))
            jobs = [job for job in page if job.id not in self._stuck]
            for job in jobs:
                handled += await self._safely(job)
            if len(jobs) < _PAGE:
                break
        if handled or not self._stuck:
            self._pulse.beat()

    async def _safely(self, job: Job) -> bool:
        try:
            await self._tell(await self.rescue(job))
        except Exception as error:
            self._stuck.add(job.id)
            note = Note("reaper_row_failed", "error", f"job {job.id} could not be rescued", error=error)
            self._events.emit(note)
            return False
        return True

    async def rescue(self, job: Job) -> Moved:
        """Take one job back whose lease has ended, or end it. The queue is not told."""
        now = self._clock.now()
        route = self._routes.get(job.route)
        options = JobOptions() if route is None else route.job
        lost = job.crash_count + 1 >= MAX_CRASHES or job.attempt >= job.max_attempts
        failure = Failure("WorkerLost", "the worker of this job vanished", not lost, Reason.LOST)
        error = failure.body(job.attempt)
        move = moves.rescue(
            job, now=now, lost=lost, error=error,
            retention=self._retention if options.retention is None else options.retention,
            not_before=now + backoff(options, job.attempt, self._draw),
            attempts=history(job, Reason.RESCUED.value, now, error),
        )  # fmt: skip
        if self._external and move.to is State.RETRYING:
            move = replace(move, sets={**move.sets, "dispatch_pending": True})
        moved = await self._store.move(job.id, move)
        if moved.applied and moved.job is not None:
            text = f"job {job.id} was taken from a worker that vanished; it is {moved.job.state.value} now"
            self._events.emit(Note("job_rescued", "warning", text, {"job_id": job.id, "route": job.route}))
        return moved

    async def _tell(self, moved: Moved) -> None:
        """Tell the queue of a job that waits again; what it cannot hold so long is left to the sweeper."""
        job = moved.job
        if not moved.applied or job is None or job.state is not State.RETRYING or self._dispatcher is None:
            return
        if not self._external or self._dispatcher.abilities.takes(job, self._clock.now()):
            await tell(self._dispatcher, self._store, job)
