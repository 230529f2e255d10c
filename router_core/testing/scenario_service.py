"""The service that the job scenario runs on every platform: this module's ``router``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from router_core.errors import HTTPError
from router_core.http.media import File
from router_core.jobs.context import JobContext, JobProgress
from router_core.routing.router import Router

__all__ = ["router"]

router = Router(title="job scenario")


@router.route("/count")
def count(job_progress: JobProgress, to: int, pause: float = 0.05) -> dict[str, int]:
    """Count, telling how far it is."""
    for number in range(to):
        job_progress.update(number / to, f"{number} of {to}")
        time.sleep(pause)
    return {"counted": to}


@router.route("/refuse")
def refuse(reason: str = "no more tea") -> None:
    """Fail in a way that trying again would not mend."""
    raise HTTPError(409, reason)


@router.route("/break", max_attempts=1)
def break_down() -> None:
    """Fail as a bug does."""
    raise RuntimeError("a wheel came off")


@router.route("/flaky", max_attempts=3, backoff=0.05)
def flaky(job: JobContext, succeed_at: int = 2) -> int:
    """Fail until the given attempt, and log each; return its number."""
    job.log("an attempt", number=job.attempt)
    if job.attempt < succeed_at:
        raise RuntimeError(f"attempt {job.attempt} fails")
    return job.attempt


@router.route("/endless")
def endless(job: JobContext, job_progress: JobProgress) -> str:
    """Go on until somebody cancels it."""
    job_progress.update(0.1, "going on")
    while not job.cancelled:
        time.sleep(0.02)
    return "stopped"


@router.route("/reverse")
def reverse(file: File) -> File:
    """Return a file with its bytes the other way round."""
    return File.from_bytes(file.read()[::-1], filename="reversed.bin", content_type="application/x-thing")


@router.route("/letters", job=True)
def letters(word: str) -> Iterator[str]:
    """Yield letter by letter."""
    yield from word
