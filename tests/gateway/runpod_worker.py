"""A worker for the stand-in of RunPod's platform, and what tests of the client for it share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from router_core.gateway.clients.runpod import RunPodClient
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret, Timeouts
from router_core.testing.runpod_api import RunpodApi
from tests.gateway.calling import deployment

__all__ = ["CHUNKS", "HELLO", "KEY", "QUICK", "cancelled", "make", "put_out", "submitted", "take", "working"]

HELLO: Any = {"messages": [{"role": "user", "content": "hello"}]}
KEY = "rp-test-key"
QUICK = {"mode": "queue", "poll": 0.005, "poll_max": 0.02}
CHUNKS: list[dict[str, Any]] = [
    {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [
        {"index": 0, "delta": delta, "finish_reason": None}]}
    for delta in ({"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"})
]  # fmt: skip

Work = Callable[[Any], "dict[str, Any] | list[Any]"]


def make(api: RunpodApi, pool: ConnectionPool, timeouts: Timeouts | None = None, **args: Any) -> RunPodClient:
    """Return a client of the queue."""
    made = deployment(
        "runpod", base_url=api.url, key=Secret(KEY), args=QUICK | args, timeouts=timeouts or Timeouts()
    )
    return RunPodClient(made, pool)


async def _worker(api: RunpodApi, work: Work) -> None:
    """Take jobs and post what ``work`` makes of their input: a body, or outputs of a stream."""
    while True:
        _, taken = await _http(api, "GET", "job-take/w1?gpu=X")
        if not taken:
            continue
        job = json.loads(taken)
        made = work(job["input"])
        if isinstance(made, list):
            for output in made:
                await _http(api, "POST", f"job-stream/w1/{job['id']}?isStream=false", {"output": output})
            made = {"output": []}
        await _http(api, "POST", f"job-done/w1/{job['id']}?isStream=false", made)


async def _http(api: RunpodApi, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    host, _, port = api.url.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} /v2/fake/{path} HTTP/1.1\r\nauthorization: {KEY}\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ")[1]), rest


@asynccontextmanager
async def working(api: RunpodApi, work: Work) -> AsyncIterator[None]:
    """Run a worker."""
    task = asyncio.ensure_future(_worker(api, work))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(api: RunpodApi) -> None:
    """Take a job, and do nothing with it."""
    await _http(api, "GET", "job-take/w1?gpu=X")


async def put_out(api: RunpodApi, job: str, output: Any) -> None:
    """Put out a piece of a stream."""
    await _http(api, "POST", f"job-stream/w1/{job}?isStream=false", {"output": output})


async def submitted(api: RunpodApi) -> str:
    """Wait until a job was looked at, and return its id."""

    def looks() -> list[str]:
        return [each.job for each in api.requests if each.action in ("status", "stream") and each.status]

    await asyncio.to_thread(api.wait, lambda: bool(looks()), 10)
    return looks()[0]


async def cancelled(api: RunpodApi, job: str) -> None:
    """Wait until a job was cancelled by its caller."""
    await asyncio.to_thread(api.wait, lambda: any(each.action == "cancel" for each in api.requests), 10)
    assert (await asyncio.to_thread(api.ended, job, 10)).status == "CANCELLED"
