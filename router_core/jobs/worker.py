"""The workers of one process: claim what is ready, run it, keep its lease, let it go at the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.execution import Phase, Run, Stop
from router_core.jobs.failpoints import failpoint
from router_core.jobs.heartbeat import Heartbeat
from router_core.jobs.job import Job
from router_core.jobs.runner import Runner
from router_core.jobs.store import Claim, JobStore
from router_core.routing.route import Route
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import new_id

__all__ = ["WorkerPool", "concurrency_of"]

POLL: Final = 1.0
"""Seconds between looks at the store without a wake-up: finds what other processes have added."""
MAX_UNSETTLED: Final = 1_000
"""Attempts that have ended and are still being written: beyond it nothing new is claimed."""
STOP_GRACE: Final = 1.0
"""Seconds that functions get to stop at the end of a drain."""
_LONGEST_PAUSE: Final = 5.0


def concurrency_of(route: Route) -> int:
    """Return how many jobs of a route run at once in this process."""
    if route.job.concurrency > 0:
        return route.job.concurrency
    if route.job.isolation == "process":
        return os.cpu_count() or 1
    return 10 if route.plan.is_async else 1


class WorkerPool:
    """Runs the jobs of some routes in this process.

    One loop claims for all routes, as many jobs as there are free slots, whenever it is woken: by a new job,
    by a slot that became free while work was waiting, by the time of a retry, and now and then.
    """

    def __init__(
        self, *, store: JobStore, runner: Runner, routes: Mapping[str, Route], clock: Clock,
        settings: Settings, events: Events, poll: float = POLL,
    ) -> None:  # fmt: skip
        self.worker_id = new_id()
        """Random per process boot: a host name comes back, and with it a stranger's lease."""
        self._store = store
        self._runner = runner
        self._clock = clock
        self._events = events
        self._lease = settings.lease
        self._poll = poll
        self._free = {key: concurrency_of(route) for key, route in routes.items()}
        self._maybe = set(self._free)
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._draining = False
        self._run: Callable[[Job], Awaitable[None]] = runner.run
        self._store_failing = False
        self._claimed_at = 0.0
        self.heartbeat = Heartbeat(
            store=store, active=runner.active, clock=clock, events=events, lease=settings.lease,
            every=settings.heartbeat,
        )  # fmt: skip

    # --- life

    def start(self, run: Callable[[Job], Awaitable[None]] | None = None) -> None:
        """Begin to claim, on the running loop; ``run`` replaces the runner's own."""
        if self._claiming is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._run = run or self._runner.run
        self._runner.check()
        self._claimed_at = self._clock.now()
        self._runner.on_retry = self._wake_at
        self.heartbeat.start(self._loop)
        self._claiming = self._loop.create_task(self._claim_for_ever())

    def attend(self) -> None:
        """Keep jobs alive that somebody else claims and hands to the runner (``App.run``); claim nothing.

        They belong to the running loop, and ``drain`` waits for them as for our own.
        """
        self._runner.check()
        self._loop = asyncio.get_running_loop()
        self.heartbeat.start(self._loop)

    def wake(self, route: str) -> None:
        """Say that a job of a route may be ready; on the loop of this pool."""
        if route in self._free:
            self._maybe.add(route)
            self._wake.set()

    def _wake_at(self, when: float) -> None:
        """Look again when a retry is due."""
        if self._loop is not None and not self._draining:
            self._loop.call_later(max(0.0, when - self._clock.now()) + 0.002, self._look_everywhere)

    def _look_everywhere(self) -> None:
        self._maybe.update(self._free)
        self._wake.set()

    # --- claiming

    async def _claim_for_ever(self) -> None:
        pause = 0.0
        while not self._draining:
            try:
                await self._wait(pause)
                await self._claim_once()
                pause = 0.0
            except Exception as error:
                pause = min(_LONGEST_PAUSE, pause * 2 or 0.1)
                self._maybe.update(self._free)
                if not self._store_failing or not isinstance(error, StoreError):
                    self._events.emit(Note("claim_failed", "warning", "no jobs can be claimed", {}, error))
                self._store_failing = True

    async def _wait(self, pause: float) -> None:
        """Wait until there may be something to claim, or for ``pause`` seconds after an error."""
        if pause:
            await asyncio.sleep(pause)
            return
        # attempts that end in the same turn of the loop are then replaced by one claim
        await asyncio.sleep(0)
        if self._draining or self._wanted():
            return  # a drain has woken this loop already, and clearing that would cost it a whole poll
        self._wake.clear()
        try:
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        except TimeoutError:
            self._maybe.update(self._free)

    def _wanted(self) -> dict[str, int]:
        if len(self._tasks) >= MAX_UNSETTLED:
            return {}
        free = self._free
        return {route: free[route] for route in self._maybe if free[route] > 0}

    async def _claim_once(self) -> None:
        slots = self._wanted()
        if not slots or self._draining:
            return
        self._maybe.difference_update(slots)
        at = self._clock.monotonic()
        jobs = await self._store.claim(Claim(self.worker_id, self._lease, slots))
        self._store_failing = False
        self._claimed_at = self._clock.now()
        if not jobs:
            return
        failpoint("after_claim")
        if self._draining:
            await self._give_back(jobs)
            return
        for job in jobs:
            slots[job.route] -= 1
            self._begin(job, at)
        # a batch that filled every slot says nothing about what is behind it
        self._maybe.update(route for route, left in slots.items() if left <= 0)

    def _begin(self, job: Job, at: float) -> None:
        route = job.route
        self._free[route] -= 1
        self._runner.claimed(job.id, at, lambda: self._freed(route))
        task = asyncio.get_running_loop().create_task(self._guard(job))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _guard(self, job: Job) -> None:
        try:
            await self._run(job)
        except BaseException as error:
            self._events.emit(Note("run_failed", "error", "a job was not run", {"job_id": job.id}, error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if len(self._tasks) == MAX_UNSETTLED - 1:
            self._wake.set()

    def _freed(self, route: str) -> None:
        self._free[route] += 1
        if route in self._maybe:
            self._wake.set()

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        """Release jobs that were claimed in the moment of a drain: nothing of them has begun."""
        for job in jobs:
            try:
                await self._store.move(job.id, moves.release(job.fence, attempts=job.attempts))
            except StoreError as error:
                # their leases run out, and the reaper counts it as a crash: the best that is left
                self._events.emit(Note("release_failed", "warning", "", {"job_id": job.id}, error))

    # --- the end

    async def drain(self, grace: float) -> None:
        """Claim no more, let what runs end for ``grace`` seconds, then stop it and give it back.

        What is given back has not used up an attempt. Takes at most a few seconds longer than ``grace``.
        """
        self._draining = True
        self._wake.set()
        if self._claiming is not None:
            await asyncio.wait({self._claiming}, timeout=max(grace, STOP_GRACE))
        await self._ending(grace)
        for run in self._running():
            if not run.stop(Stop.RELEASE, STOP_GRACE):
                run.force()  # it was being cancelled or timed out: no more patience for that either
        await self._ending(STOP_GRACE * 2)
        if self._running():
            self.kill()
            await self._ending(STOP_GRACE)
        self._finish()

    def kill(self) -> None:
        """End everything at once, children included, and write nothing: the leases run out."""
        self._draining = True
        self._wake.set()
        for run in self._running():
            run.stop(Stop.ABANDON)

    def _finish(self) -> None:
        self.heartbeat.stop()
        if self._claiming is not None and not self._claiming.done():
            self._claiming.cancel()
        self._claiming = None

    def _running(self) -> list[Run]:
        runs = self._runner.active.values()
        return [run for run in runs if run.phase is not Phase.DONE and not run.settled]

    async def _ending(self, seconds: float) -> None:
        """Wait until nothing runs any more, or for so many seconds."""
        until = asyncio.get_running_loop().time() + seconds
        while (tasks := self._open()) and (self._running() or not self._only_stuck()):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.wait(tasks, timeout=min(left, 0.25), return_when=asyncio.FIRST_COMPLETED)

    def _open(self) -> set[asyncio.Task[Any]]:
        """Return the tasks of our own claims, and of jobs that others run here."""
        return self._tasks | {run.task for run in self._running() if run.task is not None}

    def _only_stuck(self) -> bool:
        """Whether the tasks that are left belong to functions that ignore every stop."""
        return len(self._tasks) <= sum(run.settled for run in self._runner.active.values())

    # --- what others may know

    @property
    def running(self) -> int:
        """How many attempts are under way in this process."""
        return len(self._runner.active)

    def readiness(self) -> dict[str, Any]:
        """Return whether jobs can be taken at the moment, and why not."""
        claiming = self._claiming is not None and not self._claiming.done()
        beating = self.heartbeat.alive and not self.heartbeat.failing
        return {
            "ready": claiming and beating and not self._draining and not self._store_failing,
            "claiming": claiming and not self._store_failing,
            "heartbeat": beating,
            "draining": self._draining,
            "running": self.running,
            "free": dict(self._free),
            "last_claim_at": self._claimed_at,
            "fenced": self._runner.fenced,
        }
