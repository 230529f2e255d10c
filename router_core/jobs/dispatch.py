"""How a worker learns that a job is ready."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job
from router_core.jobs.store import JobStore
from router_core.telemetry.events import Events, Note

__all__ = ["Abilities", "Dispatcher", "foretell", "tell"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a queue can do. A call that asks for more is refused with 400; of a route that does, the operator
    is told at the start."""

    delay: bool
    """Can it hold a job back until ``not_before``?"""
    priority: bool
    """Does a higher priority overtake?"""
    cancel: bool
    """Can a running job be told to stop?"""
    stream: bool
    """Do events reach a reader while the job runs?"""
    external: bool = True
    """Does the queue live outside the record store? Then a record stays marked ``dispatch_pending`` until the
    queue has taken it. A queue that only wakes workers of this store sets False and saves that write."""
    max_delay: float = math.inf
    """For how many seconds it can hold a job back, if it can."""

    def takes(self, job: Job, now: float) -> bool:
        """Return whether the queue may be told of a job now: it is due, or held back until then."""
        return job.not_before - now <= (self.max_delay if self.delay else 0.0)


class Dispatcher(Protocol):
    """A queue. Its message is the job's id; the store is the truth."""

    abilities: Abilities

    async def dispatch(self, job: Job) -> None:
        """Tell the queue that a job is ready, or will be at ``not_before`` where ``abilities.takes`` it.

        Raises Unavailable when the queue does not take it; the record stays marked ``dispatch_pending`` and
        the sweeper tries again."""

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Begin to hand ready jobs to ``run`` (a queue consumed elsewhere does nothing here)."""

    async def stop(self, grace: float) -> None:
        """Hand out no more, wait up to ``grace`` seconds for what runs, then let go."""


async def tell(dispatcher: Dispatcher, store: JobStore, job: Job) -> Job:
    """Tell the queue of a job and note in its record that the queue knows; returns the record.

    Raises what ``dispatch`` raises. A note that cannot be written has the sweeper tell the queue again, which
    is harmless, as the message is only the id.
    """
    await dispatcher.dispatch(job)
    if not job.dispatch_pending:
        return job
    try:
        moved = await store.move(job.id, moves.dispatched(job.epoch))
    except StoreError:
        return job
    return moved.job or job


async def foretell(dispatcher: Dispatcher, job: Job, now: float, events: Events) -> None:
    """Let an external queue hold a scheduled job that it takes: it is more punctual than a sweeper that comes
    by once a minute. Never raises, as that one tells the queue in any case."""
    if not dispatcher.abilities.external or not dispatcher.abilities.takes(job, now):
        return
    try:
        await dispatcher.dispatch(job)
    except Exception as error:
        text = f"job {job.id} waits for the sweeper"
        events.emit(Note("dispatch_failed", "warning", text, error=error))
