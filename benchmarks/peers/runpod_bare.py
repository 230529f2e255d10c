"""A handler as RunPod's documentation writes it: ``SLOTS`` (0 leaves the SDK's default of one)."""

from __future__ import annotations

import sys
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> dict[str, int]:
    """Return the number."""
    return {"n": job["input"]["n"]}


if __name__ == "__main__":
    slots = int(sys.argv.pop(1))
    config: dict[str, Any] = {"handler": handler}
    if slots:
        config["concurrency_modifier"] = lambda _: slots
    runpod.serverless.start(config)
