"""``router.start()`` with EXECUTION_PROVIDER=runpod, and a worker that is to be replaced after each job."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.sdk_process import sdk_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

SCRIPT = """
from router_core import Router

router = Router(provider="runpod")

@router.route("/double")
def double(n: int) -> int:
    return 2 * n

@router.on_shutdown
def goodbye() -> None:
    open("goodbye", "w").close()

router.start()
"""


def test_a_script_works_and_is_replaced_after_its_job(folder: Path) -> None:
    """The platform is told with the result; the worker takes no more, shuts down and exits 0."""
    (folder / "script.py").write_text(SCRIPT)
    with RunpodApi(poll=30.0) as api:
        jobs = [api.submit({"n": 21}), api.submit({"n": 1})]
        with sdk_worker(api, ["script.py"], folder, ROUTER_RUNPOD_REFRESH="true") as worker:
            assert api.ended(jobs[0]).body == {"output": 42, "stopPod": True}
            assert worker.wait(25) == 0, worker.log
        assert (folder / "goodbye").exists()
        assert api.job(jobs[1]).status == "IN_QUEUE"


def test_a_script_that_is_no_worker_says_what_to_do(folder: Path) -> None:
    """One line at the end, and an exit code."""
    (folder / "script.py").write_text(SCRIPT)
    with (
        RunpodApi(poll=30.0) as api,
        sdk_worker(api, ["script.py"], folder, RUNPOD_WEBHOOK_GET_JOB="") as worker,
    ):
        assert worker.wait(60) == 1
        assert "router-core serve" in worker.log.splitlines()[-1]
        assert api.requests == []
