"""Platforms that give an answer up after a while: waits and live answers end before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router_core.binding.inputs import Inputs
from router_core.http.message import Headers, Request, Response
from router_core.jobs.http import accept
from tests.jobs.serving import ANN, Bench, data, until


def _request(bench: Bench, path: str, query: str, seconds: float, **params: str) -> Request:
    return Request(
        "POST", path, query, Headers([("prefer", "wait=50")]), principal=ANN, path_params=params,
        answer_by=bench.clock.monotonic() + seconds,
    )  # fmt: skip


async def _passed(bench: Bench, task: asyncio.Task[Response], seconds: int) -> Response:
    for _ in range(seconds):
        assert not task.done()
        await bench.clock.pass_time(1, turns=8)
    return await asyncio.wait_for(task, 60)


async def test_a_sync_wait_ends_with_the_job_before_the_platform_gives_up() -> None:
    """202 after 5 s though the caller would wait for 50; the answer names the wait that was applied."""
    bench = Bench()
    request = _request(bench, "/paint", "", 5)
    inputs = Inputs({"prompt": "a cat"})
    task = asyncio.create_task(accept(bench.service, bench.routes["/paint"], request, inputs))
    await until(lambda: bench.clock.sleepers)
    answer = await _passed(bench, task, 5)
    assert (answer.status, answer.header("preference-applied")) == (202, "wait=5")
    assert data(answer)["status"] == "queued"


async def test_a_long_poll_ends_before_the_platform_gives_up() -> None:
    """The job as it is after 3 s, not after 20."""
    bench = Bench()
    job = (await bench.submit()).job
    request = _request(bench, f"/jobs/{job.id}", "wait=20", 3, job_id=job.id)
    task = asyncio.create_task(bench.http.get(request))
    await until(lambda: bench.clock.sleepers)
    answer = await _passed(bench, task, 3)
    assert (answer.status, data(answer)["status"]) == (200, "queued")


@pytest.mark.parametrize("seconds", [0, 4])
async def test_a_live_answer_ends_where_it_is(seconds: int) -> None:
    """After what there is to tell; the reader resumes from the last number."""
    bench = Bench()
    claimed = await bench.claim((await bench.submit()).job.id)
    await bench.say(claimed, "a")
    request = _request(bench, f"/jobs/{claimed.id}/events", "", seconds, job_id=claimed.id)
    answer = await bench.http.events(request)
    body: Any = answer.body
    chunks: list[bytes] = []

    async def read() -> Response:
        chunks.extend([chunk async for chunk in body])
        return answer

    task = asyncio.create_task(read())
    if seconds:
        await until(lambda: bench.clock.sleepers)
    await _passed(bench, task, seconds)
    text = b"".join(chunks)
    assert text.startswith(b"event: job\n")
    assert text.endswith(b'event: output\nid: 1\ndata: "a"\n\n')
    assert bench.hub.waiting == 0
