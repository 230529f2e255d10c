"""Deploy a service, with the real worker in RunPod's real SDK behind the pretended platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router_core.testing.runpod_rest import RunpodRest
from tests.deploy.deploying import SERVICE, process, service

pytest.importorskip("runpod", reason="the extra runpod is not installed")

ROOT = Path(__file__).parent.parent.parent
BREAKABLE = (
    SERVICE
    + """

@router.get("/model")
def model() -> str:
    import os

    if os.environ.get("MODEL") == "missing" and "RUNPOD_ENDPOINT_ID" in os.environ:
        raise RuntimeError("the model is missing in the image")
    return os.environ.get("MODEL", "")
"""
)


@contextmanager
def container(runpod: RunpodRest, name: str, folder: Path) -> Iterator[None]:
    """Run the worker of an endpoint as soon as there is one, as the platform runs its image."""
    until = time.monotonic() + 30
    while name not in runpod.names():
        assert time.monotonic() < until, runpod.names()
        time.sleep(0.02)
    environ = runpod.worker_environ(runpod.endpoint(name)["id"])
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "RUNPOD_"))}
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "handlers.runpod"],
            cwd=folder, env={**inherited, "PYTHONPATH": str(ROOT), **environ}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.mark.process
def test_a_deployed_service_answers_and_a_broken_one_is_not_deployed(
    runpod: RunpodRest, tmp_path: Path
) -> None:
    """The test request runs in the container: what is missing only there is found before callers meet it."""
    runpod.habits.answer = None
    service(tmp_path, BREAKABLE)
    environ = runpod.environ()
    test = ["--test", '{"path": "/model"}', "--poll", "0.05"]

    first = process(
        ["runpod", "service:router", "--image", "a/s:1", "--env", "MODEL=a", *test], tmp_path, environ
    )
    with container(runpod, "service-candidate", tmp_path):
        _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    before = runpod.endpoint("service")
    assert before["env"]["MODEL"] == "a"
    log = (tmp_path / "worker.log").read_text()
    assert '"event":"serving"' in log or "taking RunPod jobs" in log
    assert "unknown_setting" not in log

    second = process(
        ["runpod", "service:router", "--image", "a/s:2", "--env", "MODEL=missing", *test], tmp_path, environ
    )
    with container(runpod, "service-candidate", tmp_path):
        _, err = second.communicate(timeout=60)
    assert second.returncode == 1, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("router-core: the test request FAILED: ")
    assert last.endswith("; everything is as it was before")
    assert runpod.endpoint("service") == before
    assert runpod.names() == ["service"]
