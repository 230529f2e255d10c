"""``python -m benchmarks [NAME ...]``: run all measurements, or the named ones."""

from __future__ import annotations

import importlib
import sys

from benchmarks.report import Row, show

_ALL = {
    "dispatch_cpu": "core dispatch and validation of a five-field body",
    "http_json": "validated JSON route over HTTP",
    "job_queue": "durable jobs",
    "store_million": "a store of a million records",
    "server_memory": "memory of the server over 100,000 jobs",
    "import_time": "import",
    "runpod_jobs": "a RunPod worker",
    "lambda_cold": "start of a Lambda function",
    "lambda_call": "one call of a Lambda function",
    "gateway_decision": "the gateway's decision",
    "gateway_http": "the gateway over HTTP",
    "gateway_limits": "the gateway with limits",
    "gateway_stream": "streams through the gateway",
    "gateway_slow": "the gateway before a slow upstream",
    "gateway_failover": "the gateway while upstreams die",
}


def main(names: list[str]) -> int:
    """Run and print; the exit code is 0 even when a goal is missed: a slow machine is no defect."""
    unknown = set(names) - set(_ALL)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names or _ALL:
        print(f"{name}: {_ALL[name]}", flush=True)
        found = importlib.import_module(f"benchmarks.{name}").run()
        show(found)
        rows += [row for row in found if isinstance(row, Row)]
    missed = [row for row in rows if not row.reached]
    print(f"{len(rows) - len(missed)} of {len(rows)} goals reached")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
