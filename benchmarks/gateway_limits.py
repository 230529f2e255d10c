"""What limits cost: the gateway with a workspace that has five of them, and one key that is bound to it.

Beside it the same gateway without a workspace, in the same run and in front of the same nginx: 1 KB bodies,
64 connections, the model named. Limits stand in memory, and in a Redis on this machine.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks.gateway_http import Measured
from benchmarks.gateways import programs
from benchmarks.gateways.programs import KEY
from benchmarks.load import free_port, serve
from benchmarks.report import Row, Skip

_ROUNDS: Final = 5
_SECONDS: Final = 3
_LIMITS: Final = """
workspaces:
  acme:
    budgetLimits: {daily: 1000000, monthly: 30000000}
    rateLimits: {requestsPerMinute: 100000000, tokensPerMinute: 100000000000, concurrency: 100000}
    alerts: [50, 80]
"""
_KEYS: Final = {"ROUTER_API_KEYS": f"bench:{KEY}:developer@acme"}
_GOALS: Final = {"memory": 0.8, "Redis": 0.65}


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly",
                   "no", "--dir", folder]  # fmt: skip
        with serve(command, port, core=1):
            yield f"redis://127.0.0.1:{port}/0"


def run() -> list[Row | Skip]:
    """Return requests/s and CPU with limits against those without."""
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        return [Skip("the gateway with limits", f"not installed: {', '.join(missing)}")]
    rows: list[Row | Skip] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(programs.nginx_static()).port
        plain = Measured(stack.enter_context(programs.ours(upstream)), "bench")
        found = {"memory": Measured(
            stack.enter_context(programs.ours(upstream, more=_LIMITS, environ=_KEYS)), "bench"
        )}  # fmt: skip
        if shutil.which("redis-server") is None:
            rows.append(Skip("limits in Redis", "not installed: redis-server"))
        else:
            environ = {**_KEYS, "ROUTER_STATE": stack.enter_context(_redis())}
            running = stack.enter_context(programs.ours(upstream, more=_LIMITS, environ=environ))
            found["Redis"] = Measured(running, "bench")
        everybody = [plain, *found.values()]
        for one in everybody:
            one.warm()
        for _ in range(_ROUNDS):
            for one in everybody:
                one.load(_SECONDS)
        for name, one in found.items():
            rows += _rows(name, one, plain)
    return rows


def _rows(name: str, one: Measured, plain: Measured) -> list[Row]:
    rate, usual = median(one.rates), median(plain.rates)
    cost, least = median(one.costs), median(plain.costs)
    return [
        Row(f"requests/s with limits in {name}", f"{rate:,.0f}", f"without {usual:,.0f}", rate / usual,
            _GOALS[name]),
        Row(f"CPU for a request with limits in {name}, us", f"{cost:.1f}", f"without {least:.1f}",
            cost / least, 1 / _GOALS[name], False),
    ]  # fmt: skip
