"""How many jobs a second the job stores carry from submission to success, each step durable.

A cycle is add, claim and the move to succeeded, with a 1 KB input. Beside it, in the same run and on the same
disk, stands what the disk can do: one commit of one row at a time (``bare``), of which three make a cycle.

    python -m benchmarks.store_cycle [--jobs 10000] [--dir PATH] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from router_core.clock import SystemClock
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim, Store
from router_core.stores.memory import MemoryJobStore
from router_core.stores.sqlite import SqliteJobStore
from router_core.types import new_id

ROUTE = "/bench"
INPUT = b'{"text":"' + b"x" * 958 + b'"}'


def new_job() -> Job:
    """Return a queued job with an input of 968 bytes."""
    now = time.time()
    return Job(new_id(), "bench", ROUTE, State.QUEUED, now, input=INPUT, rank=now)


async def finish(store: Store, job: Job) -> None:
    """Move a claimed job to succeeded."""
    end = moves.succeed(job.fence, now=time.time(), retention=3600.0, attempts=b"[]", result=b'"ok"')
    assert (await store.move(job.id, end)).applied


async def cycles(store: Store, jobs: int, callers: int) -> float:
    """Return cycles a second of so many callers, each with one job at a time."""

    async def caller() -> None:
        for _ in range(jobs // callers):
            await store.add(new_job(), queue_limit=10_000)
            for job in await store.claim(Claim("bench", 30.0, {ROUTE: 1})):
                await finish(store, job)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return jobs / (time.perf_counter() - started)


async def submits(store: Store, jobs: int, callers: int) -> float:
    """Return accepted submissions a second."""

    async def caller() -> None:
        for _ in range(jobs // callers):
            await store.add(new_job(), queue_limit=1_000_000)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return jobs / (time.perf_counter() - started)


async def drain(store: Store, jobs: int, workers: int) -> float:
    """Return finished jobs a second of a pool that claims for all its free workers at once."""
    started = time.perf_counter()
    done = 0
    running: set[asyncio.Task[None]] = set()
    while done + len(running) < jobs or running:
        free = workers - len(running)
        if free and done + len(running) < jobs:
            taken = await store.claim(Claim("bench", 30.0, {ROUTE: free}))
            running |= {asyncio.create_task(finish(store, job)) for job in taken}
        ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        done += len(ended)
    return jobs / (time.perf_counter() - started)


def bare_commits(path: Path, seconds: float = 1.0) -> float:
    """Return commits a second of one row each, with the same durability and nothing around it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, x BLOB)")
    count = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        connection.execute("INSERT INTO t VALUES (?, ?)", (os.urandom(8).hex(), INPUT))
        count += 1
    connection.close()
    return count / seconds


async def measure(jobs: int, directory: Path) -> dict[str, float]:
    """Return all figures, in jobs a second."""
    figures = {"bare commits": bare_commits(directory / "bare.db")}
    figures["memory, 10 callers"] = await cycles(MemoryJobStore(SystemClock()), jobs, 10)
    store = SqliteJobStore(directory / "jobs.db")
    await store.open()
    try:
        await cycles(store, 500, 10)
        for callers in (1, 10, 100):
            count = jobs if callers > 1 else jobs // 10
            figures[f"sqlite, {callers} callers"] = await cycles(store, count, callers)
        figures["sqlite submits, 100 callers"] = await submits(store, jobs, 100)
        figures["sqlite drain, 10 workers"] = await drain(store, jobs, 10)
    finally:
        await store.close()
    figures["bare commits, again"] = bare_commits(directory / "again.db")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="measure on the disk of this directory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix=".bench-") as folder:
        figures = asyncio.run(measure(options.jobs, Path(folder)))
    if options.json:
        print(json.dumps({name: round(value, 1) for name, value in figures.items()}))
        return
    bare = (figures["bare commits"] + figures["bare commits, again"]) / 2 / 3
    for name, value in figures.items():
        ratio = "" if name.startswith("bare") else f"{value / bare:10.1f} x three bare commits"
        print(f"{name:30}{value:12,.0f} /s{ratio}")


if __name__ == "__main__":
    main()
