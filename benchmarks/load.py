"""Servers in processes of their own, and load on them from wrk; server and load each have a core."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from router_core.testing.ports import free_port

__all__ = ["Load", "cpu_seconds", "free_port", "pinned", "rss_bytes", "serve", "wrk", "wrk_load"]

ROOT = Path(__file__).resolve().parent.parent


def pinned(core: int) -> list[str]:
    """Return the command prefix that keeps a process on one core, where that can be done."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


@contextlib.contextmanager
def serve(
    command: Sequence[str], port: int, *, env: Mapping[str, str] | None = None, cwd: str | Path = ROOT,
    path: str = "/", core: int | None = 0,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run a server until the block ends; waits until its port answers."""
    prefix = pinned(core) if core is not None else []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*prefix, *command], cwd=cwd, env={**os.environ, **(env or {})}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(port, process)
            yield process
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read()[-3000:].decode(errors="replace"))
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 90  # LiteLLM takes half a minute on a busy machine
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode} before it answered")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port}")


class Load(NamedTuple):
    """What wrk says."""

    rate: float
    """Requests per second."""
    bad: int
    """Answers that were not 2xx."""
    p50: float
    """Milliseconds within which half of the answers came."""
    p99: float


def wrk(
    url: str, *, body: str = "", connections: int = 64, seconds: int = 4, core: int | None = 1,
    headers: Mapping[str, str] | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Return requests per second and how many answers were not 2xx."""
    return wrk_load(url, body=body, connections=connections, seconds=seconds, core=core, headers=headers)[:2]


def wrk_load(
    url: str, *, body: str = "", connections: int = 64, seconds: int = 4, core: int | None = 1,
    headers: Mapping[str, str] | None = None,
) -> Load:  # fmt: skip
    """Return the same, and how long the answers took."""
    lines = []
    if body:
        lines += [
            'wrk.method = "POST"',
            f"wrk.body = [[{body}]]",
            'wrk.headers["Content-Type"] = "application/json"',
        ]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in (headers or {}).items()]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name,
                   url]  # fmt: skip
        output = subprocess.run(
            [*(pinned(core) if core is not None else []), *command],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if rate is None:
        raise RuntimeError(f"wrk said nothing that can be read: {output}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    p50, p99 = _milliseconds(output, 50), _milliseconds(output, 99)
    return Load(float(rate.group(1)), int(bad.group(1)) if bad else 0, p50, p99)


def _milliseconds(output: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)[ ]*$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said nothing of the time of {percent}%: {output}")
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[found.group(2)]


def rss_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    """Return user and system time that a process has used."""
    parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
