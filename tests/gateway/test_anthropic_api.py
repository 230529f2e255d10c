"""The stand-in for Anthropic's API: its official SDK works against it, and is refused as by the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from router_core.testing.anthropic_api import AnthropicApi, Turn
from router_core.testing.anthropic_checks import ApiError, check_message

USER = {"role": "user", "content": "hello"}
ADD = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
VERSION = "2023-06-01"


@pytest.fixture
async def api() -> AsyncIterator[AnthropicApi]:
    """An account."""
    async with AnthropicApi() as api:
        yield api


@pytest.fixture
async def sdk(api: AnthropicApi) -> AsyncIterator[AsyncAnthropic]:
    """Its official SDK."""
    async with AsyncAnthropic(base_url=api.url, api_key=api.key, max_retries=0) as sdk:
        yield sdk


async def test_message(sdk: AsyncAnthropic) -> None:
    """A message holds to the SDK's types, strictly."""
    got = await sdk.messages.create(model="claude-opus-5", max_tokens=64, messages=[USER])  # type: ignore[list-item]
    Message.model_validate(got.model_dump())
    assert got.content[0].type == "text"
    assert got.content[0].text == "Hello from claude-opus-5."
    assert got.stop_reason == "end_turn"


async def test_stream_is_gathered_by_the_sdk(api: AnthropicApi, sdk: AsyncAnthropic) -> None:
    """Text, thinking and tools come in deltas that the SDK puts together again."""
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Let me add them up.", "signature": "c2ln"},
        {"type": "text", "text": "I will add."},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 5, "b": [1, 2, {"c": "ä"}]}},
    ]
    api.answers.append(Turn(blocks))
    async with sdk.messages.stream(
        model="claude-opus-5", max_tokens=64, messages=[USER], tools=[ADD],  # type: ignore[list-item]
    ) as stream:  # fmt: skip
        got = await stream.get_final_message()
    assert got.stop_reason == "tool_use"
    assert got.usage.output_tokens == 5
    assert got.content[0].type == "thinking"
    assert got.content[0].signature == "c2ln"
    assert got.content[2].type == "tool_use"
    assert got.content[2].input == {"a": 5, "b": [1, 2, {"c": "ä"}]}


async def test_models_and_counting(sdk: AsyncAnthropic) -> None:
    """Models are listed and found, tokens are counted."""
    listed = await sdk.models.list()
    assert listed.data[0].id == "claude-opus-4-1"
    assert (await sdk.models.retrieve("claude-opus-5")).max_tokens == 64_000
    counted = await sdk.messages.count_tokens(model="claude-opus-5", messages=[USER])  # type: ignore[list-item]
    assert counted.input_tokens > 0
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("claude-0")


async def test_errors_are_those_of_the_sdk(api: AnthropicApi, sdk: AsyncAnthropic) -> None:
    """Errors come as the SDK knows them, with their headers; also inside a stream."""
    api.fail(529, "overloaded_error", "Overloaded")
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        await sdk.messages.create(model="m", max_tokens=1, messages=[USER])  # type: ignore[list-item]
    assert (overloaded.value.status_code, overloaded.value.type) == (529, "overloaded_error")
    api.fail(429, "rate_limit_error", "slow down", retry_after="7")
    with pytest.raises(anthropic.RateLimitError) as limited:
        await sdk.messages.create(model="m", max_tokens=1, messages=[USER])  # type: ignore[list-item]
    assert limited.value.response.headers["retry-after"] == "7"
    api.answers.append(Turn([{"type": "text", "text": "hello hello"}], error_after=4))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await _read(sdk)


async def _read(sdk: AsyncAnthropic) -> None:
    async with sdk.messages.stream(model="m", max_tokens=1, messages=[USER]) as stream:  # type: ignore[list-item]
        await stream.get_final_message()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"max_tokens": None}, "max_tokens: Input"), ({"foo": 1}, "foo: Extra inputs"),
        ({"messages": []}, "at least"),
        ({"messages": [{"role": "system", "content": "x"}]}, "Unexpected role"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
        ({"messages": [{"role": "user", "content": " "}]}, "non-whitespace"),
        ({"messages": [{"role": "user", "content": []}, USER]}, "non-empty content"),
        ({"messages": [USER, {"role": "assistant", "content": "x "}]}, "trailing whitespace"),
        ({"temperature": 1.5}, "range"), ({"model": "claude-opus-4-7", "temperature": 1}, "deprecated"),
        ({"model": "claude-opus-4-5", "temperature": 1, "top_p": 1}, "cannot both"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "should match"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "type"), ({"tools": [ADD, ADD]}, "unique"),
        ({"tool_choice": {"type": "any"}}, "only be specified"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "x"}}, "not found"),
        ({"stop_sequences": [" "]}, "non-whitespace"), ({"metadata": {"x": 1}}, "metadata.x"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "greater than"),
        ({"messages": [USER, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "add", "input": {}}]}, USER]}, "without `tool_result`"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t"}]}]}, "unexpected"),
    ],
)  # fmt: skip
def test_requests_are_refused_as_the_api_does(body: dict[str, Any], wanted: str) -> None:
    """What the API refuses is refused, with its type and in its words."""
    full = {"model": "claude-sonnet-4-0", "max_tokens": 99, "messages": [USER]} | body
    with pytest.raises(ApiError) as caught:
        check_message(full, VERSION)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")
    assert wanted in caught.value.message


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401), ({"x-api-key": "no"}, 401), ({"x-api-key": "sk-ant-test-key"}, 400),
        ({"x-api-key": "sk-ant-test-key", "anthropic-version": "1999-01-01"}, 400),
        ({"x-api-key": "sk-ant-test-key", "anthropic-version": VERSION}, 200),
        ({"authorization": "Bearer sk-ant-test-key", "anthropic-version": "2026-10-21"}, 200),
    ],
)  # fmt: skip
async def test_keys_and_versions(api: AnthropicApi, headers: dict[str, str], status: int) -> None:
    """A key and a version are needed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.upstream.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n".encode())
    answer = await reader.read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    writer.close()


def test_newer_version_takes_no_sampling_parameters() -> None:
    """From 2026-10-21 on temperature is unknown to every model."""
    body = {"model": "claude-sonnet-4-0", "max_tokens": 9, "messages": [USER], "temperature": 1}
    check_message(body, VERSION)
    with pytest.raises(ApiError, match="Extra inputs"):
        check_message(body, "2026-10-21")
