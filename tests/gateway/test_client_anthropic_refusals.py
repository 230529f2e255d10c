"""Chats that cannot be carried over to another protocol: each is refused by the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from router_core.errors import BadRequest
from router_core.gateway.clients.chat_request import read_chat
from tests.gateway.calling import make_call

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "add"}}


def parts(*given: Any) -> dict[str, Any]:
    """Return a body whose message has these parts."""
    return {"messages": [{"role": "user", "content": list(given)}]}


def image(url: Any) -> dict[str, Any]:
    """Return a body with an image."""
    return parts({"type": "image_url", "image_url": {"url": url}})


def said(**members: Any) -> dict[str, Any]:
    """Return a body with a message of the assistant."""
    return {"messages": [USER, {"role": "assistant", **members}]}


def called(**members: Any) -> dict[str, Any]:
    """Return a body in which the assistant has called a tool."""
    function = {"name": "add", "arguments": "{}", **members.pop("function", {})}
    return said(tool_calls=[{"id": "c", "type": "function", "function": function, **members}])


def tool(**members: Any) -> dict[str, Any]:
    """Return a body with a tool."""
    return {"tools": [{"type": "function", "function": members}]}


def schema(given: Any) -> dict[str, Any]:
    """Return a body that wants JSON of a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": given}}


FIRST = "messages[0].content[0]"
FORMAT = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": "x"}, "messages"),
        ({"messages": [5]}, "messages[0]"), ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (parts(5), f"{FIRST}.type"), (parts({"type": {}}), f"{FIRST}.type"), (parts({}), f"{FIRST}.type"),
        (parts({"type": "input_audio"}), f"{FIRST}.type"), (parts({"type": "text"}), f"{FIRST}.text"),
        (parts({"type": "text", "text": 5}), f"{FIRST}.text"), (image(5), f"{FIRST}.image_url.url"),
        (image("ftp://x"), f"{FIRST}.image_url.url"), (image("data:image/png,x"), f"{FIRST}.image_url"),
        (image("data:image/png;base64,"), f"{FIRST}.image_url"), (image("data:"), f"{FIRST}.image_url"),
        (image("data:image/tiff;base64,AA"), f"{FIRST}.image_url.url"),
        (parts({"type": "file", "file": {"file_id": "f"}}), f"{FIRST}.file"),
        (parts({"type": "file", "file": {"file_data": "data:a/b;base64,x"}}), f"{FIRST}.file.file_data"),
        (parts({"type": "file"}), f"{FIRST}.file"),
        ({"messages": [{"role": "system", "content": image("https://x")["messages"][0]["content"]}]},
         f"{FIRST}.type"),
        (said(tool_calls=5), "messages[1].tool_calls"), (said(tool_calls=[{}]), "messages[1].tool_calls[0]"),
        (called(type="custom"), "messages[1].tool_calls[0]"), (called(id=""), "messages[1].tool_calls[0].id"),
        (called(function={"name": 5}), "messages[1].tool_calls[0].function.name"),
        (called(function={"arguments": "[1"}), "messages[1].tool_calls[0].function.arguments"),
        (called(function={"arguments": "[1]"}), "messages[1].tool_calls[0].function.arguments"),
        (called(function={"arguments": {}}), "messages[1].tool_calls[0].function.arguments"),
        (called(function={"arguments": "[" * 5000}), "messages[1].tool_calls[0].function.arguments"),
        (said(function_call={}), "messages[1].function_call"),
        (said(thinking_blocks=5), "messages[1].thinking_blocks"),
        (said(thinking_blocks=[{}]), "messages[1].thinking_blocks[0]"),
        (said(thinking_blocks=[{"type": "thinking", "thinking": "x"}]),
         "messages[1].thinking_blocks[0].signature"),
        ({"n": 2}, "n"), ({"n": "x"}, "n"), ({"logprobs": True}, "logprobs"),
        ({"functions": [{}]}, "functions"),
        ({"audio": {}}, "audio"), ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"), ({"temperature": "x"}, "temperature"),
        ({"temperature": -1}, "temperature"), ({"temperature": True}, "temperature"),
        ({"top_p": 2}, "top_p"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"), ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"), ({"stop": ["x"] * 65}, "stop"), ({"user": 5}, "user"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"), ({"tools": 5}, "tools"),
        ({"tools": [TOOL] * 1025}, "tools"), ({"tools": [5]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"), (tool(), "tools[0].function.name"),
        (tool(name="x", description=5), "tools[0].function.description"),
        (tool(name="x", parameters=5), "tools[0].function.parameters"),
        ({"tool_choice": 5}, "tool_choice"), ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [TOOL]}, "tool_choice"),
        ({"parallel_tool_calls": 5}, "parallel_tool_calls"), ({"response_format": 5}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"), (schema(5), "response_format"),
        (schema({}), FORMAT), (schema({"schema": {"type": "array"}}), FORMAT),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    """Wrong and impossible values are a 400 that names the parameter, never anything else."""
    call = make_call("chat/completions", {"model": "m", "messages": [USER], **body})
    with pytest.raises(BadRequest) as caught:
        read_chat(call)
    assert caught.value.extra["param"] == param
