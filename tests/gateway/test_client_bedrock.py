"""The client for Amazon Bedrock, against Converse on real sockets, asked by the SDK of OpenAI."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.clients.bedrock import BedrockClient
from router_core.gateway.clients.bedrock_answer import ConverseTranslator, read_converse
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import Behaviour, ok, raw
from router_core.testing.upstream_wire import Exchange
from tests.gateway.calling import ask, deployment, events, read, serving
from tests.gateway.eventstream import event, exception, message

MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
KEYS = {"region": "eu-west-1", "access_key_id": "AKID", "secret_access_key": "secret-secret"}
USAGE = {
    "inputTokens": 9, "outputTokens": 4, "totalTokens": 18, "cacheReadInputTokens": 3,
    "cacheWriteInputTokens": 2,
}  # fmt: skip


def converse(*content: dict[str, Any], stop: str = "end_turn") -> Behaviour:
    """Answer whole, as Converse does."""
    body = {
        "output": {"message": {"role": "assistant", "content": list(content)}}, "stopReason": stop,
        "usage": USAGE, "metrics": {"latencyMs": 5},
    }  # fmt: skip
    return ok(body, headers={"x-amzn-requestid": "req-1"})


def streaming(*pieces: bytes) -> Behaviour:
    """Answer with an event stream."""

    async def run(exchange: Exchange) -> None:
        headers = {"content-type": "application/vnd.amazon.eventstream", "transfer-encoding": "chunked"}
        await exchange.head(200, headers)
        for piece in pieces:
            await exchange.chunk(piece)
        await exchange.chunk(b"")

    return Behaviour("stream", run)


def said(text: str = "Hello there", stop: str = "end_turn") -> list[bytes]:
    """Return the events of a text."""
    deltas = [
        event("contentBlockDelta", contentBlockIndex=0, delta={"text": text[at : at + 4]})
        for at in range(0, len(text), 4)
    ]
    return [
        event("messageStart", role="assistant"), *deltas, event("contentBlockStop", contentBlockIndex=0),
        event("messageStop", stopReason=stop), event("metadata", usage=USAGE, metrics={"latencyMs": 1}),
    ]  # fmt: skip


CALLS = [
    event("messageStart", role="assistant"),
    event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "Let me "}}),
    event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "add."}}),
    event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"signature": "sig"}}),
    event("contentBlockStop", contentBlockIndex=0),
    event("contentBlockStart", contentBlockIndex=1, start={"toolUse": {"toolUseId": "t1", "name": "add"}}),
    event("contentBlockDelta", contentBlockIndex=1, delta={"toolUse": {"input": '{"a":'}}),
    event("contentBlockDelta", contentBlockIndex=1, delta={"toolUse": {"input": "1}"}}),
    event("contentBlockStop", contentBlockIndex=1),
    event("contentBlockStart", contentBlockIndex=2, start={"toolUse": {"toolUseId": "t2", "name": "add"}}),
    event("contentBlockStop", contentBlockIndex=2), event("eventOfTomorrow", x=1),
    event("messageStop", stopReason="tool_use"), event("metadata", usage=USAGE, metrics={}),
]  # fmt: skip


@pytest.fixture
def client(upstream: Upstream, pool: ConnectionPool) -> BedrockClient:
    """A client."""
    return BedrockClient(deployment("bedrock", MODEL, base_url=upstream.url, args=KEYS), pool)


async def test_chat(upstream: Upstream, client: BedrockClient) -> None:
    """A chat through the SDK of OpenAI: signed, at the model's path, its usage counted as OpenAI counts."""
    upstream.queue(converse({"text": "Hi "}, {"text": "ho"}))
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        raw_answer = await sdk.chat.completions.with_raw_response.create(model="x", messages=HELLO)
    got = ChatCompletion.model_validate(json.loads(raw_answer.text))
    assert (got.id, got.choices[0].message.content) == ("chatcmpl-req-1", "Hi ho")
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (14, 4, 18)
    assert got.usage.prompt_tokens_details is not None
    assert got.usage.prompt_tokens_details.cached_tokens == 3
    seen = upstream.requests[0]
    assert seen.target == f"/model/{MODEL.replace(':', '%3A')}/converse"
    assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert (
        "/eu-west-1/bedrock/aws4_request, SignedHeaders=accept;content-type;host;x-amz-date, "
        in (seen.headers["authorization"])
    )
    assert seen.json()["messages"] == [{"role": "user", "content": [{"text": "hello"}]}]


async def test_bearer_key(upstream: Upstream, pool: ConnectionPool) -> None:
    """A Bedrock API key is sent as a bearer token, and nothing is signed."""
    made = deployment(
        "bedrock", MODEL, base_url=upstream.url, key=Secret("bedrock-api-key-1"), args={"region": "us-east-1"}
    )
    upstream.queue(converse({"text": "x"}))
    assert (await ask(BedrockClient(made, pool), "chat/completions", {"messages": HELLO})).status == 200
    assert upstream.requests[0].headers["authorization"] == "Bearer bedrock-api-key-1"
    assert "x-amz-date" not in upstream.requests[0].headers


async def test_credentials_that_the_sdk_of_aws_finds(
    upstream: Upstream, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is asked for, the chain of the AWS SDK is used; where it finds nothing, that is said."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    args = {"region": "eu-west-1", "credentials": "default"}
    client = BedrockClient(deployment("bedrock", MODEL, base_url=upstream.url, args=args), pool)
    upstream.queue(converse({"text": "x"}), converse({"text": "x"}))
    for _ in range(2):
        await ask(client, "chat/completions", {"messages": HELLO})
    headers = upstream.requests[1].headers
    assert "Credential=FROMENV/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "token"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    fresh = BedrockClient(deployment("bedrock", MODEL, base_url=upstream.url, args=args), pool)
    with pytest.raises(UpstreamFailure, match="no AWS credentials"):
        await ask(fresh, "chat/completions", {"messages": HELLO})


async def test_stream(upstream: Upstream, client: BedrockClient) -> None:
    """A stream is a stream of chunks for the SDK, with the usage at its end."""
    upstream.queue(streaming(*said("Grüße, hello\n")))
    got = []
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        async for chunk in await sdk.chat.completions.create(model="x", messages=HELLO, stream=True):
            got.append(ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True)))
    assert "".join(each.choices[0].delta.content or "" for each in got if each.choices) == "Grüße, hello\n"
    assert got[0].choices[0].delta.role == "assistant"
    assert got[-2].choices[0].finish_reason == "stop"
    assert got[-1].usage is not None
    assert got[-1].usage.total_tokens == 18
    assert upstream.requests[0].target.endswith("/converse-stream")
    assert upstream.requests[0].headers["accept"] == "application/vnd.amazon.eventstream"


async def test_tools_and_thoughts(upstream: Upstream, client: BedrockClient) -> None:
    """Tool calls have their own indexes, and thoughts come with their signature, streamed or not."""
    upstream.queue(streaming(*CALLS), converse(
        {"reasoningContent": {"reasoningText": {"text": "Let me add.", "signature": "sig"}}},
        {"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": 1}}},
        {"toolUse": {"toolUseId": "t2", "name": "add", "input": {}}}, stop="tool_use"))  # fmt: skip
    body = {"messages": HELLO, "tools": [TOOL]}
    got = await events(await ask(client, "chat/completions", body | {"stream": True}))
    deltas = [each["choices"][0]["delta"] for each in got[:-2]]
    calls = [each["tool_calls"][0] for each in deltas if "tool_calls" in each]
    assert [(each["index"], each.get("id")) for each in calls] == [(0, "t1"), (0, None), (0, None), (1, "t2")]
    assert "".join(each["function"]["arguments"] for each in calls) == '{"a":1}'
    assert got[-3]["choices"][0]["finish_reason"] == "tool_calls"
    whole = json.loads((await ask(client, "chat/completions", body)).body or b"")["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None
    assert [each["id"] for each in whole["message"]["tool_calls"]] == ["t1", "t2"]
    thought = [{"type": "thinking", "thinking": "Let me add.", "signature": "sig"}]
    assert whole["message"]["thinking_blocks"] == thought
    assert [each for delta in deltas for each in delta.get("thinking_blocks", [])] == thought
    assert "".join(each.get("reasoning_content", "") for each in deltas) == "Let me add."


async def test_json_that_a_tool_had_to_write(upstream: Upstream, client: BedrockClient) -> None:
    """JSON of any shape comes as content, streamed or not."""
    start = event(
        "contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t", "name": "json"}}
    )
    delta = event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": {"input": '{"x":3}'}})
    end = [event("messageStop", stopReason="tool_use"), event("metadata", usage=USAGE)]
    whole = converse({"toolUse": {"toolUseId": "t", "name": "json", "input": {"x": 3}}}, stop="tool_use")
    upstream.queue(streaming(CALLS[0], start, delta, *end), whole)
    body = {"messages": HELLO, "response_format": {"type": "json_object"}}
    got = await events(await ask(client, "chat/completions", body | {"stream": True}))
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in got[:-2]) == '{"x":3}'
    answer = json.loads((await ask(client, "chat/completions", body)).body or b"")["choices"][0]
    assert answer["message"]["content"] == '{"x":3}'
    assert answer["finish_reason"] == got[-3]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"), ("malformed_model_output", "stop"), ("new", "stop"),
    ],
)  # fmt: skip
def test_reasons_to_stop(reason: str, finish: str) -> None:
    """Every reason has its counterpart."""
    body = {"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": reason}
    whole = json.loads(read_converse(json.dumps(body).encode(), "i", "m", 7))
    assert whole["choices"][0]["finish_reason"] == finish
    assert f'"finish_reason":"{finish}"'.encode() in translator().feed(b"".join(said(stop=reason)))


def translator() -> ConverseTranslator:
    """Return a fresh translator."""
    return ConverseTranslator("i", "m", 7, lambda kind, text: f"data: {kind}: {text}\n\n".encode())


def test_pieces_do_not_matter() -> None:
    """Byte by byte or all at once: the chunks are the same."""
    data = b"".join(CALLS)
    whole = translator().feed(data)
    single = translator()
    assert b"".join(single.feed(data[at : at + 1]) for at in range(len(data))) == whole
    assert whole.endswith(b"data: [DONE]\n\n")


def test_ends_without_usage_or_in_the_middle() -> None:
    """Without usage it ends well all the same; before its stop or within a message it does not."""
    made = translator()
    made.feed(b"".join(said()[:-1]))
    assert made.close() == b"data: [DONE]\n\n"
    cut = translator()
    cut.feed(b"".join(said()[:3]))
    assert cut.close() == b""
    cut.feed(said()[3][:9])
    with pytest.raises(UpstreamFailure, match="within a message"):
        cut.close()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("throttlingException", "rate_limit_error"), ("modelStreamErrorException", "server_error"),
        ("serviceUnavailableException", "server_error"), ("validationException", "invalid_request_error"),
        ("newException", "server_error"),
    ],
)  # fmt: skip
async def test_exception_inside_a_stream(
    upstream: Upstream, client: BedrockClient, kind: str, word: str
) -> None:
    """An exception becomes an error event in the shape of OpenAI, and nothing follows it."""
    upstream.queue(streaming(*said()[:3], exception(kind, "too much"), *said()[3:]))
    got = await events(await ask(client, "chat/completions", {"messages": HELLO, "stream": True}))
    assert got[-1] == {"error": {"message": "too much", "type": word, "param": None, "code": kind}}


def test_error_message_of_the_stream_itself() -> None:
    """An error that is no exception is told as well."""
    data = message({":message-type": "error", ":error-code": "Oh", ":error-message": "no"}, b"")
    assert translator().feed(data) == b"data: Oh: no\n\n"


@pytest.mark.parametrize(
    ("status", "name", "wanted"),
    [
        (429, "ThrottlingException", 429), (400, "ValidationException", 400),
        (403, "AccessDeniedException", 403),
        (404, "ResourceNotFoundException", 404), (408, "ModelTimeoutException", 504),
        (424, "ModelErrorException", 500), (503, "ServiceUnavailableException", 503),
    ],
)  # fmt: skip
async def test_errors(upstream: Upstream, client: BedrockClient, status: int, name: str, wanted: int) -> None:
    """Errors keep their message, and their name as code; the model's own are no fault of the request."""
    headers = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/", "retry-after": "3"}
    upstream.queue(ok({"message": "no secret-secret"}, code=status, headers=headers))
    reply = await ask(client, "chat/completions", {"messages": HELLO})
    error = json.loads(reply.body or b"")["error"]
    assert (reply.status, reply.headers["retry-after"], error["code"]) == (wanted, "3", name)
    assert error["message"].startswith("no ")


async def test_errors_are_those_of_the_sdk(upstream: Upstream, client: BedrockClient) -> None:
    """The SDK of OpenAI raises what it raises for OpenAI."""
    upstream.queue(ok({"message": "slow"}, code=429))
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="x", messages=HELLO)


async def _drain(reply: Reply) -> None:
    await read(reply)


@pytest.mark.parametrize(
    "data",
    [
        b"data: {}\n\n" * 9, message({":event-type": "messageStop"}, b"{"),
        message({":event-type": "messageStop"}, b"5"),
        event("contentBlockDelta", delta={}), event("contentBlockDelta", contentBlockIndex=0, delta=5),
        event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {}}),
        b"".join(event("contentBlockDelta", contentBlockIndex=at, delta={}) for at in range(4200)),
    ],
    ids=["text", "half", "number", "no-index", "no-delta", "no-name", "blocks"],
)  # fmt: skip
async def test_garbage_in_a_stream_is_malformed(
    upstream: Upstream, client: BedrockClient, data: bytes
) -> None:
    """What is no stream of Converse is a failure of the upstream."""
    upstream.queue(streaming(data))
    reply = await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    with pytest.raises(UpstreamFailure) as caught:
        await _drain(reply)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"output": 5}', b'{"output": {"message": {"content": {}}}}']
)
def test_whole_answer_that_is_none(body: bytes) -> None:
    """A 200 with something else is a failure of the upstream."""
    with pytest.raises(UpstreamFailure):
        read_converse(body, "i", "m", 7)


async def test_stream_that_is_cut(upstream: Upstream, client: BedrockClient) -> None:
    """A stream that is cut does not end with [DONE]."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\nconnection: close\r\n\r\n"
    upstream.queue(raw(head + b"".join(said()[:3])))
    assert b"[DONE]" not in await read(
        await ask(client, "chat/completions", {"messages": HELLO, "stream": True})
    )


async def test_what_is_not_there(client: BedrockClient) -> None:
    """Only chats can be had, and no probe is free of charge."""
    with pytest.raises(HTTPError) as caught:
        await ask(client, "embeddings", {"input": "x"})
    assert caught.value.status == 422
    assert client.probe is None
    with pytest.raises(LookupError):
        await client.probe_once(1)


@pytest.mark.parametrize(
    "args",
    [
        {}, {"region": "eu-west-1"}, {"region": "eu west"}, KEYS | {"secret_access_key": ""},
        KEYS | {"access_key_id": "a\r\nb"}, KEYS | {"guardrail": 5}, KEYS | {"request_fields": []},
        KEYS | {"max_tokens": "x"}, {"region": "eu-west-1", "session_token": "x"}, KEYS | {"region": 5},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(args: dict[str, Any]) -> None:
    """What is missing or wrong is told when the client is made."""
    with pytest.raises(Misconfigured):
        BedrockClient(deployment("bedrock", MODEL, args=args), ConnectionPool())


def test_address_by_region() -> None:
    """The host is that of the region, and the region that of the host."""
    for region, host in (
        ("eu-west-1", "eu-west-1.amazonaws.com"),
        ("cn-north-1", "cn-north-1.amazonaws.com.cn"),
    ):
        made = BedrockClient(deployment("bedrock", MODEL, args=KEYS | {"region": region}), ConnectionPool())
        assert made._address.host_header == f"bedrock-runtime.{host}"
    url = "https://bedrock-runtime.us-west-2.amazonaws.com"
    args = {name: value for name, value in KEYS.items() if name != "region"}
    BedrockClient(deployment("bedrock", MODEL, base_url=url, args=args), ConnectionPool())
