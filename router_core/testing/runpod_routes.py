"""The routes of RunPod's platform: which request does what, and the words of the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.testing.runpod_http import Ask, Reply
from router_core.testing.runpod_queue import PlatformJob, Queue

__all__ = ["Limits", "Routes"]

MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that bodies may have; more is answered with 400."""

    run: int = 10 * MB
    """A request to /run, and the result of its job."""
    runsync: int = 20 * MB
    chunk: int = MB


_WORKER: Final = frozenset({"job-take", "job-take-batch", "job-stop", "job-done", "job-stream", "ping"})
_WAIT_MS: Final = (1_000, 300_000)
_DEFAULT_WAIT_MS: Final = 90_000


class Routes:
    """Answers for one endpoint."""

    def __init__(self, queue: Queue, key: str, poll: float, limits: Limits) -> None:
        self._queue = queue
        self._key = key
        self._poll = poll
        self._limits = limits
        self._workers: set[str] = set()

    def parse(self, ask: Ask) -> tuple[str, str, str]:
        """Return action, worker and job that a path names."""
        parts = ask.path.strip("/").split("/")[2:]
        action, rest = (parts[0], parts[1:]) if parts else ("", [])
        if action in _WORKER:
            return action, rest[0] if rest else "", rest[1] if len(rest) > 1 else ""
        return action, "", rest[0] if rest else ""

    def submit(self, body: Mapping[str, Any], *, sync: bool, job_id: str | None = None) -> PlatformJob:
        """Queue a job."""
        limit = self._limits.runsync if sync else self._limits.run
        return self._queue.add(body, sync=sync, limit=limit, job_id=job_id)

    async def answer(self, ask: Ask) -> Reply:
        """Answer one request."""
        action, worker, job_id = self.parse(ask)
        of_worker = action in _WORKER
        if not self._allowed(ask, of_worker):
            return _error(401, "unauthorized")
        if of_worker:
            return await self._for_worker(ask, action, worker, job_id)
        if action in ("run", "runsync"):
            return await self._submitted(ask, sync=action == "runsync")
        if action == "health" and ask.method == "GET":
            return Reply.of(self._queue.health(len(self._workers)))
        if action == "purge-queue" and ask.method == "POST":
            return Reply.of({"removed": self._queue.purge(), "status": "completed"})
        return self._about(ask, action, job_id)

    def _allowed(self, ask: Ask, of_worker: bool) -> bool:
        given = ask.headers.get("authorization", "")
        return given == self._key if of_worker else given.removeprefix("Bearer ") == self._key

    # -- callers -------------------------------------------------------------------------------------

    async def _submitted(self, ask: Ask, *, sync: bool) -> Reply:
        if ask.method != "POST":
            return _error(405, "method not allowed")
        limit = self._limits.runsync if sync else self._limits.run
        if len(ask.body) > limit:
            return _error(400, f"json is invalid; max size is {limit // MB} MB")
        body = _object(ask.body)
        if body is None or "input" not in body:
            return _error(400, "the body must be a JSON object with the member input")
        job = self.submit(body, sync=sync)
        if sync:
            await self._queue.outlast(lambda: job.ended, _wait_seconds(ask))
            return Reply.of(job.tell())
        return Reply.of(job.brief())

    def _about(self, ask: Ask, action: str, job_id: str) -> Reply:
        job = self._queue.jobs.get(job_id)
        posts = action in ("cancel", "retry")
        if action not in ("status", "stream", "cancel", "retry") or not job_id:
            return _error(404, "404 page not found")
        if (ask.method == "POST") < posts or ask.method not in ("GET", "POST"):
            return _error(405, "method not allowed")
        if job is None:
            return _error(404, "request does not exist")
        if action == "status":
            return Reply.of(job.tell())
        if action == "stream":
            fresh = self._queue.chunks(job)
            return Reply.of({**job.brief(), "stream": [{"output": chunk} for chunk in fresh]})
        if action == "cancel":
            self._queue.end(job, "CANCELLED")
        elif not self._queue.retry(job):
            return _error(400, f"a job that is {job.status} cannot be retried")
        return Reply.of(job.brief())

    # -- workers -------------------------------------------------------------------------------------

    async def _for_worker(self, ask: Ask, action: str, worker: str, job_id: str) -> Reply:
        self._workers.add(worker)
        if action == "ping":
            return Reply.of({})
        if action == "job-stop":
            ids = await self._queue.stopped(worker, ask, self._poll)
            return Reply.of({"jobsToStop": ids}) if ids else Reply(204)
        if action in ("job-take", "job-take-batch"):
            return await self._taken(ask, worker, batch=action == "job-take-batch")
        if ask.method != "POST":
            return _error(405, "method not allowed")
        return self._posted(ask, action, job_id)

    async def _taken(self, ask: Ask, worker: str, *, batch: bool) -> Reply:
        size = ask.query.get("batch_size", "1") if batch else "1"
        if not size.isdigit() or int(size) < 1:
            return _error(400, "batch_size is wrong")
        given = await self._queue.take(worker, int(size), ask, self._poll)
        if not given:
            return Reply(204)
        jobs = [each.wire() for each in given]
        return Reply.of(jobs if batch else jobs[0])

    def _posted(self, ask: Ask, action: str, job_id: str) -> Reply:
        job = self._queue.jobs.get(job_id)
        if job is None:
            return _error(404, "request does not exist")
        limit = self._limits.chunk if action == "job-stream" else job.limit
        body = _object(ask.body) if len(ask.body) <= limit else None
        if body is None:
            return _error(400, f"json is invalid; max size is {limit // MB} MB")
        if action == "job-stream":
            self._queue.chunk(job, body)
        else:
            self._queue.done(job, body)
        return Reply.of({})


def _object(text: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else, NaN included."""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _wait_seconds(ask: Ask) -> float:
    given = ask.query.get("wait", "")
    asked = int(given) if given.isdigit() else _DEFAULT_WAIT_MS
    return max(_WAIT_MS[0], min(asked, _WAIT_MS[1])) / 1000


def _error(status: int, text: str) -> Reply:
    return Reply.of({"error": text}, status)
