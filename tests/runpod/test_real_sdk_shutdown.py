"""Our worker in the SDK's own loop: how it ends, and what becomes of the jobs that it had."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.real_worker import real_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

HELD = 40.0
"""Seconds for which polls are held: longer than any wait here, so an end that waits for them fails."""


def left_behind(group: int) -> list[str]:
    """Return the processes of a process group, the SDK's ping and ours alike."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
            if int(fields[2]) == group and fields[0] not in "XZ":
                found.append(stat.parent.name)
    return found


def test_a_job_that_is_handed_out_while_an_idle_worker_ends_is_run(folder: Path) -> None:
    """The SDK alone takes it and forgets it. Nothing more is taken, and no process stays behind."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, ROUTER_DRAIN_GRACE="30") as worker:
        worker.ready().process.signal(signal.SIGTERM)
        api.wait(lambda: "draining" in worker.log)
        first, second = api.submit_all([{"path": "/add", "a": 1}, {"path": "/add", "a": 2}])
        assert worker.process.wait(25) == 0, worker.log
        handed_out = [job for job in (first, second) if api.job(job).workers]
        assert first in handed_out
        assert all(api.job(job).status == "COMPLETED" for job in handed_out)
        assert worker.notes() == ["loaded", "unloaded"]
        assert left_behind(worker.process.process.pid) == []
        third = api.submit({"path": "/add", "a": 3})
        assert api.job(third).status == "IN_QUEUE"


def test_jobs_that_run_end_or_are_given_back(folder: Path) -> None:
    """A short one ends; one that listens and one that is deaf fail, with the advice to run them again."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, ROUTER_DRAIN_GRACE="1") as worker:
        worker.ready()
        short = worker.submit("/once", name="short", seconds=0.5)
        long = worker.submit("/endless", name="long")
        deaf = worker.submit("/sleep", seconds=60, name="deaf")
        for line in ("once short", "endless long begins", "sleep deaf begins"):
            worker.noted(line)
        worker.process.signal(signal.SIGTERM)
        ended = api.all_ended([short, long, deaf], 30)
        assert worker.process.wait(25) == 0, worker.log
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
        assert worker.process.wait(25) == 0, worker.log
        ended = api.job(job)
        assert ended.ended, worker.log
        assert ended.output == 2 or json.loads(ended.error)["status"] == 503


def test_a_result_that_could_not_be_posted_is_kept_for_the_next_worker(folder: Path) -> None:
    """The record has it: after a kill the same job is answered from there, and not run again."""
    store = {"ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs"}
    notes = folder / "notes.log"
    with RunpodApi(poll=1.0) as api:
        with real_worker(api, folder, notes=notes, **store) as worker:
            job, (fault,) = worker.faulty("/once", {"action": "job-done", "times": None}, name="kept")
            api.wait(lambda: fault.hits >= 2, 60)
            worker.process.signal(signal.SIGKILL)
            worker.process.wait()
        fault.lift()
        assert api.job(job).status == "IN_PROGRESS"
        api.deliver_again(job)
        with real_worker(api, folder, "worker-2", notes=notes, **store) as other:
            assert api.ended(job).output == "kept", other.log
            assert other.notes().count("once kept") == 1


@pytest.mark.parametrize(
    ("app", "environ", "words"),
    [
        ("tests.runpod.service:nobody", {}, "nobody"),
        ("tests.runpod.service:router", {"SERVICE_FAILS": "no GPU here"}, "no GPU here"),
    ],
)
def test_a_worker_that_cannot_start_says_why_and_takes_nothing(
    folder: Path, app: str, environ: dict[str, str], words: str
) -> None:
    """A service that is not there, a start-up hook that fails: an exit code and a reason."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, app=app, notes=None, **environ) as worker:
        assert worker.process.wait(60) not in (0, None)
        assert words in worker.log
        assert api.seen("job-take") == api.seen("job-take-batch") == []


def test_a_signal_while_the_service_starts_is_heeded(folder: Path) -> None:
    """The hook is not cut short; then the worker ends, without having asked for a job."""
    with RunpodApi(poll=HELD) as api, real_worker(api, folder, SERVICE_LOADS="0.3") as worker:
        worker.noted("loading")
        worker.process.signal(signal.SIGTERM)
        assert worker.process.wait(25) == 0, worker.log
        assert worker.notes() == ["loading", "loaded", "unloaded"]
        assert api.seen("job-take") == api.seen("job-take-batch") == []


def test_polls_that_the_platform_ends_are_asked_again_and_not_in_a_rush(folder: Path) -> None:
    """Nothing to do for a while; a platform that throttles is left alone for seconds."""
    with RunpodApi(poll=0.1) as api, real_worker(api, folder) as worker:
        worker.ready()
        asked, began = len(api.requests), time.monotonic()
        time.sleep(0.4)
        api.wait(lambda: len(api.requests) > asked)
        assert len(api.requests) - asked < 75 * (time.monotonic() - began)
        assert api.ended(api.submit({"path": "/hello"})).status == "COMPLETED"
        faults = [api.fault(action, status=429, times=None) for action in ("job-take", "job-take-batch")]
        api.wait(lambda: any(fault.hits for fault in faults))
        time.sleep(0.6)
        assert sum(fault.hits for fault in faults) == 1
