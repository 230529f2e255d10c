"""(l2) One call in a warm function of 11 routes: an HTTP event in, five validated fields, the reply out.

Each handler runs alone in a process of the peers' interpreter, as the runtime calls it: with an event that
was just parsed, and a context. The figure is the quickest of many short blocks: what a call costs a processor
that nobody interrupts. Ours is measured with ``async def`` and ``def``, and once more with the line of log
that it writes for every request by default; the others write none.
"""

from __future__ import annotations

import copy
import gc
import importlib
import json
import os
import subprocess
import sys
import time

from benchmarks.lambda_cold import EVENT, HANDLERS, PYTHON, ROOT
from benchmarks.report import Row, Skip, median

BLOCKS = 30
CALLS = 500
_QUIET = {"ROUTER_LOG_LEVEL": "warning"}
_CASES: dict[str, tuple[str, str, dict[str, str]]] = {
    "ours": ("ours", "/order", _QUIET),
    "ours, def": ("ours", "/order-sync", _QUIET),
    "ours, logging": ("ours", "/order", {}),
    "powertools": ("powertools", "/order", {}),
    "fastapi": ("fastapi", "/order", {}),
}
"""Name -> which handler, at which path, with which variables."""


class Context:
    """What the runtime hands over beside the event."""

    aws_request_id = "8f507cfc-4f1c-4d5e-9d0e-1c5a1f3b2a10"
    function_name = "service"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:service"
    memory_limit_in_mb = 1024

    def get_remaining_time_in_millis(self) -> int:
        """Say how long the call may take."""
        return 30_000


def measure(name: str) -> float:
    """Return the microseconds of one call, in this process."""
    which, path, _ = _CASES[name]
    module, _, attribute = HANDLERS[which][0].rpartition(".")
    handler = getattr(importlib.import_module(module), attribute)
    event = copy.deepcopy(EVENT)
    event["rawPath"] = event["requestContext"]["http"]["path"] = path  # type: ignore[index]
    text, context = json.dumps(event), Context()
    assert handler(json.loads(text), context)["statusCode"] == 200
    best = float("inf")
    for _ in range(BLOCKS):
        events = [json.loads(text) for _ in range(CALLS)]
        gc.collect()
        gc.freeze()  # the events that wait are no business of the collector
        started = time.perf_counter()
        for one in events:
            handler(one, context)
        best = min(best, (time.perf_counter() - started) / CALLS * 1e6)
        gc.unfreeze()
    return best


def run() -> list[Row | Skip]:
    """Return the ratios of the medians of several processes."""
    if not os.path.exists(PYTHON):
        return [Skip("one call of a function", "the peers are not installed: make bench installs them")]
    found: dict[str, list[float]] = {name: [] for name in _CASES}
    for _ in range(3):
        for name, (which, _, variables) in _CASES.items():
            environ = {
                "PATH": os.environ["PATH"],
                "LAMBDA_TASK_ROOT": str(ROOT),
                **HANDLERS[which][1],
                **variables,
            }
            done = subprocess.run(
                [PYTHON, "-m", "benchmarks.lambda_call", name], cwd=ROOT, check=True, capture_output=True,
                text=True, env=environ,
            )  # fmt: skip
            found[name].append(float(done.stdout.splitlines()[-1]))
    theirs, other = median(found["powertools"]), median(found["fastapi"])
    rows: list[Row | Skip] = []
    for name in ("ours", "ours, def", "ours, logging"):
        ours = median(found[name])
        text = f"powertools {theirs:.0f} us (fastapi {other:.0f})"
        rows.append(Row(f"a call, {name}", f"{ours:.1f} us", text, ours / theirs, 0.3, at_least=False))
    return rows


if __name__ == "__main__":
    print(measure(sys.argv[1]))
