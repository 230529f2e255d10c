"""A small service for clients of other projects to call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from router_core import File, JobContext, JobProgress, Router

router = Router(title="compat")


@router.route("/add")
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@router.route("/shout")
def shout(file: File, job_progress: JobProgress) -> File:
    """Return the text of a file in capitals, after a while in which the progress can be seen."""
    job_progress.update(0.5, "half way")
    time.sleep(1.5)
    return File.from_bytes(file.read().upper(), "loud.txt", "text/plain")


@router.route("/tokens", job=True)
async def tokens(prompt: str) -> AsyncIterator[Any]:
    """Yield the words, and an object at the end."""
    for word in prompt.split():
        yield word
    yield {"count": len(prompt.split())}


@router.route("/wait", queue_size=10)
def wait(job: JobContext, seconds: float = 60.0) -> str:
    """Take long, and stop when asked."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job.check()
        time.sleep(0.02)
    return "waited"


@router.route("/fail")
def fail(reason: str = "no cat in the picture") -> None:
    """Go wrong."""
    raise ValueError(reason)


@router.get("/hello")
def hello(name: str = "world") -> dict[str, str]:
    """Answer at once."""
    return {"hello": name}


if __name__ == "__main__":
    router.start()
