"""The scripted client through the real SDK of OpenAI: everything it answers can be read."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse
from openai.types.audio import Transcription, TranscriptionVerbose
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel

from router_core.gateway.clients.scripted import ScriptedClient
from tests.gateway.calling import deployment, serving

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FLAT = {"type": "function", "strict": False, **TOOL["function"]}  # type: ignore[dict-item]


class Place(BaseModel):
    """What a call that wants JSON gets."""

    name: str
    people: int


@pytest.fixture
async def sdk() -> AsyncIterator[AsyncOpenAI]:
    """An SDK whose base URL is a scripted deployment."""
    async with serving(ScriptedClient(deployment("scripted", args={"vector_size": 16}))) as url:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client


async def test_chat(sdk: AsyncOpenAI) -> None:
    """A chat, whole: its types hold strictly."""
    raw = await sdk.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": "hello"}]
    )
    got = ChatCompletion.model_validate(json.loads(raw.text))
    assert got.choices[0].message.content == "This is a scripted answer of m."
    assert got.usage is not None
    assert got.usage.prompt_tokens == 2


async def test_chat_stream(sdk: AsyncOpenAI) -> None:
    """A chat, streamed: every chunk holds to its type."""
    text, usage = "", None
    async for chunk in await sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hello"}], stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True))
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == "This is a scripted answer of m."
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_tools(sdk: AsyncOpenAI) -> None:
    """A tool call, whole and gathered from a stream by the SDK."""
    asked = {"model": "m", "tools": [TOOL], "messages": [{"role": "user", "content": "the weather?"}]}
    whole = await sdk.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city":"text"}'
    async with sdk.chat.completions.stream(**asked) as stream:  # type: ignore[arg-type]
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"city":"text"}'
    assert final.choices[0].finish_reason == "tool_calls"


async def test_parsed_answer(sdk: AsyncOpenAI) -> None:
    """The SDK's structured outputs work: the answer satisfies the schema."""
    got = await sdk.chat.completions.parse(
        model="m", messages=[{"role": "user", "content": "where?"}], response_format=Place
    )
    assert got.choices[0].message.parsed == Place(name="text", people=1)


async def test_completions(sdk: AsyncOpenAI) -> None:
    """The older completions, whole and streamed."""
    got = await sdk.completions.create(model="m", prompt="hello", max_tokens=3)
    Completion.model_validate(got.model_dump())
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("This is a ", "length")
    parts = [each async for each in await sdk.completions.create(model="m", prompt="hello", stream=True)]
    assert "".join(each.choices[0].text for each in parts if each.choices).startswith("This is a scripted")


async def test_embeddings(sdk: AsyncOpenAI) -> None:
    """Vectors of length one, equal for equal texts, as floats and as the base64 that the SDK asks for."""
    packed = await sdk.embeddings.create(model="m", input=["a", "b", "a"])
    plain = await sdk.embeddings.create(model="m", input="a", encoding_format="float", dimensions=16)
    CreateEmbeddingResponse.model_validate(plain.model_dump())
    first, second, third = (each.embedding for each in packed.data)
    assert first == third != second
    assert plain.data[0].embedding == pytest.approx(first, abs=1e-7)
    assert math.fsum(value * value for value in first) == pytest.approx(1.0, abs=1e-5)
    assert len(second) == 16


async def test_audio(sdk: AsyncOpenAI) -> None:
    """Transcriptions in each form, and streamed."""
    file = ("a.wav", b"RIFF....", "audio/wav")
    got = await sdk.audio.transcriptions.create(model="m", file=file)
    Transcription.model_validate(got.model_dump())
    assert got.text == "This is a scripted answer of m."
    verbose = await sdk.audio.transcriptions.create(model="m", file=file, response_format="verbose_json")
    TranscriptionVerbose.model_validate(verbose.model_dump())
    assert verbose.segments
    text = await sdk.audio.transcriptions.create(model="m", file=file, response_format="text")
    assert str(text).strip() == got.text
    said = [each async for each in await sdk.audio.transcriptions.create(model="m", file=file, stream=True)]
    assert said[-1].type == "transcript.text.done"
    assert said[-1].text == "".join(each.delta for each in said if each.type == "transcript.text.delta")


async def test_images(sdk: AsyncOpenAI) -> None:
    """Images are real PNGs."""
    got = await sdk.images.generate(model="m", prompt="a cat", n=2)
    ImagesResponse.model_validate(got.model_dump())
    assert got.data is not None
    assert [base64.b64decode(each.b64_json or "")[:8] for each in got.data] == [b"\x89PNG\r\n\x1a\n"] * 2


async def test_responses(sdk: AsyncOpenAI) -> None:
    """The Responses API, whole: the types hold strictly."""
    got = await sdk.responses.create(model="m", input="hello", instructions="be brief")
    Response.model_validate(got.model_dump())
    assert got.output_text == "This is a scripted answer of m."
    short = await sdk.responses.create(
        model="m", input=[{"role": "user", "content": "x"}], max_output_tokens=1
    )
    assert (short.status, short.output_text) == ("incomplete", "This ")


async def test_responses_stream(sdk: AsyncOpenAI) -> None:
    """The Responses API, streamed: the SDK gathers the same answer, text and tool calls alike."""
    async with sdk.responses.stream(model="m", input="hello") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "This is a scripted answer of m."
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    async with sdk.responses.stream(model="m", input="the weather?", tools=[FLAT]) as called:  # type: ignore[list-item]
        async for _ in called:
            pass
        item = (await called.get_final_response()).output[0]
    assert item.type == "function_call"
    assert item.arguments == '{"city":"text"}'


async def test_errors_are_those_of_the_sdk() -> None:
    """A failing deployment raises what the SDK raises for OpenAI."""
    client = ScriptedClient(deployment("scripted", args={"fail_status": 429, "retry_after": 3}))
    async with serving(client) as url, AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.type == "rate_limit_error"
