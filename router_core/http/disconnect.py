"""Hear of a peer that goes away while its request is being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from router_core.http.message import Request

__all__ = ["Watched", "when_gone"]


class Watched:
    """Base of an adapter's object whose method ``gone`` is ``Request.disconnected``, and that can call back.

    That costs a request nothing, where a task that waits would cost as much as a small answer.
    """

    __slots__ = ("on_gone",)

    on_gone: Callable[[], object] | None
    """Called once, from the event loop, when the peer has gone; None: nobody wants to know."""


def when_gone(request: Request, callback: Callable[[], object]) -> Callable[[], None]:
    """Call ``callback`` once if the peer goes away; returns what ends the watch.

    Where the adapter has no way to call back, a task waits for the end of the connection.
    """
    gone = request.disconnected
    if gone is None:
        return _nothing
    watched = getattr(gone, "__self__", None)
    if isinstance(watched, Watched):
        watched.on_gone = callback
        return partial(_forget, watched)
    task = asyncio.ensure_future(_call_when(gone, callback))
    return partial(_cancel, task)


def _forget(watched: Watched) -> None:
    watched.on_gone = None


async def _call_when(gone: Callable[[], Awaitable[None]], callback: Callable[[], object]) -> None:
    await gone()
    callback()


def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()


def _nothing() -> None:
    return None
