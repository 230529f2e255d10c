"""The queue of workers elsewhere: jobs wait in the record store until one of them asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job
from router_core.jobs.remote_wait import Wakeups

__all__ = ["PullDispatcher"]

_ABILITIES: Final = Abilities(delay=True, priority=True, cancel=True, stream=True, external=False)


class PullDispatcher:
    """Claims nothing in this process; wakes workers that wait for a job here."""

    abilities = _ABILITIES
    claims_here = False

    def __init__(self) -> None:
        self.wakeups = Wakeups()

    async def dispatch(self, job: Job) -> None:
        """Wake workers of the job's route, when it is due."""
        delay = job.not_before - time.time() if job.not_before else 0.0
        if delay <= 0:
            self.wakeups.ring(job.route)
        else:
            asyncio.get_running_loop().call_later(delay, self.wakeups.ring, job.route)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Leave the jobs to those who ask."""

    async def stop(self, grace: float) -> None:
        """What runs, runs elsewhere."""
