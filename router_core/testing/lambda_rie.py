"""Run a function under AWS's runtime interface emulator: the real runtime loop, without an account.

The emulator takes one call at a time (a second one makes it crash) and starts the runtime on the first call.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from router_core.testing.ports import free_port

__all__ = ["Emulator", "Invoked"]

_PATH = "/2015-03-31/functions/function/invocations"
_INIT = re.compile(r"INIT REPORT\(durationMs: ([0-9.]+)\)")


@dataclass(frozen=True, slots=True)
class Invoked:
    """What came back from one call."""

    status: int
    """502 where the runtime died; an error of the function is answered with 200."""
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Return the reply of the function."""
        return json.loads(self.body)


class Emulator:
    """One execution environment; a context manager that ends all that it has started.

    ``command`` is what runs the handler, by default AWS's own client for this Python.
    """

    def __init__(
        self, binary: Path, handler: str, *, environ: Mapping[str, str] | None = None,
        folder: Path | None = None, timeout: int = 30, python: str = sys.executable,
        command: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._binary = binary
        self._command = [*command] or [python, "-m", "awslambdaric", handler]
        self._timeout = timeout
        self._folder = folder
        self._environ = {
            "PATH": os.environ.get("PATH", ""), "AWS_REGION": "us-east-1",
            "AWS_LAMBDA_FUNCTION_NAME": "service", "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024", "_HANDLER": handler, **(environ or {}),
        }  # fmt: skip
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self._port, runtime = free_port(), free_port()
        self._log = tempfile.TemporaryFile()
        command = [
            str(self._binary), "--log-level", "info", "--runtime-interface-emulator-address",
            f"127.0.0.1:{self._port}", "--runtime-api-address", f"127.0.0.1:{runtime}", *self._command,
        ]  # fmt: skip
        self._process = subprocess.Popen(  # noqa: S603 - what the caller names
            command, cwd=self._folder, env=self._environ, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._await()
        return self

    def __exit__(self, *exc: object) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
        if self._log is not None:
            self._log.close()

    def _await(self) -> None:
        until = time.monotonic() + 60
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the emulator ended: {self.log()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)

    def invoke(self, event: Any, *, wait: float | None = None) -> Invoked:
        """Call the function and wait for its reply; calls from several threads take turns."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        with self._lock:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=wait or self._timeout + 30
            )
            try:
                started = time.perf_counter()
                connection.request("POST", _PATH, body)
                answer = connection.getresponse()
                return Invoked(answer.status, answer.read(), time.perf_counter() - started)
            finally:
                connection.close()

    def log(self) -> str:
        """Return what the emulator and the function have written so far."""
        if self._log is None:
            return ""
        # read without moving: the position is shared with who writes
        number = self._log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode("utf-8", "replace")

    def init_ms(self) -> list[float]:
        """Return how long each start of the function took."""
        return [float(found) for found in _INIT.findall(self.log())]
