"""The service that tests deploy to the AWS emulator."""

from __future__ import annotations

import os
from typing import Any

import router_core
from router_core import JobContext, JobProgress, Router
from router_core.stores.dynamodb import DynamoJobStore
from router_core.stores.state_dynamodb import DynamoStateStore

router = Router()
print("service imported from", router_core.__file__, flush=True)


@router.get("/hello")
def hello(name: str = "world") -> str:
    """Greet."""
    return f"Hello, {name}!"


@router.get("/which")
def which() -> str:
    """Name the function that answers."""
    return os.environ["AWS_LAMBDA_FUNCTION_NAME"]


@router.get("/state")
async def state(table: str) -> int:
    """Do all that shared state needs, with the rights of the function."""
    store = DynamoStateStore(table)
    await store.open()
    await store.put("a/x", b"1", ttl=60)
    await store.increment("a/n", 2)
    page = await store.entries("a/")
    counted = await store.increment("a/n", 1) or 0
    kept = await store.get("a/x")
    assert kept is not None
    assert kept.value == b"1"
    assert await store.delete("a/x")
    await store.close()
    return len(page.entries) + counted


@router.post("/add")
async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@router.route("/double")
def double(job_progress: JobProgress, n: int) -> int:
    """Double, in steps."""
    job_progress.update(0.5, "half way")
    return 2 * n


@router.route("/large")
async def large(size: int) -> bytes:
    """Return more than fits into a record."""
    return b"x" * size


@router.route("/flaky", max_attempts=2, backoff=0.1)
def flaky(job: JobContext) -> int:
    """Fail the first time."""
    if job.attempt == 1:
        raise ConnectionError("as asked")
    return job.attempt


@router.route("/poison")
def poison() -> None:
    """Never runs: see below."""


_get = DynamoJobStore.get


async def _deadly(self: DynamoJobStore, job_id: str) -> Any:
    """Take the process of the job function down before it claims a job of that route, each time."""
    job = await _get(self, job_id)
    if (
        getattr(job, "route", "").endswith("/poison")
        and "JobFunction" in os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    ):
        os._exit(1)
    return job


DynamoJobStore.get = _deadly  # type: ignore[method-assign]
