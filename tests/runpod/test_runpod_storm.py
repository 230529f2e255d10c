"""A worker that is told to end in the middle of everything: each job that it has taken ends somehow."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.real_worker import real_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

_KINDS = ("/once", "/sleep", "/tokens", "/letters", "/spell", "/hello")
"""Sync and async, calls and jobs, with streams and without."""


def storm(folder: Path, seed: int) -> None:
    """Queue many jobs, let some be taken, send the signal, look at what became of each."""
    draw = random.Random(seed)
    with RunpodApi(poll=5.0) as api, real_worker(api, folder, ROUTER_DRAIN_GRACE="1") as worker:
        worker.ready()
        jobs = [worker.submit(path, **_arguments(path, draw)) for path in draw.choices(_KINDS, k=80)]
        some = draw.choice(jobs[:40])
        api.taken(some, 60)
        worker.process.signal(signal.SIGTERM)
        jobs += [worker.submit("/hello") for _ in range(5)]
        assert worker.process.wait(30) == 0, worker.log
        ended = [api.job(job) for job in jobs]
        for job in ended:
            assert job.status in ("COMPLETED", "FAILED", "IN_QUEUE"), (job, worker.log)
            assert job.late == []
            if job.status == "FAILED":
                assert json.loads(job.error)["code"] == "draining"
        assert "Traceback" not in worker.log


def _arguments(path: str, draw: random.Random) -> dict[str, Any]:
    seconds = draw.choice((0.0, 0.02, 0.1, 3.0))
    arguments: dict[str, dict[str, Any]] = {
        "/once": {"name": "storm", "seconds": seconds},
        "/sleep": {"name": "storm", "seconds": seconds},
        "/tokens": {"count": 5},
        "/letters": {"word": "storm"},
        "/spell": {"word": "storm"},
    }
    return arguments.get(path, {})


def test_no_job_is_lost_between_the_signal_and_the_end(folder: Path) -> None:
    """It is completed, or to be run again, or was never taken."""
    storm(folder, 7)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(30))
def test_no_job_is_lost_whenever_the_signal_comes(folder: Path, seed: int) -> None:
    """The same at thirty other moments."""
    storm(folder, seed)
