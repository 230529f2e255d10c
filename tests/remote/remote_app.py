"""A service for remote workers: short jobs, long ones, deaf ones, files, streams."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from router_core import JobContext, JobProgress, Router
from router_core.http.media import File

router = Router(title="remote")


def note(line: str) -> None:
    """Write down that something has run, in one file for all workers."""
    with Path("ran.log").open("a", encoding="utf-8") as out:
        out.write(f"{line}\n")


@router.route("/work", concurrency=4, queue_size=1000, max_attempts=4, backoff=0.05)
def work(job: JobContext, number: int, seconds: float = 0.02) -> dict[str, int]:
    """Take a while."""
    time.sleep(seconds)
    note(f"work {number} {job.attempt}")
    return {"number": number, "square": number * number}


@router.route("/long", max_attempts=4, backoff=0.05)
async def long(job: JobContext, job_progress: JobProgress, until: str) -> dict[str, object]:
    """Go on until there is a file of that name; say who did it."""
    note(f"long {until} {os.environ.get('NAME', '')} {job.attempt}")
    job_progress.update(0.25, "waiting")
    while not os.path.exists(until):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    return {"by": os.environ.get("NAME", ""), "attempt": job.attempt}


@router.route("/deaf", isolation="process")
def deaf() -> None:
    """Never end, and hear nothing."""
    note(f"deaf {os.getpid()}")
    while True:
        time.sleep(0.05)


@router.route("/crash", isolation="process", backoff=0.01)
def crash() -> None:
    """Take its process along."""
    note("crash")
    os._exit(3)


@router.route("/swap")
def swap(file: File, times: int = 1) -> File:
    """Return the bytes the other way round, several times over."""
    return File.from_bytes(
        file.read()[::-1] * times, filename="swapped.bin", content_type="application/x-swap"
    )


@router.route("/spell", job=True)
async def spell(word: str, pause: float = 0.0) -> AsyncIterator[str]:
    """Yield letter by letter."""
    for letter in word:
        await asyncio.sleep(pause)
        yield letter


@router.route("/twice", max_attempts=2, backoff=0.05)
async def twice(job: JobContext) -> list[str]:
    """Fail after a step that must not be done again."""

    def paid() -> str:
        note("paid")
        return f"in attempt {job.attempt}"

    receipt = await job.once("pay", paid)
    if job.attempt == 1:
        raise RuntimeError("after paying")
    return [receipt, f"attempt {job.attempt}"]


@router.get("/here")
def here() -> dict[str, str]:
    """A plain call: the coordinator answers it itself."""
    return {"by": os.environ.get("NAME", "")}
