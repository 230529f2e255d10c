"""Streams of jobs at RunPod: read as they are put out, ended once, and let go of when nobody reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from router_core.gateway.clients.runpod import RunPodClient
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret, Timeouts
from router_core.testing.runpod_api import RunpodApi
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import ok
from tests.gateway.calling import ask, deployment, events, read, serving
from tests.gateway.runpod_worker import (
    CHUNKS,
    HELLO,
    KEY,
    QUICK,
    cancelled,
    make,
    put_out,
    submitted,
    take,
    working,
)

USED = {"usage": {"input": 1, "output": 2}}
STREAMS: list[list[Any]] = [
    CHUNKS, ["Hel", "lo"], [{"text": "Hel"}, {"text": "lo"} | USED],
    [{"choices": [{"tokens": ["Hel", "l"]}]}, {"choices": [{"tokens": ["o"]}]} | USED],
    [f"data: {json.dumps(each)}\n\n" for each in CHUNKS] + ["data: [DONE]"],
]  # fmt: skip


@pytest.mark.parametrize("outputs", STREAMS, ids=["chunks", "texts", "objects", "tokens", "events"])
async def test_streams(runpod_api: RunpodApi, pool: ConnectionPool, outputs: list[Any]) -> None:
    """What a job puts out bit by bit is a stream of chunks with one end, whatever form it has."""
    async with working(runpod_api, lambda given: outputs):
        got = await events(await ask(make(runpod_api, pool), "chat/completions", HELLO | {"stream": True}))
    assert got.count("[DONE]") == 1
    assert got[-1] == "[DONE]"
    deltas = [each["choices"][0].get("delta", {}) for each in got[:-1] if each["choices"]]
    assert "".join(each.get("content") or "" for each in deltas) == "Hello"
    assert not runpod_api.seen("cancel")


async def test_stream_of_completions(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """The older completions are streamed as well."""
    async with working(runpod_api, lambda given: ["a", {"text": "b", "usage": {"input": 1, "output": 2}}]):
        got = await events(await ask(make(runpod_api, pool), "completions", {"prompt": "x", "stream": True}))
    assert "".join(each["choices"][0]["text"] for each in got[:-2]) == "ab"
    assert got[-3]["choices"][0]["finish_reason"] == "stop"
    assert got[-2]["usage"]["total_tokens"] == 3


async def test_worker_without_streams(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """A stream is made of the whole output where a worker puts out nothing before its end."""
    message = {"role": "assistant", "content": "Hi", "tool_calls": [
        {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}  # fmt: skip
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    head = {"id": "c", "object": "chat.completion", "created": 7, "model": "m"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    output = head | {"choices": [choice], "usage": usage}
    async with working(runpod_api, lambda given: {"output": output}), serving(make(runpod_api, pool)) as url:
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
            async with sdk.chat.completions.stream(model="x", messages=HELLO["messages"]) as stream:
                final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hi"
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    assert final.usage is not None


async def test_error_inside_a_stream(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """An error after the first output is an error event behind what came before it, and the end."""
    client = make(runpod_api, pool)
    task = asyncio.ensure_future(ask(client, "chat/completions", HELLO | {"stream": True}))
    job = await submitted(runpod_api)
    await take(runpod_api)
    await put_out(runpod_api, job, CHUNKS[1])
    reply = await task
    for output in (CHUNKS[2], {"error": f"oh {KEY}"}, CHUNKS[2]):
        await put_out(runpod_api, job, output)
    got = await events(reply)
    await client.aclose()
    assert "".join(each["choices"][0]["delta"]["content"] for each in got[:-1]) == "Hello"
    assert got[-1]["error"]["message"] == "oh ***"


async def begun(runpod_api: RunpodApi, client: RunPodClient) -> tuple[Reply, str]:
    """Ask for a stream whose job has put out a first piece and goes on."""
    task = asyncio.ensure_future(ask(client, "chat/completions", HELLO | {"stream": True}))
    job = await submitted(runpod_api)
    await take(runpod_api)
    await put_out(runpod_api, job, "Hi")
    return await task, job


async def test_stream_that_is_left_cancels_the_job(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """Closing a stream before its end cancels its job, read or not."""
    client = make(runpod_api, pool)
    reply, job = await begun(runpod_api, client)
    await reply.aclose()
    await client.aclose()
    await cancelled(runpod_api, job)


async def test_silence_inside_a_stream(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """A stream that stops saying anything is a timeout, and its job is cancelled."""
    client = make(runpod_api, pool, Timeouts(idle=0.2))
    reply, job = await begun(runpod_api, client)
    with pytest.raises(UpstreamFailure, match="says nothing"):
        await _drain(reply)
    await client.aclose()
    await cancelled(runpod_api, job)


async def _drain(reply: Reply) -> None:
    await read(reply)


async def test_looks_that_are_refused_are_repeated(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """Where the platform answered with an error no output was on its way: the stream goes on."""
    fault = runpod_api.fault("stream", status=429, times=3)
    async with working(runpod_api, lambda given: ["Hel", "lo"]):
        got = await events(await ask(make(runpod_api, pool), "chat/completions", HELLO | {"stream": True}))
    assert fault.hits == 3
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in got[:-1]) == "Hello"


async def test_output_that_was_lost_ends_the_stream(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """An answer that did not arrive may have held an output: the stream is not given out as whole."""
    client = make(runpod_api, pool)
    reply, job = await begun(runpod_api, client)
    runpod_api.fault("stream", "lose")
    with pytest.raises(UpstreamFailure) as caught:
        await _drain(reply)
    await client.aclose()
    await cancelled(runpod_api, job)
    assert (caught.value.sent, caught.value.started) == (True, True)


async def test_stream_is_read_until_nothing_is_left(pool: ConnectionPool) -> None:
    """A job that has ended may still have outputs to be read: an empty answer is the end, not the status."""
    told: list[dict[str, Any]] = [{"id": "j", "status": "IN_QUEUE"}]
    told += [{"id": "j", "status": "COMPLETED", "stream": [{"output": each}]} for each in ("Hel", "lo")]
    async with Upstream() as upstream:
        upstream.queue(*(ok(each) for each in [*told, {"id": "j", "status": "COMPLETED", "stream": []}]))
        made = deployment("runpod", base_url=f"{upstream.url}/v2/x", key=Secret(KEY), args=QUICK)
        got = await events(await ask(RunPodClient(made, pool), "chat/completions", HELLO | {"stream": True}))
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in got[:-1]) == "Hello"
    assert got[-1] == "[DONE]"
