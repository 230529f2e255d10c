"""(l2) One call in a warm function of 11 routes: an HTTP event in, five validated fields, the reply out.

All handlers stand in one process on the peers' interpreter, and take turns in blocks of calls, in an order
that changes: whatever else the machine does meets them all. Each is called as the runtime calls it, with an
event that was just parsed and a context. The figure is the median block's processor time for a call. Ours is
measured with ``async def`` and ``def``, and once more with the line of log that it writes for every request
by default; the others write none.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.lambda_cold import EVENT, HANDLERS, PYTHON, ROOT
from benchmarks.report import Row, Skip, median

BLOCKS = 40
CALLS = 300
PROCESSES = 3
_OURS = ("ours", "ours, def", "ours, logging")


class Context:
    """What the runtime hands over beside the event."""

    aws_request_id = "8f507cfc-4f1c-4d5e-9d0e-1c5a1f3b2a10"
    function_name = "service"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:service"
    memory_limit_in_mb = 1024

    def get_remaining_time_in_millis(self) -> int:
        """Say how long the call may take."""
        return 30_000


def _handlers() -> Mapping[str, tuple[Callable[..., Any], str]]:
    """Return name -> handler, and the path that it is called at."""
    from benchmarks.peers.lambda_fastapi import handler as fastapi
    from benchmarks.peers.lambda_powertools import handler as powertools
    from handlers.aws.function import build

    environ = {"LAMBDA_TASK_ROOT": str(ROOT), **HANDLERS["ours"][1]}
    logging, quiet = build(environ), build({**environ, "ROUTER_LOG_LEVEL": "warning"})
    return {
        "ours": (quiet, "/order"),
        "ours, def": (quiet, "/order-sync"),
        "ours, logging": (logging, "/order"),
        "powertools": (powertools, "/order"),
        "fastapi": (fastapi, "/order"),
    }


def measure() -> dict[str, float]:
    """Return the microseconds of one call of each handler, in this process."""
    context, cases = Context(), {}
    for name, (handler, path) in _handlers().items():
        event = copy.deepcopy(EVENT)
        event["rawPath"] = event["requestContext"]["http"]["path"] = path  # type: ignore[index]
        text = json.dumps(event)
        assert handler(json.loads(text), context)["statusCode"] == 200
        cases[name] = handler, text
    blocks: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for _ in range(BLOCKS):
        random.shuffle(order)
        for name in order:
            handler, text = cases[name]
            events = [json.loads(text) for _ in range(CALLS)]
            gc.collect()
            gc.freeze()  # the events that wait are no business of the collector
            started = time.process_time()
            for one in events:
                handler(one, context)
            blocks[name].append((time.process_time() - started) / CALLS * 1e6)
            gc.unfreeze()
    return {name: median(values) for name, values in blocks.items()}


def run() -> list[Row | Skip]:
    """Return the medians of several processes, and of their ratios."""
    if not os.path.exists(PYTHON):
        return [Skip("one call of a function", "the peers are not installed: make bench installs them")]
    environ = {"PATH": os.environ["PATH"], **HANDLERS["powertools"][1]}
    found: list[dict[str, float]] = []
    for _ in range(PROCESSES):
        done = subprocess.run(
            [PYTHON, "-m", "benchmarks.lambda_call"], cwd=ROOT, check=True, capture_output=True, text=True,
            env=environ,
        )  # fmt: skip
        found.append(json.loads(done.stdout.splitlines()[-1]))
    theirs, other = (median([one[name] for one in found]) for name in ("powertools", "fastapi"))
    rows: list[Row | Skip] = []
    for name in _OURS:
        ours = median([one[name] for one in found])
        ratio = median([one[name] / one["powertools"] for one in found])
        text = f"powertools {theirs:.0f} us (fastapi {other:.0f})"
        rows.append(Row(f"a call, {name}", f"{ours:.1f} us", text, ratio, 0.3, at_least=False))
    return rows


if __name__ == "__main__":
    figures = measure()
    print()
    print(json.dumps(figures))
    sys.exit(0)
