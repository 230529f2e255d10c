"""RunPod's queue, as its worker sees it: the platform hands out the jobs, and this only keeps them alive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job
from router_core.jobs.worker import WorkerPool

__all__ = ["RunpodDispatcher"]

_ABILITIES: Final = Abilities(delay=False, priority=False, cancel=True, stream=True, external=False)


class RunpodDispatcher:
    """Hands out nothing itself: who takes a job from the platform runs its record by id (``App.run``).

    A record given back waits for the platform to deliver its job again, to whichever worker.
    """

    abilities = _ABILITIES
    claims_here = False

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    async def dispatch(self, job: Job) -> None:
        """Do nothing: the job came from the platform."""

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Keep the leases of running jobs alive."""
        self.pool.attend()

    async def stop(self, grace: float) -> None:
        """Let what runs end for ``grace`` seconds, then give it back."""
        await self.pool.drain(grace)
