"""A real ``router-core serve`` in a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router_core.testing.ports import free_port

__all__ = ["Served", "free_port", "served"]

ROOT = Path(__file__).parent.parent
_START = 90.0
_STOP = 40.0
_LOG = 5_000
"""Characters of a log that a failure shows: its end."""


class Served:
    """A running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        """The end of what it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_LOG:]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(_STOP)


@contextmanager
def served(app: str, folder: Path, **environ: str) -> Iterator[Served]:
    """Serve ``module:attribute``, found from ``folder``, which also keeps its jobs, until the block ends."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_"))}
    command = [sys.executable, "-m", "handlers.cli", "serve", app, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    service = Served(process, port, log)
    try:
        _await_health(service)
        yield service
    finally:
        try:
            service.stop()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(service: Served) -> None:
    until = time.monotonic() + _START
    while True:
        if service.process.poll() is not None:
            raise AssertionError(f"the service ended with {service.process.returncode}:\n{service.log}")
        try:
            with urllib.request.urlopen(f"{service.url}/health", timeout=5) as answer:
                answer.read()
                return
        except OSError:
            if time.monotonic() > until:
                raise AssertionError(f"the service does not answer:\n{service.log}") from None
            time.sleep(0.05)
