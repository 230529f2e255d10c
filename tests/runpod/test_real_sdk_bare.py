"""The SDK's own worker loop and client against the pretended platform: it is the wire that they know.

No code of ours runs in the worker. Each figure of the wire that our worker's tests rely on is shown here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.sdk_process import ROOT, SdkWorker, sdk_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for logs."""
    return tmp_path_factory.mktemp("bare")


@pytest.fixture(scope="module")
def api() -> Iterator[RunpodApi]:
    """Run the platform."""
    with RunpodApi(poll=1.0) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Early:
    """Jobs that take their time, queued before the first test: two whose results the platform does not take,
    one that is cancelled, one with progress."""

    failing: str
    too_large: str
    cancelled: str
    progress: str
    began: float


@pytest.fixture(scope="module")
def streamer(folder: Path) -> Iterator[RunpodApi]:
    """Run a platform with a bare worker whose handler is a generator."""
    command = [str(HERE / "bare_handler.py"), "stream"]
    with RunpodApi(poll=1.0) as api, sdk_worker(api, command, folder, "streamer"):
        yield api


@pytest.fixture(scope="module")
def leaver(folder: Path) -> Iterator[tuple[RunpodApi, SdkWorker]]:
    """Run a platform that holds its polls for long, with a bare worker that may be ended."""
    with (
        RunpodApi(poll=20.0) as api,
        sdk_worker(api, [str(HERE / "bare_handler.py")], folder, "leaver") as worker,
    ):
        yield api, worker


@pytest.fixture(scope="module")
def worker(api: RunpodApi, folder: Path, streamer: RunpodApi, leaver: object) -> Iterator[SdkWorker]:
    """Run a bare worker; the others start meanwhile."""
    with sdk_worker(api, [str(HERE / "bare_handler.py")], folder) as running:
        yield running.ready()


@pytest.fixture(scope="module", autouse=True)
def early(api: RunpodApi, worker: SdkWorker, official: object) -> Early:
    """Queue them."""
    cancelled = api.submit({"wait": 1.5})
    # a stop that comes before it has begun with the job is forgotten by the SDK
    api.wait(lambda: any(cancelled in line and "Started" in line for line in worker.log.splitlines()))
    api.cancel(cancelled)
    failing = api.new_id()
    api.fault("job-done", status=500, times=None, job=failing)
    api.submit({"n": 1}, job_id=failing)
    too_large, progress = api.submit_all(
        [{"return": "x" * 10_000_001}, {"progress": list(range(8)), "return": 1}]
    )
    return Early(failing, too_large, cancelled, progress, time.monotonic())


@pytest.fixture(scope="module")
def official(leaver: tuple[RunpodApi, SdkWorker], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the official client in a process of its own; it works while the other tests run."""
    environ = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT), **leaver[0].environ()}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "official_client.py")], cwd=folder, env=environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def test_the_wire_is_that_of_the_sdk(api: RunpodApi, worker: SdkWorker) -> None:
    """Polls with free slots ask for a batch; posts are JSON under a form's name, with the job's id beside."""
    one, two = api.submit_all([{"n": 1}, {"return": {"error": "soft", "x": 1}}])
    api.all_ended([one, two])
    batch = api.seen("job-take-batch")[-1]
    assert {"gpu", "batch_size", "job_in_progress"} <= set(batch.query)
    (post,) = api.posts(one)
    assert (post.query["isStream"], post.json) == ("false", {"output": {"echo": {"n": 1}}})
    assert post.headers["content-type"] == "application/x-www-form-urlencoded"
    assert post.headers["authorization"] == api.key
    assert post.headers["user-agent"].startswith("RunPod-Python-SDK/")
    assert api.posts(two)[0].json == {"output": {"x": 1}, "error": "soft"}
    assert api.job(two).status == "FAILED"
    assert api.asked("ping")[0].query["runpod_version"]


def test_its_progress_arrives_in_any_order_and_after_the_end(api: RunpodApi, early: Early) -> None:
    """Why our worker has a sender of its own: here jobs stay IN_PROGRESS for ever."""
    job = early.progress
    api.wait(lambda: len(api.posts(job)) == 9)
    posts = [post.json for post in api.posts(job)]
    assert sorted(post["output"] for post in posts if post.get("status") == "IN_PROGRESS") == list(range(8))
    assert posts.index({"output": 1}) < len(posts) - 1 or api.job(job).status == "COMPLETED"


def test_a_generator_streams(streamer: RunpodApi) -> None:
    """Chunks on job-stream, the whole with isStream=true at the end."""
    job = streamer.submit({"yield": ["a", {"b": 1}, None, 3]})
    ended = streamer.ended(job)
    posts = [(post.action, post.query["isStream"]) for post in streamer.posts(job)]
    assert ended.status == "COMPLETED"
    assert ended.chunks == ended.output == ["a", {"b": 1}, None, 3]
    assert posts == [("job-stream", "false")] * 4 + [("job-done", "true")]


def test_a_cancelled_job_posts_nothing_more(api: RunpodApi, worker: SdkWorker, early: Early) -> None:
    """The stop channel ends the task of an async handler; its slot is free again."""
    after = [api.submit({"n": n}) for n in range(4)]
    assert [each.output for each in api.all_ended(after)] == [{"echo": {"n": n}} for n in range(4)]
    time.sleep(max(0.0, early.began + 2.0 - time.monotonic()))
    assert (api.job(early.cancelled).status, api.posts(early.cancelled)) == ("CANCELLED", [])


def test_the_official_client_works_through_a_real_worker(official: subprocess.Popen[str]) -> None:
    """Results, failures, cancel, health, purge, refusals; both clients."""
    out, err = official.communicate(timeout=100)
    assert official.returncode == 0, err[-3000:]
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert (seen["output"], seen["status"], seen["sync"]) == (
        {"echo": {"n": 1}}, "COMPLETED", {"echo": {"n": 2}},
    )  # fmt: skip
    assert (seen["failed"], seen["failed_status"]) == (None, "FAILED")
    assert json.loads(seen["error"])["error_message"] == "no cat"
    assert (seen["cancelled"], seen["long"]) == ("CANCELLED", "CANCELLED")
    assert sorted(seen["health"]["jobs"]) == ["completed", "failed", "inProgress", "inQueue", "retried"]
    assert sum(seen["health"]["workers"].values()) == 1
    assert (seen["purged"]["status"], seen["too_large"]) == ("completed", 400)
    assert seen["unauthorised"].startswith("401")
    told = seen["asynchronous"]
    assert (told["output"], told["status"]) == ({"echo": {"n": 3}}, "COMPLETED")
    assert (told["cancel"]["status"], told["health"]) == ("CANCELLED", ["jobs", "workers"])


def test_a_job_that_is_handed_out_during_shutdown_is_lost(leaver: tuple[RunpodApi, SdkWorker]) -> None:
    """The gap that our worker has to close: the SDK takes the job, ends, and nothing is ever posted."""
    api, worker = leaver
    worker.ready().signal()
    api.wait(lambda: "shutdown signal" in worker.log)
    time.sleep(0.5)  # its run loop looks every 0.1 s whether it has to end, and says nothing then
    job = api.submit({"n": 1})
    api.taken(job)
    api.release_polls()
    assert worker.wait() == 0
    assert api.job(job).status == "IN_PROGRESS"
    assert api.posts(job) == []


def test_it_retries_a_failing_post_twice_and_then_drops_the_result(
    api: RunpodApi, worker: SdkWorker, early: Early
) -> None:
    """Three attempts on 500; none more on 400, which is what a result too large gets."""
    api.wait(lambda: len(api.posts(early.failing)) == 3)
    assert [post.status for post in api.posts(early.failing)] == [500] * 3
    assert [post.status for post in api.posts(early.too_large)] == [400]
    assert api.job(early.failing).status == "IN_PROGRESS"
    assert api.job(early.too_large).status == "IN_PROGRESS"
