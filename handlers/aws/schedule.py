"""The scheduled round: what works beside the calls elsewhere, done once a minute here.

Takes jobs from dead workers, queues what is due, ends what is late, tells the queue of jobs that it does not
know, forgets what has expired, sends webhooks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final

from handlers.aws.limits import remaining_seconds
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from router_core.app import App

__all__ = ["UpkeepFailed", "tend"]

RESERVE: Final = 3.0
"""Seconds before the end at which a round stops; what is left is done in the next one."""


class UpkeepFailed(RuntimeError):
    """A part could not do its work: the platform counts an error, and calls again."""


async def tend(app: App, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Do one round; returns ``{"complete": bool, "done": {part: bool}, "seconds": float}``.

    A round that time did not suffice for is not complete, which is no error. Raises UpkeepFailed when a part
    failed: nobody else would notice.
    """
    begun = app.parts.clock.monotonic()
    left = remaining_seconds(context)
    limit = None if left == inf else max(0.0, left - min(RESERVE, left / 5))
    done: dict[str, bool] = {}
    complete = True
    try:
        async with asyncio.timeout(limit):
            done = await app.tend()
    except TimeoutError:
        complete = False
        text = "a round of upkeep took longer than its function may run; the next one goes on"
        app.events.emit(Note("upkeep_unfinished", "warning", text))
    seconds = round(app.parts.clock.monotonic() - begun, 3)
    failed = [name for name, well in done.items() if not well]
    if failed:
        raise UpkeepFailed(f"{', '.join(failed)} could not do their work; the log says why")
    return {"complete": complete, "done": done, "seconds": seconds}
