"""One endpoint of the pretended RunPod account: its fields, its queue, and workers that only seem to run."""

from __future__ import annotations

import copy
import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.testing.runpod_queue import Queue
from router_core.testing.runpod_routes import Limits, Routes
from router_core.testing.runpod_schema import CONTAINER, read_create, read_update

__all__ = ["Answer", "Endpoint", "Habits", "echo"]

Answer = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]

_CREATED: Final = "2026-06-01T12:00:00Z"
_POLL: Final = 2.0
_STATES: Final = ("running", "idle", "initializing", "throttled", "unhealthy")


def echo(endpoint: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
    """Answer a job with its input."""
    return {"output": given}


@dataclass(slots=True)
class Habits:
    """How workers behave, from now on; each is given the fields of its endpoint."""

    answer: Answer | None = echo
    """Runs a job: returns the body of its job-done. None: real workers are attached."""
    ready: Callable[[Mapping[str, Any]], str] = lambda fields: "IDLE"
    """What a worker is once it has started: IDLE, or UNHEALTHY or THROTTLED for good."""
    log: Callable[[Mapping[str, Any]], list[str]] = lambda fields: []
    """What a worker has written."""
    cold: int = 1
    """Looks at the list of workers until one has started."""


@dataclass(slots=True)
class _Worker:
    id: str
    version: int
    status: str
    looks: int


class Endpoint:
    """Everything here happens on one event loop."""

    def __init__(self, body: Any, key: str, habits: Habits) -> None:
        """Raises Problem for a body that the API refuses."""
        self.fields = read_create(body)
        self.id = secrets.token_hex(7)
        self.queue = Queue()
        self.routes = Routes(self.queue, key, _POLL, Limits())
        self._habits = habits
        self._version = 1
        self._workers: list[_Worker] = []
        self._start(self.fields["workers"]["min"])

    def update(self, body: Any) -> None:
        """Change fields; what the container is made of is a new version. Raises Problem."""
        before, self.fields = self.fields, read_update(body, self.fields)
        self._version += any(before.get(name) != self.fields.get(name) for name in CONTAINER)
        if not self.fields["workers"]["max"]:
            self._workers.clear()

    def warm(self) -> None:
        """Let its workers be ready."""
        for worker in self._workers:
            worker.status = "IDLE"

    def told(self) -> dict[str, Any]:
        """Return the endpoint as the API tells it."""
        base = f"https://api.runpod.ai/v2/{self.id}"
        urls = {
            "run": f"{base}/run", "runSync": f"{base}/runsync", "status": f"{base}/status/{{job_id}}",
            "stream": f"{base}/stream/{{job_id}}", "cancel": f"{base}/cancel/{{job_id}}",
            "retry": f"{base}/retry/{{job_id}}", "purgeQueue": f"{base}/purge-queue",
            "health": f"{base}/health",
        }  # fmt: skip
        return copy.deepcopy({"id": self.id, **self.fields, "requestUrls": urls, "createdAt": _CREATED})

    def look(self) -> dict[str, Any]:
        """Tell the workers as they are, and let the next moment begin."""
        if self._habits.answer is None:
            return self._listed([_Worker("worker-1", self._version, "IDLE", 0)])
        told = self._listed(self._workers)
        for worker in list(self._workers):
            if worker.version != self._version:
                self._workers.remove(worker)
                self._start(1)
            elif worker.status == "INITIALIZING":
                worker.looks -= 1
                worker.status = worker.status if worker.looks > 0 else self._habits.ready(self.fields)
        self.work()
        return told

    def log(self, worker_id: str, tail: int) -> bytes:
        """Return the end of a worker's log as events; the real stream would stay open."""
        known = any(worker.id == worker_id for worker in self._workers)
        lines = self._habits.log(self.fields)[-tail:] if known and tail else []
        events = [{"ts": _CREATED, "source": "container", "line": line} for line in lines]
        return b"".join(b"id: %s\ndata: %s\n\n" % (_CREATED.encode(), json.dumps(e).encode()) for e in events)

    def work(self) -> None:
        """Run what waits, or start a worker for it."""
        answer = self._habits.answer
        waiting = [job for job in self.queue.jobs.values() if job.status == "IN_QUEUE"]
        if answer is None or not waiting:
            return
        idle = next((each for each in self._workers if each.status == "IDLE"), None)
        if idle is None:
            self._start(int(not self._workers and self.fields["workers"]["max"] > 0))
            return
        for job in waiting:
            job.workers.append(idle.id)
            job.taken_at = job.queued_at
            self.queue.done(job, dict(answer(self.fields, job.input)))

    def _start(self, count: int) -> None:
        for _ in range(count):
            worker = _Worker(secrets.token_hex(4), self._version, "INITIALIZING", self._habits.cold)
            self._workers.append(worker)

    def _listed(self, workers: list[_Worker]) -> dict[str, Any]:
        states = Counter(worker.status for worker in workers)
        listed = [
            {
                "id": worker.id, "status": worker.status, "version": worker.version, "gpuCount": 1,
                "isStale": worker.version != self._version, "image": self.fields["image"],
            }
            for worker in workers
        ]  # fmt: skip
        summary = {**{name: states[name.upper()] for name in _STATES}, "total": len(workers)}
        return {"endpointVersion": self._version, "summary": summary, "workers": listed}
