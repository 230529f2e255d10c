"""One real server for the room."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.badinput.bad_wire import get, post, send
from tests.served import Served, served

LIMITS = {
    "ROUTER_MAX_BODY_BYTES": str(4 * 1024 * 1024),
    "ROUTER_MAX_UPLOAD_BYTES": str(6 * 1024 * 1024),
    "ROUTER_SYNC_WAIT_MAX": "0.2",  # callers that wait for a job of next week
}


class Service:
    """The server, and ids of jobs that stand where they stand."""

    def __init__(self, running: Served) -> None:
        self.running = running
        self.port = running.port
        self.jobs = {
            "scheduled": self.submit("/predict", {"prompt": "later"}, x_job_delay="10d"),
            "failed": self.submit("/fragile", {"text": "x"}),
            "succeeded": self.submit("/predict", {"prompt": "now"}),
        }
        self.submit("/predict", {"prompt": "first"}, idempotency_key="taken")
        for name in ("failed", "succeeded"):
            self.wait(self.jobs[name])

    def submit(self, path: str, body: object, **headers: str) -> str:
        """Submit a job and return its id."""
        answer = send(self.port, post(path, body, **headers))
        assert answer.status == 202, answer
        return str(answer.problem["job_id"])

    def wait(self, job_id: str) -> None:
        """Wait for the end of a job."""
        until = time.monotonic() + 30
        while send(self.port, get(f"/jobs/{job_id}?wait=5")).problem["status"] not in ("succeeded", "failed"):
            assert time.monotonic() < until, "the job does not end"

    def fill(self, raw: bytes) -> bytes:
        """Put the ids of jobs in the place of ``@name@``."""
        for name, job_id in self.jobs.items():
            raw = raw.replace(f"@{name}@".encode(), job_id.encode())
        return raw

    def check_alive(self) -> None:
        """Hold the server to a good answer."""
        assert send(self.port, get("/health")).status == 200
        answer = send(self.port, post("/model", {"name": "a", "size": {"width": 2, "height": 3}}))
        assert (answer.status, json.loads(answer.body)) == (200, {"name": "a", "area": 6}), answer

    @property
    def memory(self) -> int:
        """Resident memory of the server in bytes."""
        for line in Path(f"/proc/{self.running.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the app of this room with limits that a test can reach."""
    folder = tmp_path_factory.mktemp("badinput")
    with served("tests.badinput.bad_app:router", folder, **LIMITS) as running:
        yield Service(running)
