"""(l1) Start of a function under AWS's emulator and runtime client: ``INIT REPORT``, and the first call.

The same service three times: ours, FastAPI behind Mangum, and the resolver of Powertools with validation. All
run on the interpreter of the peers, so that none has more packages to look through. Each round starts all
three, in an order that changes, and the ratios are the medians of those within a round: a machine that is
busy for a while is so for all of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from benchmarks.report import Row, Skip, median
from router_core.testing.lambda_rie import Emulator

ROOT = Path(__file__).parent.parent
PYTHON = os.environ.get("PEERS_PYTHON", str(ROOT / ".venv-peers" / "bin" / "python"))
ROUNDS = 31
EVENT = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/order", "rawQueryString": "",
    "headers": {"content-type": "application/json", "host": "id.execute-api.us-east-1.amazonaws.com",
                "user-agent": "bench", "accept": "*/*", "x-forwarded-for": "192.0.2.1",
                "x-forwarded-proto": "https", "x-forwarded-port": "443"},
    "requestContext": {
        "accountId": "1", "apiId": "id", "domainName": "id.execute-api.us-east-1.amazonaws.com",
        "domainPrefix": "id", "requestId": "id", "routeKey": "$default", "stage": "$default",
        "time": "12/Mar/2020:19:03:58 +0000", "timeEpoch": 1583348638390,
        "http": {"method": "POST", "path": "/order", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1",
                 "userAgent": "bench"},
    },
    "body": '{"name": "widget", "count": 3, "price": 2.5, "tags": ["a", "b"], "paid": true}',
    "isBase64Encoded": False,
}  # fmt: skip
HANDLERS = {
    "ours": ("handlers.aws.entry.handler", {"ROUTER_APP": "benchmarks.apps.lambda_ours:router"}),
    "fastapi": ("benchmarks.peers.lambda_fastapi.handler", {}),
    "powertools": ("benchmarks.peers.lambda_powertools.handler", {"POWERTOOLS_SERVICE_NAME": "service"}),
}


def rie() -> Path | None:
    """Return the emulator, which comes with the SAM CLI."""
    machine = "arm64" if os.uname().machine in ("aarch64", "arm64") else "x86_64"
    pattern = f"lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"
    return next((ROOT / ".venv-sam").glob(pattern), None)


def start(binary: Path, name: str) -> tuple[float, float]:
    """Start a function; returns milliseconds of its init, and of init and first call together."""
    handler, extra = HANDLERS[name]
    environ = {"PYTHONPATH": str(ROOT), "LAMBDA_TASK_ROOT": str(ROOT), **extra}
    with Emulator(binary, handler, environ=environ, python=PYTHON, folder=ROOT) as emulator:
        called = emulator.invoke(EVENT)
        reply = called.json()
        assert reply["statusCode"] == 200, reply
        (init,) = emulator.init_ms()
        return init, called.seconds * 1000


def run() -> list[Row | Skip]:
    """Return the medians, and those of the ratios within a round."""
    binary = rie()
    if binary is None or not os.path.exists(PYTHON):
        return [Skip("start of a function", "emulator or peers are not installed: make test, make bench")]
    inits: dict[str, list[float]] = {name: [] for name in HANDLERS}
    wholes: dict[str, list[float]] = {name: [] for name in HANDLERS}
    for name in HANDLERS:
        start(binary, name)  # writes the compiled files, which a deployed bundle has as well
    order = list(HANDLERS)
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            init, whole = start(binary, name)
            inits[name].append(init)
            wholes[name].append(whole)
    rows: list[Row | Skip] = []
    for label, values in (("INIT REPORT", inits), ("init and first call", wholes)):
        ours = median(values["ours"])
        for peer, goal in (("fastapi", 0.7), ("powertools", 1.0)):
            other = median(values[peer])
            ratio = median([one / two for one, two in zip(values["ours"], values[peer], strict=True)])
            text = f"{peer} {other:.0f} ms (min {min(values[peer]):.0f})"
            rows.append(
                Row(label, f"{ours:.0f} ms (min {min(values['ours']):.0f})", text, ratio, goal,
                    at_least=False)
            )  # fmt: skip
    return rows
