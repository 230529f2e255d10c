"""The client for RunPod, against a stand-in for its platform with a worker that takes its jobs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.clients.runpod import RunPodClient
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret, Timeouts
from router_core.testing.runpod_api import RunpodApi
from router_core.testing.upstream import Upstream
from tests.gateway.calling import ask, deployment, make_call, serving
from tests.gateway.runpod_worker import HELLO, KEY, cancelled, make, submitted, take, working


async def test_job_is_run_and_its_output_is_the_answer(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """The worker gets the request of OpenAI with its own name of the model; its output comes back."""
    taken = []

    def work(given: Any) -> dict[str, Any]:
        taken.append(given)
        return {"output": {"text": "Hi!", "usage": {"input": 3, "output": 2}}}

    async with working(runpod_api, work), serving(make(runpod_api, pool)) as url:
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
            got = await sdk.chat.completions.create(model="x", messages=HELLO["messages"], max_tokens=5)
    assert taken == [{"messages": HELLO["messages"], "model": "m", "max_tokens": 5}]
    assert got.choices[0].message.content == "Hi!"
    assert got.usage is not None
    assert got.usage.total_tokens == 5
    assert runpod_api.seen("run")[0].headers["authorization"] == f"Bearer {KEY}"
    assert not runpod_api.seen("cancel")


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("openai", {"openai_route": "/v1/chat/completions", "openai_input": HELLO | {"model": "m"}}),
        ("path", {"path": "/v1/chat/completions", "method": "POST"} | HELLO | {"model": "m"}),
    ],
)
async def test_inputs_of_other_workers(
    runpod_api: RunpodApi, pool: ConnectionPool, form: str, wanted: dict[str, Any]
) -> None:
    """Workers for vLLM and services of ours take their input in their own form."""
    taken = []

    def work(given: Any) -> dict[str, Any]:
        taken.append(given)
        return {"output": "x"}

    async with working(runpod_api, work):
        client = make(runpod_api, pool, input=form, execution_timeout=9, ttl=60)
        assert (await ask(client, "chat/completions", HELLO)).status == 200
    assert taken == [wanted]
    assert runpod_api.seen("run")[0].json["policy"] == {"executionTimeout": 9000, "ttl": 60_000}


async def test_sync_saves_looks(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """With ``sync`` the platform waits for the end itself."""
    async with working(runpod_api, lambda given: {"output": "x"}):
        assert (await ask(make(runpod_api, pool, sync=True), "chat/completions", HELLO)).status == 200
    assert len(runpod_api.seen("runsync")) == 1
    assert not runpod_api.seen("status")
    assert 29_000 <= int(runpod_api.seen("runsync")[0].query["wait"]) <= 30_000


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("made", "status", "message"),
    [
        ({"error": f"no, {KEY}\ntraceback: x"}, 500, "no, ***"),
        ({"error": json.dumps({"error_type": "ValueError", "error_message": "oh"})}, 500, "oh"),
        ({"output": [{"error": {"message": "bad", "type": "BadRequestError", "code": 400}}]}, 400, "bad"),
        ({"output": {"object": "error", "message": "long", "code": 400}}, 400, "long"),
    ],
    ids=["text", "sdk", "vllm", "older-vllm"],
)  # fmt: skip
async def test_jobs_that_fail(
    runpod_api: RunpodApi, pool: ConnectionPool, made: dict[str, Any], status: int, message: str, stream: bool
) -> None:
    """A failed job is an error in the shape of OpenAI with the status that it says, without our key."""
    async with working(runpod_api, lambda given: made):
        reply = await ask(make(runpod_api, pool), "chat/completions", HELLO | {"stream": stream})
    assert reply.status == status
    assert json.loads(reply.body or b"")["error"]["message"] == message


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_ends_that_others_bring_about(
    runpod_api: RunpodApi, pool: ConnectionPool, stream: bool
) -> None:
    """A job that was cancelled or has timed out at the platform is told as such."""
    for end, status in ((runpod_api.cancel, 503), (runpod_api.time_out, 504)):
        task = asyncio.ensure_future(
            ask(make(runpod_api, pool), "chat/completions", HELLO | {"stream": stream})
        )
        job = await submitted(runpod_api)
        await asyncio.to_thread(end, job)
        reply = await task
        assert reply.status == status
        assert json.loads(reply.body or b"")["error"]["type"] == "server_error"
        runpod_api.requests.clear()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_caller_that_goes_away_cancels_the_job(
    runpod_api: RunpodApi, pool: ConnectionPool, stream: bool
) -> None:
    """A job that nobody waits for any more is cancelled."""
    client = make(runpod_api, pool)
    task = asyncio.ensure_future(ask(client, "chat/completions", HELLO | {"stream": stream}))
    job = await submitted(runpod_api)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.aclose()
    await cancelled(runpod_api, job)


async def test_deadline_cancels_the_job(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """A job that is not taken in time is given up, and so is one that is taken and not done."""
    client = make(runpod_api, pool, Timeouts(first_byte=0.4))
    with pytest.raises(UpstreamFailure, match="IN_QUEUE") as caught:
        await ask(client, "chat/completions", HELLO, seconds=0.4)
    assert caught.value.kind == "timeout"
    await client.aclose()
    await cancelled(runpod_api, runpod_api.seen("status")[0].job)
    runpod_api.requests.clear()
    task = asyncio.ensure_future(ask(client, "chat/completions", HELLO))
    await submitted(runpod_api)
    await take(runpod_api)
    with pytest.raises(UpstreamFailure, match="IN_PROGRESS"):
        await task
    await client.aclose()


async def test_looks_that_fail_are_repeated(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """A platform that stumbles while a job runs does not lose it; one that fails for good does."""
    faults = [runpod_api.fault("status", "drop", times=2), runpod_api.fault("status", status=502, times=2)]
    async with working(runpod_api, lambda given: {"output": "x"}):
        assert (await ask(make(runpod_api, pool), "chat/completions", HELLO)).status == 200
    assert sum(fault.hits for fault in faults) > 0
    for fault in faults:
        fault.lift()
    down = runpod_api.fault("status", status=500, times=None)
    reply = await ask(make(runpod_api, pool), "chat/completions", HELLO)
    down.lift()
    assert reply.status == 500
    assert down.hits == 5


@pytest.mark.parametrize(("action", "stream"), [("status", False), ("stream", True), ("run", False)])
@pytest.mark.parametrize("status", [401, 404, 429])
async def test_refusals(
    runpod_api: RunpodApi, pool: ConnectionPool, action: str, stream: bool, status: int
) -> None:
    """What the platform refuses for good comes back with its status, in the shape of OpenAI."""
    fault = runpod_api.fault(action, status=status, times=None)
    client = make(runpod_api, pool)
    reply = await ask(client, "chat/completions", HELLO | {"stream": stream})
    fault.lift()
    await client.aclose()
    assert reply.status == status
    assert json.loads(reply.body or b"")["error"]["message"] == "as the test wants it"


@pytest.mark.parametrize("action", ["run", "stream"])
async def test_garbage(runpod_api: RunpodApi, pool: ConnectionPool, action: str) -> None:
    """An answer that is no answer of the platform is a failure of the upstream."""
    runpod_api.fault(action, "garbage")
    client = make(runpod_api, pool)
    with pytest.raises(UpstreamFailure) as caught:
        await ask(client, "chat/completions", HELLO | {"stream": True})
    await client.aclose()
    assert caught.value.kind == "malformed"


async def test_output_of_no_known_shape(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """An output that cannot be read is a failure of the upstream, streamed or not."""
    async with working(runpod_api, lambda given: {"output": {"x": 1}}):
        with pytest.raises(UpstreamFailure, match="no shape"):
            await ask(make(runpod_api, pool), "chat/completions", HELLO)
        with pytest.raises(UpstreamFailure, match="no shape"):
            await ask(make(runpod_api, pool), "chat/completions", HELLO | {"stream": True})


# -- the OpenAI-compatible route ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "/", "/openai", "/openai/v1"])
async def test_openai_route(pool: ConnectionPool, end: str) -> None:
    """Without a mode the OpenAI-compatible route of the endpoint is used, however its address is written."""
    async with Upstream() as upstream:
        made = deployment("runpod", base_url=f"{upstream.url}/v2/abc{end}", key=Secret(KEY))
        async with serving(RunPodClient(made, pool)) as url, AsyncOpenAI(base_url=url, api_key="k") as sdk:
            await sdk.chat.completions.create(model="x", messages=HELLO["messages"])
        seen = upstream.requests[0]
        assert seen.target == "/v2/abc/openai/v1/chat/completions"
        assert seen.json()["model"] == "m"
        assert seen.headers["authorization"] == f"Bearer {KEY}"


async def test_probe_asks_the_platform(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """The probe starts no worker: the platform tells how the endpoint is."""
    assert "workers" in json.loads((await make(runpod_api, pool).probe_once(5)).body or b"")
    assert [each.action for each in runpod_api.requests] == ["health"]


def test_address_by_id() -> None:
    """The id of the endpoint is enough."""
    made = deployment("runpod", key=Secret(KEY), args={"endpoint_id": "abc/1"})
    client = RunPodClient(made, ConnectionPool())
    assert (client._address.host_header, client._address.path) == ("api.runpod.ai", "/v2/abc%2F1")
    assert client.deployment is made


async def test_what_is_not_there(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """Uploads and unknown endpoints are refused before a job is made."""
    client = make(runpod_api, pool)
    for call, status in (
        (make_call("audio/transcriptions", b"x", "multipart/form-data; boundary=x"), 422),
        (make_call("chat/completions", b"x", "text/plain"), 415),
    ):
        with pytest.raises(HTTPError) as caught:
            await client.send(call, 1e9)
        assert caught.value.status == status
    assert not runpod_api.requests


@pytest.mark.parametrize(
    "args",
    [
        {"mode": "x"}, {"input": "x"}, {"poll": 0}, {"poll_max": "x"}, {"sync": 1}, {"ttl": -1},
        {"endpoint_id": 5},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(args: dict[str, Any]) -> None:
    """A wrong argument is told when the client is made, and so is what is missing."""
    with pytest.raises(Misconfigured):
        RunPodClient(deployment("runpod", base_url="http://x", key=Secret(KEY), args=args), ConnectionPool())
    with pytest.raises(Misconfigured):
        RunPodClient(deployment("runpod", key=Secret(KEY)), ConnectionPool())


async def test_errors_are_those_of_the_sdk(runpod_api: RunpodApi, pool: ConnectionPool) -> None:
    """The SDK of OpenAI raises what it raises for OpenAI."""
    runpod_api.fault("run", status=429)
    async with (
        serving(make(runpod_api, pool)) as url,
        AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk,
    ):
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="x", messages=HELLO["messages"])
