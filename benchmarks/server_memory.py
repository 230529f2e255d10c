"""(c) Memory of the server over 100,000 jobs: resident set after a warm-up of 20,000 against the end.

Retention is set to a few seconds, so that the store's own bookkeeping (purge, tombstones) is part of it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile

from benchmarks.load import free_port, rss_bytes, serve, wrk
from benchmarks.report import Row, Skip

_UVICORN = [sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
            "--log-level", "warning", "--factory", "benchmarks.apps.ours:asgi", "--port"]  # fmt: skip
_WARM_UP, _JOBS = 20_000, 100_000


def run() -> list[Row | Skip]:
    """Return the growth of the resident set."""
    name = f"RSS of the server after {_JOBS:,} more jobs"
    if shutil.which("wrk") is None:
        return [Skip(name, "the load generator wrk is not installed")]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs",
            "ROUTER_RETENTION": "5",
        }  # fmt: skip
        with serve([*_UVICORN, str(port)], port, env=env) as server:
            _submit(port, _WARM_UP)
            before = rss_bytes(server.pid)
            _submit(port, _JOBS)
            after = rss_bytes(server.pid)
    mib = 1024 * 1024
    return [
        Row(name, f"{after / mib:.1f} MiB", f"after warm-up {before / mib:.1f} MiB", after / before, 1.05,
            at_least=False)
    ]  # fmt: skip


def _submit(port: int, count: int) -> None:
    """Run at least ``count`` jobs, each waited for (so that no backlog builds up)."""
    done = 0.0
    while done < count:
        rate, bad = wrk(
            f"http://127.0.0.1:{port}/noop?sync=true", body='{"n": 1}', connections=128, seconds=5
        )
        if bad:
            raise RuntimeError(f"{bad} jobs were refused")
        done += rate * 5
