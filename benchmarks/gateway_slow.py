"""512 calls at once to an upstream that takes 50 ms: is the gateway in the way?

The upstream limits everybody to 10,240 calls a second. nginx stands in front of the same one; the load goes
round, and one round goes to the upstream itself.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from statistics import median

from benchmarks.gateways import programs
from benchmarks.gateways.programs import KEY, Running
from benchmarks.load import Load, rss_bytes, wrk_load
from benchmarks.report import Row, Skip

_CONNECTIONS = 512
_DELAY = 0.05
_ROUNDS = 2
_SECONDS = 8
"""Long enough for the connections that are opened at the beginning to be less than a hundredth."""
_ADDED_MS = 20.0
_MIB = 1024 * 1024


def run() -> list[Row | Skip]:
    """Return requests/s and the slowest hundredth, against nginx and the upstream itself."""
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        return [Skip("gateway, slow upstream", f"not installed: {', '.join(missing)}")]
    with ExitStack() as stack:
        upstream = stack.enter_context(programs.slow(delay=_DELAY, core=None))
        ours = stack.enter_context(programs.ours(upstream.port, core=None))
        nginx = stack.enter_context(programs.nginx_proxy(upstream.port, core=None))
        found: dict[str, list[Load]] = {"upstream": [], "ours": [], "nginx": []}
        for one in (upstream, ours, nginx):
            _load(one, 1)
        for _ in range(_ROUNDS):
            for name, one in (("upstream", upstream), ("ours", ours), ("nginx", nginx)):
                found[name].append(_load(one, _SECONDS))
        return _rows(found, rss_bytes(ours.pid))


def _load(running: Running, seconds: int) -> Load:
    """Take one measurement; raises RuntimeError when requests were refused."""
    load = wrk_load(
        f"http://127.0.0.1:{running.port}/v1/chat/completions", body=programs.request_body("auto"),
        connections=_CONNECTIONS, seconds=seconds, core=None, headers={"Authorization": f"Bearer {KEY}"},
    )  # fmt: skip
    if load.bad:
        raise RuntimeError(f"{running.name} refused {load.bad} requests")
    return load


def _rows(found: dict[str, list[Load]], memory: int) -> list[Row | Skip]:
    rates = {name: median(load.rate for load in loads) for name, loads in found.items()}
    slowest = {name: median(load.p99 for load in loads) for name, loads in found.items()}
    added = slowest["ours"] - slowest["upstream"]
    return [
        Row(
            "requests/s against nginx", f"{rates['ours']:,.0f}", f"nginx {rates['nginx']:,.0f}",
            rates["ours"] / rates["nginx"], 0.9,
        ),
        Row(
            "requests/s against the upstream itself", f"{rates['ours']:,.0f}",
            f"upstream {rates['upstream']:,.0f}", rates["ours"] / rates["upstream"], 0.85,
        ),
        Row(
            f"added to the slowest hundredth, ms (nginx {slowest['nginx'] - slowest['upstream']:.1f})",
            f"{added:.1f}", f"{_ADDED_MS:.0f} allowed", added / _ADDED_MS, 1.0, False,
        ),
        Row("memory, MiB", f"{memory / _MIB:.0f}", "150 allowed", memory / _MIB / 150, 1.0, False),
    ]  # fmt: skip
