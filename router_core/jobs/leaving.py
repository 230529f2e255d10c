"""Stop waiting for a caller who has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from router_core.http.message import Request

__all__ = ["unless_gone"]

T = TypeVar("T")


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
