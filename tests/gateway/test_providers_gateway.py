"""OpenAI's client, over a socket to the gateway, and from there to upstreams with words of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from router_core.testing.anthropic_api import AnthropicApi, Turn
from router_core.testing.runpod_api import RunpodApi
from router_core.testing.upstream import Upstream, in_thread
from tests.gateway.runpod_worker import KEY, working
from tests.gateway.serving import House, on_socket
from tests.gateway.test_client_bedrock import KEYS, converse, said, streaming

MODEL = "claude-sonnet-4-5"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CONFIG = """
models:
  - id: alone
    type: text-generation
    retry: {{max_attempts: 1}}
    clients: [{{id: d1, type: anthropic, model: {model}, args: {{base_url: '{claude}', api_key: {key}}}}}]
  - id: guarded
    type: text-generation
    routing_strategy: priority
    clients:
      - {{id: d2, priority: 1, type: anthropic, model: {model},
         args: {{base_url: '{claude}', api_key: {key}}}}}
      - {{id: d3, priority: 2, type: scripted, model: s, args: {{reply: "I stand in."}}}}
  - id: nova
    type: text-generation
    clients: [{{id: d4, type: bedrock, model: amazon.nova-pro-v1:0, args: {{base_url: '{bedrock}', {keys}}}}}]
  - id: pod
    type: text-generation
    clients:
      - {{id: d5, type: runpod, model: m, args: {{base_url: '{runpod}', api_key: {runpod_key}, mode: queue,
         poll: 0.005, poll_max: 0.02}}}}
"""


class Providers:
    """The gateway, and everybody behind it."""

    def __init__(
        self, claude: AnthropicApi, bedrock: Upstream, runpod: RunpodApi, made: House, url: str
    ) -> None:
        self.claude = claude
        self.bedrock = bedrock
        self.runpod = runpod
        self.made = made
        self.url = url


@pytest.fixture(scope="module")
def shared() -> Iterator[Providers]:
    """All of it, once: each in a thread."""
    claude = AnthropicApi()
    with in_thread(claude.upstream), in_thread(Upstream()) as bedrock, RunpodApi(poll=0.2) as runpod:
        text = CONFIG.format(
            model=MODEL, claude=claude.url, key=claude.key, bedrock=bedrock.url, runpod=runpod.url,
            runpod_key=KEY, keys=", ".join(f"{name}: {value}" for name, value in KEYS.items()),
        )  # fmt: skip
        with on_socket(text) as (made, url):
            yield Providers(claude, bedrock, runpod, made, url)


@pytest.fixture
def providers(shared: Providers) -> Providers:
    """All of it, as if nothing had been before."""
    shared.claude.bodies.clear()
    for standing in shared.made.gateway.standings:
        standing._cool_until = 0.0
        standing.tidy(1e12)
    return shared


@pytest.fixture
async def sdk(providers: Providers) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, without retries of its own."""
    async with openai.AsyncOpenAI(base_url=f"{providers.url}/v1", api_key="k", max_retries=0) as sdk:
        yield sdk


async def streamed(sdk: openai.AsyncOpenAI, model: str) -> tuple[str, Any]:
    """Return the text of a stream, and its usage."""
    text, usage = "", None
    async for chunk in await sdk.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text, usage


async def test_claude_answers_whole_and_as_a_stream(providers: Providers, sdk: openai.AsyncOpenAI) -> None:
    """The same text and usage both ways; the accounts hold what was counted, and what it costs."""
    whole = await sdk.chat.completions.create(model="alone", messages=HELLO)
    text, usage = await streamed(sdk, "alone")
    assert whole.choices[0].message.content == text == f"Hello from {MODEL}."
    assert whole.usage is not None
    for found in (whole.usage, usage):
        assert (found.prompt_tokens, found.completion_tokens) == (12, 5)
    for record in providers.made.gateway.ledger.recent(2):
        assert (record.input_tokens, record.output_tokens, record.estimated) == (12, 5, False)


async def test_tools_go_there_and_their_results_come_back(
    providers: Providers, sdk: openai.AsyncOpenAI
) -> None:
    """Called whole and in a stream; the whole conversation goes on with what the tools said."""
    asked: dict[str, Any] = {"model": "alone", "messages": HELLO, "tools": [TOOL], "tool_choice": "required"}
    whole = await sdk.chat.completions.create(**asked)
    async with sdk.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
    for got in (whole, final):
        assert got.choices[0].finish_reason == "tool_calls"
        (call,) = got.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"called": "get_weather"}
    message = whole.choices[0].message
    (made,) = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": made.id, "content": "rain"}
    history: Any = [*HELLO, message.model_dump(exclude_none=True), result]
    again = await sdk.chat.completions.create(model="alone", messages=history, tools=[TOOL])
    assert again.choices[0].message.content == f"Hello from {MODEL}."
    (block,) = providers.claude.bodies[-1]["messages"][2]["content"]
    assert (block["type"], block["tool_use_id"]) == ("tool_result", made.id)


async def test_images_arrive(providers: Providers, sdk: openai.AsyncOpenAI) -> None:
    """A data URL becomes an image as Anthropic takes them."""
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    message: Any = {"role": "user", "content": parts}
    assert (await sdk.chat.completions.create(model="alone", messages=[message])).choices
    blocks = providers.claude.bodies[-1]["messages"][0]["content"]
    source = next(block["source"] for block in blocks if block["type"] == "image")
    assert source == {"type": "base64", "media_type": "image/png", "data": PIXEL}


@pytest.mark.parametrize(
    ("status", "kind", "raised", "stands_in"),
    [
        (400, "invalid_request_error", openai.BadRequestError, False),
        (401, "authentication_error", openai.InternalServerError, True),
        (429, "rate_limit_error", openai.RateLimitError, True),
        (500, "api_error", openai.InternalServerError, True),
        (529, "overloaded_error", openai.InternalServerError, True),
    ],
)
async def test_errors_of_claude(
    providers: Providers, sdk: openai.AsyncOpenAI, status: int, kind: str, raised: type[Exception],
    stands_in: bool,
) -> None:  # fmt: skip
    """Alone: what the client raises for OpenAI. Guarded: another one answers, unless it is the caller's."""
    providers.claude.fail(status, kind, "as it was said", retry_after="3")
    with pytest.raises(raised) as caught:
        await sdk.chat.completions.create(model="alone", messages=HELLO)
    error = caught.value
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == {529: 503, 500: 502, 401: 502}.get(status, status)
    if status in (429, 529):
        assert 0 < float(error.response.headers["retry-after"]) <= 3
    providers.claude.fail(status, kind, "as it was said", retry_after="3")
    if not stands_in:
        with pytest.raises(raised, match="as it was said"):
            await sdk.chat.completions.create(model="guarded", messages=HELLO)
        return
    answer = await sdk.chat.completions.create(model="guarded", messages=HELLO)
    assert answer.choices[0].message.content == "I stand in."


async def test_an_error_in_the_middle_of_its_stream(providers: Providers, sdk: openai.AsyncOpenAI) -> None:
    """Before the first content another one answers; after it the client raises, and has what came."""
    broken = Turn([{"type": "text", "text": "Hello there, and on"}], error_after=2)
    providers.claude.answers.append(broken)
    assert (await streamed(sdk, "guarded"))[0] == "I stand in."
    broken.error_after = 5
    providers.claude.answers.append(broken)
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in await sdk.chat.completions.create(model="guarded", messages=HELLO, stream=True):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIError, match="Overloaded"):
        await read()
    assert text
    assert "Hello there, and on".startswith(text)
    record = providers.made.gateway.ledger.recent(1)[0]
    assert (record.deployment, record.outcome) == ("d2", "overloaded")
    assert record.output_tokens > 0


async def test_bedrock_and_runpod_answer_whole_and_as_streams(
    providers: Providers, sdk: openai.AsyncOpenAI
) -> None:
    """Converse with its event streams, and jobs of a queue with a worker that takes them."""
    providers.bedrock.queue(converse({"text": "Hi from Nova"}), streaming(*said("Hi from Nova")))
    whole = await sdk.chat.completions.create(model="nova", messages=HELLO)
    text, usage = await streamed(sdk, "nova")
    assert whole.choices[0].message.content == text == "Hi from Nova"
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens == 18

    def work(given: Any) -> Any:
        return ["Hi ", "from a pod"] if given.get("stream") else {"output": "Hi from a pod"}

    async with working(providers.runpod, work):
        whole = await sdk.chat.completions.create(model="pod", messages=HELLO)
        text, _ = await streamed(sdk, "pod")
    assert whole.choices[0].message.content == text == "Hi from a pod"
