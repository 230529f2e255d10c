"""The scripted client: what it says, how fast, and how it fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.clients.scripted import ScriptedClient
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.values import ENDPOINTS, Timeouts
from tests.gateway.calling import ask, deployment, events, make_call, read

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 6},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 3},
            },
            "required": ["city", "unit", "days"],
        },
    },
}


def scripted(**args: Any) -> ScriptedClient:
    """Return a client with a script."""
    return ScriptedClient(deployment("scripted", args=args))


async def text(client: ScriptedClient, **body: Any) -> str:
    """Return what it says in a chat."""
    reply = await ask(client, "chat/completions", HELLO | body)
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body or b"")["choices"][0]["message"]["content"])


async def test_script_is_played_in_turn_and_begins_again() -> None:
    """Steps follow each other, and what stands beside the script holds for each of them."""
    client = scripted(script=["one", {"reply": "two"}, {"fail_status": 503}], retry_after=7)
    assert [await text(client), await text(client)] == ["one", "two"]
    failed = await ask(client, "chat/completions", HELLO)
    assert (failed.status, failed.headers["retry-after"]) == (503, "7")
    assert await text(client) == "one"


async def test_script_may_stay_with_its_last_step() -> None:
    """``at_end: last`` plays the last step from then on."""
    client = scripted(script=["one", "two"], at_end="last")
    assert [await text(client) for _ in range(4)] == ["one", "two", "two", "two"]


async def test_nothing_is_needed() -> None:
    """Without arguments it answers, and names the model."""
    assert await text(scripted()) == "This is a scripted answer of m."


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ({"fail_every": 3}, [200, 200, 500, 200, 200, 500]),
        ({"fail_first": 2, "fail_status": 429}, [429, 429, 200, 200, 200, 200]),
        ({"fail_status": 404}, [404] * 6),
        ({"fail_rate": 1.0}, [500] * 6),
        ({"fail_rate": 0.5, "seed": 3}, [500, 200, 500, 200, 200, 500]),
    ],
)
async def test_failing_calls(args: dict[str, Any], wanted: list[int]) -> None:
    """Calls fail by count or by a share drawn from the seed, the same in every run."""
    client = scripted(**args)
    assert [(await ask(client, "chat/completions", HELLO)).status for _ in range(6)] == wanted


@pytest.mark.parametrize("kind", ["refused", "dns", "tls", "timeout", "reset", "malformed"])
async def test_failing_without_an_answer(kind: str) -> None:
    """A kind of failure is raised as a transport raises it, and a probe meets it as well."""
    client = scripted(fail_kind=kind)
    with pytest.raises(UpstreamFailure) as caught:
        await ask(client, "chat/completions", HELLO)
    assert caught.value.kind == kind
    assert caught.value.sent == (kind not in ("refused", "dns", "tls"))
    with pytest.raises(UpstreamFailure):
        await client.probe_once(1.0)


async def test_hanging_ends_with_the_patience_of_the_deployment() -> None:
    """A call that is never answered is a timeout after ``first_byte`` seconds."""
    client = ScriptedClient(
        deployment("scripted", args={"hang": True}, timeouts=Timeouts(first_byte=0.02))
    )  # fmt: skip
    with pytest.raises(UpstreamFailure) as caught:
        await ask(client, "chat/completions", HELLO)
    assert (caught.value.kind, caught.value.phase, caught.value.sent) == ("timeout", "first_byte", True)
    assert client.running == 0


async def test_deadline_ends_a_slow_answer() -> None:
    """Latency beyond the deadline of the call is a timeout."""
    with pytest.raises(UpstreamFailure, match="too slow"):
        await ask(scripted(latency=5), "chat/completions", HELLO, seconds=0.02)


async def test_stream_says_the_same_as_the_whole_answer() -> None:
    """The chunks of a stream join to the text, and it ends with usage and [DONE]."""
    client = scripted(reply="Three little  words.\n\nAnd more")
    reply = await ask(client, "chat/completions", HELLO | {"stream": True})
    assert reply.content_type == "text/event-stream"
    got = await events(reply)
    said = "".join(each["choices"][0]["delta"].get("content") or "" for each in got[:-2])
    assert said == await text(client) == "Three little  words.\n\nAnd more"
    assert got[-1] == "[DONE]"
    assert got[-2]["choices"] == []
    assert got[-2]["usage"]["completion_tokens"] == len(got) - 4
    assert got[-3]["choices"][0]["finish_reason"] == "stop"


async def test_error_in_a_stream() -> None:
    """After so many chunks an error event comes, and then nothing: no [DONE]."""
    client = scripted(tokens=9, error_in_stream_after=2, fail_code="boom")
    got = await events(await ask(client, "chat/completions", HELLO | {"stream": True}))
    assert [bool(each.get("choices")) for each in got] == [True, True, True, False]
    assert got[-1]["error"]["code"] == "boom"


@pytest.mark.parametrize(("count", "tokens"), [(0, 5), (2, 5), (5, 5)])
async def test_cut_stream(count: int, tokens: int) -> None:
    """The connection is lost after so many chunks of content, the last included."""
    client = scripted(tokens=tokens, cut_after=count)
    reply = await ask(client, "chat/completions", HELLO | {"stream": True})
    assert reply.chunks is not None
    seen: list[bytes] = []
    with pytest.raises(UpstreamFailure) as caught:
        await _drain(reply, seen)
    assert (caught.value.kind, caught.value.started) == ("reset", True)
    assert len(seen) == count + 1
    assert client.running == 0


async def _drain(reply: Reply, seen: list[bytes]) -> None:
    assert reply.chunks is not None
    async for chunk in reply.chunks:
        seen.append(chunk)


async def test_hanging_stream_can_be_left() -> None:
    """A stream that says no more is ended by closing it, and the call with it."""
    client = scripted(tokens=5, hang_after=1)
    reply = await ask(client, "chat/completions", HELLO | {"stream": True})
    assert reply.chunks is not None
    await anext(reply.chunks)
    await anext(reply.chunks)
    stuck = asyncio.ensure_future(anext(reply.chunks))
    await asyncio.sleep(0)
    assert client.running == 1
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    await reply.aclose()
    assert client.running == 0


async def test_speed_takes_its_time() -> None:
    """Tokens come at the speed that was set, streamed or whole."""
    client = scripted(tokens=5, tokens_per_second=500)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await events(await ask(client, "chat/completions", HELLO | {"stream": True}))
    middle = loop.time()
    await ask(client, "chat/completions", HELLO)
    assert middle - begun >= 0.01
    assert loop.time() - middle >= 0.01


async def test_usage_as_told_or_not_at_all() -> None:
    """Usage can be set, left out, and is counted otherwise."""
    told = scripted(
        usage={"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2, "reasoning_tokens": 1}
    )
    body = json.loads((await ask(told, "chat/completions", HELLO)).body or b"")
    assert body["usage"]["total_tokens"] == 10
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    none = scripted(usage=False)
    assert "usage" not in json.loads((await ask(none, "chat/completions", HELLO)).body or b"")
    assert b"usage" not in await read(await ask(none, "chat/completions", HELLO | {"stream": True}))


async def test_asleep_until_it_was_called_and_has_woken() -> None:
    """It sleeps until the first call, which finds it waking; a probe does not wake it."""
    client = scripted(asleep_for=0.05, retry_after=1)
    assert client.probe is None
    assert scripted().probe is not None
    assert (await client.probe_once(1)).status == 503
    await asyncio.sleep(0.06)
    first = await ask(client, "chat/completions", HELLO)
    assert (first.status, first.headers["retry-after"]) == (503, "1")
    await asyncio.sleep(0.06)
    assert await text(client)
    assert (await client.probe_once(1)).status == 200


async def test_tool_is_called_when_it_is_named_and_answered_afterwards() -> None:
    """The last message of the user decides; after the tool's result comes a text."""
    client = scripted(reply="It rains.")
    asked: dict[str, Any] = {
        "tools": [WEATHER],
        "messages": [{"role": "user", "content": "What is the weather?"}],
    }
    body = json.loads((await ask(client, "chat/completions", asked)).body or b"")
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"city": "textxx", "unit": "celsius", "days": 3}
    after = [
        *asked["messages"],
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]
    assert await text(client, tools=[WEATHER], messages=after) == "It rains."
    assert await text(client, tools=[WEATHER]) == "It rains."
    assert await text(client, **(asked | {"tool_choice": "none"})) == "It rains."


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["any", "named"]
)
async def test_forced_tool_streams_its_arguments(choice: Any) -> None:
    """A forced tool is called whatever was said; the deltas join to valid JSON."""
    body = HELLO | {"tools": [WEATHER], "tool_choice": choice, "stream": True}
    got = await events(await ask(scripted(), "chat/completions", body))
    deltas = [each["choices"][0]["delta"] for each in got[:-2]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"]["name"] == "get_weather"
    assert calls[0]["id"]
    assert json.loads("".join(each["function"]["arguments"] for each in calls))["days"] == 3


async def test_json_schema_is_satisfied() -> None:
    """A call that wants a schema gets a value of it."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER["function"]["parameters"]}}  # type: ignore[index]
    assert set(json.loads(await text(scripted(), response_format=form))) == {"city", "unit", "days"}


async def test_limits_of_the_request_are_kept() -> None:
    """``stop``, ``max_tokens`` and ``n`` do what they say."""
    client = scripted(reply="one two three four")
    assert await text(client, stop=["three"]) == "one two "
    body = json.loads((await ask(client, "chat/completions", HELLO | {"max_tokens": 2, "n": 3})).body or b"")
    assert [each["message"]["content"] for each in body["choices"]] == ["one two "] * 3
    assert {each["finish_reason"] for each in body["choices"]} == {"length"}
    assert body["usage"]["completion_tokens"] == 6


async def test_context_window_and_content_filter() -> None:
    """It refuses what is too long, and words it does not like, with the codes of OpenAI."""
    small = ScriptedClient(deployment("scripted", max_context_length=10, args={"refuse": "secret"}))
    long = await ask(small, "chat/completions", {"messages": [{"role": "user", "content": "x" * 100}]})
    assert (long.status, json.loads(long.body or b"")["error"]["code"]) == (400, "context_length_exceeded")
    bad = await ask(
        scripted(refuse="secret"), "chat/completions", {"messages": [{"role": "user", "content": "secret"}]}
    )
    assert (bad.status, json.loads(bad.body or b"")["error"]["code"]) == (400, "content_filter")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        {}, {"messages": []}, {"messages": "x", "input": 5, "prompt": 5, "query": 5},
        {"messages": [5]}, {"messages": [{}], "input": [{}], "prompt": {}, "documents": {}},
        {"messages": [{"role": "user", "content": None}], "tools": 5, "input": [[[]]], "prompt": [None]},
        {"messages": [{"role": "user"}], "n": "x", "prompt": "x", "input": "x", "max_tokens": -1},
        {"messages": [{"role": "user"}], "tools": [{"function": 3}], "query": "x", "documents": [5]},
        {"messages": [{"role": "user"}], "tools": [], "tool_choice": {"function": 4}, "input": []},
    ],
)  # fmt: skip
async def test_odd_input_is_answered_like_an_upstream_does(endpoint: str, body: dict[str, Any]) -> None:
    """Whatever is asked, the answer is 200, or 400 with a message: never an exception."""
    reply = await ask(scripted(), endpoint, body)
    assert reply.status in (200, 400)
    if reply.status == 400:
        error = json.loads(reply.body or b"")["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"


async def test_odd_bytes_are_answered_as_well() -> None:
    """A form that is no form, and an endpoint that does not exist, are refused."""
    client = scripted()
    broken = make_call("audio/transcriptions", b"--x\r\nnonsense", "multipart/form-data; boundary=x")
    assert (await client.send(broken, 1e9)).status == 400
    assert (await client.send(make_call("audio/transcriptions", b"RIFF", "audio/wav"), 1e9)).status == 400
    assert (await client.send(make_call("nowhere", {"model": "m"}), 1e9)).status == 404


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"replay": "x"}, "replay"), ({"latency": -1}, "latency"), ({"latency": [2, 1]}, "latency"),
        ({"fail_status": 200}, "fail_status"), ({"fail_rate": 2}, "fail_rate"), ({"hang": 1}, "hang"),
        ({"fail_kind": "tired"}, "fail_kind"), ({"script": []}, "script"), ({"script": [5]}, "script[0]"),
        ({"script": [{"replay": 1}]}, "script[0].replay"), ({"at_end": "stop"}, "at_end"),
        ({"usage": {"tokens": 1}}, "usage"), ({"retry_after": "a\r\nb"}, "retry_after"),
        ({"tool_calls": [5]}, "tool_calls"), ({"vector_size": 0}, "vector_size"), ({"seed": "x"}, "whole"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(args: dict[str, Any], named: str) -> None:
    """A script that cannot be played is refused when it is read, and says what is wrong."""
    with pytest.raises(Misconfigured) as caught:
        scripted(**args)
    assert named in caught.value.detail
    assert "m/scripted" in caught.value.detail


def test_arguments_of_other_types_do_not_matter() -> None:
    """It can stand in for another type of client in a configuration."""
    scripted(api_key="k", base_url="http://x", timeout=60)
