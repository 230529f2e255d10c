"""A process of its own for the tests of the SQLite store: holds, fills, or loses a file.

Usage: python sqlite_child.py MODE PATH [NUMBER]; it says what it has done, line by line.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import time
from pathlib import Path

from router_core.errors import RouterError, StoreError
from router_core.jobs.job import Job, State
from router_core.stores.sqlite import SqliteJobStore
from router_core.types import new_id


def say(text: str) -> None:
    """Write a line in one system call."""
    os.write(1, f"{text}\n".encode())


def a_job(size: int = 100) -> Job:
    """Return a job with an input of some size."""
    now = time.time()
    return Job(new_id(), "alice", "/p", State.QUEUED, now, input=b'"%s"' % (b"x" * size), rank=now)


async def add_one(store: SqliteJobStore, size: int = 100) -> bool:
    """Add a job and say whether it was taken."""
    job = a_job(size)
    try:
        await store.add(job)
    except StoreError as error:
        say(f"refused {job.id} {error.code}: {error.detail}")
        return False
    say(f"added {job.id}")
    return True


async def hold(path: Path, number: int) -> None:
    """Open the store and keep it until the parent ends us."""
    store = SqliteJobStore(path)
    try:
        await store.open()
    except RouterError as error:
        say(f"not opened {error.code}: {error.detail}")
        return
    say("opened")
    for _ in range(number):
        await add_one(store)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    await store.close()
    say("closed")


async def flood(path: Path, number: int) -> None:
    """Add jobs from several tasks until somebody kills us."""
    store = SqliteJobStore(path)
    await store.open()

    async def adder() -> None:
        while True:
            await add_one(store)

    await asyncio.gather(*(adder() for _ in range(number)))


async def fill(path: Path, number: int) -> None:
    """Let files grow to so many bytes only, add until refused, read, then lift the limit and add again."""
    store = SqliteJobStore(path)
    await store.open()
    await add_one(store)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))
    kept = a_job()
    await store.add(kept)
    for size in (20_000, 100):
        for _ in range(5000):
            if not await add_one(store, size):
                break
    say("readable" if await store.get(kept.id) == kept else "lost")
    try:
        for _ in range(10):  # each needs a page, and there may be room for some
            await store.ping()
    except StoreError as error:
        say(f"unwell {error.detail}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(3):
        await add_one(store, 20_000)
    await store.ping()
    await store.close()
    say("closed")


async def one_by_one(path: Path, number: int) -> None:
    """Add jobs one after another, whatever becomes of each; read each back."""
    store = SqliteJobStore(path)
    await store.open()
    say("opened")
    for _ in range(number):
        await add_one(store)
    await store.close()
    say("closed")


def lock(path: Path) -> None:
    """Hold the write lock until the parent says so."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()
    say("unlocked")


def main() -> None:
    """Do what the command line says."""
    mode, path = sys.argv[1], Path(sys.argv[2])
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if mode == "lock":
        lock(path)
        return
    work = {"hold": hold, "flood": flood, "fill": fill, "one_by_one": one_by_one}[mode]
    asyncio.run(work(path, number))


if __name__ == "__main__":
    main()
