"""Workers that several tests share: each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.real_worker import RealWorker, real_worker


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    """Return a worker of ours in the SDK's loop that no test may end."""
    folder = tmp_path_factory.mktemp("real")
    with RunpodApi(poll=1.0) as api, real_worker(api, folder) as worker:
        worker.ready()
        yield worker


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for a worker of the test's own."""
    return tmp_path_factory.mktemp("worker")
