"""Chat completions as requests of Anthropic's Messages API: each field by itself, without a network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.clients.anthropic import AnthropicClient
from router_core.gateway.clients.anthropic_models import traits_of
from router_core.gateway.clients.anthropic_request import RequestWriter
from router_core.gateway.clients.chat_request import read_chat, read_wanted
from router_core.gateway.transport.pool import ConnectionPool
from router_core.gateway.values import Secret
from router_core.testing.anthropic_checks import check_message
from tests.gateway.calling import deployment, make_call

USER = {"role": "user", "content": "hello"}
ADD = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
STRICT = {"type": "json_schema", "json_schema": {"name": "point", "schema": SCHEMA, "strict": True}}
LOOSE = {"type": "json_schema", "json_schema": {"name": "point", "schema": SCHEMA}}
OLD, MIDDLE, NEW = "claude-3-5-sonnet-20241022", "claude-sonnet-4-5", "claude-opus-5"


def write(body: dict[str, Any], model: str = MIDDLE, **args: Any) -> dict[str, Any]:
    """Return the request that is made of a chat, which the API takes."""
    writer = RequestWriter(model, traits_of(model, args), max_tokens=4096)
    call = make_call("chat/completions", {"model": "m", "messages": [USER], **body})
    written = json.loads(writer.write(read_chat(call), "m"))
    check_message(written, "2023-06-01")
    return dict(written)


def messages(*given: dict[str, Any]) -> list[Any]:
    """Return the messages that messages become."""
    return list(write({"messages": list(given)})["messages"])


def test_what_every_request_has() -> None:
    """The model is the deployment's, and max_tokens is there although nobody gave it."""
    assert write({}) == {
        "model": MIDDLE, "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 9, "max_tokens": 7}, {"max_tokens": 9}),
        ({"temperature": 0.3}, {"temperature": 0.3}), ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"temperature": None}, {}), ({"top_p": 0.5}, {"top_p": 0.5}), ({"top_k": 5}, {"top_k": 5}),
        ({"top_k": -1}, {}), ({"temperature": 1, "top_p": 0.5}, {"temperature": 1.0}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", " ", "y"]}, {"stop_sequences": ["x", "y"]}),
        ({"stop": [" "]}, {}), ({"stop": None}, {}), ({"stream": True}, {"stream": True}),
        ({"user": "ann"}, {"metadata": {"user_id": "ann"}}),
        ({"user": "ann", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
        ({"metadata": {"user_id": "m", "x": "y"}, "user": "ann"}, {"metadata": {"user_id": "m"}}),
        ({"metadata": {"x": "y"}}, {}), ({"service_tier": "default"}, {}),
        ({"service_tier": "standard_only"}, {"service_tier": "standard_only"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "temperature": 0},
         {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        ({"seed": 1, "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {}, "store": True, "n": 1,
          "logprobs": False, "best_of": 4, "guided_json": {}, "stream_options": {}, "verbosity": "low",
          "modalities": ["text"], "functions": []}, {}),
    ],
    ids=lambda value: ",".join(value) or "nothing",
)  # fmt: skip
def test_fields(body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Each field becomes what Anthropic calls it, and what it does not know is not sent."""
    written = write(body)
    rest = {name: written[name] for name in written if name not in ("model", "messages")}
    assert rest == {"max_tokens": 4096} | wanted


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (OLD, {"temperature": 1.0, "top_p": 0.5}),
        ("claude-sonnet-4-20250514", {"temperature": 1.0, "top_p": 0.5}),
        (MIDDLE, {"temperature": 1.0}), ("claude-opus-4-7", {}), (NEW, {}), ("claude-fable-5", {}),
        ("my-alias", {"temperature": 1.0, "top_p": 0.5}),
    ],
)  # fmt: skip
def test_sampling_as_the_model_takes_it(model: str, wanted: dict[str, Any]) -> None:
    """What a model would refuse is not sent to it."""
    written = write({"temperature": 1, "top_p": 0.5}, model)
    assert {name: written[name] for name in ("temperature", "top_p") if name in written} == wanted
    assert "temperature" not in write({"temperature": 1}, model, sampling=False)


@pytest.mark.parametrize(
    ("model", "effort", "wanted"),
    [
        (NEW, "high", {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}}),
        (NEW, "minimal", {"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}),
        ("claude-opus-4-5", "low", {"output_config": {"effort": "low"}}),
        (MIDDLE, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 6144}),
        ("claude-3-7-sonnet-latest", "minimal",
         {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 5120}),
        (OLD, "high", {}), (NEW, "none", {}), (MIDDLE, "none", {}),
    ],
)  # fmt: skip
def test_effort(model: str, effort: str, wanted: dict[str, Any]) -> None:
    """Effort becomes what the generation of the model calls it."""
    written = write({"reasoning_effort": effort}, model)
    rest = {name: written[name] for name in written if name not in ("model", "messages")}
    assert rest == {"max_tokens": 4096} | wanted


def test_effort_stays_within_what_the_caller_allows() -> None:
    """A budget is smaller than max_tokens, and left away where it does not fit or cannot be used."""
    assert write({"reasoning_effort": "high", "max_tokens": 1500})["thinking"]["budget_tokens"] == 1499
    assert "thinking" not in write({"reasoning_effort": "high", "max_tokens": 1000})
    assert "thinking" not in write({"reasoning_effort": "high", "tools": [ADD], "tool_choice": "required"})
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    asked: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    assert "thinking" not in write({"reasoning_effort": "high", "messages": asked})
    asked[1]["thinking_blocks"] = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    written = write({"reasoning_effort": "high", "messages": asked})
    assert written["thinking"]["type"] == "enabled"
    assert written["messages"][1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "s"}


def test_system_messages_are_gathered() -> None:
    """System and developer messages become the system, wherever they stand."""
    written = write({"messages": [
        {"role": "system", "content": "one"}, USER, {"role": "developer", "content": [
            {"type": "text", "text": "two", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    ]})  # fmt: skip
    assert written["system"] == [
        {"type": "text", "text": "one"},
        {"type": "text", "text": "two", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    assert len(written["messages"]) == 1


def test_content_of_many_parts() -> None:
    """Texts, images by address and by value, and files are carried over; empty texts are not."""
    got = messages({"role": "user", "content": [
        {"type": "text", "text": ""}, {"type": "text", "text": "look"}, "plain",
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": "https://example.org/a.png"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
    ]})  # fmt: skip
    assert got[0]["content"] == [
        {"type": "text", "text": "look"}, {"type": "text", "text": "plain"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "title": "a.pdf",
         "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
    ]  # fmt: skip


def test_tool_calls_and_their_results() -> None:
    """Parallel calls stay in one turn, and their results in the next, before what the user says."""
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "chatcmpl:tool/2", "type": "function", "function": {"name": "add", "arguments": ""}},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "two"}, image]
    got = messages(
        USER, {"role": "assistant", "content": "Wait.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "chatcmpl:tool/2", "content": parts},
        {"role": "user", "content": "and?"},
    )  # fmt: skip
    assert [turn["role"] for turn in got] == ["user", "assistant", "user"]
    odd = got[1]["content"][2]["id"]
    assert got[1]["content"][:2] == [
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
    ]
    assert got[1]["content"][2]["input"] == {}
    one, two, three = got[2]["content"]
    assert one == {
        "type": "tool_result",
        "tool_use_id": "call_1",
        "content": [{"type": "text", "text": "one"}],
    }
    assert two["tool_use_id"] == odd
    assert [block["type"] for block in two["content"]] == ["text", "image"]
    assert three == {"type": "text", "text": "and?"}


def test_last_words_of_the_assistant_lose_their_blanks() -> None:
    """A beginning that the model shall go on from may not end with blanks there."""
    assert messages(USER, {"role": "assistant", "content": "It is \n"})[1]["content"][0]["text"] == "It is"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, None), ({"tool_choice": "auto"}, None), ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, {"type": "tool", "name": "add"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": True}, None),
    ],
)  # fmt: skip
def test_tool_choice(body: dict[str, Any], wanted: Any) -> None:
    """Choices of tools are translated, and how many may be called at once."""
    written = write({"tools": [ADD]} | body)
    assert written.get("tool_choice") == wanted
    assert written["tools"][0]["input_schema"] == ADD["function"]["parameters"]  # type: ignore[index]


def test_tools_without_a_schema_and_strict_ones() -> None:
    """A tool without parameters takes an empty object; ``strict`` is passed on."""
    tools = [{"type": "function", "function": {"name": "now"}}, {"type": "function", "function": {
        "name": "b", "strict": True, "parameters": {"properties": {}}}}]  # fmt: skip
    first, second = write({"tools": tools})["tools"]
    assert first == {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    assert second == {"name": "b", "strict": True, "input_schema": {"type": "object", "properties": {}}}


def test_json_that_is_wanted() -> None:
    """A strict schema is Anthropic's own where the model has it, and else a tool that has to be called."""
    own = write({"response_format": STRICT})
    assert own["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "tools" not in own
    for form, model, schema in (
        (STRICT, OLD, SCHEMA), (LOOSE, MIDDLE, SCHEMA), ({"type": "json_object"}, MIDDLE, None),
    ):  # fmt: skip
        written = write({"response_format": form}, model)
        name = "json" if schema is None else "point"
        assert written["tool_choice"] == {"type": "tool", "name": name}
        assert written["tools"][0]["input_schema"] == (
            schema or {"type": "object", "additionalProperties": True}
        )
    beside = write({"response_format": LOOSE, "tools": [ADD]})
    assert beside["tool_choice"] == {"type": "any"}
    assert [tool["name"] for tool in beside["tools"]] == ["add", "point"]
    assert write({"response_format": {"type": "text"}}) == write({})


def test_tool_for_json_does_not_take_the_name_of_another() -> None:
    """It is told apart from a tool of the caller's."""
    form = {"type": "json_schema", "json_schema": {"name": "add", "schema": SCHEMA}}
    call = make_call("chat/completions", {"model": "m", "response_format": form, "tools": [ADD]})
    writer = RequestWriter(MIDDLE, traits_of(MIDDLE, {}), max_tokens=1)
    assert writer.json_tool(*read_wanted(call)) == "add_answer"


@pytest.mark.parametrize(
    "args", [{"max_tokens": 0}, {"max_tokens": "x"}, {"beta": 5}, {"pass_fields": [5]}, {"version": 5}]
)
def test_wrong_arguments_are_refused(args: dict[str, Any]) -> None:
    """A wrong argument is told when the client is made, and so is a key that is missing."""
    with pytest.raises(Misconfigured):
        AnthropicClient(deployment("anthropic", key=Secret("sk-ant-1"), args=args), ConnectionPool())
    with pytest.raises(Misconfigured, match="key"):
        AnthropicClient(deployment("anthropic"), ConnectionPool())
