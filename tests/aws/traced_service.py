"""Started by the tracer's tests in a process of its own: a function that is called a few times."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from handlers.aws.function import build
from router_core import Router
from router_core.testing.adapter_contract import Call, contract_app
from tests.aws.lambda_events import Context, http_api

__all__ = ["router"]

router = Router()


@router.get("/hello/{name}")
async def hello(name: str) -> str:
    """Greet."""
    return f"hello {name}"


@router.get("/broken")
async def broken() -> str:
    """Fail."""
    raise ZeroDivisionError("by nothing")


def main() -> None:
    """Call the handler as the runtime does; the last event is of no kind that is known."""
    handler = build(os.environ, router)
    print(
        json.dumps(
            {"modules": sorted(name for name in sys.modules if "xray" in name or "powertools" in name)}
        )
    )
    for number, path in enumerate(("/hello/you", "/broken", "/nowhere")):
        os.environ["_X_AMZN_TRACE_ID"] = f"Root=1-5e1b4151-{number:024x};Parent={number + 1:016x};Sampled=1"
        reply: dict[str, Any] = handler(http_api(Call("GET", path)), Context())
        print(json.dumps({"status": reply["statusCode"]}))
    try:
        handler({"what": "is this"}, Context())
    except ValueError:
        print(json.dumps({"status": "raised"}))
    if os.environ.get("ROUTER_TRACER"):
        job()


def job() -> None:
    """Run a job to its end within one invocation, beside it as nothing would on Lambda."""
    from handlers.aws.tracing import TracedApp

    handler = TracedApp(contract_app())
    handler.start(background=True)
    call = Call("POST", "/double", "sync=true", (("content-type", "application/json"),), b'{"n": 21}')
    print(json.dumps({"status": handler(http_api(call), Context())["statusCode"]}))
    handler.stop()


if __name__ == "__main__":
    main()
