"""What a schedule would do for one job, done for the job whose message is at hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from router_core.jobs import moves
from router_core.jobs.job import WAITING, Job, State
from router_core.jobs.reaper import Reaper

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["brought_up_to_date", "hear_of_cancel", "known_once", "lease_ended", "retention_of"]

_LOOKS: Final = (1.0, 2.0, 4.0)
"""Seconds between looks whether a running job is to be cancelled; the last one repeats."""
_GRAVE: Final = 7 * 24 * 3600.0
"""Seconds for which a store knows that a job has been there."""


async def brought_up_to_date(app: App, job: Job) -> Job:
    """Do to a job what time has made due: queue it, end it, take it from a dead worker. Raises StoreError.

    A schedule does the same for all jobs, up to a minute later.
    """
    now = app.parts.clock.now()
    if job.state in WAITING and 0 < job.deadline_at <= now:
        moved = await app.parts.store.move(
            job.id, moves.deadline(job, now=now, retention=retention_of(app, job))
        )
    elif job.state is State.SCHEDULED and job.not_before <= now:
        due = moves.due(now=now)
        external = app.parts.dispatcher.abilities.external
        due = replace(due, sets={**due.sets, "dispatch_pending": external})
        moved = await app.parts.store.move(job.id, due)
    elif lease_ended(app, job):
        moved = await _reaper(app).rescue(job)
    else:
        return job
    return moved.job or job


async def hear_of_cancel(app: App, job_id: str, worker: str) -> None:
    """Stop a job of this worker's once its record says that it is to be cancelled.

    There is no heartbeat here that would learn of it. Runs beside the job, until it is cancelled itself.
    """
    looks = chain(_LOOKS, repeat(_LOOKS[-1]))
    while True:
        await asyncio.sleep(next(looks))
        try:
            job = await app.parts.store.get(job_id)
        except Exception:  # noqa: S112 - the store may answer the next time
            continue
        if isinstance(job, Job) and job.state is State.CANCELLING and job.worker_id == worker:
            app.parts.runner.cancel(job_id)
            return


def lease_ended(app: App, job: Job) -> bool:
    """Return whether the worker of a job has vanished."""
    held = job.state in (State.RUNNING, State.CANCELLING)
    return held and job.lease_until < app.parts.clock.now()


def retention_of(app: App, job: Job) -> float:
    """Return for how long the record of a job stays when it has ended."""
    return app.service.retention(app.service.routes.get(job.route))


def known_once(sent_at: float, now: float) -> bool:
    """Return whether a message is so old that its job may have ended and been forgotten since."""
    return 0 < sent_at < now - _GRAVE


def _reaper(app: App) -> Reaper:
    for part in app.parts.upkeep:
        if isinstance(part, Reaper):
            return part
    raise AssertionError("every app has a reaper")
