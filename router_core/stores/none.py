"""No job store: for services that have no jobs, whose processes then need nothing in common."""

from __future__ import annotations

from router_core.errors import HTTPError
from router_core.jobs.job import Job
from router_core.jobs.store import Added, IdempotencyKey
from router_core.stores.memory import MemoryJobStore

__all__ = ["NoJobStore"]


class NoJobStore(MemoryJobStore):
    """Holds nothing and takes nothing: a call that asks to become a job is refused."""

    multi_process = True

    async def add(
        self, job: Job, *, queue_limit: int | None = None, key: IdempotencyKey | None = None
    ) -> Added:
        """Raise HTTPError 501, always."""
        raise HTTPError(501, "this service keeps no jobs: ROUTER_JOBS is none://", code="no_jobs")
