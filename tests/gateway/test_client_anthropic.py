"""The client for Anthropic, against a stand-in for its API on real sockets, asked by the SDK of OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from router_core.errors import HTTPError
from router_core.gateway.clients import chat_stream
from router_core.gateway.clients.anthropic import AnthropicClient
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret, Timeouts
from router_core.testing.anthropic_api import AnthropicApi, Turn
from router_core.testing.upstream_faults import SSE, Behaviour, raw, reset_in_stream
from tests.gateway.calling import ask, deployment, events, read, serving

MODEL = "claude-sonnet-4-5"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


class Point(BaseModel):
    """JSON that is wanted."""

    x: int


@pytest.fixture
async def api() -> AsyncIterator[AnthropicApi]:
    """An account at Anthropic."""
    async with AnthropicApi() as api:
        yield api


def make(api: AnthropicApi, pool: ConnectionPool, **members: Any) -> AnthropicClient:
    """Return a client of the account."""
    members.setdefault("model", MODEL)
    return AnthropicClient(deployment("anthropic", base_url=api.url, key=Secret(api.key), **members), pool)


@pytest.fixture
def client(api: AnthropicApi, pool: ConnectionPool) -> AnthropicClient:
    """A client."""
    return make(api, pool)


@pytest.fixture
async def sdk(client: AnthropicClient) -> AsyncIterator[AsyncOpenAI]:
    """The SDK of OpenAI, in front of the client."""
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        yield sdk


async def test_chat(api: AnthropicApi, sdk: AsyncOpenAI) -> None:
    """A chat is a chat completion, its usage counted as OpenAI counts."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
    }
    details = {"output_tokens_details": {"thinking_tokens": 4}}
    api.answers.append(
        Turn([{"type": "text", "text": "Hi "}, {"type": "text", "text": "ho"}], usage=usage | details)
    )
    raw = await sdk.chat.completions.with_raw_response.create(model="x", messages=HELLO, temperature=1.5)
    got = ChatCompletion.model_validate(json.loads(raw.text))
    assert got.choices[0].message.content == "Hi ho"
    assert (got.choices[0].finish_reason, got.model) == ("stop", MODEL)
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (15, 5, 20)
    assert got.usage.prompt_tokens_details is not None
    assert got.usage.prompt_tokens_details.cached_tokens == 3
    assert got.usage.completion_tokens_details is not None
    assert got.usage.completion_tokens_details.reasoning_tokens == 4
    assert api.bodies[0]["temperature"] == 1.0
    seen = api.upstream.requests[0]
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == (api.key, "2023-06-01")
    assert "authorization" not in seen.headers


async def test_newer_version_and_betas(api: AnthropicApi, pool: ConnectionPool) -> None:
    """A version and betas can be asked for; the newer version takes a bearer token and no temperature."""
    client = make(api, pool, args={"version": "2026-10-21", "beta": ["a-1", "b-2"]})
    assert (await ask(client, "chat/completions", {"messages": HELLO, "temperature": 1})).status == 200
    headers = api.upstream.requests[0].headers
    assert headers["authorization"] == f"Bearer {api.key}"
    assert headers["anthropic-beta"] == "a-1,b-2"
    assert "x-api-key" not in headers


async def test_stream(sdk: AsyncOpenAI) -> None:
    """A stream is a stream of chunks, each true to its type, with the usage at its end."""
    got = []
    async for chunk in await sdk.chat.completions.create(
        model="x", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ):
        got.append(ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True)))
    text = "".join(each.choices[0].delta.content or "" for each in got if each.choices)
    assert text == f"Hello from {MODEL}."
    assert got[0].choices[0].delta.role == "assistant"
    assert got[-2].choices[0].finish_reason == "stop"
    assert got[-1].usage is not None
    assert (got[-1].usage.prompt_tokens, got[-1].usage.completion_tokens) == (12, 5)
    assert {each.id for each in got} == {got[0].id}


async def test_tools_both_ways(api: AnthropicApi, sdk: AsyncOpenAI) -> None:
    """Parallel tool calls come with their own indexes, streamed or not, and their results go back."""
    calls: list[dict[str, Any]] = [
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Köln", "n": [1, 2]}},
        {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}},
    ]
    content = [{"type": "text", "text": "Let me see."}, *calls]
    api.answers.extend([Turn(content), Turn(content)])
    asked: dict[str, Any] = {"model": "x", "messages": HELLO, "tools": [TOOL]}
    whole = await sdk.chat.completions.create(**asked)
    async with sdk.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
    for got in (whole, final):
        choice = got.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        made = choice.message.tool_calls
        assert made is not None
        assert [each.id for each in made] == ["toolu_1", "toolu_2"]
        assert [json.loads(each.function.arguments or "{}") for each in made] == [
            {"city": "Köln", "n": [1, 2]},
            {},
        ]
    message = whole.choices[0].message.model_dump(exclude_none=True)
    results = [{"role": "tool", "tool_call_id": f"toolu_{n}", "content": f"rain {n}"} for n in (1, 2)]
    again = await sdk.chat.completions.create(**(asked | {"messages": [*HELLO, message, *results]}))
    assert again.choices[0].message.content == f"Hello from {MODEL}."
    assert [block["tool_use_id"] for block in api.bodies[-1]["messages"][2]["content"]] == [
        "toolu_1",
        "toolu_2",
    ]


@pytest.mark.parametrize("model", [MODEL, "claude-3-haiku-20240307"], ids=["schema", "tool"])
async def test_json_is_the_answer(api: AnthropicApi, pool: ConnectionPool, model: str) -> None:
    """JSON of a schema comes as content, whether the model has schemas or a tool had to be used for it."""
    answer = Turn([{"type": "text", "text": '{"x": 3}'}])
    if model != MODEL:
        answer = Turn(
            [
                {"type": "text", "text": "So:"},
                {"type": "tool_use", "id": "t", "name": "Point", "input": {"x": 3}},
            ]
        )
    api.answers.extend([answer, answer])
    client = make(api, pool, model=model)
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        got = await sdk.chat.completions.parse(model="x", messages=HELLO, response_format=Point)
        form = api.bodies[0].get("output_config") or api.bodies[0]["tools"]
        assert "x" in json.dumps(form)
        streamed = await ask(client, "chat/completions", {
            "messages": HELLO, "stream": True,
            "response_format": {"type": "json_schema", "json_schema": {
                "name": "Point", "strict": True, "schema": Point.model_json_schema()}}})  # fmt: skip
        deltas = [each["choices"][0] for each in (await events(streamed))[:-2]]
    assert got.choices[0].message.parsed == Point(x=3)
    assert got.choices[0].finish_reason == deltas[-1]["finish_reason"] == "stop"
    said = "".join(each["delta"].get("content") or "" for each in deltas)
    assert json.loads(said.removeprefix("So:")) == {"x": 3}


async def test_thinking_is_told_and_can_be_sent_back(api: AnthropicApi, client: AnthropicClient) -> None:
    """Thoughts come as reasoning_content, and whole with their signature, streamed or not."""
    block = {"type": "thinking", "thinking": "They greet me.", "signature": "c2lnbmVk"}
    content = [block, {"type": "redacted_thinking", "data": "xyz"}, {"type": "text", "text": "Hi"}]
    api.answers.extend([Turn(content), Turn(content)])
    body = {"messages": HELLO, "reasoning_effort": "low"}
    whole = json.loads((await ask(client, "chat/completions", body)).body or b"")["choices"][0]["message"]
    assert whole["reasoning_content"] == "They greet me."
    assert whole["thinking_blocks"] == content[:2]
    got = await events(await ask(client, "chat/completions", body | {"stream": True}))
    deltas = [each["choices"][0]["delta"] for each in got[:-2]]
    assert "".join(each.get("reasoning_content", "") for each in deltas) == "They greet me."
    assert [block for each in deltas for block in each.get("thinking_blocks", [])] == content[:2]
    reply = await ask(
        client, "chat/completions", {"messages": [*HELLO, whole, *HELLO], "reasoning_effort": "low"}
    )
    assert reply.status == 200
    assert api.bodies[-1]["messages"][1]["content"] == content


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("pause_turn", "stop"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), ("new_reason", "stop"),
    ],
)  # fmt: skip
async def test_reasons_to_stop(api: AnthropicApi, client: AnthropicClient, reason: str, finish: str) -> None:
    """Every reason has its counterpart, streamed or not; a refusal says why."""
    details = {"type": "refusal", "category": "bio", "explanation": "No."} if reason == "refusal" else None
    turn = Turn([{"type": "text", "text": "x"}], stop_reason=reason, stop_details=details)
    api.answers.extend([turn, turn])
    whole = json.loads((await ask(client, "chat/completions", {"messages": HELLO})).body or b"")["choices"][0]
    got = await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert whole["finish_reason"] == got[-3]["choices"][0]["finish_reason"] == finish
    assert whole["message"]["refusal"] == ("No." if details else None)
    assert got[-3]["choices"][0]["delta"].get("refusal") == ("No." if details else None)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        (401, "authentication_error", "invalid x-api-key"), (403, "permission_error", "no"),
        (404, "not_found_error", "model: x"), (413, "request_too_large", "too large"),
        (429, "rate_limit_error", "slow down"), (500, "api_error", "oh"),
        (529, "overloaded_error", "Overloaded"),
    ],
)  # fmt: skip
async def test_errors(
    api: AnthropicApi, client: AnthropicClient, status: int, kind: str, message: str
) -> None:
    """Errors keep their status, their type and their Retry-After, in the shape of OpenAI."""
    api.fail(status, kind, message, retry_after="4")
    reply = await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    assert (reply.status, reply.headers["retry-after"]) == (status, "4")
    error = json.loads(reply.body or b"")["error"]
    assert (error["message"], error["type"]) == (message, kind)


async def test_errors_are_those_of_the_sdk(api: AnthropicApi, sdk: AsyncOpenAI) -> None:
    """The SDK of OpenAI raises what it raises for OpenAI."""
    api.fail(429, "rate_limit_error", "slow down")
    with pytest.raises(openai.RateLimitError):
        await sdk.chat.completions.create(model="x", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model="x", messages=HELLO, n=3)
    assert caught.value.param == "n"


async def test_error_inside_a_stream(api: AnthropicApi, client: AnthropicClient) -> None:
    """An error event becomes one in the shape of OpenAI, without our key, and nothing follows it."""
    text = f"Overloaded {api.key}"
    api.answers.append(
        Turn([{"type": "text", "text": "Hello there"}], error_after=4, error=("overloaded_error", text))
    )
    got = await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert got[-1]["error"]["type"] == "overloaded_error"
    assert got[-1]["error"]["message"].startswith("Overloaded")
    assert api.key not in json.dumps(got)
    assert sum("error" in each for each in got) == 1


async def _drain(reply: Reply) -> None:
    await read(reply)


async def _forever(exchange: Any) -> None:
    await exchange.forever().wait()


@pytest.mark.parametrize(
    "piece",
    [
        b"data: {\n\n", b"data: 5\n\n", b'data: {"type": "message_start"}\n\n',
        b'data: {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta"}}\n\n',
        b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}}\n\n',
        b'data: {"type": "content_block_start", "content_block": {}}\n\n', b"data: " + b"x" * 1_100_000,
    ],
    ids=["half", "number", "no-message", "no-block", "no-name", "no-index", "endless"],
)  # fmt: skip
async def test_garbage_in_a_stream_is_malformed(
    api: AnthropicApi, client: AnthropicClient, piece: bytes
) -> None:
    """What is no stream of messages is a failure of the upstream, within bounds, and hangs up."""

    async def run(exchange: Any) -> None:
        await exchange.head(200, SSE)
        await exchange.chunk(piece)
        await _forever(exchange)

    api.upstream.queue(Behaviour("garbage", run))
    reply = await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    with pytest.raises(UpstreamFailure) as caught:
        await _drain(reply)
    assert (caught.value.kind, caught.value.started) == ("malformed", True)
    await api.upstream.until(lambda: api.upstream.open == 0)


async def test_odd_blocks_do_not_matter(api: AnthropicApi, client: AnthropicClient) -> None:
    """Blocks and events that are new to us, and those of tools at the provider, are passed over."""
    content: list[Any] = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "future_block", "x": 1}, {"type": "text", "text": "Found."},
    ]  # fmt: skip
    api.answers.extend([Turn(content), Turn(content)])
    whole = json.loads((await ask(client, "chat/completions", {"messages": HELLO})).body or b"")
    assert whole["choices"][0]["message"]["content"] == "Found."
    got = await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in got[:-2]) == "Found."


async def test_cut_stream_has_no_end(api: AnthropicApi, client: AnthropicClient) -> None:
    """A stream that ends before its last event does not end with [DONE]."""
    begun = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    api.upstream.queue(raw(head + begun))
    assert b"[DONE]" not in await read(
        await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    )
    api.upstream.queue(reset_in_stream())
    reply = await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    with pytest.raises(UpstreamFailure):
        await _drain(reply)


async def test_closing_hangs_up(api: AnthropicApi, client: AnthropicClient) -> None:
    """Leaving a stream, read or not, ends the call at the upstream; so does a cancellation before it."""
    for read_one in (True, False):
        api.answers.append(Turn([{"type": "text", "text": "Hello there"}], pause=9))
        reply = await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
        assert reply.chunks is not None
        if read_one:
            assert b"assistant" in await anext(reply.chunks)
        await reply.aclose()
        await api.upstream.until(lambda: api.upstream.open == 0)
    api.upstream.queue(Behaviour("hang", _forever))
    task = asyncio.ensure_future(ask(client, "chat/completions", {"messages": HELLO}))
    await api.upstream.until(lambda: api.upstream.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await api.upstream.until(lambda: api.upstream.open == 0)


async def test_connection_is_used_again_after_a_stream(api: AnthropicApi, client: AnthropicClient) -> None:
    """A stream that was read to its end leaves its connection for the next call."""
    for _ in range(3):
        await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert api.upstream.connections == 1


async def test_upstream_that_does_not_end_is_left(
    api: AnthropicApi, client: AnthropicClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last event the answer has to end soon: a stream is not held open for nothing."""
    monkeypatch.setattr(chat_stream, "_END", 0.01)

    async def run(exchange: Any) -> None:
        await exchange.head(200, SSE)
        await exchange.chunk(b'data: {"type": "message_start", "message": {}}\n\n')
        await exchange.chunk(b'data: {"type": "message_stop"}\n\n')
        await exchange.forever().wait()

    api.upstream.queue(Behaviour("endless", run))
    got = await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert got[-1] == "[DONE]"
    await api.upstream.until(lambda: api.upstream.open == 0)


async def test_silence_is_a_timeout(api: AnthropicApi, pool: ConnectionPool) -> None:
    """An upstream that says nothing is given up after the patience of the deployment."""
    client = make(api, pool, timeouts=Timeouts(first_byte=0.05))
    api.upstream.queue(Behaviour("hang", _forever))
    with pytest.raises(UpstreamFailure) as caught:
        await ask(client, "chat/completions", {"messages": HELLO})
    assert caught.value.kind == "timeout"


async def test_probe_lists_the_models(api: AnthropicApi, client: AnthropicClient) -> None:
    """The probe asks for the models, with the key and the version."""
    reply = await client.probe_once(5)
    assert json.loads(reply.body or b"")["data"][0]["id"] == "claude-opus-4-1"
    api.key = "another"
    assert (await client.probe_once(5)).status == 401


async def test_what_is_not_there(client: AnthropicClient) -> None:
    """Endpoints that Anthropic does not have are refused, and so is a body that is no JSON."""
    assert set(client.ENDPOINT_TABLE) == {"chat/completions", "models"}
    for endpoint in ("completions", "embeddings"):
        with pytest.raises(HTTPError) as caught:
            await ask(client, endpoint, {"prompt": "x"})
        assert caught.value.status == 422
