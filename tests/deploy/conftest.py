"""A pretended RunPod, and the command line that deploys to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.cli.main import main
from handlers.deploy import runpod_api
from router_core.testing.runpod_rest import RunpodRest
from tests.deploy.deploying import Deploy, Ran


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunpodRest]:
    """An account to which a deployment from an empty folder leads; retries do not wait."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTER_APP", raising=False)
    monkeypatch.setattr(runpod_api, "_SLOWEST", 0.01)
    with RunpodRest() as account:
        for name, value in account.environ().items():
            monkeypatch.setenv(name, value)
        yield account


@pytest.fixture
def deploy(capsys: pytest.CaptureFixture[str]) -> Deploy:
    """Run ``router-core deploy runpod`` in this process, with quick looks."""

    def run(*words: str) -> Ran:
        capsys.readouterr()
        code = main(["deploy", "runpod", *words, "--poll", "0.01"])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run
