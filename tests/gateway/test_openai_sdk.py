"""The official ``openai`` client against the gateway, over a real socket: only its address is changed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from handlers.local.server import ServeOptions
from tests.gateway.serving import House, on_socket

CONFIG = """
models:
  - id: chatty
    type: text-generation
    aliases: [gpt-4o]
    clients:
      - {model: one, type: scripted, args: {reply: "Bonjour tout le monde, again and again."}}
  - id: shaky
    type: text-generation
    fallbacks: [chatty]
    clients:
      - {model: down, type: scripted, args: {fail_status: 503}}
  - id: limited
    type: text-generation
    clients:
      - {model: limited, type: scripted, args: {fail_status: 429, retry_after: "7"}}
  - id: vectors
    type: text-embeddings-inference
    clients: [{model: v, type: scripted, args: {vector_size: 6}}]
  - id: ears
    type: automatic-speech-recognition
    clients: [{model: w, type: scripted, args: {reply: "what was said"}}]
  - id: painter
    type: text-to-image
    clients: [{model: p, type: scripted}]
"""
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
HELLO: Any = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module", params=["direct", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[House, str]]:
    """A gateway behind each of the two doors of the local server."""
    with on_socket(CONFIG, options=ServeOptions(direct=request.param == "direct")) as found:
        yield found


@pytest.fixture
def client(served: tuple[House, str]) -> Iterator[openai.OpenAI]:
    """The sync client, without retries of its own."""
    with openai.OpenAI(base_url=f"{served[1]}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_a_chat_is_answered_and_says_where_it_was(client: openai.OpenAI) -> None:
    """By id and by alias; headers explain the decision."""
    for name in ("chatty", "gpt-4o"):
        raw = client.chat.completions.with_raw_response.create(model=name, messages=HELLO)
        answer = raw.parse()
        assert answer.choices[0].message.content == "Bonjour tout le monde, again and again."
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert raw.headers["x-router-model"] == "chatty"
        assert raw.headers["x-router-attempts"] == "1"
        assert "strategy=shuffle" in raw.headers["x-router-decision"]


def test_a_stream_arrives_in_pieces_and_ends(client: openai.OpenAI) -> None:
    """Usage comes where it is asked for, and only there."""
    chunks = list(client.chat.completions.create(model="chatty", messages=HELLO, stream=True))
    assert len(chunks) > 3
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Bonjour tout le monde, again and again."
    assert all(chunk.usage is None for chunk in chunks)
    told = list(
        client.chat.completions.create(
            model="chatty", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens > 0


async def test_the_async_client_works_as_well(served: tuple[House, str]) -> None:
    """Many calls and streams at once."""

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        if number % 2:
            answer = await client.chat.completions.create(model="chatty", messages=HELLO)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model="chatty", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async with openai.AsyncOpenAI(base_url=f"{served[1]}/v1", api_key="unused", max_retries=0) as client:
        texts = await asyncio.gather(*(one(client, number) for number in range(40)))
    assert set(texts) == {"Bonjour tout le monde, again and again."}


def test_a_failing_model_falls_back_to_another(client: openai.OpenAI) -> None:
    """The caller sees an answer, and which model gave it."""
    raw = client.chat.completions.with_raw_response.create(model="shaky", messages=HELLO)
    assert raw.parse().choices[0].message.content
    assert raw.headers["x-router-model"] == "chatty"
    assert raw.headers["x-router-fallback-from"] == "shaky"


def test_tools_pass_through_both_ways(client: openai.OpenAI) -> None:
    """Whole and streamed; the arguments are valid for the tool."""
    asked: dict[str, Any] = {"model": "chatty", "tools": [WEATHER], "tool_choice": "required"}
    answer = client.chat.completions.create(messages=HELLO, **asked)
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert isinstance(calls[0], ChatCompletionMessageFunctionToolCall)
    assert calls[0].function.name == "get_weather"
    assert "city" in calls[0].function.arguments
    with client.chat.completions.stream(messages=HELLO, **asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls


def test_embeddings_come_as_numbers(client: openai.OpenAI) -> None:
    """The client asks for base64 and decodes it."""
    found = client.embeddings.create(model="vectors", input=["one", "two"])
    assert [len(item.embedding) for item in found.data] == [6, 6]
    plain = client.embeddings.create(model="vectors", input="one", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-6)


def test_audio_images_completions_and_responses(client: openai.OpenAI) -> None:
    """Every other endpoint of the client."""
    heard = client.audio.transcriptions.create(model="ears", file=("a.wav", io.BytesIO(b"RIFF" * 100)))
    assert heard.text == "what was said"
    assert client.images.generate(model="painter", prompt="a cat").data
    assert client.completions.create(model="chatty", prompt="Once").choices[0].text
    answer = client.responses.create(model="chatty", input="Hello")
    assert answer.output_text == "Bonjour tout le monde, again and again."
    with client.responses.stream(model="chatty", input="Hello") as stream:
        assert stream.get_final_response().output_text == "Bonjour tout le monde, again and again."


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    """Each once, by its id; an alias leads to it as well."""
    assert [model.id for model in client.models.list()] == [
        "chatty", "shaky", "limited", "vectors", "ears", "painter",
    ]  # fmt: skip
    assert client.models.retrieve("gpt-4o").id == "chatty"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing/of-the/kind")


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    """The right class, and a message that says what to do."""
    with pytest.raises(openai.NotFoundError, match="Model not found"):
        client.chat.completions.create(model="unknown", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError, match="Wrong model type"):
        client.embeddings.create(model="chatty", input="x")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=5, messages=HELLO)  # type: ignore[call-overload]
    assert refused.value.param == "model"
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="limited", messages=HELLO)
    assert 0 < int(limited.value.response.headers["retry-after"]) <= 7


def test_a_key_is_asked_for_where_keys_are_configured(tmp_path: Path) -> None:
    """The error has the client's shape too."""
    with on_socket(CONFIG, api_keys="me:secret-key-0123456789") as (_, url):
        with pytest.raises(openai.AuthenticationError, match="API key"):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        right = openai.OpenAI(base_url=f"{url}/v1", api_key="secret-key-0123456789", max_retries=0)
        assert right.chat.completions.create(model="chatty", messages=HELLO).choices
