"""Messages that the queue of the jobs has given up on: their jobs end, so that nobody waits for ever.

A message comes here when it was received too often without an end. Attempts are counted in the record and
shutdowns do not count, so this means that something else went wrong each time: an invocation that was killed
before it claimed anything, a store that did not answer, an error in this code.

===================================  ==============================================================
the record                           what happens
===================================  ==============================================================
has ended, or is long forgotten      the message is deleted
waits, or its worker has vanished    failed(dead_letter), with the reason in its error; deleted
runs under a live lease              the message is kept until that lease has ended
is scheduled                         deleted: the sweeper sends another message when the job is due
names no job of ours                 kept for somebody to look at; logged each time it comes back
===================================  ==============================================================

**Redrive.** A job that was buried here is run again by ``POST /jobs/{id}/retry`` (a new job with the same
input; the old record says what happened). Moving its message back would do nothing: the record has ended, and
the message would be deleted. What names no job stays in the dead-letter queue, where AWS's own redrive works:
``aws sqs start-message-move-task --source-arn <arn of the dead-letter queue>``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from handlers.aws.limits import remaining_seconds
from handlers.aws.messages import Message, Poison, Visibility, failures, job_id_of, read_messages, shown
from handlers.aws.upkeep import brought_up_to_date, known_once, lease_ended, retention_of
from router_core.errors import RouterError
from router_core.jobs import moves
from router_core.jobs.job import Job, Reason, State, Tombstone
from router_core.jobs.retry import Failure, history
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["bury"]

KEPT: Final = 3600.0
"""Seconds between looks at a message that names no job."""
_TRIES: Final = 5
_PAUSE: Final = 30.0
_RESERVE: Final = 2.0
_LONGEST: Final = 900.0


async def bury(
    app: App, event: Mapping[str, Any], context: Any, *, draw: Callable[[], float] = random.random
) -> dict[str, Any]:
    """End the jobs of dead messages; returns which messages have to be kept."""
    messages = read_messages(event)
    visibility = Visibility(app.events)
    tasks = {
        message.id: asyncio.create_task(_handled(app, message, visibility, draw)) for message in messages
    }
    if tasks:
        left = min(_LONGEST, remaining_seconds(context)) - _RESERVE
        await asyncio.wait(tasks.values(), timeout=max(0.1, left))
    kept = [message for message in messages if not _succeeded(tasks[message.id])]
    return failures(kept)


def _succeeded(task: asyncio.Task[bool]) -> bool:
    if not task.done():
        task.cancel()
        return False
    return task.result()


async def _handled(app: App, message: Message, visibility: Visibility, draw: Callable[[], float]) -> bool:
    """Return whether the queue may forget the message. Never raises."""
    try:
        wait = await _handle(app, message, job_id_of(message))
        if not wait:
            return True
        await visibility.hide(message, wait + 1.0 + 5.0 * draw())
    except Poison as poison:
        text = f"a dead message names no job of this service: {poison}; it is kept"
        app.events.emit(Note("dead_letter_strange", "error", text, shown(message)))
        await visibility.hide(message, KEPT)
    except Exception as error:
        level = "warning" if isinstance(error, RouterError) else "error"
        text = "a dead message could not be handled; it comes back"
        app.events.emit(Note("message_failed", level, text, shown(message), error))
        await visibility.hide(message, _PAUSE * (1 + draw()))
    return False


async def _handle(app: App, message: Message, job_id: str) -> float:
    """End the job; returns 0 when the message is not needed any more, else for how long to hide it."""
    for _ in range(_TRIES):
        job = await app.parts.store.get(job_id)
        now = app.parts.clock.now()
        if job is None and not known_once(message.sent_at, now):
            raise Poison("there is no such job")
        if job is None or isinstance(job, Tombstone) or job.terminal or job.state is State.SCHEDULED:
            return 0.0
        if job.state in (State.RUNNING, State.CANCELLING) and not lease_ended(app, job):
            return max(_LEAST, job.lease_until - now)
        if job.state is State.CANCELLING:
            await brought_up_to_date(app, job)
        elif await _buried(app, message, job):
            return 0.0
    return _PAUSE


_LEAST: Final = 0.001


async def _buried(app: App, message: Message, job: Job) -> bool:
    now = app.parts.clock.now()
    text = f"its queue gave up on it: received {message.receives} times without an end (message {message.id})"
    error = Failure("DeadLetter", text, False, Reason.DEAD_LETTER).body(job.attempt)
    attempts = job.attempts
    if job.state is State.RUNNING:
        attempts = history(job, Reason.DEAD_LETTER.value, now, error)
    move = moves.dead_letter(job, now=now, retention=retention_of(app, job), attempts=attempts, error=error)
    moved = await app.parts.store.move(job.id, move)
    if moved.applied:
        fields = {**shown(message), "job_id": job.id, "route": job.route, "was": job.state.value}
        app.events.emit(Note("job_dead_letter", "error", f"job {job.id}: {text}", fields))
    return moved.applied
