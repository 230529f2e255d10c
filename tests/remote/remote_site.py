"""A coordinator and its remote workers, each a process of its own, as they are run in the field."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from router_core.security.api_keys import generate_key
from tests.served import ROOT, Served, served

__all__ = ["KEY", "Worker", "coordinator", "worker", "workers"]

KEY = generate_key("rw").key
_START = 60.0
_STOP = 60.0


class Worker:
    """A running ``router-core worker``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, text: str, seconds: float = _START) -> str:
        """Wait until its log holds a text; returns the log."""
        end = time.monotonic() + seconds
        while text not in self.log:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"no {text!r}; exit code {self.process.poll()}:\n{self.log[-5000:]}")
            time.sleep(0.02)
        return self.log

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(_STOP)


@contextmanager
def coordinator(app: str, folder: Path, **environ: str) -> Iterator[Served]:
    """Serve an app whose jobs are for remote workers alone."""
    settings = {"EXECUTION_ENVIRONMENT": "decentralized", "ROUTER_WORKER_KEYS": f"box:{KEY}", **environ}
    with served(app, folder, **settings) as service:
        yield service


@contextmanager
def worker(
    app: str, folder: Path, url: str, *options: str, ready: bool = True, **environ: str
) -> Iterator[Worker]:
    """Run a worker of an app, found from ``folder``, until the block ends."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_"))}
    log = folder / f"worker-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "handlers.cli", "worker", app, "--coordinator", url, *options]
    told = {"PYTHONPATH": str(ROOT), "ROUTER_WORKER_KEY": KEY, "ROUTER_LOG_FORMAT": "text", **environ}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**inherited, **told}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    running = Worker(process, log)
    try:
        if ready:
            running.until("working for")
        yield running
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def workers(count: int, app: str, folder: Path, url: str, *options: str) -> Iterator[list[Worker]]:
    """Run several of them."""
    with ExitStack() as running:
        yield [running.enter_context(worker(app, folder, url, *options)) for _ in range(count)]
