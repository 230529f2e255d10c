"""Run jobs on a serverless endpoint of RunPod: submit, look, cancel. One object for a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from router_core.gateway.reply import Reply, UpstreamFailure

__all__ = ["ENDED", "Ask", "Job", "JobRefused", "Jobs", "Pace"]

ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
_MAX_ID: Final = 200
_CANCEL_SECONDS: Final = 10.0
_MISSES: Final = 5
"""Looks at a job that may fail in a row."""
_GROWTH: Final = 1.5

_decode: Final = msgspec.json.Decoder().decode

Ask = Callable[[str, str, bytes, float], Awaitable[Reply]]
"""Method, path below the endpoint, body, deadline -> the answer; errors too."""


class JobRefused(Exception):
    """RunPod answered with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"RunPod answered {reply.status}")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a job is looked at."""

    first: float = 0.25
    """Seconds before the first look."""
    most: float = 2.0
    """Seconds between two looks, at most."""

    def after(self, seconds: float) -> float:
        """Return the next pause."""
        return min(self.most, seconds * _GROWTH)


@dataclass(frozen=True, slots=True)
class Job:
    """What was told of a job."""

    id: str
    status: str
    output: Any = None
    error: Any = None
    stream: tuple[Any, ...] = ()
    """Outputs of a stream that were not read before."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ENDED

    @property
    def drained(self) -> bool:
        """Whether it has ended and everything that it has put out was read."""
        return self.ended and not self.stream

    @property
    def begun(self) -> bool:
        """Whether a worker has it."""
        return self.status not in ("IN_QUEUE", "")


class Jobs:
    """The jobs of one endpoint."""

    def __init__(self, ask: Ask, pace: Pace) -> None:
        self.pace = pace
        self._ask = ask
        self._cancelling: set[asyncio.Task[None]] = set()

    async def submit(self, body: bytes, deadline: float, *, wait: float = 0.0) -> Job:
        """Queue a job; with ``wait`` its end is waited for that long. Raises JobRefused, UpstreamFailure."""
        path = f"/runsync?wait={int(wait * 1000)}" if wait else "/run"
        return _job(await self._ask("POST", path, body, deadline))

    async def look(self, job: Job, deadline: float) -> Job:
        """Return how a job stands. Raises JobRefused, UpstreamFailure."""
        return _job(await self._ask("GET", f"/status/{quote(job.id, safe='')}", b"", deadline))

    async def read(self, job: Job, deadline: float) -> Job:
        """Return what a job has put out since the last time: nobody can read it again.

        So a look is repeated only where it is known that nothing was on its way.
        """
        pause, misses = self.pace.first, 0
        while True:
            try:
                return _job(await self._ask("GET", f"/stream/{quote(job.id, safe='')}", b"", deadline))
            except (JobRefused, UpstreamFailure) as exc:
                misses += 1
                lost = isinstance(exc, UpstreamFailure) and exc.sent
                if lost or misses >= _MISSES or _is_final(exc):
                    raise
            await asyncio.sleep(pause)
            pause = self.pace.after(pause)

    async def ended(self, job: Job, until: Callable[[Job], float], deadline: float) -> Job:
        """Wait for the end of a job. ``until``: when a job that stands so is given up.

        A look that fails is repeated; the job goes on meanwhile.
        """
        loop = asyncio.get_running_loop()
        pause, misses = self.pace.first, 0
        while not job.ended:
            left = min(until(job), deadline) - loop.time()
            if left <= 0:
                raise UpstreamFailure("timeout", "first_byte", f"the job is {job.status}", sent=True)
            await asyncio.sleep(min(pause, left))
            pause = self.pace.after(pause)
            try:
                job = await self.look(job, deadline)
                misses = 0
            except (JobRefused, UpstreamFailure) as exc:
                misses += 1
                if misses >= _MISSES or _is_final(exc):
                    raise
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a job that nobody waits for any more; it is not waited for either."""
        if job.ended:
            return
        task = asyncio.get_running_loop().create_task(self._cancel(job))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, job: Job) -> None:
        deadline = asyncio.get_running_loop().time() + _CANCEL_SECONDS
        # nobody waits for it, and the job ends by itself, at the latest by its execution timeout
        with suppress(Exception):
            await self._ask("POST", f"/cancel/{quote(job.id, safe='')}", b"", deadline)

    async def aclose(self) -> None:
        """Wait for cancellations that are on their way."""
        if self._cancelling:
            await asyncio.gather(*self._cancelling, return_exceptions=True)


def _is_final(exc: Exception) -> bool:
    """Whether looking again cannot help: the key is wrong, or the job is forgotten."""
    return isinstance(exc, JobRefused) and exc.reply.status in (400, 401, 403, 404)


def _job(reply: Reply) -> Job:
    if not 200 <= reply.status < 300:
        raise JobRefused(reply)
    try:
        told = _decode(reply.body or b"")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise UpstreamFailure(
            "malformed", "body", "RunPod's answer is not JSON", sent=True, started=True
        ) from None
    job_id, status = (told.get("id"), told.get("status")) if isinstance(told, dict) else (None, None)
    if not isinstance(job_id, str) or not 0 < len(job_id) <= _MAX_ID or not isinstance(status, str):
        raise UpstreamFailure("malformed", "body", "RunPod's answer names no job", sent=True, started=True)
    listed = told.get("stream")
    stream = (
        tuple(each.get("output") for each in listed if isinstance(each, Mapping))
        if isinstance(listed, list)
        else ()
    )
    return Job(job_id, status[:40], told.get("output"), told.get("error"), stream)
