"""SAQ on Redis: enqueue, then drain with ten concurrent jobs; argument: the Redis URL."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from saq import Queue, Worker

_JOBS = 4000


async def noop(_ctx: dict[str, Any], *, n: int) -> int:
    """Do nothing."""
    return n


async def main(url: str) -> None:
    """Measure and print."""
    queue = Queue.from_url(url)
    await queue.connect()
    await queue.redis.flushdb()
    for n in range(_JOBS):
        await queue.enqueue("noop", n=n)
    done = 0
    finished = asyncio.Event()

    async def count(_ctx: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if done == _JOBS:
            finished.set()

    worker = Worker(queue, functions=[noop], concurrency=10, after_process=count, dequeue_timeout=1)
    started = time.perf_counter()
    task = asyncio.create_task(worker.start())
    await finished.wait()
    print(_JOBS / (time.perf_counter() - started), flush=True)
    task.cancel()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
