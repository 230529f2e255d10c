"""Load an app and hand it one job as RunPod's worker does, in a process of its own.

Run with ``python -m``. The parent writes what is asked to standard input and reads what came of it from a
file: the service under test may print what it likes, hang, or take the process down.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from router_core.errors import Misconfigured

if TYPE_CHECKING:
    from router_core.routing.route import Route

__all__ = ["DOCUMENT", "main"]

DOCUMENT: Final = "openapi.json"
"""The route that every service has on RunPod: it describes the others."""


def main() -> None:
    """Answer the parent, and end whatever threads of the service still run."""
    asked = json.loads(sys.stdin.read())
    try:
        asyncio.run(_reported(asked))
    except Misconfigured as error:
        _write(asked, {"failed": str(error)})


async def _reported(asked: Mapping[str, Any]) -> None:
    from handlers.loader import load
    from handlers.runpod.provider import build
    from handlers.runpod.worker import Worker
    from router_core.settings import Settings

    # nothing of production is touched, wherever the variables of the endpoint lead
    settings = Settings.from_env(
        os.environ, app=asked["app"], provider="runpod", environment="serverless", queue="inprocess",
        jobs="memory://", blobs="memory://", tracebacks=True,
    )  # fmt: skip
    worker = Worker(build(load(asked["app"]), settings))
    worker.app.parts.runner.check()
    routes = [route for route in worker.app.routes if not route.internal]
    test = asked["test"] or derived(routes)
    found = {"routes": len(routes), "longest": longest(routes), "test": test}
    await worker.start()
    running = asyncio.create_task(worker.handle({"id": "test", "input": test}))
    await asyncio.wait({running}, timeout=asked["timeout"])
    if not running.done():
        _write(asked, {**found, "late": True})
    error = running.result().error
    await worker.stop()
    _write(asked, {**found, "error": error})


def _write(asked: Mapping[str, Any], report: Mapping[str, Any]) -> NoReturn:
    Path(asked["report"]).write_text(json.dumps(report), encoding="utf-8")
    # a function that hangs in its thread would keep the interpreter
    os._exit(0)


def derived(routes: list[Route]) -> dict[str, Any]:
    """Choose a request that is safe to send: a GET that needs no arguments, else the document."""
    for route in routes:
        needs = any(param.required for param in route.plan.params)
        if "GET" in route.methods and route.kind == "call" and not needs:
            return {"path": route.path, "method": "GET"}
    return {"path": DOCUMENT}


def longest(routes: list[Route]) -> float | None:
    """Return how many seconds the slowest kind of job may take; None where one has no limit."""
    limits = [route.job.timeout for route in routes if route.kind == "job"]
    if any(limit is None for limit in limits):
        return None
    return max((limit for limit in limits if limit is not None), default=0.0)


if __name__ == "__main__":
    main()
