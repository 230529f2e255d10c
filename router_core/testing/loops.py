"""The end of an event loop that test servers run in a thread of their own."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["wind_up"]


async def wind_up() -> None:
    """End whatever the running loop still does, its connections among it, so that it can be closed.

    Those that were accepted a moment ago get a task only now, and one whose peer takes nothing never
    closes by itself. What is left behind is found by the garbage collector, and laid at the door of a
    later test.
    """
    loop: Any = asyncio.get_running_loop()
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)
    for transport in list(getattr(loop, "_transports", {}).values()):
        transport.abort()
    for _ in range(3):  # their sockets are closed in the next rounds
        await asyncio.sleep(0)
