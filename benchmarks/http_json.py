"""(a) A validated JSON route (five fields in, a response model out) against FastAPI.

Our service runs twice: as ``router-core serve`` runs it, and as an ASGI app under the very uvicorn command
that FastAPI has. All three servers stay up and the load goes round. Requests/s suffer from whatever else the
machine does meanwhile; the CPU time of the server for one request suffers less, so both are told.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.load import cpu_seconds, free_port, serve, wrk
from benchmarks.report import Row, Skip

_BODY = '{"name": "widget", "count": 3, "price": 2.5, "tags": ["a", "b"], "paid": true}'
_UVICORN = [sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
            "--log-level", "warning"]  # fmt: skip
_COMMANDS: Mapping[str, list[str]] = {
    "serve": [sys.executable, "-m", "handlers.cli", "serve", "benchmarks.apps.ours:router"],
    "asgi": [*_UVICORN, "--factory", "benchmarks.apps.ours:asgi"],
    "fastapi": [*_UVICORN, "benchmarks.apps.fastapi_app:app"],
}
_ROUNDS = 3
_SECONDS = 4
_GOAL = 3.0


@dataclass(slots=True)
class _Server:
    """One that runs, and what was measured of it."""

    port: int
    pid: int
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """Microseconds of CPU for one request."""

    def load(self, seconds: int) -> tuple[float, float]:
        """Return requests/s and microseconds of CPU for one of them."""
        before = cpu_seconds(self.pid)
        rate, bad = wrk(f"http://127.0.0.1:{self.port}/order", body=_BODY, seconds=seconds)
        if bad:
            raise RuntimeError(f"{bad} requests were refused")
        return rate, (cpu_seconds(self.pid) - before) / (rate * seconds) * 1e6

    def measure(self) -> None:
        """Take one more measurement."""
        rate, cost = self.load(_SECONDS)
        self.rates.append(rate)
        self.costs.append(cost)


def run() -> list[Row | Skip]:
    """Return the ratios of requests/s and of CPU time."""
    if shutil.which("wrk") is None:
        return [Skip("validated JSON route, requests/s", "the load generator wrk is not installed")]
    with _servers() as servers:
        for server in servers.values():
            server.load(1)
        for _ in range(_ROUNDS):
            for server in servers.values():
                server.measure()
    peer = servers["fastapi"]
    return [
        *_rows("router-core serve", servers["serve"], peer),
        *_rows("our ASGI app, same uvicorn", servers["asgi"], peer),
    ]


@contextmanager
def _servers() -> Iterator[dict[str, _Server]]:
    with ExitStack() as stack:
        servers = {}
        for name, command in _COMMANDS.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            env = {"ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs",
                   "ROUTER_LOG_LEVEL": "warning"}  # fmt: skip
            port = free_port()
            process = stack.enter_context(serve([*command, "--port", str(port)], port, env=env))
            servers[name] = _Server(port, process.pid)
        yield servers


def _rows(name: str, ours: _Server, peer: _Server) -> list[Row | Skip]:
    rates, costs = (median(ours.rates), median(peer.rates)), (median(ours.costs), median(peer.costs))
    return [
        Row(f"validated JSON route, requests/s: {name}", f"{rates[0]:,.0f}/s", f"FastAPI {rates[1]:,.0f}/s",
            rates[0] / rates[1], _GOAL),
        Row(f"validated JSON route, CPU: {name}", f"{costs[0]:.1f} us", f"FastAPI {costs[1]:.1f} us",
            costs[1] / costs[0], _GOAL),
    ]  # fmt: skip
