"""Functions that tests run in child processes; imported by the children by name."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from router_core.binding.depends import Depends
from router_core.http.media import File
from router_core.jobs import settle
from router_core.jobs.context import JobContext, JobProgress
from router_core.routing.router import Router

router = Router()
loaded: list[int] = []


@router.on_startup
def load() -> None:
    """Note that the model was loaded, in which process; takes as long as a test wants."""
    time.sleep(float(os.environ.get("TEST_LOAD_SECONDS", "0")))
    loaded.append(os.getpid())


def model() -> dict[str, int]:
    """Make the app-wide dependency."""
    return {"made_in": os.getpid(), "at": time.perf_counter_ns()}


@router.route("/whoami", isolation="process")
def whoami(n: int = 0, held: Annotated[Any, Depends(model, scope="app")] = None) -> dict[str, Any]:
    """Say where it ran and what was loaded there."""
    return {"pid": os.getpid(), "parent": os.getppid(), "loaded": loaded, "n": n, "model": held}


@router.route("/whoami_async", isolation="process")
async def whoami_async() -> int:
    """Say where an async function ran."""
    await asyncio.sleep(0)
    return os.getpid()


@router.route("/spin", isolation="process")
def spin(path: str = "") -> None:
    """Ignore everything for ever, with a child of its own that does the same."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if path:
        with open(path, "w") as file:
            file.write(f"{os.getpid()} {sleeper.pid}")
    while True:
        pass


@router.route("/flood", isolation="process")
def flood(path: str, allowed: int) -> Iterator[str]:
    """Yield for ever where a result may have so many bytes only; note being closed."""
    settle.MAX_RESULT = allowed  # type: ignore[misc]
    try:
        while True:
            yield "x" * 1000
    finally:
        with open(path, "w") as file:
            file.write("closed")


@router.route("/heedless", isolation="process")
def heedless(job: JobContext) -> None:
    """Ignore for ever what could be heard."""
    job.progress.update(0.1, "begun")
    while job.attempt:
        pass


@router.route("/stubborn", isolation="process")
def stubborn() -> None:
    """Ignore SIGTERM too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.01)


@router.route("/polite", isolation="process")
def polite(job: JobContext) -> None:
    """Stop when asked."""
    while True:
        job.check()
        time.sleep(0.01)


@router.route("/nap", isolation="process")
async def nap(seconds: float = 60) -> str:
    """Sleep on the loop."""
    await asyncio.sleep(seconds)
    return "rested"


@router.route("/segfault", isolation="process")
def segfault() -> None:
    """Read address 0."""
    ctypes.string_at(0)


@router.route("/leave", isolation="process")
def leave(code: int = 3) -> None:
    """End the process without a word."""
    os._exit(code)


@router.route("/leave_orphan", isolation="process", max_attempts=1)
def leave_orphan(path: str) -> None:
    """Start a process, and die without it."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {sleeper.pid}")
    os._exit(1)


@router.route("/quit_politely", isolation="process")
def quit_politely() -> None:
    """Raise SystemExit, which is an error of the job."""
    sys.exit(5)


@router.route("/fail_in_child", isolation="process", max_attempts=2)
def fail_in_child() -> None:
    """Raise an error."""
    raise ValueError("from the child")


@router.route("/no_json", isolation="process")
def no_json() -> Any:
    """Return what is no JSON."""
    return object()


@router.route("/photo", isolation="process")
def photo(image: File, label: str = "") -> File:
    """Turn the bytes of a file around."""
    return File.from_bytes(image.read()[::-1], filename=f"{label}.bin", content_type="application/x-test")


@router.route("/talk", isolation="process")
def talk(job: JobContext, job_progress: JobProgress, updates: int = 1000) -> str:
    """Say a lot, and do a step once."""
    for i in range(updates):
        job_progress.update(i / updates, f"step {i}")
    job.log("half")
    first = job.once("charge", lambda: {"pid": os.getpid()})
    again = job.once("charge", lambda: {"pid": -1})
    assert first == again
    job_progress.update(0.9, "nearly")
    return str(first["pid"])


@router.route("/charge_then_die", isolation="process")
def charge_then_die(job: JobContext, path: str) -> str:
    """Do a step once, then die in the first attempt."""

    def charge() -> str:
        with open(path, "a") as file:
            file.write("charged\n")
        return "receipt"

    receipt: str = job.once("charge", charge)
    if job.attempt == 1:
        os._exit(1)
    return receipt


@router.route("/count", isolation="process", job=True)
def count(n: int = 3) -> Iterator[int]:
    """Yield numbers."""
    yield from range(n)


@router.route("/count_async", isolation="process", job=True)
async def count_async(n: int = 3) -> AsyncIterator[int]:
    """Yield numbers from the loop."""
    for i in range(n):
        yield i


@router.route("/large", isolation="process")
def large(size: int) -> str:
    """Return a large text."""
    return "x" * (size - 2)


@router.route("/in_thread")
def in_thread() -> int:
    """Run in the worker's own process, as a neighbour."""
    return os.getpid()
