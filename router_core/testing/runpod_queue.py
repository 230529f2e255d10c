"""The jobs and the queue of a pretended RunPod endpoint: what its platform would remember.

Everything here happens on one event loop. Nothing happens by the clock: jobs expire and time out when a test
says so.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from router_core.testing.runpod_http import Ask

__all__ = ["ENDED", "Handing", "PlatformJob", "Queue", "new_id"]

Condition = Callable[[], bool]

ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


def new_id(*, sync: bool = False) -> str:
    """Return an id in the platform's form."""
    return f"{'sync-' if sync else ''}{uuid.uuid4()}-e1"


@dataclass(slots=True)
class PlatformJob:
    """One job, as the platform keeps it."""

    id: str
    input: Any
    extras: Mapping[str, Any]
    """Other members of the request: webhook, policy, s3Config, whatever the caller sent."""
    limit: int
    """Bytes that its result may have."""
    status: str = "IN_QUEUE"
    body: dict[str, Any] = field(default_factory=dict)
    """The body of the job-done that ended it."""
    progress: list[Any] = field(default_factory=list)
    """Every value that was reported while it ran, in order."""
    chunks: list[Any] = field(default_factory=list)
    read: int = 0
    """Chunks that /stream has handed out."""
    workers: list[str] = field(default_factory=list)
    """The worker of each time that it was handed out."""
    late: list[dict[str, Any]] = field(default_factory=list)
    """What was posted for it after its end."""
    queued_at: float = 0.0
    taken_at: float = 0.0
    ended_at: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether it has a final status."""
        return self.status in ENDED

    @property
    def output(self) -> Any:
        """The output that a caller reads: the latest progress until there is a result."""
        if "output" in self.body:
            return self.body["output"]
        return self.progress[-1] if self.progress and not self.ended else None

    @property
    def error(self) -> Any:
        """The error that a caller reads."""
        return self.body.get("error")

    def copy(self) -> PlatformJob:
        """Return the job as it stands now."""
        return replace(
            self, progress=[*self.progress], chunks=[*self.chunks], workers=[*self.workers], late=[*self.late]
        )

    def brief(self) -> dict[str, Any]:
        """Return id and status."""
        return {"id": self.id, "status": self.status}

    def tell(self) -> dict[str, Any]:
        """Return the body of /status."""
        said: dict[str, Any] = {}
        if self.taken_at:
            said["delayTime"] = round((self.taken_at - self.queued_at) * 1000)
        if self.ended and self.taken_at:
            said["executionTime"] = max(0, round((self.ended_at - self.taken_at) * 1000))
        said["id"] = self.id
        if "output" in self.body or self.output is not None:
            said["output"] = self.output
        if self.error is not None:
            said["error"] = self.error
        if len(self.workers) > 1:
            said["retries"] = len(self.workers) - 1
        said["status"] = self.status
        if self.workers:
            said["workerId"] = self.workers[-1]
        return said


@dataclass(frozen=True, slots=True)
class Handing:
    """A job on its way to a worker."""

    job: PlatformJob

    def wire(self) -> dict[str, Any]:
        """Return the member of a job-take answer."""
        return {**self.job.extras, "id": self.job.id, "input": self.job.input}


class Queue:
    """One endpoint's jobs, in the order in which they came."""

    def __init__(self) -> None:
        self.jobs: dict[str, PlatformJob] = {}
        self.stops: dict[str, list[str]] = {}
        """Ids that each worker has still to be told to stop."""
        self.retried = 0
        self.late_progress_reopens = True
        """As on the platform: progress after the end makes a job IN_PROGRESS again, for ever."""
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._release = asyncio.Event()

    # -- what callers do -----------------------------------------------------------------------------

    def add(
        self, body: Mapping[str, Any], *, sync: bool, limit: int, job_id: str | None = None
    ) -> PlatformJob:
        """Queue a job."""
        job_id = job_id or new_id(sync=sync)
        extras = {key: value for key, value in body.items() if key not in ("id", "input")}
        job = PlatformJob(job_id, body["input"], extras, limit, queued_at=time.monotonic())
        self.jobs[job_id] = job
        self._waiting.append(job_id)
        self.change()
        return job

    def end(self, job: PlatformJob, status: str) -> None:
        """Give a job a final status from outside; its worker is told to stop."""
        if job.ended:
            return
        if job.status == "IN_PROGRESS":
            self.stops.setdefault(job.workers[-1], []).append(job.id)
        elif job.id in self._waiting:
            self._waiting.remove(job.id)
        job.status, job.ended_at = status, time.monotonic()
        self.change()

    def retry(self, job: PlatformJob) -> bool:
        """Queue a failed or timed-out job again, under its id; its output is forgotten."""
        if job.status not in ("FAILED", "TIMED_OUT"):
            return False
        job.status, job.body, job.progress, job.chunks, job.read = "IN_QUEUE", {}, [], [], 0
        self.retried += 1
        self._waiting.append(job.id)
        self.change()
        return True

    def deliver_again(self, job: PlatformJob) -> None:
        """Hand a job out once more although it has been: what happens when a worker is thought dead."""
        self._waiting.append(job.id)
        self.change()

    def purge(self) -> int:
        """Cancel all that waits; returns how many."""
        waiting = [self.jobs[job_id] for job_id in self._waiting if self.jobs[job_id].status == "IN_QUEUE"]
        for job in waiting:
            self.end(job, "CANCELLED")
        return len(waiting)

    def chunks(self, job: PlatformJob) -> list[Any]:
        """Return the chunks that were not read yet; the platform keeps the position, not the caller."""
        fresh = job.chunks[job.read :]
        job.read = len(job.chunks)
        return fresh

    def health(self, workers: int) -> dict[str, Any]:
        """Count jobs and workers."""
        states = Counter(job.status for job in self.jobs.values())
        busy = {job.workers[-1] for job in self.jobs.values() if job.status == "IN_PROGRESS"}
        return {
            "jobs": {
                "completed": states["COMPLETED"],
                "failed": states["FAILED"] + states["TIMED_OUT"],
                "inProgress": states["IN_PROGRESS"],
                "inQueue": states["IN_QUEUE"],
                "retried": self.retried,
            },
            "workers": {"idle": max(0, workers - len(busy)), "running": len(busy)},
        }

    # -- what workers do -----------------------------------------------------------------------------

    async def take(self, worker: str, count: int, ask: Ask, hold: float) -> list[Handing]:
        """Wait for jobs; none are lost to a worker that has hung up."""
        if not await self.poll(lambda: bool(self._waiting), hold, ask):
            return []
        taken: list[Handing] = []
        while self._waiting and len(taken) < count:
            job = self.jobs[self._waiting.popleft()]
            job.workers.append(worker)
            if not job.ended:
                job.status, job.taken_at = "IN_PROGRESS", time.monotonic()
            taken.append(Handing(job))
        self.change()
        return taken

    async def stopped(self, worker: str, ask: Ask, hold: float) -> list[str]:
        """Wait for ids to stop."""
        told = await self.poll(lambda: bool(self.stops.get(worker)), hold, ask)
        return self.stops.pop(worker) if told else []

    def done(self, job: PlatformJob, body: dict[str, Any]) -> None:
        """Take a result or a progress; the first result counts."""
        if body.get("status") == "IN_PROGRESS":
            self._progress(job, body)
        elif job.ended:
            job.late.append(body)
        else:
            job.body, job.ended_at = body, time.monotonic()
            job.status = "FAILED" if body.get("error") else "COMPLETED"
        self.change()

    def _progress(self, job: PlatformJob, body: dict[str, Any]) -> None:
        if not job.ended:
            job.progress.append(body.get("output"))
            return
        job.late.append(body)
        if self.late_progress_reopens and job.status in ("COMPLETED", "FAILED"):
            job.status = "IN_PROGRESS"

    def chunk(self, job: PlatformJob, body: dict[str, Any]) -> None:
        """Take a piece of a stream."""
        if job.ended:
            job.late.append(body)
        else:
            job.chunks.append(body.get("output"))
        self.change()

    # -- waiting -------------------------------------------------------------------------------------

    def change(self) -> None:
        """Wake everybody who waits for something."""
        self._changed.set()
        self._changed = asyncio.Event()

    def release_polls(self) -> None:
        """Answer every open long poll as if its time was up."""
        self._release.set()
        self._release = asyncio.Event()
        self.change()

    async def poll(self, condition: Condition, seconds: float, ask: Ask) -> bool:
        """Wait as a long poll does: until something holds, the time is up, or polls are released."""
        released = self._release
        await self.outlast(lambda: condition() or ask.gone.is_set() or released.is_set(), seconds)
        return condition() and not ask.gone.is_set()

    async def outlast(self, condition: Condition, seconds: float, look: float = math.inf) -> bool:
        """Wait until something holds or the time is up; returns whether it holds.

        It is looked at after every change here, and every ``look`` seconds for the sake of other things.
        """
        end = time.monotonic() + seconds
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            pause = min(left, look)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if pause == math.inf else pause)
        return True
