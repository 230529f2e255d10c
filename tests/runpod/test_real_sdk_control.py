"""Our worker in the SDK's own loop: cancels, repeated deliveries, and a platform that misbehaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import pytest

from router_core.testing.runpod_api import Fault
from tests.runpod.real_worker import RealWorker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

DONE: Final = {"action": "job-done"}
Failing = tuple[str, list[Fault]]
"""A job, and what goes wrong with its posts."""


def is_gone(pid: int) -> bool:
    """Say whether a process has ended, with what it left in the process table."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "XZ"


def settled(real: RealWorker, job: str) -> None:
    """Check that a cancelled job was left alone: nothing posted but progress, and before the end."""
    assert real.api.job(job).status == "CANCELLED"
    assert [post for post in real.api.posts(job) if not post.is_progress] == []
    assert real.api.job(job).late == []


# --- cancel


def test_a_cancel_reaches_an_async_function(real: RealWorker) -> None:
    """It is stopped where it waits, and nothing is posted for it."""
    job = real.submit("/wait", name="a")
    real.noted("wait a begins")
    real.api.cancel(job)
    real.noted("wait a stopped")
    assert real.run("/hello").status == "COMPLETED"
    settled(real, job)


def test_a_cancel_reaches_a_sync_job_in_its_thread(real: RealWorker) -> None:
    """Its context says so, and the slot is free again: with four of them all slots are."""
    jobs = [real.submit("/endless", name=f"s{n}") for n in range(4)]
    for n, job in enumerate(jobs):
        real.noted(f"endless s{n} begins")
        real.api.cancel(job)
    for n in range(4):
        real.noted(f"endless s{n} stopped")
    assert real.run("/once", name="after s").output == "after s"
    for job in jobs:
        settled(real, job)


def test_a_timeout_of_the_platform_stops_like_a_cancel(real: RealWorker) -> None:
    """executionTimeout comes over the same channel."""
    job = real.submit("/endless", name="t")
    real.noted("endless t begins")
    real.api.time_out(job)
    real.noted("endless t stopped")
    assert real.run("/hello").status == "COMPLETED"
    assert (real.api.job(job).status, real.api.job(job).late) == ("TIMED_OUT", [])


def test_a_cancel_ends_a_process_that_never_looks_up(real: RealWorker) -> None:
    """isolation="process": the child is gone, and another job gets one."""
    job = real.submit("/killable", name="p")
    until = time.monotonic() + 30
    while not (begun := [line for line in real.notes() if line.startswith("killable p begins")]):
        assert time.monotonic() < until, real.log
        time.sleep(0.02)
    real.api.cancel(job)
    pid = int(begun[0].split()[-1])
    while not is_gone(pid):
        assert time.monotonic() < until, real.log
        time.sleep(0.02)
    assert real.run("/hello").status == "COMPLETED"
    settled(real, job)


def test_a_cancel_right_after_the_take_is_not_overlooked(real: RealWorker) -> None:
    """The SDK alone forgets a stop that arrives before it has begun with the job."""
    jobs = [real.submit("/endless", name=f"q{n}") for n in range(3)]
    for job in jobs:
        real.api.taken(job)
        real.api.cancel(job)
    assert real.run("/once", name="after q").output == "after q"
    for n in range(3):
        if f"endless q{n} begins" in real.notes():
            real.noted(f"endless q{n} stopped")
    for job in jobs:
        settled(real, job)


def test_a_cancelled_function_that_does_not_listen_posts_nothing(real: RealWorker) -> None:
    """It runs to its end in its thread; its result is nobody's any more."""
    job = real.submit("/sleep", seconds=0.3, name="deaf")
    real.noted("sleep deaf begins")
    real.api.cancel(job)
    real.noted("sleep deaf ends")
    assert real.run("/hello").status == "COMPLETED"
    settled(real, job)


# --- several at once


def test_sync_functions_run_beside_each_other(real: RealWorker) -> None:
    """Four block their threads at the same time; the SDK alone would run one after the other."""
    names = [f"beside {n}" for n in range(4)]
    real.api.all_ended([real.submit("/sleep", seconds=0.4, name=name) for name in names])
    notes = real.notes()
    begun = [notes.index(f"sleep {name} begins") for name in names]
    ended = [notes.index(f"sleep {name} ends") for name in names]
    assert max(begun) < min(ended)


def test_many_short_jobs_all_end_once(real: RealWorker) -> None:
    """Each with its own output, none handed out or posted twice."""
    jobs = real.api.submit_all([{"path": "/add", "a": n, "b": 0} for n in range(60)])
    ended = real.api.all_ended(jobs)
    assert [job.output for job in ended] == list(range(60))
    assert all(len(job.workers) == 1 and not job.late for job in ended)
    assert all(len(real.api.posts(job)) == 1 for job in jobs)


# --- the same job again


@pytest.fixture(scope="module")
def failing(real: RealWorker) -> tuple[Failing, Failing]:
    """Queue two jobs whose results are not taken for seconds, while other tests run."""
    return (
        real.faulty("/once", {**DONE, "status": 502, "times": 3}, name="refused"),
        real.faulty("/once", {**DONE, "kind": "drop", "times": 3}, name="dropped"),
    )


@pytest.mark.usefixtures("failing")
def test_a_job_that_is_delivered_again_is_not_run_again(real: RealWorker) -> None:
    """Whether it has ended or runs at that moment: the same result is posted."""
    job = real.submit("/once", name="again", seconds=0.5)
    real.noted("once again")
    real.api.deliver_again(job)
    assert real.api.ended(job).output == "again"
    real.api.deliver_again(job)
    real.api.wait(lambda: len(real.api.posts(job)) >= 2)
    assert {json.dumps(post.json) for post in real.api.posts(job)} == {'{"output": "again"}'}
    assert real.notes().count("once again") == 1
    assert len(real.api.job(job).workers) == 3


def test_a_retry_of_a_failed_job_runs_it_again(real: RealWorker) -> None:
    """The platform sends it under its old id, and means it."""
    job = real.submit("/wrong", kind="bug")
    assert real.api.ended(job).status == "FAILED"
    before = len(real.api.posts(job))
    real.api.retry(job)
    assert real.api.ended(job).status == "FAILED"
    assert len(real.api.posts(job)) == before + 1
    assert len(real.api.job(job).workers) == 2


# --- a platform in trouble


def test_a_result_whose_answer_is_lost_is_posted_again_and_harms_nothing(real: RealWorker) -> None:
    """The platform has it already; the first one counts."""
    job, _ = real.faulty("/add", {**DONE, "kind": "lose"}, a=1)
    real.api.wait(lambda: len(real.api.posts(job)) == 2)
    assert (real.api.ended(job).status, real.api.job(job).output) == ("COMPLETED", 2)


def test_a_result_that_the_platform_refuses_fails_the_job(real: RealWorker) -> None:
    """400, for whatever reason: the job does not hang, its error says why."""
    job, _ = real.faulty("/add", {**DONE, "status": 400}, a=1)
    ended = real.api.ended(job)
    assert ended.status == "FAILED"
    assert json.loads(ended.error)["code"] == "result_refused"


def test_a_job_that_the_platform_has_forgotten_is_let_go(real: RealWorker) -> None:
    """404 for its result: nothing more can be done, and the slot is free."""
    job = real.submit("/sleep", seconds=0.3, name="forgotten")
    real.noted("sleep forgotten begins")
    real.api.forget(job)
    real.api.wait(lambda: any(post.status == 404 for post in real.api.posts(job)))
    assert real.run("/hello").status == "COMPLETED"


def test_lost_progress_and_chunks_harm_no_result(real: RealWorker) -> None:
    """Progress that is not taken is left out; a stream that is broken ends, its whole still comes."""
    job, _ = real.faulty("/count", {**DONE, "times": 2}, to=20, pause=0.02)
    assert real.api.ended(job).output == {"counted": 20}
    stream, _ = real.faulty("/letters", {"action": "job-stream", "status": 400}, word="chunk")
    ended = real.api.ended(stream)
    assert (ended.output, ended.chunks) == (list("chunk"), [])


def test_takes_that_go_wrong_are_tried_again(real: RealWorker) -> None:
    """Garbage, a closed connection, 500 and 400: the next one works."""
    for kind, status in (("garbage", 0), ("drop", 0), ("answer", 500), ("answer", 400)):
        faults = [real.api.fault(action, kind, status=status) for action in ("job-take", "job-take-batch")]  # type: ignore[arg-type]
        real.api.release_polls()
        real.api.wait(lambda faults=faults: any(fault.hits for fault in faults))  # type: ignore[misc]
        for fault in faults:
            fault.lift()
        assert real.run("/hello").status == "COMPLETED"


def test_a_result_outlives_posts_that_fail(real: RealWorker, failing: tuple[Failing, Failing]) -> None:
    """502 or a closed connection, three times: the SDK alone gives up there, and the result is lost."""
    ended = real.api.all_ended([job for job, _ in failing], 40)
    assert [job.output for job in ended] == ["refused", "dropped"]
    assert [fault.hits for _, (fault,) in failing] == [3, 3]
    assert [real.notes().count(f"once {name}") for name in ("refused", "dropped")] == [1, 1]


def test_the_api_may_be_down_for_a_while(real: RealWorker) -> None:
    """What runs meanwhile keeps its result; the log is not flooded; jobs are taken when it is back."""
    job = real.submit("/once", name="through", seconds=0.3)
    real.noted("once through")
    size = real.process.logfile.stat().st_size
    real.api.down()
    time.sleep(0.5)  # the SDK alone writes thousands of lines a second meanwhile
    grown = real.process.logfile.stat().st_size - size
    real.api.up()
    assert real.api.ended(job, 40).output == "through"
    assert real.run("/hello").status == "COMPLETED"
    assert grown < 20_000, real.log
    assert real.notes().count("once through") == 1


def test_a_stop_channel_that_fails_is_opened_again(real: RealWorker) -> None:
    """A cancel gets through afterwards."""
    fault = real.api.fault("job-stop", status=500)
    real.api.release_polls()
    real.api.wait(lambda: fault.hits == 1)
    job = real.submit("/endless", name="stop")
    real.noted("endless stop begins")
    real.api.cancel(job)
    real.noted("endless stop stopped")
