"""Load an app and send it one request as RunPod does, in a process of its own: ``python -m`` this module.

The parent writes what is asked to standard input and reads what came of it from a file: the service under
test may print what it likes, hang, or take the process down.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.routing.route import Route

__all__ = ["DOCUMENT", "main"]

DOCUMENT: Final = "openapi.json"
"""The route that every service has on RunPod: it describes the others."""


def main() -> int:
    """Answer the parent; returns the exit code."""
    asked = json.loads(sys.stdin.read())
    report = _report(asked)
    Path(asked["report"]).write_text(json.dumps(report), encoding="utf-8")
    return 0


def _report(asked: Mapping[str, Any]) -> dict[str, Any]:
    from router_core.errors import Misconfigured

    try:
        return asyncio.run(_tested(asked))
    except Misconfigured as error:
        return {"error": str(error)}


async def _tested(asked: Mapping[str, Any]) -> dict[str, Any]:
    import os

    from handlers.loader import load_app
    from handlers.local.runpod_shape import runpod_routes
    from router_core.settings import Settings

    # whoever calls the endpoint is known to the platform; nothing of production is touched
    settings = Settings.from_env(
        os.environ, app=asked["app"], jobs="memory://", blobs="memory://", queue="inprocess", api_keys="",
        environment="localhost",
    )  # fmt: skip
    app = load_app(asked["app"], settings, extra_routes=runpod_routes)
    routes = [route for route in app.routes if not route.internal]
    test = asked["test"] or derived(routes)
    found = {
        "routes": len(routes),
        "longest": longest(routes),
        "test": test,
        "paths": [r.path for r in routes],
    }
    await app.start()
    try:
        return {**found, "answer": await _runsync(app, test, asked["timeout"])}
    finally:
        await app.stop(0.0)


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


async def _runsync(app: App, test: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    from router_core.http.message import Headers, Request

    body = json.dumps({"input": test}).encode()
    headers = Headers([("host", "localhost"), ("content-type", "application/json")])
    end = asyncio.get_running_loop().time() + timeout
    path, method = "/v2/deploy/runsync", "POST"
    while True:
        request = Request(method, path, "wait=60000", headers, body if method == "POST" else b"")
        response = await app.handle(request)
        content = response.body
        answer = json.loads(content) if isinstance(content, bytes) and content else {}
        if response.status != 200:
            return {"status": "FAILED", "error": answer.get("detail", ""), "errors": answer.get("errors", [])}
        if answer.get("status") not in ("IN_QUEUE", "IN_PROGRESS"):
            return {"status": answer.get("status", "COMPLETED"), "error": answer.get("error")}
        if asyncio.get_running_loop().time() > end:
            return {"status": "TIMED_OUT", "error": f"no result after {timeout:g} s"}
        path, method = f"/v2/deploy/status/{answer['id']}", "GET"
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    raise SystemExit(main())
