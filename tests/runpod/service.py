"""A service for the real worker: what authors write, and what goes wrong in it."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from router_core import JobContext, JobProgress, Router
from router_core.errors import HTTPError

router = Router(title="for the real worker")


def note(line: str) -> None:
    """Write a line to the file that the test reads: what really happened in here."""
    with open(os.environ["SERVICE_LOG"], "a", encoding="utf-8") as log:
        log.write(line + "\n")


@router.on_startup
def load() -> None:
    """Say that the model is there, after some time or never if the test wants it so."""
    if "SERVICE_LOADS" in os.environ:
        note("loading")
        time.sleep(float(os.environ["SERVICE_LOADS"]))
    if "SERVICE_FAILS" in os.environ:
        raise RuntimeError(os.environ["SERVICE_FAILS"])
    note("loaded")


@router.on_shutdown
def unload() -> None:
    """Say that it is gone."""
    note("unloaded")


# --- plain calls


@router.post("/add")
def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


@router.get("/hello")
async def hello(name: str = "world") -> dict[str, str]:
    """Greet."""
    return {"hello": name}


@router.post("/keys")
def keys() -> dict[str, Any]:
    """Return what the SDK would take for orders."""
    return {"error": "mine", "refresh_worker": True, "status": "IN_PROGRESS", "x": 1}


@router.post("/nothing")
def nothing() -> dict[str, Any]:
    """Return an empty object."""
    return {}


@router.post("/teapot")
def teapot() -> None:
    """Refuse."""
    raise HTTPError(418, "short and stout")


@router.post("/crash")
def crash() -> None:
    """Fail as a bug does."""
    raise KeyError("a secret place")


@router.post("/leave")
def leave(code: int = 3) -> None:
    """Try to end the worker."""
    raise SystemExit(code)


@router.post("/nan")
def nan() -> Any:
    """Return what JSON has no word for."""
    return {"value": math.nan}


@router.post("/odd")
def odd() -> Any:
    """Return what cannot be written."""
    return {"value": threading.Lock()}


@router.post("/big")
def big(size: int) -> str:
    """Return so many bytes."""
    return "x" * size


@router.post("/tokens")
async def tokens(count: int, size: int = 3, fail_at: int = -1) -> AsyncIterator[Any]:
    """Yield, and fail on the way if asked to."""
    for n in range(count):
        if n == fail_at:
            raise ValueError("out of words")
        yield {"n": n, "text": "x" * size}


@router.post("/letters")
def letters(word: str) -> Iterator[str]:
    """Yield from a sync function."""
    yield from word


@router.post("/report")
async def report(job_progress: JobProgress) -> str:
    """Report once as a plain call, and end soon after."""
    job_progress.update(0.5, "half way")
    await asyncio.sleep(0.3)
    note("report ends")
    return "told"


@router.post("/sleep")
def sleep(seconds: float, name: str = "") -> str:
    """Block a thread."""
    note(f"sleep {name} begins")
    time.sleep(seconds)
    note(f"sleep {name} ends")
    return name


@router.post("/wait")
async def wait(name: str) -> None:
    """Wait for ever, and tell if somebody stops it."""
    note(f"wait {name} begins")
    try:
        await asyncio.sleep(3600)
    finally:
        note(f"wait {name} stopped")


# --- jobs


@router.route("/count", concurrency=4)
def count(job_progress: JobProgress, to: int, pause: float = 0.0) -> dict[str, int]:
    """Count, telling how far it is."""
    for n in range(1, to + 1):
        job_progress.update(n / to, f"{n} of {to}")
        time.sleep(pause)
    return {"counted": to}


@router.route("/tell", concurrency=4)
def tell(job_progress: JobProgress) -> str:
    """Report once, and end soon after."""
    job_progress.update(0.5, "half way")
    time.sleep(0.3)
    note("tell ends")
    return "told"


@router.route("/once", concurrency=4)
def once(name: str, seconds: float = 0.0) -> str:
    """Tell that it ran."""
    note(f"once {name}")
    time.sleep(seconds)
    return name


@router.route("/endless", concurrency=4)
def endless(job: JobContext, name: str) -> None:
    """Go on until somebody cancels it."""
    note(f"endless {name} begins")
    try:
        while True:
            job.check()
            time.sleep(0.02)
    finally:
        note(f"endless {name} stopped")


@router.route("/killable", concurrency=2, isolation="process")
def killable(name: str) -> None:
    """Work without ever looking up, in a process of its own."""
    note(f"killable {name} begins {os.getpid()}")
    time.sleep(3600)


@router.route("/wrong", concurrency=4, max_attempts=1)
def wrong(kind: str) -> None:
    """Fail in one of several ways."""
    if kind == "exit":
        raise SystemExit(3)
    if kind == "refusal":
        raise HTTPError(409, "no more tea")
    raise RuntimeError("a wheel came off")


@router.route("/spell", job=True, concurrency=4)
def spell(word: str) -> Iterator[str]:
    """Yield letter by letter, as a job."""
    yield from word
