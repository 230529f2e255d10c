"""Jobs from SQS: each message names one, its record decides what becomes of the message.

================================  ======================================  ================================
the record, after what was done   the message                             comes back
================================  ======================================  ================================
has ended, or is long forgotten   deleted
running under a live lease        kept: deleting it would lose the job,   when that lease has ended
                                  should its worker die
waits for a time (retry, start)   kept                                    at that time
waits longer than SQS can hide    deleted, the record marked              the sweeper sends another
given back for lack of time       replaced by a new one, so that shut-    at once
                                  downs do not count as receives
names no job of ours              kept, logged                            soon, until the dead-letter queue
the store does not answer         kept                                    later each time
================================  ======================================  ================================

Jobs that are put back stay marked ``dispatch_pending``, although their message is kept: should it get lost (a
queue that is purged, a message older than its queue keeps any), the sweeper sends another once the job has
been due for a while and nobody has claimed it.

Kept messages are reported one by one (``ReportBatchItemFailures``), so none troubles another. While a job
runs its message is hidden until shortly after the deadline of the invocation: a crash shows then, and not
after the queue's own timeout, which is six times as long. Jobs of one batch run side by side as far as the
concurrency of their routes allows; what finds too little time left is not begun. On a FIFO queue the messages
of a group run one after the other, and those behind a kept one are kept too.

Powertools' BatchProcessor is not used: it knows neither visibility nor deadlines nor concurrency, and
importing it costs a cold start more than everything here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from handlers.aws.limits import remaining_seconds
from handlers.aws.messages import Message, Poison, Visibility, failures, job_id_of, read_messages, shown
from handlers.aws.upkeep import brought_up_to_date, hear_of_cancel, known_once
from router_core.errors import RouterError, Unavailable
from router_core.jobs import moves
from router_core.jobs.dispatch import tell
from router_core.jobs.job import Job, State, Tombstone
from router_core.jobs.worker import concurrency_of
from router_core.queues.sqs import MAX_VISIBILITY
from router_core.telemetry.events import Note
from router_core.types import new_id

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["run_batch"]

LEASE_MARGIN: Final = 5.0
"""Seconds that a lease outlasts the invocation."""
HIDE_MARGIN: Final = 10.0
"""The same for the message, so that a lease has ended when its message comes back."""
RESERVE: Final = 3.0
"""Seconds before the end at which the answer is given, whatever still runs."""
_MOMENT: Final = 0.2
_LONGEST: Final = 900.0
"""Seconds that an invocation can take; for callers that name no deadline."""
_SHORTEST_SHARE: Final = 4.0
"""An invocation keeps back a quarter of its time at most, or a short one would never begin a job."""
_MOST: Final = 0.9
"""Part of an invocation's time that is as good as all of it."""
_AT_ONCE: Final = 64
"""Messages that are handled side by side, should a batch be a large one."""
_FIRST_RECEIVES: Final = 3
_POISON_PAUSE: Final = 2.0
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
_LONGEST_HIDE: Final = MAX_VISIBILITY - 60.0


async def run_batch(
    app: App, event: Mapping[str, Any], context: Any, *, draw: Callable[[], float] = random.random
) -> dict[str, Any]:
    """Run the jobs that an event names; returns which messages their queue has to keep."""
    return await _Batch(app, context, draw).run(read_messages(event))


class _Batch:
    """One invocation."""

    def __init__(self, app: App, context: Any, draw: Callable[[], float]) -> None:
        self._app = app
        self._store = app.parts.store
        self._clock = app.parts.clock
        self._draw = draw
        self._visibility = Visibility(app.events)
        self._worker = getattr(context, "aws_request_id", None) or new_id()
        # 0 is a number: nothing is begun then
        left = min(_LONGEST, remaining_seconds(context))
        self._ends = self._clock.monotonic() + left
        self._whole = left
        self._grace = min(app.settings.lambda_grace, left / _SHORTEST_SHARE)
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._done: set[str] = set()

    async def run(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Handle every message; what does not come to an end is kept."""
        lanes: dict[str, list[Message]] = {}
        for message in messages:
            lanes.setdefault(message.group if message.fifo else message.id, []).append(message)
        tasks = [asyncio.create_task(self._lane(lane)) for lane in lanes.values()]
        if tasks:
            left = self._left()
            patience = max(_MOMENT, left - min(RESERVE, left / 5))
            _, pending = await asyncio.wait(tasks, timeout=patience)
            for task in pending:
                task.cancel()
        kept = [message for message in messages if message.id not in self._done]
        if kept and len(messages) > 1:
            text = f"{len(kept)} of {len(messages)} messages stay in their queue"
            self._app.events.emit(Note("messages_kept", "info", text))
        return failures(kept)

    async def _lane(self, messages: Sequence[Message]) -> None:
        """Handle messages one after the other, up to the first that is kept."""
        async with self._gate:
            for message in messages:
                if not await self._handled(message):
                    return
                self._done.add(message.id)

    def _left(self) -> float:
        return max(0.0, self._ends - self._clock.monotonic())

    async def _handled(self, message: Message) -> bool:
        """Return whether the queue may forget the message. Never raises."""
        try:
            return await self._handle(message, job_id_of(message))
        except Poison as poison:
            text = f"a message names no job of this service: {poison}"
            self._app.events.emit(Note("poison_message", "error", text, shown(message)))
            await self._visibility.hide(message, _POISON_PAUSE)
        except Exception as error:
            level = "warning" if isinstance(error, RouterError) else "error"
            text = "a message could not be handled; it comes back"
            self._app.events.emit(Note("message_failed", level, text, shown(message), error))
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(message.receives - 1, 16))
            await self._visibility.hide(message, pause * (0.5 + self._draw() / 2))
        return False

    async def _handle(self, message: Message, job_id: str) -> bool:
        found = await self._store.get(job_id)
        if found is None and not known_once(message.sent_at, self._clock.now()):
            raise Poison("there is no such job")
        if found is None or isinstance(found, Tombstone):
            return True
        async with self._slot(found.route):
            job = await brought_up_to_date(self._app, found)
            if self._ready(job):
                if self._left() <= self._grace:
                    return await self._too_late(message, job)
                after = await self._attempt(message, job)
                if after is None:
                    return True
                job = after
        return await self._settled(message, job)

    def _slot(self, route: str) -> asyncio.Semaphore:
        slot = self._slots.get(route)
        if slot is None:
            known = self._app.service.routes.get(route)
            slot = self._slots[route] = asyncio.Semaphore(concurrency_of(known) if known else 1)
        return slot

    def _ready(self, job: Job) -> bool:
        waits = job.state in (State.QUEUED, State.RETRYING)
        return waits and job.not_before <= self._clock.now()

    # --- one attempt ------------------------------------------------------------------------------

    async def _attempt(self, message: Message, job: Job) -> Job | None:
        """Claim and run; returns the record afterwards, whoever has it."""
        left = self._left()
        beside = [
            asyncio.create_task(self._visibility.hide(message, left + HIDE_MARGIN)),
            asyncio.create_task(hear_of_cancel(self._app, job.id, self._worker)),
        ]
        try:
            return await self._app.run(
                job.id, self._worker, lease=left + LEASE_MARGIN, within=left - self._grace,
                final=self._had_it_all(job, left),
            )  # fmt: skip
        finally:
            beside[1].cancel()
            # hidden again below, for another time: the first must not come last
            await asyncio.wait(beside)

    def _had_it_all(self, job: Job, left: float) -> bool:
        """Whether another attempt would come no further: this one has a whole invocation before it, and its
        function cannot note what it has done (``JobContext.once``), so it begins from the start each time."""
        route = self._app.service.routes.get(job.route)
        return route is not None and "job" not in route.plan.slots and left >= self._whole * _MOST

    # --- what becomes of the message --------------------------------------------------------------

    async def _settled(self, message: Message, job: Job) -> bool:
        if job.terminal:
            return True
        now = self._clock.now()
        if job.state is State.QUEUED:
            return await self._again(message, job)
        if job.state in (State.RUNNING, State.CANCELLING):
            # its worker writes the end; should it die, this message is what remains
            wait = max(0.0, job.lease_until - now) + 1.0 + LEASE_MARGIN * self._draw()
        else:
            wait = max(0.0, job.not_before - now) + self._draw()
        if wait > _LONGEST_HIDE:
            return await self._left_to_the_sweeper(job)
        await self._visibility.hide(message, wait)
        return False

    async def _too_late(self, message: Message, job: Job) -> bool:
        """There is no time to begin: the next invocation has more, and receives are not used up for that."""
        if message.receives > _FIRST_RECEIVES:
            return await self._again(message, job)
        await self._visibility.hide(message, self._draw())
        return False

    async def _again(self, message: Message, job: Job) -> bool:
        """Replace the message by a new one, which nobody has received yet; a FIFO queue would drop that."""
        dispatcher = self._app.parts.dispatcher
        if dispatcher.abilities.external and not message.fifo:
            try:
                await tell(dispatcher, self._store, job)
                return True
            except Unavailable as error:
                text = "the message of a job that was given back is kept, as no other could be sent"
                self._app.events.emit(Note("dispatch_failed", "warning", text, {"job_id": job.id}, error))
        await self._visibility.hide(message, self._draw())
        return False

    async def _left_to_the_sweeper(self, job: Job) -> bool:
        if job.state is State.SCHEDULED or job.dispatch_pending:
            return True
        moved = await self._store.move(job.id, moves.forgotten(job.epoch))
        if not moved.applied:
            raise Unavailable("the job has changed in the meantime")
        return True
