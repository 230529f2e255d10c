"""What a function says and knows: progress, events, steps; with and without a worker behind it."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from router_core.errors import StoreError
from router_core.jobs.context import MAX_MESSAGE, JobCancelled, JobContext, JobProgress
from router_core.jobs.job import State
from router_core.jobs.journal import Journal
from router_core.jobs.moves import Move
from router_core.jobs.store import Moved, NewEvent
from router_core.stores.memory import MemoryJobStore
from tests.jobs.running import bench_of, eventually, route_of, running


class Store(MemoryJobStore):
    """A store that counts writes of progress."""

    writes = 0

    async def move(self, job_id: str, move: Move) -> Moved:
        """Apply a move."""
        self.writes += move.name == "progress"
        return await super().move(job_id, move)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (0.5, 0.5), (1, 1.0), (0, 0.0), (-3, 0.0), (7, 1.0), (math.inf, 1.0), (-math.inf, 0.0),
        (math.nan, 0.0),
        (10**400, 1.0), (-(10**400), 0.0), (Decimal("0.25"), 0.25), (Fraction(1, 4), 0.25),
    ],
)  # fmt: skip
def test_progress_is_clamped(value: Any, stored: float) -> None:
    """Whatever number is set, progress stays between 0 and 1, and NaN changes nothing."""
    progress = JobProgress()
    progress.progress = value
    assert progress.progress == stored


@pytest.mark.parametrize("value", ["0.5", b"1", True, [1], {}, 1j])
def test_progress_must_be_a_number(value: Any) -> None:
    """Something that is no number is a TypeError in the author's code."""
    with pytest.raises(TypeError):
        JobProgress().update(value)


@pytest.mark.parametrize("value", [1, b"x", ["x"]])
def test_message_must_be_text(value: Any) -> None:
    """Something that is no text is a TypeError, and changes nothing."""
    progress = JobProgress()
    with pytest.raises(TypeError):
        progress.update(0.5, value)
    assert progress.progress == 0


def test_progress_never_falls_and_keeps_its_message() -> None:
    """A lower value is not taken; a message alone leaves the value; both spellings work."""
    calls: list[int] = []
    progress = JobProgress(lambda: calls.append(1))
    progress._progress = 0.6
    progress.update(0.4, "back?")
    progress.update(message="x" * 5000)
    progress.update()
    assert (progress._progress, len(progress._message), len(calls)) == (0.6, MAX_MESSAGE, 3)
    progress.message = "\ud800"
    assert progress.latest() == (0.6, "?")


def test_context_without_a_worker() -> None:
    """A function can be called directly: steps run once, events go nowhere, nothing is cancelled."""
    job = JobContext("j")
    ran: list[int] = []
    assert job.once("a", lambda: ran.append(1)) is None
    assert job.once("a", lambda: ran.append(1)) is None
    assert ran == [1]
    job.emit("x", {"y": 1})
    job.log("hello", level="info")
    job.check()
    job.mark_cancelled()
    with pytest.raises(JobCancelled):
        job.check()


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_names_are_bounded(name: str) -> None:
    """Empty and huge names of steps and events are refused."""
    job = JobContext("j")
    with pytest.raises(ValueError, match="step"):
        job.once(name, int)
    with pytest.raises(ValueError, match="event"):
        job.emit(name)


@pytest.mark.parametrize("name", ["attempt", "job", "truncated"])
def test_what_the_service_says_itself_is_not_for_functions(name: str) -> None:
    """A reader would take it for the state of the job, or for a new start."""
    with pytest.raises(ValueError, match="the service's own"):
        JobContext("j").emit(name, {})


def test_events_must_be_json_and_bounded() -> None:
    """What cannot be written as JSON, or is larger than 1 MB, is refused where it is said."""
    job = JobContext("j")
    with pytest.raises(TypeError):
        job.emit("x", object())
    with pytest.raises(ValueError, match="bytes"):
        job.emit("x", "y" * 1_100_000)
    with pytest.raises(ValueError, match="keep large data elsewhere"):
        job.once("big", lambda: "y" * 300_000)


async def test_event_flood_from_a_thread_is_bounded() -> None:
    """100,000 events in a row neither fill memory nor stop the job; the last one is kept."""

    def flood(job: JobContext) -> None:
        for i in range(100_000):
            job.emit("tick", i)

    async with running(route_of(flood)) as bench:
        record = await bench.until(await bench.submit("/flood"))
        assert record.state is State.SUCCEEDED, record.error
        page = await bench.store.events(record.id, after=record.event_seq - 1)
        assert json.loads(page.events[-1].data) == 99_999


async def test_progress_flood_is_few_writes() -> None:
    """100,000 updates in a thread are a handful of writes, and the last value is the record's."""
    store = Store()

    def flood(job_progress: JobProgress) -> str:
        for i in range(100_000):
            job_progress.update(i / 100_000, f"at {i}")
        return "done"

    async with running(route_of(flood), store=store) as bench:
        began = time.monotonic()
        record = await bench.until(await bench.submit("/flood"))
        assert store.writes <= 2 + (time.monotonic() - began)
        assert (record.progress, record.message) == (1.0, "at 99999")


class Sink:
    """Notes what a journal writes; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.fractions: list[float] = []
        self.types: list[str] = []

    async def progress(self, fraction: float, message: str) -> None:
        """Take progress."""
        self.fractions.append(fraction)

    async def events(self, events: Sequence[NewEvent]) -> None:
        """Take events."""
        if self.failures:
            self.failures -= 1
            raise StoreError("away")
        self.types += [event.type for event in events]

    async def step(self, name: str, outcome: bytes) -> None:
        """Take a step."""


async def test_journal_keeps_its_pace() -> None:
    """One write of progress per interval, however many updates and events there are."""
    sink = Sink()
    journal = Journal(asyncio.get_running_loop(), sink, progress_every=60.0, events_every=0.001)
    for i in range(30):
        journal.progress.update(i / 30)
        journal.emit(NewEvent(str(i), b"1"))
        await asyncio.sleep(0.003)
    await journal.flush()
    assert len(sink.fractions) == 1
    assert sink.types == [str(i) for i in range(30)]


async def test_journal_keeps_what_could_not_be_written() -> None:
    """Events survive a sink that fails for a while, in order; after the end nothing is taken."""
    sink = Sink(failures=2)
    journal = Journal(asyncio.get_running_loop(), sink, progress_every=0.01, events_every=0.001)
    for i in range(3):
        journal.emit(NewEvent(str(i), b"1"))
        await asyncio.sleep(0.01)
    await eventually(lambda: len(sink.types) == 3)
    await journal.flush()
    journal.emit(NewEvent("late", b"1"))
    journal.progress.update(1.0)
    await asyncio.sleep(0.01)
    assert sink.types == ["0", "1", "2"]
    assert 1.0 not in sink.fractions


async def test_progress_is_seen_while_it_runs() -> None:
    """Progress reaches the record while the function runs, and does not fall."""
    go = threading.Event()

    def half(job_progress: JobProgress) -> None:
        job_progress.progress = 0.5
        job_progress._message = "half way"
        job_progress._progress = 0.3
        go.wait(110)

    async with running(route_of(half)) as bench:
        job_id = await bench.submit("/half")
        record = await bench.until(job_id, State.RUNNING)
        for _ in range(2000):
            record = await bench.record(job_id)
            if record.progress:
                break
            await asyncio.sleep(0.005)
        assert (record.progress, record.message) == (0.5, "half way")
        go.set()
        assert (await bench.until(job_id)).progress == 1.0


async def test_last_progress_of_a_failure_is_kept() -> None:
    """A failed job shows how far it got, without a write of its own."""
    store = Store()

    async def fail(job_progress: JobProgress) -> None:
        job_progress.update(0.7, "far")
        raise ValueError("no")

    bench = bench_of(route_of(fail), store=store)
    record = await bench.run("/fail")
    assert (record.state, record.progress, record.message, store.writes) == (State.FAILED, 0.7, "far", 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_once_is_replayed(kind: str) -> None:
    """A recorded step is not run again in the next attempt, which sees the same value."""
    ran: list[int] = []

    def step() -> dict[str, Any]:
        ran.append(1)
        return {"id": 7, "pair": (1, 2)}

    def check(value: Any, attempt: int) -> Any:
        if attempt == 1:
            raise ValueError("after the step")
        return value

    def sync(job: JobContext) -> Any:
        return check(job.once("charge", step), job.attempt)

    async def asynchronous(job: JobContext) -> Any:
        return check(await job.once("charge", step), job.attempt)

    route = route_of(sync if kind == "sync" else asynchronous, "/step", max_attempts=3, backoff=0.0)
    async with running(route, poll=0.02) as bench:
        record = await bench.until(await bench.submit("/step"))
        assert json.loads(record.result) == {"id": 7, "pair": [1, 2]}
        assert (record.attempt, ran) == (2, [1])


async def test_once_that_fails_is_run_again() -> None:
    """A step that raised has no outcome: the next attempt runs it."""
    ran: list[int] = []

    async def step() -> int:
        ran.append(1)
        if len(ran) == 1:
            raise ValueError("no")
        return len(ran)

    async def work(job: JobContext) -> Any:
        both = await asyncio.gather(job.once("s", step), job.once("s", step), return_exceptions=True)
        assert type(both[0]) is type(both[1])
        if isinstance(both[0], BaseException):
            raise both[0]
        return both

    async with running(route_of(work, max_attempts=2, backoff=0.0), poll=0.02) as bench:
        record = await bench.until(await bench.submit("/work"))
        assert (record.result, len(ran)) == (b"[2,2]", 2)
