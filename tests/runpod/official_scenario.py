"""The job scenario with the official ``runpod`` client, against our worker; prints what it saw as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

# The SDK asks for the name of the processor when it is imported, which takes more than a second.
sys.modules["cpuinfo"] = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": "any"})  # type: ignore[assignment]

import runpod  # noqa: E402

runpod.api_key = os.environ["RUNPOD_AI_API_KEY"]


def main() -> dict[str, Any]:
    """Submit, watch, fail, cancel, stream, send a file."""
    endpoint = runpod.Endpoint("fake")
    counting = endpoint.run({"path": "/count", "to": 20, "pause": 0.05})
    broken = endpoint.run({"input": {"path": "/break"}})
    wrong = endpoint.run({"path": "/count", "to": "many"})
    endless = endpoint.run({"path": "/endless"})
    progress: list[float] = []
    while counting.status() != "COMPLETED":
        told = counting._fetch_job()
        if told["status"] == "IN_PROGRESS" and told.get("output"):
            progress.append(told["output"]["progress"])
        time.sleep(0.02)
    while endless.status() != "IN_PROGRESS":
        time.sleep(0.02)
    cancelled = endless.cancel()
    letters = endpoint.run({"path": "/letters", "word": "official"})
    content = b64encode(b"abc").decode()
    return {
        "progress": progress, "counted": counting.output(), "again": counting._fetch_job()["output"],
        "broken": [broken.output(timeout=20), broken.status(), json.loads(broken._fetch_job()["error"])],
        "wrong": [wrong.output(timeout=20), wrong.status(), json.loads(wrong._fetch_job()["error"])],
        "cancelled": [cancelled["status"], endless.status()],
        "letters": [list(letters.stream()), letters.output(timeout=20)],
        "sync": endpoint.run_sync({"path": "/count", "to": 2, "pause": 0}),
        "file": endpoint.run_sync({"path": "/reverse", "file": {"file_name": "a.bin", "content": content}}),
        "health": endpoint.health(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main()))
