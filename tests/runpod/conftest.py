"""Workers and platforms that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.runpod_api import Limits, RunpodApi
from tests.runpod.plain_http import Wire
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


@pytest.fixture
def api() -> Iterator[RunpodApi]:
    """Return a platform whose limits are small.

    Its polls end because of what happens, never because their time is up: a test that relies on it hangs.
    """
    with RunpodApi(poll=20.0, limits=Limits(run=1000, runsync=2000, chunk=100)) as running:
        yield running


@pytest.fixture
def wire(api: RunpodApi) -> Wire:
    """Return plain HTTP to it."""
    return Wire(api)


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Return what does a call in another thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit
