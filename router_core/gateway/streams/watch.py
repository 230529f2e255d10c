"""An eye on one wait at a time, with one timer for many waits."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Any, Final

__all__ = ["Watch"]

_LATE: Final = 0.25
"""Seconds after its time at which a timer says that this process stood still."""
_GRACE: Final = 0.05
"""Seconds for what has come meanwhile to be looked at."""


class Watch:
    """Cancels the wait inside it when its time is over, which comes out as TimeoutError.

    For waits that follow one another (the chunks of a stream): the timer is not moved with each of them, it
    looks when it fires whether the wait that it finds is over its time, and else fires again then.
    """

    __slots__ = ("_due", "_fired", "_fires", "_loop", "_task", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._due = 0.0
        self._fired = False

    def until(self, due: float) -> Watch:
        """Say until when the next wait may take; ``with watch.until(due): await ...``."""
        self._due = due
        if due != inf and (self._timer is None or due < self._fires):
            self._set(due)
        return self

    def close(self) -> None:
        """Let go of the timer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._fired:
            self._fired = False
            # somebody else may have cancelled the task as well: then it is not ours to take back
            if task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _set(self, when: float) -> None:
        self.close()
        self._fires = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits; the next wait sets it anew
        now = self._loop.time()
        if now < self._due:
            self._set(self._due)
            return
        if now - self._fires > _LATE:
            self._set(now + _GRACE)
            return
        self._fired = True
        self._task.cancel()
