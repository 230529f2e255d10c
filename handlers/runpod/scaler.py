"""The SDK's worker with our loop in it.

The SDK keeps what is its own: the session and its credentials, the stop channel, the ping process, the
fitness checks, the signals. Replaced in its ``JobScaler`` is how jobs are taken (``taking``), how one is run
and its end posted (``worker``, ``posts``), and how the process ends:

    SIGTERM -> no new question for jobs; one that is open is listened to; what runs has ``drain_grace``
            -> what is left is given back or cancelled, and its caller told to run it again
            -> shut-down hooks, exit 0.              A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from handlers.local.processes import kill_tree
from handlers.runpod.posts import DONE_PATIENCE, Posts, Urls
from handlers.runpod.taking import Taking
from handlers.runpod.worker import Worker
from router_core.telemetry.events import Note

__all__ = ["Drive", "install"]

_LISTEN: Final = 3.0
"""Seconds for which the open question is listened to after the signal. An answer that was under way has come
by then; longer would only have jobs handed to a worker that is about to end."""
_LAST_POSTS: Final = 10.0
"""Seconds that the ends of jobs which were given back have to reach the platform."""


class Drive:
    """One run of the worker: from its start to the exit of its process."""

    def __init__(self, worker: Worker, fetch: Any, urls: Urls) -> None:
        """``fetch`` is the SDK's ``get_job(session, number)``."""
        self.worker = worker
        self.failed: BaseException | None = None
        """What kept the service from starting."""
        self._fetch = fetch
        self._urls = urls
        self._scaler: Any = None
        self._session: Any = None
        self._taking: Taking | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._leaving = False
        self._ends_at = 0.0

    # -- on the loop ---------------------------------------------------------------------------------

    async def begin(self, scaler: Any) -> None:
        """Start the service; jobs are taken afterwards."""
        self._scaler = scaler
        self._loop = asyncio.get_running_loop()
        settings = self.worker.settings
        self._taking = Taking(
            self._ask, self._start, self.worker.app.events, room=self._room,
            longest=float(getattr(scaler, "jobs_fetcher_timeout", 90)),
        )  # fmt: skip
        await self.worker.start()
        said = f"taking RunPod jobs, {self.worker.concurrency} at once"
        fields = {"app": settings.app, "jobs": settings.jobs, "blobs": settings.blobs}
        self.worker.app.events.emit(Note("serving", "info", said, fields))
        if self._leaving:
            self._leave()

    async def take(self, session: Any) -> None:
        """Take jobs until leaving."""
        self._session = session
        await self._ready().run()

    async def finish(self) -> None:
        """Wait for the signal, then for the jobs; give back those that take too long."""
        taking = self._ready()
        await taking.leaving.wait()
        grace = self.worker.settings.drain_grace
        self._ends_at = asyncio.get_running_loop().time() + grace
        over = asyncio.ensure_future(taking.empty())
        await asyncio.wait({over}, timeout=min(grace, _LISTEN))
        taking.hang_up()
        await asyncio.wait({over}, timeout=max(0.0, grace - _LISTEN))
        if not over.done():
            self._note("jobs_given_back", "warning", f"{len(taking.tasks)} jobs did not end in time")
            await self.worker.release()
            await asyncio.wait({over}, timeout=_LAST_POSTS)
        for task in taking.tasks:
            task.cancel()
        over.cancel()

    async def run_job(self, session: Any, config: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        """Run one job and post its end. Stands in the place of the SDK's ``handle_job``."""
        refresh = bool(config.get("refresh_worker"))
        posts = Posts(session, self._urls, job["id"], self.worker.app.events, left=self._left)
        outcome = await self.worker.handle(job, posts)
        await posts.done(outcome, refresh)

    async def end(self) -> None:
        """Run the shut-down hooks."""
        await self.worker.stop()

    # -- signals -------------------------------------------------------------------------------------

    def signalled(self, number: int) -> None:
        """Begin to end; called by the interpreter between two steps of whatever runs."""
        self._signals += 1
        if self._signals > 1:
            kill_tree(os.getpid(), itself=False)
            os._exit(128 + number)
        self.leave()

    def leave(self) -> None:
        """Take no more jobs, let those that run end, then exit."""
        self._leaving = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        taking = self._ready()
        if not taking.leaving.is_set():
            self._note("draining", "info", f"draining, up to {self.worker.settings.drain_grace:g} s")
            taking.leave()

    # -- jobs ----------------------------------------------------------------------------------------

    def _room(self) -> int:
        # the SDK asks this at every turn, so that a service may change its mind
        return max(1, self.worker.concurrency)

    async def _ask(self, number: int) -> Sequence[Mapping[str, Any]] | None:
        jobs: Sequence[Mapping[str, Any]] | None = await self._fetch(self._session, number)
        return jobs

    def _start(self, job: Mapping[str, Any]) -> asyncio.Task[Any] | None:
        """Begin a job the way the SDK does, so that its stop channel and its pings know of it."""
        scaler, job_id = self._scaler, job["id"]
        if job_id in scaler.jobs_tasks:
            return None
        scaler.job_progress.add(job_id)
        scaler.jobs_queue.put_nowait(job)  # its handle_job ticks off what went through this queue
        scaler.jobs_queue.get_nowait()
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(
            scaler.handle_job(self._session, {**job, "id": job_id})
        )
        scaler.jobs_tasks[job_id] = task
        return task

    def _left(self) -> float:
        if not self._ends_at:
            return DONE_PATIENCE
        return max(0.0, self._ends_at + _LAST_POSTS - asyncio.get_running_loop().time())

    def _ready(self) -> Taking:
        if self._taking is None:
            raise RuntimeError("the worker has not begun")
        return self._taking

    def _note(self, name: str, level: str, text: str) -> None:
        self.worker.app.events.emit(Note(name, level, text))


def install(worker: Worker) -> Drive:
    """Put our loop into the SDK that is loaded; ``runpod.serverless.start`` runs it from then on."""
    scale: Any = import_module("runpod.serverless.modules.rp_scale")
    http: Any = import_module("runpod.serverless.modules.rp_http")
    drive = Drive(worker, scale.get_job, Urls(http.JOB_DONE_URL, http.JOB_STREAM_URL))
    scale.JobScaler = _scaler_of(scale.JobScaler, drive)
    return drive


def _scaler_of(original: Any, drive: Drive) -> Any:
    class Scaler(original):  # type: ignore[misc]  # the SDK has no types
        """The SDK's scaler, driven."""

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config)
            self.jobs_handler = drive.run_job

        async def run(self) -> None:
            """Start the service, run the SDK's three loops, stop the service."""
            try:
                await drive.begin(self)
            except BaseException as error:
                drive.failed = error
                return
            try:
                await super().run()
            finally:
                await drive.end()

        async def get_jobs(self, session: Any) -> None:
            """Take jobs."""
            await drive.take(session)

        async def run_jobs(self, session: Any) -> None:
            """See the jobs to their end; then the other loops may end."""
            try:
                await drive.finish()
            finally:
                self._shutdown_event.set()

        async def monitor_stop_signals(self, session: Any) -> None:
            """Listen to the stop channel for as long as jobs run, and not until its open question ends."""
            listening = asyncio.ensure_future(super().monitor_stop_signals(session))
            ended = asyncio.ensure_future(self._shutdown_event.wait())
            await asyncio.wait({listening, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, ended):
                task.cancel()
            await asyncio.gather(listening, ended, return_exceptions=True)

        def handle_shutdown(self, signum: int, frame: Any) -> None:
            """Begin to end."""
            drive.signalled(signum)

        def kill_worker(self) -> None:
            """End after the jobs that run, as ``refresh_worker`` wants it."""
            drive.leave()

    return Scaler
