"""Our worker in the SDK's own loop: how it ends, and what becomes of the jobs that it had."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.real_worker import real_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

HELD = 40.0
"""Seconds for which polls are held: longer than any wait here, so an end that waits for them fails."""


def test_an_idle_worker_ends_by_itself_and_takes_nothing_more(folder: Path) -> None:
    """It does not wait for the platform to end its polls; the shut-down hook runs; jobs stay for others."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder) as worker:
        worker.ready().process.signal(signal.SIGTERM)
        assert worker.process.wait(15) == 0, worker.log
        assert worker.notes() == ["loaded", "unloaded"]
        job = api.submit({"path": "/add", "a": 1})
        assert api.job(job).status == "IN_QUEUE"


def test_a_job_that_is_handed_out_while_it_waits_for_its_last_poll_is_run(folder: Path) -> None:
    """The SDK alone takes it and forgets it."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder) as worker:
        worker.ready().process.signal(signal.SIGTERM)
        api.wait(lambda: "draining" in worker.log)
        job = api.submit({"path": "/add", "a": 1})
        assert worker.process.wait(15) == 0, worker.log
        ended = api.job(job)
        assert (ended.status, ended.output) == ("COMPLETED", 2)


def test_jobs_that_run_end_or_are_given_back(folder: Path) -> None:
    """A short one ends; one that listens and one that is deaf fail, with the advice to run them again."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, ROUTER_DRAIN_GRACE="3") as worker:
        worker.ready()
        short = worker.submit("/once", name="short", seconds=1.0)
        long = worker.submit("/endless", name="long")
        deaf = worker.submit("/sleep", seconds=60, name="deaf")
        for line in ("once short", "endless long begins", "sleep deaf begins"):
            worker.noted(line)
        worker.process.signal(signal.SIGTERM)
        ended = api.all_ended([short, long, deaf], 30)
        assert worker.process.wait(15) == 0, worker.log
        assert (ended[0].status, ended[0].output) == ("COMPLETED", "short")
        for job in ended[1:]:
            assert job.status == "FAILED"
            assert json.loads(job.error)["status"] == 503, job.error
            assert api.job(job.id).late == []
        assert "endless long stopped" in worker.notes()
        assert worker.notes()[-1] == "unloaded"


def test_a_job_whose_delivery_meets_the_signal_is_not_lost(folder: Path) -> None:
    """Its answer is in the worker's socket when the signal comes: it is run, or given back in words."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder) as worker:
        worker.ready()
        worker.process.signal(signal.SIGSTOP)
        job = api.submit({"path": "/add", "a": 1})
        api.taken(job)
        api.wait(
            lambda: any(each.status == 200 for each in (*api.seen("job-take"), *api.seen("job-take-batch")))
        )
        worker.process.signal(signal.SIGTERM)
        worker.process.signal(signal.SIGCONT)
        assert worker.process.wait(20) == 0, worker.log
        ended = api.job(job)
        assert ended.ended, worker.log
        assert ended.output == 2 or json.loads(ended.error)["status"] == 503


def test_a_result_that_could_not_be_posted_is_kept_for_the_next_worker(folder: Path) -> None:
    """The record has it: after a kill the same job is answered from there, and not run again."""
    store = {"ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs"}
    notes = folder / "notes.log"
    with RunpodApi(poll=1.0) as api:
        with real_worker(api, folder, notes=notes, **store) as worker:
            job = api.submit({"path": "/once", "name": "kept"})
            fault = api.fault("job-done", status=500, times=None, job=job)
            api.wait(lambda: fault.hits >= 3, 60)
            worker.process.signal(signal.SIGKILL)
            worker.process.wait()
        fault.lift()
        assert api.job(job).status == "IN_PROGRESS"
        api.deliver_again(job)
        with real_worker(api, folder, "worker-2", notes=notes, **store) as other:
            assert api.ended(job).output == "kept", other.log
            assert other.notes().count("once kept") == 1


def test_a_worker_that_cannot_start_says_why_and_takes_nothing(folder: Path) -> None:
    """A service that is not there: an exit code, a sentence, no traceback."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, app="tests.runpod.service:nobody") as worker:
        assert worker.process.wait(20) not in (0, None)
        assert "nobody" in worker.log
        assert "Traceback" not in worker.log
        assert api.seen("job-take") == api.seen("job-take-batch") == []


def test_polls_end_when_the_platform_ends_them(folder: Path) -> None:
    """Nothing to do for a while: the worker asks again, and does not ask in a rush."""
    with RunpodApi(poll=0.2) as api, real_worker(api, folder) as worker:
        worker.ready()
        began = len(api.requests)
        time.sleep(1.0)
        asked = len(api.requests) - began
        assert 2 <= asked < 30
        assert api.ended(api.submit({"path": "/hello"})).status == "COMPLETED"
