"""Call the pretended platform with the official ``runpod`` client and print what came back, as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import requests

# The SDK asks for the name of the processor when it is imported, which takes more than a second.
sys.modules["cpuinfo"] = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": "any"})  # type: ignore[assignment]

import runpod  # noqa: E402
from runpod.http_client import ClientSession  # noqa: E402

runpod.api_key = os.environ["RUNPOD_AI_API_KEY"]


def plain() -> dict[str, Any]:
    """Run, wait, fail, cancel, count."""
    endpoint = runpod.Endpoint("fake")
    job = endpoint.run({"input": {"n": 1}})
    bad = endpoint.run({"raise": "no cat"})
    long = endpoint.run({"wait": 3})
    while long.status() != "IN_PROGRESS":
        time.sleep(0.02)
    cancelled = long.cancel()
    found: dict[str, Any] = {
        "output": job.output(timeout=20), "status": job.status(), "sync": endpoint.run_sync({"n": 2}),
        "failed": bad.output(timeout=20), "failed_status": bad.status(), "error": bad._fetch_job()["error"],
        "cancelled": cancelled["status"], "long": long.status(), "health": endpoint.health(),
        "purged": endpoint.purge_queue(),
    }  # fmt: skip
    try:
        endpoint.run({"big": "x" * 11_000_000})
    except requests.HTTPError as error:
        found["too_large"] = getattr(error.response, "status_code", None)
    try:
        runpod.Endpoint("fake", api_key="wrong").health()
    except RuntimeError as error:
        found["unauthorised"] = str(error)
    return found


async def asynchronous() -> dict[str, Any]:
    """The same with the asynchronous client."""
    async with ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("fake", session)
        job = await endpoint.run({"n": 3})
        output = await job.output(timeout=20)
        long = await endpoint.run({"wait": 3})
        return {
            "output": output, "status": await job.status(), "cancel": await long.cancel(),
            "health": sorted(await endpoint.health()), "purged": await endpoint.purge_queue(),
        }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({**plain(), "asynchronous": asyncio.run(asynchronous())}))
