"""Attempts that go on although they should have timed out, or have been cancelled: no honest worker renews
their leases for ever."""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from router_core.clock import Clock
from router_core.jobs.job import Fence, Job
from router_core.jobs.store import JobStore

__all__ = ["Overtime"]

SLACK: Final = 600.0
"""Seconds beyond the job's timeout or its cancel. An honest worker needs some: a child that loads the service
first (up to 300 s), a function that does not stop when asked, a result that is sent over a slow line."""
_REMEMBERED: Final = 10_000


class Overtime:
    """Knows until when an attempt may go on; reads the record once for each, not with every heartbeat."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._until: OrderedDict[Fence, float] = OrderedDict()

    async def allowed(self, fences: Sequence[Fence]) -> list[Fence]:
        """Return the leases that may be renewed."""
        now = self._clock.now()
        return [fence for fence in fences if await self._end(fence) > now]

    def cancelled(self, fence: Fence) -> None:
        """Note that the worker was told to stop: what does not stop loses its lease some time, so that the
        job can end."""
        if fence in self._until:
            self._until[fence] = min(self._until[fence], self._clock.now() + SLACK)

    async def _end(self, fence: Fence) -> float:
        known = self._until.get(fence)
        if known is not None:
            return known
        job = await self._store.get(fence.job_id)
        if not isinstance(job, Job) or job.epoch != fence.epoch:
            return 0.0
        if not job.token or not hmac.compare_digest(job.token.encode(), fence.token.encode()):
            return 0.0
        end = job.started_at + job.timeout + SLACK if job.timeout else math.inf
        if job.cancel_requested_at:
            end = min(end, job.cancel_requested_at + SLACK)
        self._until[fence] = end
        if len(self._until) > _REMEMBERED:
            self._until.popitem(last=False)
        return end
