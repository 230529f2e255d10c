"""Our worker in the real SDK's loop: ``python -m handlers.runpod``, with the service of these tests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from router_core.testing.runpod_api import Fault, PlatformJob, RunpodApi
from tests.runpod.sdk_process import SdkWorker, sdk_worker

__all__ = ["RealWorker", "real_worker"]


class RealWorker:
    """A worker, its platform, and what its service has written down."""

    def __init__(self, process: SdkWorker, api: RunpodApi, notes: Path) -> None:
        self.process = process
        self.api = api
        self._notes = notes

    def ready(self) -> RealWorker:
        """Wait until it polls."""
        self.process.ready()
        return self

    @property
    def log(self) -> str:
        """The end of its log."""
        return self.process.log

    def notes(self) -> list[str]:
        """Return what the service has noted so far."""
        return self._notes.read_text(encoding="utf-8").splitlines() if self._notes.exists() else []

    def noted(self, line: str, seconds: float = 60.0) -> None:
        """Wait until the service has noted a line."""
        until = time.monotonic() + seconds
        while line not in self.notes():
            if time.monotonic() > until:
                raise TimeoutError(f"{line!r} was not noted; {self.notes()}\n{self.log}")
            time.sleep(0.01)

    def submit(self, path: str, *, sync: bool = False, **arguments: Any) -> str:
        """Queue a job."""
        return self.api.submit({"path": path, **arguments}, sync=sync)

    def faulty(self, path: str, *faults: Mapping[str, Any], **arguments: Any) -> tuple[str, list[Fault]]:
        """Queue a job with which something goes wrong; each fault is what ``RunpodApi.fault`` takes."""
        job = self.api.new_id()
        made = [self.api.fault(**fault, job=job) for fault in faults]
        return self.api.submit({"path": path, **arguments}, job_id=job), made

    def run(self, path: str, *, sync: bool = False, **arguments: Any) -> PlatformJob:
        """Run a job to its end."""
        return self.api.ended(self.submit(path, sync=sync, **arguments))


@contextmanager
def real_worker(
    api: RunpodApi, folder: Path, worker_id: str = "worker-1", *, notes: Path | None = None,
    app: str = "tests.runpod.service:router", **environ: str,
) -> Iterator[RealWorker]:  # fmt: skip
    """Start our worker until the block ends."""
    notes = notes or folder / "notes.log"
    settings = {
        "ROUTER_APP": app,
        "SERVICE_LOG": str(notes),
        "ROUTER_PROGRESS_INTERVAL": "0.05",
        "ROUTER_DRAIN_GRACE": "5",
        **environ,
    }
    with sdk_worker(api, ["-m", "handlers.runpod"], folder, worker_id, **settings) as process:
        yield RealWorker(process, api, notes)
