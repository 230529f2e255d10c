"""Be interrupted when the peer goes away while its request is being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from router_core.http.message import Request

__all__ = ["Interruption", "Watched", "interrupt_when_gone"]


class Interruption:
    """Cancels a task when the peer has gone."""

    __slots__ = ("_task", "_watch", "happened")

    def __init__(self, gone: Callable[[], Awaitable[None]] | None) -> None:
        """Without ``gone`` nobody can tell, and it never happens."""
        self.happened = False
        self._task = asyncio.current_task()
        self._watch = None if gone is None else asyncio.ensure_future(self._wait(gone))

    def forget(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.cancel()

    def acquit(self) -> None:
        """Take the cancellation back, once it has done what it was for."""
        if self._task is not None:
            self._task.uncancel()

    async def _wait(self, gone: Callable[[], Awaitable[None]]) -> None:
        await gone()
        self.happened = True
        if self._task is not None:
            self._task.cancel()


class Watched(Interruption):
    """Base of an adapter's object whose method ``gone`` is ``Request.disconnected``, and which cancels the
    task of its request itself.

    That costs a request nothing, where a task that waits would cost as much as a small answer.
    """

    __slots__ = ("interrupts",)

    interrupts: bool
    """Whether the task is to be cancelled when the peer goes."""
    disconnected: bool
    """Whether it has gone."""

    def interrupt(self) -> None:
        """Cancel the task, if ``interrupts`` still says so."""
        raise NotImplementedError


def interrupt_when_gone(request: Request) -> Interruption:
    """Have the current task cancelled if the peer goes away, until ``forget`` is called.

    Whoever catches the cancellation looks at ``happened``, and calls ``acquit`` when it was this one.
    """
    gone = request.disconnected
    watched = getattr(gone, "__self__", None)
    if isinstance(watched, Watched):
        watched.interrupts = True
        if watched.disconnected:  # before anybody asked: nothing else will tell it
            asyncio.get_running_loop().call_soon(watched.interrupt)
        return watched
    return Interruption(gone)
