"""Stop waiting for a caller who has gone away, or whose platform gives the answer up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from router_core.clock import Clock
from router_core.http.message import Request

__all__ = ["seconds_left", "unless_gone"]

T = TypeVar("T")


def seconds_left(request: Request, clock: Clock) -> float:
    """Return for how long the platform of a request still waits for its answer."""
    return max(0.0, request.answer_by - clock.monotonic())


async def unless_gone(request: Request, waiting: Coroutine[Any, Any, T]) -> T | None:
    """Return what is waited for, or None when the peer went away first: the wait has ended then."""
    if request.disconnected is None:
        return await waiting
    wait = asyncio.ensure_future(waiting)
    leave = asyncio.ensure_future(request.disconnected())
    try:
        await asyncio.wait((wait, leave), return_when=asyncio.FIRST_COMPLETED)
        if wait.done() or leave.exception() is not None:  # who cannot tell any more is taken to be there
            return await wait
        return None
    finally:
        leave.cancel()
        if not wait.done():
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
