"""(a) A validated JSON route (five fields in, a response model out) against FastAPI on the same uvicorn."""

from __future__ import annotations

import shutil
import sys
import tempfile

from benchmarks.load import free_port, serve, wrk
from benchmarks.report import Row, Skip, median

_BODY = '{"name": "widget", "count": 3, "price": 2.5, "tags": ["a", "b"], "paid": true}'
_UVICORN = [sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
            "--log-level", "warning"]  # fmt: skip


def run() -> list[Row | Skip]:
    """Return the ratio of requests per second; the load alternates between the two running servers."""
    name = "validated JSON route, requests/s"
    if shutil.which("wrk") is None:
        return [Skip(name, "the load generator wrk is not installed")]
    ours_port, other_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {"ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs"}
        ours_command = [*_UVICORN, "--factory", "benchmarks.apps.ours:asgi", "--port", str(ours_port)]
        other_command = [*_UVICORN, "benchmarks.apps.fastapi_app:app", "--port", str(other_port)]
        with serve(ours_command, ours_port, env=env), serve(other_command, other_port):
            ours, other = [], []
            for _ in range(3):
                ours.append(_rate(ours_port))
                other.append(_rate(other_port))
    a, b = median(ours), median(other)
    return [Row(name, f"{a:,.0f}/s", f"FastAPI {b:,.0f}/s", a / b, 3.0)]


def _rate(port: int) -> float:
    rate, bad = wrk(f"http://127.0.0.1:{port}/order", body=_BODY)
    if bad:
        raise RuntimeError(f"{bad} requests were refused")
    return rate
