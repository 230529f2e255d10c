"""A RunPod worker without RunPod: deliveries by hand, posts kept in a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from handlers.runpod.outcome import Outcome
from handlers.runpod.pacing import PacedStore
from handlers.runpod.worker import Worker
from router_core import Router
from router_core.clock import SystemClock
from router_core.jobs.blobs import BlobStore
from router_core.jobs.store import Store
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore
from router_core.wiring import build_app

__all__ = ["Kept", "job", "problem", "running", "value"]


class Kept:
    """A line that keeps what is posted, and takes it as slowly as it is told."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.begun = asyncio.Event()
        self.refuses = False
        self.busy = 0

    async def progress(self, body: bytes) -> None:
        """Keep progress."""
        await self._keep(body)

    async def chunk(self, body: bytes) -> bool:
        """Keep a chunk, unless told otherwise."""
        await self._keep(body)
        return not self.refuses

    async def _keep(self, body: bytes) -> None:
        self.busy += 1
        self.begun.set()
        assert self.busy == 1, "two posts at once"
        await self.open.wait()
        self.posts.append(json.loads(body))
        self.busy -= 1

    @property
    def chunks(self) -> list[Any]:
        """The chunks, in order."""
        return [post["output"] for post in self.posts if "status" not in post]

    @property
    def fractions(self) -> list[float]:
        """The progress, in order."""
        return [post["output"]["progress"] for post in self.posts if post.get("status") == "IN_PROGRESS"]


@asynccontextmanager
async def running(
    router: Router, *, store: Store | None = None, blobs: BlobStore | None = None, **settings: Any
) -> AsyncIterator[Worker]:
    """Start a worker; a ``store`` that is given is one that several workers share."""
    url = "memory://" if store is None else "shared://records"
    usual: dict[str, Any] = {
        "jobs": url, "blobs": "memory://", "queue": "runpod", "progress_interval": 0.01,
    }  # fmt: skip
    chosen = Settings(**{**usual, **settings})
    clock = SystemClock()
    paced = cast("Store", PacedStore(store or MemoryJobStore(clock)))
    worker = Worker(build_app(router, chosen, clock=clock, store=paced, blobs=blobs))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


def job(path: str | None = None, job_id: str = "job-1", **arguments: Any) -> dict[str, Any]:
    """Return a delivery."""
    return {"id": job_id, "input": arguments if path is None else {"path": path, **arguments}}


def value(outcome: Outcome) -> Any:
    """Return the output of a job that has succeeded."""
    assert not outcome.error, outcome.error
    body = json.loads(outcome.body())
    assert set(body) == {"output"}
    return body["output"]


def problem(outcome: Outcome) -> Mapping[str, Any]:
    """Return the error of a job that has failed."""
    body = json.loads(outcome.body())
    assert set(body) == {"error"}, body
    assert "\n" not in body["error"]
    found: Mapping[str, Any] = json.loads(body["error"])
    return found
