"""A job followed live: its stored events and what becomes of it, as SSE or NDJSON, resumable.

Events keep the numbers the store gave them. Snapshots of the job (``event: job``) are sent between them, when
its state, progress or message has changed, without a number, so that resuming from the last number repeats
nothing. The last one, with the terminal
state, has the number after the last event: who resumes from it is told that there is nothing left (204).

When the process ends the answer does too, after the events there are: its reader resumes at another one. The
same goes for a platform that gives an answer only so much time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import pydantic_core

from router_core.errors import Gone, NotFound
from router_core.http.message import Request
from router_core.http.sse import HEARTBEAT, ServerEvent, encode_event
from router_core.jobs.job import Event, Job
from router_core.jobs.leaving import seconds_left
from router_core.jobs.service import JobService
from router_core.jobs.watch import Watch
from router_core.jobs.wire import encode_job

__all__ = ["ApipodFrames", "Frames", "JobStream", "NdjsonFrames", "SseFrames"]

HEARTBEAT_SECONDS: Final = 15.0
_POLL: Final = 1.0
"""Seconds between reads for changes that another process makes."""
_PAGE: Final = 100


class Frames(ABC):
    """How items are written; each method returns bytes, possibly none."""

    heartbeat = b""

    @abstractmethod
    def snapshot(self, job: Job, seq: int = 0) -> bytes:
        """Write the job as it is; ``seq`` is set for the last one."""

    @abstractmethod
    def event(self, event: Event) -> bytes:
        """Write one stored event."""

    @abstractmethod
    def truncated(self, first: int, dropped: int) -> bytes:
        """Write that events are missing."""

    def end(self) -> bytes:
        """Write what marks the end, if anything does."""
        return b""


class SseFrames(Frames):
    """Server-sent events, each named for its type."""

    heartbeat = HEARTBEAT

    def __init__(self, encode: Callable[[Job], bytes] = encode_job) -> None:
        self._encode = encode

    def snapshot(self, job: Job, seq: int = 0) -> bytes:
        """Write ``event: job``."""
        return _frame("job", self._encode(job), str(seq) if seq else "")

    def event(self, event: Event) -> bytes:
        """Write the event under its type and number."""
        return _frame(event.type, event.data, str(event.seq))

    def truncated(self, first: int, dropped: int) -> bytes:
        """Write ``event: truncated``."""
        return _frame("truncated", pydantic_core.to_json({"dropped": dropped, "next": first}))


class ApipodFrames(SseFrames):
    """Server-sent events as fastsdk reads them: output is unnamed, other events are left out."""

    def event(self, event: Event) -> bytes:
        """Write output only; progress is in the snapshots."""
        return _frame("", event.data, str(event.seq)) if event.type == "output" else b""

    def end(self) -> bytes:
        """Write the mark that clients of model streams wait for."""
        return b"data: [DONE]\n\n"


class NdjsonFrames(Frames):
    """One JSON object a line: ``{"event", "id", "data"}``."""

    def __init__(self, encode: Callable[[Job], bytes] = encode_job) -> None:
        self._encode = encode

    def snapshot(self, job: Job, seq: int = 0) -> bytes:
        """Write the job under ``data``."""
        return self._line("job", self._encode(job), seq)

    def event(self, event: Event) -> bytes:
        """Write the event's data under ``data``."""
        return self._line(event.type, event.data, event.seq)

    def truncated(self, first: int, dropped: int) -> bytes:
        """Write how many are missing."""
        return self._line("truncated", pydantic_core.to_json({"dropped": dropped, "next": first}), 0)

    @staticmethod
    def _line(name: str, data: bytes, seq: int) -> bytes:
        number = b'"id":%d,' % seq if seq else b""
        return b'{"event":%s,%s"data":%s}\n' % (pydantic_core.to_json(name), number, _one_line(data))


def _frame(name: str, data: bytes, number: str = "") -> bytes:
    safe = "".join(ch for ch in name if ch.isprintable())
    return encode_event(ServerEvent(_one_line(data).decode("utf-8", "replace"), safe, number))


def _one_line(data: bytes) -> bytes:
    # within JSON a raw line break can only stand between tokens
    return data.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in data or b"\r" in data else data


class JobStream(AsyncIterator[bytes]):
    """The body of a live answer. Takes a place among the waiters when made, gives it back when closed.

    Raises Unavailable, when made, if too many are waiting already.
    """

    __slots__ = ("_chunks", "_watch")

    def __init__(self, service: JobService, job: Job, request: Request, after: int, frames: Frames) -> None:
        self._watch = service.hub.watch(job.id)
        self._chunks = _Follower(service, job, request, after, frames, self._watch).run()

    async def __anext__(self) -> bytes:
        """Return the next piece; never empty."""
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Stop following."""
        self._watch.__exit__()
        await self._chunks.aclose()


class _Follower:
    def __init__(
        self, service: JobService, job: Job, request: Request, after: int, frames: Frames, watch: Watch
    ) -> None:
        self._service = service
        self._job = job
        self._request = request
        self._after = min(after, job.event_seq)
        self._frames = frames
        self._watch = watch
        self._beat = service.clock.monotonic() + HEARTBEAT_SECONDS

    async def run(self) -> AsyncGenerator[bytes, None]:
        try:
            shown = self._face()
            if not self._job.terminal:
                yield self._frames.snapshot(self._job)
            while True:
                while self._after < self._job.event_seq:
                    if chunk := await self._page():
                        yield chunk
                if self._job.terminal:
                    yield self._frames.snapshot(self._job, self._after + 1) + self._frames.end()
                    return
                if shown != self._face():
                    shown = self._face()
                    yield self._frames.snapshot(self._job)
                if self._service.released or not await self._read():
                    return
                if seconds_left(self._request, self._service.clock) <= 0:
                    return
                if beat := self._heartbeat():
                    yield beat
        finally:
            self._watch.__exit__()

    def _face(self) -> tuple[Any, ...]:
        """Return what a snapshot is sent for; a record takes progress at most once a second."""
        job = self._job
        return (job.state, job.attempt, job.progress, job.message)

    async def _page(self) -> bytes:
        """Return the next events that the record says there are, and a word about those that are gone."""
        page = await self._service.events(self._job.id, self._after, _PAGE)
        first = page.events[0].seq if page.events else self._job.event_seq + 1
        frames = []
        if first > self._after + 1:
            frames.append(self._frames.truncated(first, first - self._after - 1))
        self._after = page.events[-1].seq if page.events else self._job.event_seq
        frames += [self._frames.event(event) for event in page.events]
        return b"".join(frames)

    async def _read(self) -> bool:
        """Wait for a change (or a while) and read the record; False when it is gone."""
        left = seconds_left(self._request, self._service.clock)
        await self._watch.changed(min(_POLL, left), self._service.clock)
        newer = self._watch.newer(self._job)
        try:
            self._job = newer or await self._service.get(self._job.id, self._request.principal)
        except (Gone, NotFound):  # deleted while it was followed
            return False
        return True

    def _heartbeat(self) -> bytes:
        now = self._service.clock.monotonic()
        if now < self._beat:
            return b""
        self._beat = now + HEARTBEAT_SECONDS
        return self._frames.heartbeat
