"""The queue of a single machine: the record store is the queue, and this only wakes its workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job
from router_core.jobs.worker import WorkerPool

__all__ = ["InProcessDispatcher"]

_ABILITIES: Final = Abilities(delay=True, priority=True, cancel=True, stream=True, external=False)


class InProcessDispatcher:
    """Hands jobs to the worker pool of this process. Nothing is kept here, so nothing can be lost here."""

    abilities = _ABILITIES
    claims_here = True
    """The pool of this process is what works, so its state is the service's."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    async def dispatch(self, job: Job) -> None:
        """Wake the workers of the job's route; they read the store."""
        self.pool.wake(job.route)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Let the pool claim, and hand what it claims to ``run``."""
        self.pool.start(run)

    async def stop(self, grace: float) -> None:
        """Drain the pool."""
        await self.pool.drain(grace)
