"""Finished jobs per second of our engine on SQLite in one process: ``FILE drain|cycle``; prints one number.

drain: jobs are submitted first, then ten run at a time, as the other queues are measured.
cycle: ten submitters, each waiting for its job's end before the next.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from router_core import Principal, Router, Settings, build_app
from router_core.binding.inputs import Inputs

_JOBS = 8000
router = Router()


@router.route("/noop", queue_size=1_000_000, concurrency=10)
async def noop(n: int) -> int:
    """Do nothing."""
    return n


async def main(path: str, mode: str) -> None:
    """Measure and print."""
    settings = Settings.from_env(os.environ, jobs=f"sqlite:///{path}", blobs="memory://", log_level="error")
    app = build_app(router, settings)
    route = app.table.match("POST", "/noop").route
    done, finished = 0, asyncio.Event()

    def count(event: object) -> None:
        nonlocal done
        if getattr(event, "move", "") == "succeed":
            done += 1
            if done == _JOBS:
                finished.set()

    app.events.subscribe(count)
    me = Principal("bench")
    service = app.service
    if mode == "drain":
        await app.parts.store.open()
        for start in range(0, _JOBS, 500):
            await asyncio.gather(
                *(service.submit(route, Inputs({"n": n}), principal=me) for n in range(start, start + 500))
            )
        started = time.perf_counter()
        await app.start()
        await finished.wait()
    else:
        await app.start()
        started = time.perf_counter()

        async def submitter() -> None:
            for n in range(_JOBS // 10):
                added = await service.submit(route, Inputs({"n": n}), principal=me)
                await service.wait(added.job.id, me, 30)

        await asyncio.gather(*(submitter() for _ in range(10)))
    print(_JOBS / (time.perf_counter() - started), flush=True)
    await app.stop(1)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    else:
        uvloop.run(main(sys.argv[1], sys.argv[2]))
