"""A worker process on a SQLite file, for tests that kill it.

Started by ``python -m tests.apps.run_worker FOLDER [idle]``.

With ``idle`` it leaves when no job is open. SIGTERM drains, a second one ends it at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from router_core.binding.depends import DependencyScope
from router_core.binding.result import encode_result
from router_core.blobs.file import FileBlobStore
from router_core.clock import SystemClock
from router_core.jobs.context import JobContext
from router_core.jobs.failpoints import arm
from router_core.jobs.inputs import load
from router_core.jobs.isolation import ChildPool
from router_core.jobs.reaper import Reaper
from router_core.jobs.runner import Runner
from router_core.jobs.watch import Hub, WatchedStore
from router_core.jobs.worker import WorkerPool
from router_core.queues.inprocess import InProcessDispatcher
from router_core.routing.route import Route
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.stores.sqlite import SqliteJobStore
from router_core.telemetry.events import Events

LEASE = 0.8
router = Router()


def _note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


@router.route("/work", concurrency=2)
async def work(job: JobContext, folder: str, size: int = 10) -> str:
    """Note that it ran, have an effect once, and return a text of some size."""
    _note(Path(folder) / "runs", f"{job.job_id} {job.attempt}\n")

    def effect() -> str:
        key = job.idempotency_key("effect")
        (Path(folder) / f"effect-{key}").write_text("done")
        return key

    await job.once("effect", effect)
    await asyncio.sleep(0)
    return "x" * size


@router.route("/linger", concurrency=2)
async def linger(folder: str) -> None:
    """Run until stopped."""
    (Path(folder) / "lingering").touch()
    await asyncio.Event().wait()


@router.route("/spin", isolation="process", concurrency=1)
def spin(folder: str) -> None:
    """Run in a child until killed."""
    (Path(folder) / "lingering").write_text(str(os.getpid()))
    while True:
        pass


def routes() -> dict[str, Route]:
    """Return the routes by key."""
    return {route.key: route for route in router.routes}


async def main(folder: Path, idle: bool) -> None:
    """Work until told to stop."""
    arm(os.environ)
    lease = float(os.environ.get("LEASE", LEASE))
    settings = Settings(lease=lease, heartbeat=lease / 4)
    clock, events, hub = SystemClock(), Events(), Hub()
    blobs = FileBlobStore(folder / "blobs")
    store = WatchedStore(SqliteJobStore(folder / "jobs.db"), hub, events)
    children = ChildPool(routes=routes(), events=events)
    runner = Runner(
        store=store, routes=routes(), blobs=blobs, clock=clock, settings=settings, events=events,
        load_inputs=lambda job, route: load(job, blobs), encode=encode_result, children=children,
        new_scope=lambda run_sync: DependencyScope(run_sync=run_sync), subscribe=hub.subscribe,
        cancel_grace=0.3,
    )  # fmt: skip
    pool = WorkerPool(
        store=store, runner=runner, routes=routes(), clock=clock, settings=settings, events=events, poll=0.1
    )
    dispatcher = InProcessDispatcher(pool)
    reaper = Reaper(
        store=store, routes=routes(), clock=clock, settings=settings, events=events, draw=lambda: 0.0
    )
    stop, signals = asyncio.Event(), 0

    def asked() -> None:
        nonlocal signals
        signals += 1
        print("heard", flush=True)
        stop.set()
        if signals == 2:
            pool.kill()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked)
    await store.open()
    await dispatcher.start(runner.run)
    reaping = asyncio.create_task(reaper.run())
    print("ready", flush=True)
    while not stop.is_set():
        if idle and not (await store.stats()).by_route:
            break
        try:
            async with asyncio.timeout(0.05):
                await stop.wait()
        except TimeoutError:
            continue
    await dispatcher.stop(float(os.environ.get("GRACE", "0.2")))
    reaping.cancel()
    await children.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), idle="idle" in sys.argv))
