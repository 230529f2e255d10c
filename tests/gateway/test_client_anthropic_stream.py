"""Events of Anthropic as chunks of OpenAI: the same whatever pieces the bytes come in, in bounded memory."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from router_core.gateway.clients.anthropic_answer import read_message
from router_core.gateway.clients.anthropic_stream import EventTranslator
from router_core.gateway.reply import UpstreamFailure


def error_event(error: Mapping[str, Any]) -> bytes:
    """Return what tells of an error."""
    return b'data: {"error": {}}\n\n'


def translator() -> EventTranslator:
    """Return a fresh translator."""
    return EventTranslator("m", 7, error_event)


def sse(*events: dict[str, Any], newline: str = "\n") -> bytes:
    """Return the bytes of events."""
    lines = [f"event: {each['type']}{newline}data: {json.dumps(each)}{newline}{newline}" for each in events]
    return "".join(lines).encode()


def delta(index: int, **members: Any) -> dict[str, Any]:
    """Return a delta."""
    return {"type": "content_block_delta", "index": index, "delta": members}


EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {
        "input_tokens": 9}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"}, delta(0, type="text_delta", text="Grüße\n\n"),
    delta(0, type="text_delta", text="\u2028x"),
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {
        "type": "tool_use", "id": "t", "name": "add", "input": {}}},
    delta(1, type="input_json_delta", partial_json=""),
    delta(1, type="input_json_delta", partial_json='{"a":'),
    delta(1, type="input_json_delta", partial_json='"é"}'),
    {"type": "content_block_stop", "index": 1},
    {"type": "event_of_tomorrow", "index": {}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
]  # fmt: skip


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_pieces_do_not_matter(newline: str) -> None:
    """Byte by byte, at random, or all at once: the chunks are the same."""
    data = sse(*EVENTS, newline=newline)
    whole = translator().feed(data)
    single = translator()
    assert b"".join(single.feed(data[at : at + 1]) for at in range(len(data))) == whole
    assert single.ended
    draw = random.Random(1)
    for _ in range(50):
        cut, rest, out = translator(), data, b""
        while rest:
            at = draw.randint(1, 60)
            out, rest = out + cut.feed(rest[:at]), rest[at:]
        assert out == whole


def test_chunks() -> None:
    """Deltas, indexes, the finish and the usage are those of OpenAI."""
    out = translator().feed(sse(*EVENTS)).decode()
    lines = [line[6:] for line in out.split("\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert {(each["id"], each["model"], each["created"]) for each in chunks} == {("msg_1", "claude", 7)}
    deltas = [each["choices"][0]["delta"] for each in chunks[:-1]]
    assert "".join(each.get("content") or "" for each in deltas) == "Grüße\n\n\u2028x"
    calls = [each["tool_calls"][0] for each in deltas if "tool_calls" in each]
    assert [each["index"] for each in calls] == [0, 0, 0]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("t", "add")
    assert "".join(each["function"]["arguments"] for each in calls) == '{"a":"é"}'
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens"] == 9
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert ": ping" in out


def test_tool_calls_are_the_reason_whatever_is_said() -> None:
    """Some who speak this API end a turn of tool calls with another reason; callers have to know."""
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert b'"finish_reason":"tool_calls"' in translator().feed(sse(*EVENTS[:11], ended))
    call = {"type": "tool_use", "id": "t", "name": "add", "input": {}}
    whole = read_message(json.dumps({"content": [call], "stop_reason": "end_turn"}).encode(), "m", 7)
    assert json.loads(whole)["choices"][0]["finish_reason"] == "tool_calls"


def test_nothing_follows_an_error() -> None:
    """After an error event nothing is translated any more."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    made = translator()
    assert made.feed(sse(EVENTS[0], error, *EVENTS[1:])).endswith(b'data: {"error": {}}\n\n')
    assert made.ended
    assert made.feed(sse(*EVENTS)) == b""


def test_counts_of_tokens_are_sums() -> None:
    """The last count of each kind holds, and null takes nothing back."""
    made = translator()
    made.feed(sse(EVENTS[0], {
        "type": "message_delta", "delta": {}, "usage": {
            "output_tokens": 3, "input_tokens": None, "cache_read_input_tokens": 2}}))  # fmt: skip
    made.feed(sse({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 8}}))
    counts = made.counts()
    assert (counts.input, counts.output, counts.cached) == (11, 8, 2)


def test_blocks_without_end_are_bounded() -> None:
    """A stream that opens blocks for ever is given up; a thought without end is told, but not kept."""
    made = translator()
    block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
    with pytest.raises(UpstreamFailure, match="too many"):
        made.feed(sse(EVENTS[0], *({**block, "index": index} for index in range(5000))))
    made = translator()
    thinking = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": ""},
    }
    made.feed(sse(EVENTS[0], thinking))
    for _ in range(300):
        assert made.feed(sse(delta(0, type="thinking_delta", thinking="x" * 1000)))
    made.feed(sse(delta(0, type="signature_delta", signature="s")))
    assert made.feed(sse({"type": "content_block_stop", "index": 0})) == b""


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": True, "delta": {}}, {"type": "message_delta", "delta": None},
        {"type": "content_block_delta", "index": 0, "delta": 5}, {"type": "error"},
        {"type": "content_block_start", "index": 0, "content_block": 5}, {"type": "message_start"},
    ],
)  # fmt: skip
def test_odd_events_are_malformed(event: dict[str, Any]) -> None:
    """An event that lacks what it has to have is a failure of the upstream."""
    made = translator()
    made.feed(sse(EVENTS[0]))
    with pytest.raises(UpstreamFailure) as caught:
        made.feed(sse(event))
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize("event", [{"type": ["x"]}, {}, {"type": "new"}, {"type": None}])
def test_unknown_events_are_nothing(event: dict[str, Any]) -> None:
    """Types that are not known are passed over."""
    assert translator().feed(b"data: %s\n\n" % json.dumps(event).encode()) == b""


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"content": 5}', b"{", b'"x"', b"[" * 10_000, b'{"content":"\xff"}']
)
def test_whole_answer_that_is_no_message(body: bytes) -> None:
    """A 200 with something else is a failure of the upstream."""
    with pytest.raises(UpstreamFailure) as caught:
        read_message(body, "m", 7)
    assert caught.value.kind == "malformed"


def test_whole_answer_of_odd_blocks() -> None:
    """Blocks that lack what they need are passed over, and counts that are none count nothing."""
    blocks = [5, {}, {"type": "text"}, {"type": "tool_use", "input": 5}, {"type": "thinking", "thinking": 5}]
    usage = {"input_tokens": -1, "output_tokens": True, "output_tokens_details": 5}
    body = {"content": blocks, "usage": usage, "stop_details": 5, "stop_reason": {}}
    got = json.loads(read_message(json.dumps(body).encode(), "m", 7))
    assert got["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}
    assert got["usage"]["total_tokens"] == 0
    assert (got["model"], got["choices"][0]["finish_reason"]) == ("m", "stop")
