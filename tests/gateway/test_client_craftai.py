"""Endpoints of Craft.AI: messages as they come, chats made of them, and redirects to results."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router_core.errors import BadRequest
from router_core.gateway.call import Call
from router_core.gateway.reply import UpstreamFailure
from tests.gateway.client_parts import KEY, Recorder, answer, called, client_of, error_of

CRAFT = "https://env.craft.test/endpoints/chat/completions"


async def test_craft_ai_gets_the_message_as_it_came() -> None:
    """To the address itself, which is no base URL, with its own kind of token."""
    transport = Recorder(answer({"output": {"x": 1}}))
    call = Call("select_endpoint", "", body=b'{"message" : "hi"}')
    reply = await client_of(transport, "craftai", CRAFT).send(call, 1.0)
    sent = transport.last
    assert (sent.path, sent.body) == ("/endpoints/chat/completions", b'{"message" : "hi"}')
    assert sent.headers["authorization"] == f"EndpointToken {KEY}"
    assert sent.headers["content-type"] == "application/json"
    assert json.loads(reply.body or b"") == {"output": {"x": 1}}


@pytest.mark.parametrize(
    ("output", "args", "text"),
    [({"output": {"answer": "yes"}}, {}, "yes"), ({"outputs": {"n": 1, "answer": "yes"}}, {}, "yes"),
     ({"output": {"a": "no", "b": "yes"}}, {"output_field": "b"}, "yes"), ("yes", {}, "yes"),
     ({"response": "yes"}, {}, "yes"), ({"output": {"n": [1]}}, {}, '{"n":[1]}')],
    ids=str,
)  # fmt: skip
async def test_craft_ai_can_serve_a_chat(output: Any, args: dict[str, Any], text: str) -> None:
    """The last user message goes in, and what comes out becomes a completion."""
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "x"},
    ]
    transport = Recorder(answer(json.dumps(output)))
    reply = await client_of(transport, "craftai", CRAFT, args=args).send(
        called(body={"model": "turbo", "messages": messages}), 1.0
    )
    assert transport.last.json() == {"message": "a\nb"}
    completion = json.loads(reply.body or b"")
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": text}
    assert (completion["object"], completion["model"]) == ("chat.completion", "turbo")


async def test_craft_ai_streams_what_came_whole() -> None:
    """For a caller who asked for a stream."""
    transport = Recorder(answer({"output": {"a": "yes"}}))
    reply = await client_of(transport, "craftai", CRAFT).send(called(stream=True), 1.0)
    assert reply.chunks is not None
    events = [chunk async for chunk in reply.chunks]
    assert events[-1] == b"data: [DONE]\n\n"
    deltas = [json.loads(event[6:])["choices"][0] for event in events[:-1]]
    assert "".join(each["delta"].get("content", "") for each in deltas) == "yes"
    assert deltas[-1]["finish_reason"] == "stop"


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait between two looks for a result."""
    sleep = asyncio.sleep
    monkeypatch.setattr("router_core.gateway.clients.craftai.asyncio.sleep", lambda _: sleep(0))


@pytest.mark.usefixtures("no_pause")
async def test_craft_ai_is_followed_to_where_a_long_run_ends() -> None:
    """A redirect on the same server says where the result will be; it is asked for until it is there."""
    transport = Recorder(
        answer("", 303, location="/endpoints/x/executions/7?wait=1"), answer("", 302, location="../8"),
        answer({"output": {"a": "late"}}),
    )  # fmt: skip
    reply = await client_of(transport, "craftai", CRAFT).send(called(), 1.0)
    assert json.loads(reply.body or b"")["choices"][0]["message"]["content"] == "late"
    assert [(sent.method, sent.path) for sent in transport.sent] == [
        ("POST", "/endpoints/chat/completions"), ("GET", "/endpoints/x/executions/7?wait=1"),
        ("GET", "/endpoints/8"),
    ]  # fmt: skip
    assert transport.last.headers["authorization"] == f"EndpointToken {KEY}"


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.test/x",
        "http://env.craft.test/x",
        "https://env.craft.test:444/x",
        "//evil.test/x",
        "",
        "https://u:p@env.craft.test/",
        "/a b",
        "/x\r\ny: z",
        "https://env.craft.test.evil.test/",
        "javascript:x",
    ],
)
@pytest.mark.usefixtures("no_pause")
async def test_craft_ai_is_followed_nowhere_else(location: str) -> None:
    """Our token stays at its own origin."""
    transport = Recorder(answer("", 302, location=location))
    with pytest.raises(UpstreamFailure, match="redirect"):
        await client_of(transport, "craftai", CRAFT).send(called(), 1.0)
    assert len(transport.sent) == 1


async def test_craft_ai_tells_what_went_wrong() -> None:
    """Errors have a message; garbage is a failure; a chat without a user is the caller's mistake."""
    client = client_of(Recorder(answer({"message": "no such endpoint"}, 404)), "craftai", CRAFT)
    assert error_of(await client.send(called(), 1.0))["message"] == "no such endpoint"
    with pytest.raises(UpstreamFailure, match="not JSON"):
        await client_of(Recorder(answer("<html>")), "craftai", CRAFT).send(called(), 1.0)
    wrong: list[dict[str, Any]] = [{"messages": []}, {"messages": "x"}, {}, {"messages": [{"content": "x"}]}]
    for body in wrong:
        with pytest.raises(BadRequest) as caught:
            await client.send(called(body=body), 1.0)
        assert caught.value.extra["param"] == "messages"
