"""A worker as the SDK's documentation writes it: what the pretended platform is measured against."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

# The SDK asks for the name of the processor when it is imported, which takes more than a second.
sys.modules["cpuinfo"] = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": "any"})  # type: ignore[assignment]

import runpod  # noqa: E402


async def handler(job: dict[str, Any]) -> Any:
    """Do what the input says."""
    given = job["input"]
    if "wait" in given:
        await asyncio.sleep(given["wait"])
    if "raise" in given:
        raise ValueError(given["raise"])
    for step in given.get("progress", []):
        runpod.serverless.progress_update(job, step)
    return given.get("return", {"echo": given})


async def stream(job: dict[str, Any]) -> AsyncIterator[Any]:
    """Yield what the input says."""
    for each in job["input"]["yield"]:
        yield each


if __name__ == "__main__":
    config: dict[str, Any] = {"handler": handler, "concurrency_modifier": lambda _: 4}
    if "stream" in sys.argv:
        config = {"handler": stream, "return_aggregate_stream": True}
    runpod.serverless.start(config)
