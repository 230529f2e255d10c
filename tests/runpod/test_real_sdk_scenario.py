"""The job scenario on RunPod: the real SDK's worker, a pretended platform, our client, the official one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from router_core.client.aio import AsyncClient
from router_core.client.connect import connect
from router_core.testing.job_scenario import JobScenario
from router_core.testing.runpod_api import RunpodApi
from tests.runpod.real_worker import real_worker
from tests.runpod.sdk_process import ROOT

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the module's processes."""
    return tmp_path_factory.mktemp("scenario")


@pytest.fixture(scope="module")
def platform(home: Path) -> Iterator[RunpodApi]:
    """Run the platform with one worker of the scenario's service."""
    app = "router_core.testing.scenario_service:router"
    with (
        RunpodApi(poll=1.0) as api,
        real_worker(api, home, app=app, ROUTER_RUNPOD_CONCURRENCY="16") as worker,
    ):
        worker.ready()
        yield api


@pytest.fixture(scope="module", autouse=True)
def official(platform: RunpodApi, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the official client in a process of its own; it works while the other tests run."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("official_scenario.py"))], cwd=home,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), **platform.environ()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


class TestRunpod(JobScenario):
    """Our client, as it talks to RunPod."""

    @pytest.fixture
    async def client(self, platform: RunpodApi) -> AsyncIterator[AsyncClient]:
        """Return a client of the endpoint."""
        async with connect(
            platform.url, api_key=platform.key, protocol="runpod", asynchronous=True
        ) as client:
            yield client


@pytest.fixture(scope="module")
def seen(official: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the official client saw."""
    out, err = official.communicate(timeout=100)
    assert official.returncode == 0, err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_the_official_client_follows_a_job_to_its_result(seen: dict[str, Any]) -> None:
    """Progress rises, the result can be read again."""
    progress = seen["progress"]
    assert progress == sorted(progress)
    assert len(set(progress)) > 2
    assert seen["counted"] == seen["again"] == {"counted": 20}
    assert seen["sync"] == {"counted": 2}


def test_the_official_client_is_told_of_failures(seen: dict[str, Any]) -> None:
    """A bug and a caller's mistake: FAILED, with a problem in JSON and no line of code."""
    output, status, problem = seen["broken"]
    assert (output, status, problem["status"]) == (None, "FAILED", 500)
    assert "Traceback" not in json.dumps(problem)
    output, status, problem = seen["wrong"]
    assert (output, status, problem["status"]) == (None, "FAILED", 422)
    assert problem["errors"][0]["loc"][-1] == "to"


def test_the_official_client_can_cancel_and_stream_and_send_files(seen: dict[str, Any]) -> None:
    """A sync function stops; chunks come in order; a file comes back as an object."""
    assert seen["cancelled"] == ["CANCELLED", "CANCELLED"]
    assert seen["letters"] == [list("official"), list("official")]
    assert b64decode(seen["file"]["content"]) == b"cba"
    assert seen["file"]["content_type"] == "application/x-thing"
    assert set(seen["health"]) == {"jobs", "workers"}


def test_the_platform_saw_nothing_after_an_end(platform: RunpodApi, seen: dict[str, Any]) -> None:
    """Of all the jobs of this module: every post but the last was before it."""
    for job in {post.job for post in platform.seen("job-done")}:
        assert platform.job(job).late == [], job
