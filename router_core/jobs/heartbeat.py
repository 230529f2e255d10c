"""Keep the leases of running jobs alive, from a thread that user code cannot block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from router_core.clock import Clock
from router_core.errors import StoreError
from router_core.jobs.execution import Phase, Run, Stop
from router_core.jobs.store import JobStore
from router_core.telemetry.events import Events, Note

__all__ = ["Heartbeat"]

_FIRST_BEAT: Final = 1.0
"""Seconds after its claim that a job's first beat comes: a cancel that was written between the claim and
the moment when its worker began to listen is then seen soon."""


class Heartbeat:
    """Renews leases in batches, and fences attempts whose lease could not be renewed in time.

    An attempt fences itself ``margin`` before its lease ends, by a clock that does not jump: the reaper may
    take the job from then on. The thread also notices when the worker's loop hangs.
    """

    def __init__(
        self, *, store: JobStore, active: Mapping[str, Run], clock: Clock, events: Events, lease: float,
        every: float,
    ) -> None:  # fmt: skip
        self._store = store
        self._active = active
        self._clock = clock
        self._events = events
        self._lease = lease
        self._every = every
        self._margin = min(5.0, lease / 6)
        self._due: dict[Run, float] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._main: asyncio.AbstractEventLoop | None = None
        self._answered_at = 0.0
        self._asked_at = 0.0
        self._blocked = False
        self.last_success_at = clock.now()
        """Wall-clock time of the last answer of the store (or of the start)."""
        self.failing = False
        """Whether the store did not answer the last beat."""

    # --- life

    def start(self, main: asyncio.AbstractEventLoop) -> None:
        """Begin to beat; ``main`` is the loop that is watched for hanging."""
        if self.alive:
            return
        self._main = main
        self._answered_at = self._asked_at = self._clock.monotonic()
        self._stop = stop = threading.Event()  # an older thread that has yet to end keeps its own
        self._thread = threading.Thread(
            target=self._run, args=(stop,), name="router-core-heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; does not wait for it, as it may be inside a store that hangs."""
        self._stop.set()
        self._thread = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, stop: threading.Event) -> None:
        try:
            asyncio.run(self._loop(stop))
        except BaseException as error:
            self._events.emit(Note("heartbeat_died", "error", "the heartbeat thread ended", {}, error))

    async def _loop(self, stop: threading.Event) -> None:
        tick = max(0.005, min(0.5, self._every / 4, self._margin / 2))
        beat: asyncio.Task[None] | None = None
        began = 0.0
        while not stop.is_set():
            if beat is None or beat.done():
                beat, began = asyncio.ensure_future(self.beat()), self._clock.monotonic()
            elif self._clock.monotonic() - began > self._lease:
                beat.cancel()  # a store that hangs: ask again rather than wait for it
            self._guarded(self.fence_overdue)
            self._guarded(self.watch)
            await asyncio.sleep(tick)
        if beat is not None:
            beat.cancel()

    def _guarded(self, look: Callable[[], None]) -> None:
        """Do one thing of a turn: whatever goes wrong in it, the next turn comes, and so do the beats."""
        try:
            look()
        except Exception as error:
            text = "a turn of the heartbeat failed; it goes on"
            self._events.emit(Note("heartbeat_trouble", "error", text, {}, error))

    # --- one round, also called by tests

    async def beat(self) -> None:
        """Renew what is due; never raises."""
        asked = self._clock.monotonic()
        runs = self._take_due(asked)
        if not runs:
            return
        try:
            renewals = await self._store.renew([run.job.fence for run in runs], self._lease)
        except Exception as error:
            if not self.failing or not isinstance(error, StoreError):
                self._events.emit(Note("heartbeat_failed", "warning", "the store did not answer", {}, error))
            self.failing = True
            again = asked + min(1.0, self._every / 4)
            for run in runs:
                self._due[run] = again
            return
        self.failing = False
        self.last_success_at = self._clock.now()
        by_id = {run.job.id: run for run in runs}
        for renewal in renewals:
            run = by_id[renewal.job_id]
            if renewal.held:
                run.lease_ends = asked + self._lease
                self._due[run] = asked + self._every
            if run.phase is Phase.SETTLING or run.settled:
                continue  # the record is being written: a lease that has just ended is our own doing
            if not renewal.held:
                run.stop(Stop.FENCED)
            elif renewal.cancel:
                run.stop(Stop.CANCEL)

    def _take_due(self, now: float) -> Sequence[Run]:
        running = tuple(self._active.values())
        due = []
        for run in running:
            at = self._due.get(run)
            if at is None:
                at = self._due[run] = now + min(_FIRST_BEAT, self._every)
            if at <= now:
                due.append(run)
        if len(self._due) > 2 * len(running) + 64:
            kept = set(running)
            self._due = {run: at for run, at in self._due.items() if run in kept}
        return due

    def fence_overdue(self) -> None:
        """Stop attempts whose lease is about to end: another worker may take the job any moment."""
        limit = self._clock.monotonic() + self._margin
        for run in tuple(self._active.values()):
            if run.lease_ends <= limit and not run.settled and run.stop(Stop.FENCED):
                self._note("self_fenced", "the lease could not be renewed in time", run)

    def _note(self, name: str, message: str, run: Run) -> None:
        self._events.emit(Note(name, "warning", message, {"job_id": run.job.id, "route": run.job.route}))

    def watch(self) -> None:
        """Note when the worker's loop has not answered for half a lease: some function blocks it."""
        now = self._clock.monotonic()
        if self._answered_at >= self._asked_at:
            self._blocked = False
            self._ask(now)
        elif not self._blocked and now - self._asked_at > self._lease / 2:
            self._blocked = True
            ids = [run.job.id for run in tuple(self._active.values())[:20]]
            text = (
                f"the event loop has not run for {now - self._asked_at:.1f} s: an async function blocks it; "
                "make it sync, and it will run in a thread"
            )
            self._events.emit(Note("loop_blocked", "warning", text, {"job_ids": ids}))

    def _ask(self, now: float) -> None:
        main = self._main
        if main is None:
            return
        self._asked_at = now
        try:
            main.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed
            self._answered_at = now

    def _answer(self) -> None:
        self._answered_at = self._clock.monotonic()
