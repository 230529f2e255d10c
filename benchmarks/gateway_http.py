"""The gateway in one process against a reverse proxy, Envoy and LiteLLM: 1 KB bodies, 64 connections.

All stand in front of the same nginx, which answers from memory. Ours has everything on: keys, rules (the call
leaves the model to them), three deployments chosen by latency, metrics and accounts. nginx and Envoy pass
bytes on and do none of that; LiteLLM has a key and one deployment. The load goes round, server and load have
a core each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gateways import programs
from benchmarks.gateways.programs import KEY, Running
from benchmarks.load import ROOT, cpu_seconds, rss_bytes, wrk
from benchmarks.report import Row, Skip

__all__ = ["Measured", "run"]

_ROUNDS = 3
_WARM_TRIES = 10
_SECONDS = 4
_MIB = 1024 * 1024
_PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Measured:
    """One gateway under load."""

    running: Running
    model: str
    key: str = KEY
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """Microseconds of CPU for one request."""

    def load(self, seconds: int) -> None:
        """Take one measurement; raises RuntimeError when requests were refused."""
        before = cpu_seconds(self.running.pid)
        rate, bad = wrk(
            f"http://127.0.0.1:{self.running.port}{_PATH}", body=programs.request_body(self.model),
            seconds=seconds, headers={"Authorization": f"Bearer {self.key}"},
        )  # fmt: skip
        if bad:
            raise RuntimeError(f"{self.running.name} refused {bad} requests")
        if not rate:
            raise RuntimeError(f"{self.running.name} answered nothing within {seconds} s")
        self.rates.append(rate)
        self.costs.append((cpu_seconds(self.running.pid) - before) / (rate * seconds) * 1e6)

    def warm(self) -> None:
        """Let it serve until it does: what the first calls find unprepared is not measured.

        Raises RuntimeError when it never does.
        """
        for left in reversed(range(_WARM_TRIES)):
            try:
                self.load(2)
                break
            except RuntimeError:
                if not left:
                    raise
        self.rates.clear()
        self.costs.clear()


def run() -> list[Row | Skip]:
    """Return requests/s, CPU and memory against each."""
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        return [Skip("gateway, requests/s", f"not installed: {', '.join(missing)}")]
    skipped: list[Row | Skip] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(programs.nginx_static()).port
        found: dict[str, Measured] = {}
        starts: dict[str, Callable[[int], AbstractContextManager[Running]]] = {
            "ours": programs.ours, "nginx": programs.nginx_proxy, "Envoy": programs.envoy,
            "LiteLLM": programs.litellm,
        }  # fmt: skip
        for name, start in starts.items():
            if name in ("Envoy", "LiteLLM") and not (ROOT / ".venv-gateways").exists():
                skipped.append(Skip(f"against {name}", "not installed; `make bench` installs it"))
                continue
            found[name] = Measured(
                stack.enter_context(start(upstream)), "auto" if name == "ours" else "bench"
            )
            if name == "LiteLLM":
                found[name].key = f"sk-{KEY}"
        for one in found.values():
            one.warm()
        first = rss_bytes(found["ours"].running.pid)
        for _ in range(_ROUNDS):
            for one in found.values():
                one.load(_SECONDS)
        return [*_rows(found, first), *skipped]


def _rows(found: dict[str, Measured], first: int) -> list[Row]:
    ours = found["ours"]
    rate, cost, last = median(ours.rates), median(ours.costs), rss_bytes(ours.running.pid)
    rows = [
        Row("one process, requests/s", f"{rate:,.0f}", "20,000 wanted", rate / 20_000, 1.0),
        Row("memory after the load, MiB", f"{last / _MIB:.0f}", "150 allowed", last / _MIB / 150, 1.0, False),
        Row(
            "memory against that before the load",
            f"{last / _MIB:.0f}",
            f"{first / _MIB:.0f}",
            last / first,
            1.1,
            False,
        ),
    ]
    for name, goal in (("nginx", 0.3), ("Envoy", 1.0), ("LiteLLM", 150.0)):
        if name in found:
            peer = found[name]
            other = f"{name} {median(peer.rates):,.0f}"
            rows.append(
                Row(f"requests/s against {name}", f"{rate:,.0f}", other, rate / median(peer.rates), goal)
            )
    for name, goal in (("nginx", 5.0), ("LiteLLM", 0.01)):
        if name in found:
            paid = median(found[name].costs)
            title = f"CPU for a request against {name}, us"
            rows.append(Row(title, f"{cost:.1f}", f"{paid:,.1f}", cost / paid, goal, False))
    return rows
