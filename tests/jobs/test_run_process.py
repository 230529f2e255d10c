"""Functions in child processes: killed on cancel and timeout, replaced after a crash, re-used otherwise."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.http.media import File
from router_core.jobs import isolation
from router_core.jobs.inputs import dump
from router_core.jobs.isolation import ChildPool
from router_core.jobs.job import Job, State
from router_core.routing.route import Route
from router_core.routing.router import loading
from router_core.telemetry.events import Events, Note
from tests.apps import run_in_process as app
from tests.jobs.running import Bench, eventually, running

pytestmark = pytest.mark.process

ROUTES = {route.key: route for route in app.router.routes}


@asynccontextmanager
async def children(*keys: str, grace: float = 0.3, **options: Any) -> AsyncIterator[tuple[Bench, ChildPool]]:
    """Run routes of the app, with other options, in real children."""
    routes = [replace(ROUTES[key], job=replace(ROUTES[key].job, **options)) for key in keys]
    async with child_pool(*routes, grace=grace) as made:
        yield made


@asynccontextmanager
async def child_pool(*routes: Route, grace: float = 0.3) -> AsyncIterator[tuple[Bench, ChildPool]]:
    """Run a pool whose process routes have real children; all of them are gone at the end."""
    notes: list[Note] = []
    pool = ChildPool(
        routes={route.key: route for route in routes},
        events=Events(lambda event: notes.append(event) if isinstance(event, Note) else None),
    )
    try:
        async with running(*routes, children=pool, grace=grace) as bench:
            bench.notes = notes
            yield bench, pool
    finally:
        pids = pool.pids
        await pool.close()
        await gone(*pids)


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(*pids: int, seconds: float = 60.0) -> None:
    """Wait until the processes are gone; fail if they stay."""
    await eventually(lambda: not any(alive(pid) for pid in pids), seconds)


def pids_in(path: Path) -> list[int]:
    """Return the process ids that a function wrote down."""
    with suppress(FileNotFoundError):
        words = path.read_text().split()
        return [int(word) for word in words] if len(words) == 2 else []
    return []


async def test_child_is_another_process_and_is_used_again() -> None:
    """Jobs run in one child that outlives them; it starts up and makes app-wide dependencies once."""
    async with children("/whoami", "/whoami_async", concurrency=1) as (bench, pool):
        seen = []
        for n in range(3):
            record = await bench.until(await bench.submit("/whoami", n=n))
            assert record.state is State.SUCCEEDED, record.error
            seen.append(json.loads(record.result))
        (pid,) = {one["pid"] for one in seen}
        assert pid != os.getpid()
        assert [one["n"] for one in seen] == [0, 1, 2]
        assert all(one["loaded"] == [pid] for one in seen)
        assert len({one["model"]["at"] for one in seen}) == 1
        record = await bench.until(await bench.submit("/whoami_async"))
        assert json.loads(record.result) == pid
        assert pool.pids == [pid]


async def test_cancel_of_an_endless_loop_kills_the_group(tmp_path: Path) -> None:
    """A function that cannot hear a cancel is killed at once, with the processes it has started."""
    async with children("/spin", "/in_thread", grace=600) as (bench, _):
        job_id = await bench.submit("/spin", path=str(tmp_path / "pids"))
        pids = await eventually(lambda: pids_in(tmp_path / "pids"))
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        await gone(*pids)
        assert (await bench.until(await bench.submit("/in_thread"))).state is State.SUCCEEDED


def _said(bench: Bench, job_id: str) -> str:
    run = bench.runner.active.get(job_id)
    return "" if run is None or run.context is None else run.context.progress.latest()[1]


async def test_a_function_that_could_hear_has_the_grace_time() -> None:
    """One that takes its JobContext and never looks at it is killed when that time is over."""
    async with children("/heedless", grace=0.5) as (bench, _):
        job_id = await bench.submit("/heedless")
        await eventually(lambda: _said(bench, job_id) == "begun")
        began = time.monotonic()
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        assert time.monotonic() - began >= 0.5


async def test_stubborn_child_gets_sigkill() -> None:
    """A child that ignores SIGTERM is ended by SIGKILL."""
    async with children("/stubborn", grace=0.1) as (bench, _):
        job_id = await bench.submit("/stubborn")
        await bench.until(job_id, State.RUNNING)
        await eventually(lambda: bench.runner.active[job_id].child)
        await asyncio.sleep(0.5)
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED


@pytest.mark.parametrize("route", ["/polite", "/nap"])
async def test_a_cancel_that_comes_with_the_job_is_heard(route: str) -> None:
    """The child reads both at once, and has not yet begun when it is told to stop."""
    async with children(route, grace=60, concurrency=1) as (bench, _):
        job_id = await bench.submit(route)
        await bench.until(job_id, State.RUNNING)  # its child is still starting
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        assert not any(note.name == "child_died" for note in bench.notes)


@pytest.mark.parametrize("route", ["/polite", "/nap"])
async def test_cooperative_cancel_keeps_the_child(route: str) -> None:
    """A function that stops when asked, or an async one, leaves its child fit for the next job."""
    async with children(route, "/whoami_async", grace=30, concurrency=1) as (bench, pool):
        pid = json.loads((await bench.until(await bench.submit("/whoami_async"))).result)
        job_id = await bench.submit(route)
        await bench.until(job_id, State.RUNNING)
        await bench.cancel(job_id)
        assert (await bench.until(job_id)).state is State.CANCELLED
        assert json.loads((await bench.until(await bench.submit("/whoami_async"))).result) == pid
        assert pool.pids == [pid]


async def test_timeout_kills(tmp_path: Path) -> None:
    """A function over its time is failed(timeout) and its process is gone, at once if it cannot hear."""
    async with children("/spin", timeout=1.5, grace=600) as (bench, _):
        job_id = await bench.submit("/spin", path=str(tmp_path / "pids"))
        record = await bench.until(job_id)
        assert (record.state, record.reason) == (State.FAILED, "timeout")
        await gone(*pids_in(tmp_path / "pids"))


async def test_the_start_of_a_child_does_not_count_into_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that loads for longer than a function may run does its job in the first attempt."""
    monkeypatch.setenv("TEST_LOAD_SECONDS", "1.5")
    async with children("/whoami", timeout=1.0) as (bench, _):
        record = await bench.until(await bench.submit("/whoami"))
        assert (record.state, record.attempt) == (State.SUCCEEDED, 1), record.error


async def test_a_child_that_does_not_start_in_time_fails_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start-up hook that hangs ends in an error that says so, and in no process that stays."""
    monkeypatch.setenv("TEST_LOAD_SECONDS", "600")
    monkeypatch.setattr(isolation, "START_LIMIT", 0.5)
    async with children("/whoami", max_attempts=1) as (bench, pool):
        record = await bench.until(await bench.submit("/whoami"))
        assert (record.state, record.reason) == (State.FAILED, "error")
        assert json.loads(record.error)["message"].endswith("did not start in a child process within 0.5 s")
        await eventually(lambda: not pool.pids)


@pytest.mark.parametrize(("route", "word"), [("/segfault", "SIGSEGV"), ("/leave", "exit code 3")])
async def test_poison_is_lost_after_three_crashes(route: str, word: str) -> None:
    """A job that kills its process three times is failed(lost); its neighbours do not notice."""
    async with children(route, "/in_thread", "/nap", concurrency=1, backoff=0.01) as (bench, _):
        neighbour = await bench.submit("/nap", seconds=0.5)
        record = await bench.until(await bench.submit(route))
        assert (record.state, record.reason, record.crash_count) == (State.FAILED, "lost", 3)
        assert [a["outcome"] for a in json.loads(record.attempts)] == ["lost"] * 3
        assert word in json.loads(record.error)["message"]
        assert (await bench.until(neighbour)).state is State.SUCCEEDED
        assert (await bench.until(await bench.submit("/in_thread"))).result == str(os.getpid()).encode()


async def test_a_crash_leaves_no_orphans(tmp_path: Path) -> None:
    """What a child had started dies with it, however it died."""
    async with children("/leave_orphan") as (bench, _):
        record = await bench.until(
            await bench.submit("/leave_orphan", {"max_attempts": 1}, path=str(tmp_path / "pids"))
        )
        assert (record.state, record.reason) == (State.FAILED, "lost")
        await gone(*pids_in(tmp_path / "pids"))


async def test_errors_travel() -> None:
    """An error in a child is the job's error, with its traceback in the log and its retries counted."""
    async with children("/fail_in_child", "/quit_politely", "/no_json", backoff=0.01) as (bench, pool):
        record = await bench.until(await bench.submit("/fail_in_child", {"max_attempts": 2}))
        assert (record.reason, record.attempt, record.crash_count) == ("attempts_exhausted", 2, 0)
        assert json.loads(record.error) == {
            "type": "ValueError", "message": "from the child", "attempt": 2, "retryable": True,
        }  # fmt: skip
        record = await bench.until(await bench.submit("/quit_politely", {"max_attempts": 1}))
        assert (json.loads(record.error)["type"], record.crash_count) == ("SystemExit", 0)
        record = await bench.until(await bench.submit("/no_json", {"max_attempts": 1}))
        assert record.state is State.FAILED
        assert all(alive(pid) for pid in pool.pids)


async def test_a_child_knows_a_function_under_another_path_and_starts_no_server() -> None:
    """The router that the child finds serves it elsewhere, so it is compiled anew, with the real path."""
    with loading():
        served = importlib.import_module("tests.apps.run_and_start")
    (route,) = served.router.routes
    moved = replace(route, key="PUT /v2/double/{n}", path="/v2/double/{n}", methods=("PUT",))
    async with child_pool(moved) as (bench, _pool):
        record = await bench.until(await bench.submit(moved.key, n=21))
        assert (record.state, record.result) == (State.SUCCEEDED, b"42"), record.error


async def test_files_go_in_and_out() -> None:
    """A file arrives as a file, and a returned file is the result as anywhere else."""
    async with children("/photo") as (bench, _):
        image = File.from_bytes(bytes(range(256)) * 100, filename="a.bin", content_type="image/x-test")
        dumped = await dump({"image": image, "label": "turned"}, bench.blobs)
        changes = {"input": dumped.data, "input_ref": dumped.ref}
        record = await bench.until(await bench.submit("/photo", changes))
        assert record.state is State.SUCCEEDED, record.error
        result = json.loads(record.result)
        assert result["file_name"] == "turned.bin"
        assert File.from_base64(result["content"]).read() == image.read()[::-1]


async def test_a_large_file_comes_back_as_its_bytes() -> None:
    """It goes through the pipe and to the blob store without base64."""
    async with children("/photo") as (bench, _):
        image = File.from_bytes(bytes(range(256)) * 2000, filename="a.bin", content_type="image/x-test")
        dumped = await dump({"image": image, "label": "turned"}, bench.blobs)
        changes = {"input": dumped.data, "input_ref": dumped.ref}
        record = await bench.until(await bench.submit("/photo", changes))
        ref = json.loads(record.result_ref)
        assert bench.blobs.kept[ref["key"]] == image.read()[::-1]
        about = (ref["size"], ref["content_type"], ref["filename"])
        assert about == (image.size, "application/x-test", "turned.bin")


async def test_progress_events_and_steps_travel() -> None:
    """Progress is coalesced, events arrive in order, and a step is recorded and runs once."""
    async with children("/talk") as (bench, _):
        record = await bench.until(await bench.submit("/talk", updates=20_000))
        assert record.state is State.SUCCEEDED, record.error
        assert record.message == "nearly"
        assert json.loads(record.steps) == {"charge": {"pid": int(json.loads(record.result))}}
        page = await bench.store.events(record.id)
        assert [event.type for event in page.events] == ["log"]


async def test_step_is_not_repeated_after_a_crash(tmp_path: Path) -> None:
    """A step whose outcome was recorded before its process died is not done again."""
    async with children("/charge_then_die", backoff=0.01) as (bench, _):
        record = await bench.until(await bench.submit("/charge_then_die", path=str(tmp_path / "log")))
        assert (record.state, record.attempt, record.crash_count) == (State.SUCCEEDED, 2, 1)
        assert (tmp_path / "log").read_text() == "charged\n"


@pytest.mark.parametrize("route", ["/count", "/count_async"])
async def test_generators_stream_through_the_pipe(route: str) -> None:
    """What a generator yields in a child is an event each, and the result is the list."""
    async with children(route) as (bench, _):
        record = await bench.until(await bench.submit(route, n=2_000))
        assert record.state is State.SUCCEEDED, record.error
        assert json.loads(record.result) == list(range(2_000))
        assert record.event_seq == 2_000


async def test_a_generator_without_end_is_stopped_at_the_size_of_a_result(tmp_path: Path) -> None:
    """What it yields is not collected without bound: it is closed, and its child does the next job."""
    async with children("/flood", "/whoami_async", max_attempts=3, concurrency=1) as (bench, pool):
        path = tmp_path / "end"
        record = await bench.until(await bench.submit("/flood", path=str(path), allowed=10_000))
        assert (record.state, record.reason, record.attempt) == (State.FAILED, "result_too_large", 1)
        assert path.read_text() == "closed"
        pid = json.loads((await bench.until(await bench.submit("/whoami_async"))).result)
        assert pool.pids == [pid]


async def test_large_results() -> None:
    """A result of several MB comes through and ends as a blob."""
    async with children("/large") as (bench, _):
        record = await bench.until(await bench.submit("/large", size=5_000_000))
        assert json.loads(record.result_ref)["size"] == 5_000_000


async def test_drain_releases_what_runs_in_a_child() -> None:
    """At the end of a drain a child's job goes back to the queue, its attempt uncounted."""
    async with children("/nap") as (bench, pool):
        job_id = await bench.submit("/nap")
        await bench.until(job_id, State.RUNNING)
        await eventually(lambda: pool.pids)
        await bench.pool.drain(0.1)
        record = await bench.record(job_id)
        assert (record.state, record.attempt, record.releases) == (State.QUEUED, 0, 1)


async def test_second_signal_kills_children_and_writes_nothing(tmp_path: Path) -> None:
    """``kill`` ends children at once and leaves the lease to run out."""
    async with children("/spin") as (bench, _):
        job_id = await bench.submit("/spin", path=str(tmp_path / "pids"))
        pids = await eventually(lambda: pids_in(tmp_path / "pids"))
        bench.pool.kill()
        await gone(*pids)
        await eventually(lambda: not bench.runner.active)
        record: Job = await bench.record(job_id)
        assert (record.state, record.attempt) == (State.RUNNING, 1)


def test_functions_that_cannot_be_found_are_refused() -> None:
    """A function inside a function is refused at the start, by name and place."""

    @app.router.route("/hidden", isolation="process")
    def hidden() -> None:
        """Live where no import reaches."""

    route = app.router.routes[-1]
    pool = ChildPool(routes={route.key: route}, events=Events())
    with pytest.raises(Misconfigured, match=r"hidden.*test_run_process\.py.*top level"):
        pool.check()
