"""Remote workers and their coordinator under random kills, stops, restarts and lost answers."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from router_core.client import Client, connect
from tests.remote.remote_network import Network
from tests.remote.remote_site import Worker, coordinator, worker
from tests.served import Served

pytestmark = [pytest.mark.soak, pytest.mark.process, pytest.mark.timeout(600)]
APP = "tests.remote.remote_app:router"
JOBS = 300
SECONDS = 60.0
LOST = {b"/worker/claim": 11, b"/move": 7, b"/events": 5, b"/heartbeat": 6}
SETTINGS = {"ROUTER_LEASE": "4", "ROUTER_HEARTBEAT": "1.3"}


class Site:
    """What is running at the moment."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder = folder
        self.draw = draw
        self.network = Network(1)
        self.network.lose = dict(LOST)
        self.service: Served | None = None
        self.workers: list[tuple[Worker, ExitStack]] = []
        self._serving = ExitStack()
        self.did: list[str] = []

    def serve(self) -> None:
        """Start the coordinator, or another one over the same records."""
        self._serving.close()
        self._serving = ExitStack()
        self.service = self._serving.enter_context(coordinator(APP, self.folder, **SETTINGS))
        self.network.port = self.service.port

    def hire(self) -> None:
        """Start a worker."""
        stack = ExitStack()
        made = stack.enter_context(worker(APP, self.folder, self.network.url, ready=False))
        self.workers.append((made, stack))

    def trouble(self) -> None:
        """Do something bad."""
        kind = self.draw.choice(["kill", "kill", "stop", "term", "coordinator"])
        self.did.append(kind)
        if kind == "coordinator" and self.service is not None:
            self.service.stop(self.draw.choice([signal.SIGTERM, signal.SIGKILL]))
            self.serve()
            return
        made, stack = self.workers.pop(self.draw.randrange(len(self.workers)))
        if kind == "stop":
            made.send(signal.SIGSTOP)
            time.sleep(6)
            made.send(signal.SIGCONT)
            self.workers.append((made, stack))
            return
        made.stop(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        stack.close()
        self.hire()

    def close(self) -> None:
        """End everything."""
        for _, stack in self.workers:
            stack.close()
        self._serving.close()
        self.network.close()


def submit_all(site: Site) -> list[str]:
    """Submit the jobs; none of it happens in bad weather."""
    assert site.service is not None
    with connect(site.service.url) as client:
        return [
            client.endpoint("/work").submit(number=number, seconds=3.0).id
            if number % 3
            else client.endpoint("/spell").submit(word=f"word-{number}", pause=0.05).id
            for number in range(JOBS)
        ]


def check(client: Client, number: int, job_id: str) -> bool:
    """Whether a job has the result that it must have; only a job that lost three workers may have none."""
    job = client.job(job_id)
    job.wait(120.0)
    if job.status == "failed":
        assert job.reason == "lost", (number, job.error)
        return False
    assert job.status == "succeeded", (number, job.status)
    expected = {"number": number, "square": number * number} if number % 3 else list(f"word-{number}")
    assert job.result() == expected
    return True


@pytest.mark.parametrize("seed", [1, 2])
def test_every_job_ends_once_and_right(tmp_path: Path, seed: int) -> None:
    """Whatever happens to whom: no job is lost, and no result is another's or another time's."""
    site = Site(tmp_path, random.Random(seed))
    try:
        site.serve()
        job_ids = submit_all(site)
        for _ in range(3):
            site.hire()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(site.draw.uniform(1.0, 4.0))
            site.trouble()
        site.network.lose = {}
        assert site.service is not None
        with connect(site.service.url) as client:
            good = [check(client, number, job_id) for number, job_id in enumerate(job_ids)]
        print(f"{sum(good)} of {JOBS} right, {site.network.lost} answers lost; {site.did}")
        assert sum(good) >= JOBS * 0.95
    finally:
        site.close()
