"""Call a server with the official ``runpod`` client and print what came back, as JSON.

RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8000/v2 python runpod_client.py
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import requests
import runpod
from runpod.http_client import ClientSession

runpod.api_key = "local"


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def refusal(error: requests.HTTPError) -> requests.Response:
    """Return the answer that the client turned into an exception."""
    assert error.response is not None
    return error.response


def calls() -> dict[str, Any]:
    """Run, wait, read twice, send and receive a file, fail."""
    endpoint = runpod.Endpoint("local")
    job = endpoint.run({"path": "/add", "a": 1, "b": 2})
    content = b64encode(b"hello").decode()
    loud = endpoint.run({"input": {"path": "/shout", "file": {"file_name": "a.txt", "content": content}}})
    until(lambda: loud.status() == "IN_PROGRESS")
    until(lambda: loud._fetch_job().get("output") is not None)
    halfway = loud._fetch_job()
    failed = endpoint.run({"path": "/fail"})
    until(lambda: failed.status() == "FAILED")
    return {
        "output": job.output(timeout=20),
        "status": job.status(),
        "again": job._fetch_job(),
        "sync": endpoint.run_sync({"path": "add", "a": "40", "b": 2}),
        "wrapped": endpoint.run_sync({"input": {"path": "/hello", "name": "bob"}}, timeout=20),
        "sync_failed": endpoint.run_sync({"path": "/fail"}),
        "progress": halfway["output"],
        "file": loud.output(timeout=20),
        "error": failed._fetch_job()["error"],
    }


def refusals() -> dict[str, Any]:
    """Ask for what cannot be."""
    endpoint = runpod.Endpoint("local")
    found: dict[str, Any] = {}
    for name, body in (
        ("path", {"path": "/nothing"}),
        ("type", {"path": "/add", "a": "one"}),
        ("missing", {"x": 1}),
    ):
        try:
            endpoint.run(body)
        except requests.HTTPError as error:
            found[name] = [refusal(error).status_code, refusal(error).json()["errors"][0]["loc"]]
    try:
        runpod.endpoint.runner.Job("local", "0" * 32, endpoint.rp_client).status()
    except requests.HTTPError as error:
        found["unknown"] = refusal(error).status_code
    return found


def streams() -> dict[str, Any]:
    """Read a stream to its end, and one that was cancelled."""
    endpoint = runpod.Endpoint("local")
    job = endpoint.run({"path": "/tokens", "prompt": "to be or not"})
    chunks = list(job.stream())
    other = endpoint.run({"path": "/wait"})
    cancelled = other.cancel()
    until(lambda: other.status() == "CANCELLED")
    try:
        rest: Any = list(other.stream())
    except requests.HTTPError as error:
        rest = refusal(error).status_code
    return {
        "chunks": chunks,
        "status": job.status(),
        "output": job.output(),
        "cancel": cancelled["status"],
        "rest": rest,
    }


def queue() -> dict[str, Any]:
    """Fill a queue behind one running job, look at it, empty it."""
    endpoint = runpod.Endpoint("local")
    running = endpoint.run({"path": "/wait"})
    until(lambda: running.status() == "IN_PROGRESS")
    waiting = [endpoint.run({"path": "/wait"}) for _ in range(3)]
    before = endpoint.health()
    purged = endpoint.purge_queue()
    statuses = [job.status() for job in waiting]
    still = running.status()
    running.cancel()
    until(lambda: running.status() == "CANCELLED")
    return {
        "before": before,
        "purged": purged,
        "statuses": statuses,
        "running": still,
        "after": endpoint.health(),
    }


async def asynchronous() -> dict[str, Any]:
    """The same with the asynchronous client."""
    async with ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("local", session)
        job = await endpoint.run({"path": "/add", "a": 2, "b": 3})
        output = await job.output(timeout=20)
        told = await endpoint.run({"path": "/tokens", "prompt": "a b"})
        chunks = [chunk async for chunk in told.stream()]
        long = await endpoint.run({"path": "/wait"})
        cancelled = await long.cancel()
        health = await endpoint.health()
        purged = await endpoint.purge_queue()
        return {
            "output": output, "status": await job.status(), "chunks": chunks, "cancel": cancelled["status"],
            "health": sorted(health), "purged": purged,
        }  # fmt: skip


if __name__ == "__main__":
    results = {
        "calls": calls(), "refusals": refusals(), "streams": streams(), "queue": queue(),
        "asynchronous": asyncio.run(asynchronous()),
    }  # fmt: skip
    print(json.dumps(results))
