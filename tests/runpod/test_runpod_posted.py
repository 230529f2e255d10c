"""One worker, deliveries by hand: what is posted on the way, how large it may be, how much runs at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from router_core import Depends, File, JobProgress, Router
from router_core.blobs.memory import MemoryBlobStore
from router_core.clock import SystemClock
from router_core.jobs.context import JobContext
from router_core.stores.memory import MemoryJobStore
from tests.runpod.in_process import Kept, job, problem, running, value

# --- progress and streams


def teller() -> Router:
    """Return functions that say something on their way."""
    router = Router()

    @router.route("/job")
    def as_job(job_progress: JobProgress, steps: int, pause: float = 0.005) -> str:
        for step in range(steps):
            job_progress.update((step + 1) / steps, f"step {step}")
            threading.Event().wait(pause)
        return "done"

    @router.post("/call")
    def call(job_progress: JobProgress, steps: int, pause: float = 0.005) -> str:
        return as_job(job_progress, steps, pause)

    @router.post("/tokens")
    async def tokens(count: int, size: int = 1, fail_at: int = -1) -> AsyncIterator[str]:
        for number in range(count):
            if number == fail_at:
                raise RuntimeError("a wheel came off")
            yield str(number) * size

    @router.route("/letters", job=True)
    def letters(count: int, size: int = 1) -> Iterator[str]:
        for number in range(count):
            yield str(number) * size

    return router


@pytest.mark.parametrize("path", ["/job", "/call"])
async def test_progress_is_in_order_coalesced_and_over_before_the_end(path: str) -> None:
    """One post at a time; a slow platform gets the latest, and nothing after the end."""
    async with running(teller(), progress_interval=0.02) as worker:
        line = Kept()
        assert value(await worker.handle(job(path, steps=60), line)) == "done"
        count = len(line.posts)
        assert line.fractions == sorted(line.fractions)
        assert 2 <= count < 60
        await asyncio.sleep(0.05)
        assert len(line.posts) == count


async def test_the_end_waits_for_the_post_that_is_under_way() -> None:
    """Otherwise the platform might read it after the result."""
    async with running(teller()) as worker:
        line = Kept()
        line.open.clear()
        task = asyncio.create_task(worker.handle(job("/call", steps=3, pause=0), line))
        await line.begun.wait()
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        line.open.set()
        assert value(await task) == "done"
        assert len(line.posts) == 1


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_chunks_are_in_order_and_all_there(path: str) -> None:
    """More of them, and larger, than a record keeps: the platform's pace is the generator's."""
    async with running(teller()) as worker:
        line = Kept()
        outcome = await worker.handle(job(path, count=1500, size=1000), line)
        wanted = [str(number) * 1000 for number in range(1500)]
        assert outcome.stream
        assert line.chunks == wanted
        assert value(outcome) == wanted


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_a_refused_chunk_ends_the_stream_and_not_the_job(path: str) -> None:
    """Readers must not see a gap; the whole comes at the end."""
    async with running(teller()) as worker:
        line = Kept()
        line.refuses = True
        assert len(value(await worker.handle(job(path, count=50), line))) == 50
        assert line.chunks == ["0"]


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_an_item_larger_than_a_chunk_fails_the_job(path: str) -> None:
    """Loudly, and what it needed is free again."""
    async with running(teller(), runpod_concurrency=1) as worker:
        line = Kept()
        told = problem(await worker.handle(job(path, count=2, size=1_000_000), line))
        assert told["code"] == "chunk_too_large"
        assert line.chunks == []
        assert value(await worker.handle(job(path, "job-2", count=1))) == ["0"]


async def test_a_stream_that_fails_has_said_what_it_had() -> None:
    """The chunks come before the error."""
    async with running(teller()) as worker:
        line = Kept()
        assert problem(await worker.handle(job("/tokens", count=5, fail_at=3), line))["status"] == 500
        assert line.chunks == ["0", "1", "2"]


async def test_what_a_job_logs_holds_up_no_job() -> None:
    """Events of its own are for the record; nobody reads them here, and nobody has to."""
    router = Router()

    @router.route("/plain")
    def plain(job: JobContext, lines: int) -> int:
        for line in range(lines):
            job.log("so far", line=line)
        return lines

    @router.route("/tokens", job=True)
    def tokens(job: JobContext, lines: int) -> Iterator[int]:
        for line in range(lines):
            job.log("so far", line=line)
            yield line

    async with running(router) as worker:
        line = Kept()
        assert value(await asyncio.wait_for(worker.handle(job("/plain", lines=200), line), 20)) == 200
        told = value(await asyncio.wait_for(worker.handle(job("/tokens", "job-2", lines=200), line), 20))
        assert told == line.chunks == list(range(200))


async def test_two_deliveries_under_one_key_are_both_told_all_of_a_large_stream() -> None:
    """Neither outruns the other, and none is taken for too slow."""
    router, begun, gate = Router(), threading.Event(), threading.Event()

    @router.route("/large", job=True)
    def large(count: int) -> Iterator[str]:
        begun.set()
        gate.wait(110)
        for _ in range(count):
            yield "x" * 50_000

    async with running(router, store=MemoryJobStore(SystemClock())) as worker:
        lines = Kept(), Kept()
        given = {"count": 60, "idempotency_key": "k"}  # three times what a record keeps
        both = [asyncio.create_task(worker.handle(job("/large", "job-0", **given), lines[0]))]
        await asyncio.to_thread(begun.wait, 20)
        both.append(asyncio.create_task(worker.handle(job("/large", "job-1", **given), lines[1])))
        await asyncio.sleep(0.05)
        gate.set()
        for told, line in zip(await asyncio.wait_for(asyncio.gather(*both), 60), lines, strict=True):
            assert len(value(told)) == len(line.chunks) == 60


# --- size


class SharedBlobs(MemoryBlobStore):
    """Blobs that callers can fetch."""

    presigns = True

    def presign(
        self, key: str, *, seconds: int = 300, content_type: str | None = None, filename: str | None = None
    ) -> str:
        """Return where a blob is."""
        return f"https://blobs.example/{key}?for={seconds}&type={content_type}&name={filename}"


def maker() -> Router:
    """Return functions with results of any size."""
    router = Router()

    @router.post("/call")
    def call(size: int) -> str:
        return "x" * size

    @router.route("/job")
    def as_job(size: int) -> str:
        return "x" * size

    @router.post("/file")
    def file(size: int) -> File:
        return File.from_bytes(b"x" * size, filename="x.bin", content_type="application/x-thing")

    @router.route("/job-file")
    def job_file(size: int) -> File:
        return file(size)

    @router.post("/stream")
    async def stream(size: int) -> AsyncIterator[str]:
        for _ in range(size // 1000):
            yield "x" * 1000

    return router


PATHS = ("/call", "/job", "/file", "/job-file", "/stream")


@pytest.mark.parametrize("path", PATHS)
async def test_a_result_that_is_too_large_fails(path: str) -> None:
    """With a word for it; /runsync takes twice as much."""
    async with running(maker(), runpod_result_bytes=400_000) as worker:
        assert value(await worker.handle(job(path, size=200_000)))
        told = problem(await worker.handle(job(path, "job-2", size=450_000)))
        assert told["code"] == "result_too_large"
        assert "450" in told["detail"] or "ROUTER_BLOBS" in told["detail"]
        assert value(await worker.handle(job(path, "sync-3", size=450_000)))


@pytest.mark.parametrize("path", PATHS)
async def test_a_large_result_goes_where_its_caller_can_fetch_it(path: str) -> None:
    """Before anything is posted: a link, the size and the checksum of what lies there."""
    blobs = SharedBlobs(SystemClock())
    async with running(maker(), runpod_result_bytes=300_000, blobs=blobs) as worker:
        ref = value(await worker.handle(job(path, size=600_000)))["result_ref"]
        key = ref["href"].removeprefix("https://blobs.example/").partition("?")[0]
        data = await blobs.get(key)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (ref["size"], ref["sha256"])
        if "file" in path:
            assert data == b"x" * 600_000
            assert (ref["content_type"], ref["filename"]) == ("application/x-thing", "x.bin")
        else:
            assert (json.loads(data), ref["content_type"]) is not None
            assert ref["content_type"] == "application/json"


# --- limits of routes


async def test_a_worker_takes_no_more_than_its_routes_run() -> None:
    """A job that waits here could run elsewhere: the platform believes that it runs."""
    router = Router()

    @router.route("/one")
    def one() -> None:
        return None

    async with running(router) as worker:
        assert worker.concurrency == 1

    @router.route("/three", concurrency=3)
    def three() -> None:
        return None

    async with running(router) as worker:
        assert worker.concurrency == 4
    async with running(router, runpod_concurrency=2) as worker:
        assert worker.concurrency == 2
    async with running(maker()) as worker:
        assert worker.concurrency == 4  # by default


@pytest.mark.parametrize("kind", ["job", "call"])
async def test_a_route_runs_no_more_at_once_than_it_says(kind: str) -> None:
    """Sync jobs one by one unless their author allows more; calls where a number is given."""
    router = Router()
    busy, most = 0, 0

    def work() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        threading.Event().wait(0.02)
        busy -= 1

    if kind == "job":
        router.route("/work")(work)
    else:
        router.post("/work", concurrency=1)(work)
    async with running(router) as worker:
        outcomes = await asyncio.gather(*(worker.handle(job("/work", f"job-{n}")) for n in range(4)))
        assert [value(outcome) for outcome in outcomes] == [None] * 4
        assert most == 1


async def test_dependencies_are_cleaned_up_after_the_stream() -> None:
    """Not before its last item."""
    router, seen = Router(), []

    async def opened() -> AsyncIterator[str]:
        yield "open"
        seen.append("closed")

    @router.post("/stream")
    async def stream(state: str = Depends(opened)) -> AsyncIterator[str]:
        for number in range(3):
            seen.append(str(number))
            yield state

    async with running(router) as worker:
        assert value(await worker.handle(job("/stream"))) == ["open"] * 3
        assert seen == ["0", "1", "2", "closed"]
