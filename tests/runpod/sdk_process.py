"""A worker of the real RunPod SDK in a process of its own, polling a pretended platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from router_core.testing.runpod_api import RunpodApi

__all__ = ["ROOT", "SdkWorker", "sdk_worker"]

ROOT = Path(__file__).parent.parent.parent
_STOP = 60.0
_LOG = 6_000


class SdkWorker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[bytes], api: RunpodApi, worker_id: str, log: Path) -> None:
        self.process = process
        self.id = worker_id
        self.logfile = log
        self._api = api

    @property
    def log(self) -> str:
        """The end of what it has written so far."""
        return self.logfile.read_text(encoding="utf-8", errors="replace")[-_LOG:]

    def ready(self) -> SdkWorker:
        """Wait until it polls for jobs."""
        until = time.monotonic() + 40
        polls = ("job-take", "job-take-batch")
        while not any(self._api.seen(each, worker=self.id) for each in polls):
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the worker does not poll; {self.process.poll()}:\n{self.log}")
            time.sleep(0.02)
        return self

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the worker alone, as a container runtime does to its first process."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float = _STOP) -> int:
        """Return the exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it and everything that it has started, at once: how it ends by itself has its own tests."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextmanager
def sdk_worker(
    api: RunpodApi, command: Sequence[str], folder: Path, worker_id: str = "worker-1", **environ: str
) -> Iterator[SdkWorker]:
    """Start ``python *command`` as the platform starts a worker, until the block ends."""
    log = folder / f"{worker_id}.log"
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ROUTER_", "EXECUTION_", "RUNPOD_"))
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=folder,
            # A key in ~/.runpod would win over the one in the environment.
            env={
                **inherited,
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT),
                **api.environ(worker_id),
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    worker = SdkWorker(process, api, worker_id, log)
    try:
        yield worker
    finally:
        worker.end()
