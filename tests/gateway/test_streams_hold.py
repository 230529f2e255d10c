"""Streams before their first content: what counts as content, and what makes the attempt a failed one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router_core.gateway.outcome import Kind
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.streams.gate import hold
from tests.gateway.stream_parts import DONE, FINISH, ROLE, USAGE, Source, chunk, cut, data, drain, held, text


def _typed(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + data({"type": name, **fields})


_CONTENT: dict[str, bytes] = {
    "text": text("hi"),
    "text without role": chunk({"content": "hi"}),
    "role and text": chunk({"role": "assistant", "content": "hi"}),
    "reasoning": chunk({"reasoning_content": "hm"}),
    "refusal": chunk({"refusal": "no"}),
    "tool call": chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
    "unknown delta": chunk({"sound": {"data": "AAAA"}}),
    "an empty answer that is finished": FINISH,
    "second choice": data({"choices": [{"delta": {}}, {"index": 1, "delta": {"content": "x"}}]}),
    "completion": data({"object": "text_completion", "choices": [{"text": "hi", "finish_reason": None}]}),
    "responses": _typed("response.output_text.delta", delta="hi"),
    "responses, finished": _typed("response.completed", response={"status": "completed"}),
    "responses, unknown type": _typed("response.something.new", x=1),
    "messages": _typed("content_block_delta", delta={"type": "text_delta", "text": "hi"}),
    "transcript": data({"type": "transcript.text.delta", "delta": "hi"}),
    "crlf": text("hi").replace(b"\n", b"\r\n"),
    "several lines": b'data: {"choices":\ndata: [{"delta": {"content": "hi"}}]}\n\n',
    "byte order mark": b"\xef\xbb\xbf" + text("hi"),
}

_SILENT: dict[str, bytes] = {
    "role": ROLE,
    "role only": chunk({"role": "assistant"}),
    "empty delta": chunk({}),
    "null content": chunk({"role": "assistant", "content": None, "tool_calls": None}),
    "no choices": data({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
    "usage": USAGE,
    "comment": b": OPENROUTER PROCESSING\n\n",
    "ping": _typed("ping"),
    "blank lines": b"\n\n\r\n\r\n",
    "retry": b"retry: 500\n\n",
    "empty data": b"data:\n\n",
    "created": _typed("response.created", response={"error": None, "id": "r"}),
    "item added": _typed("response.output_item.added", item={"type": "message"}),
    "message start": _typed("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}}),
    "block start": _typed("content_block_start", content_block={"type": "text", "text": ""}),
}


@pytest.mark.parametrize("event", _CONTENT.values(), ids=_CONTENT.keys())
async def test_content_lets_the_stream_begin(event: bytes) -> None:
    """The held bytes come first, as they came, together with what is content."""
    source = Source([b": ping\n\n", ROLE, event], "hang")
    stream = await held(source)
    assert stream.first_failure is None
    assert await anext(stream.chunks) == b": ping\n\n" + ROLE + event
    assert source.closed == 0
    await stream.aclose()
    assert source.closed == 1


@pytest.mark.parametrize("event", _SILENT.values(), ids=_SILENT.keys())
async def test_what_is_no_content_is_held(event: bytes) -> None:
    """Nothing of it was passed on when the stream fails afterwards."""
    source = Source([event], cut())
    stream = await held(source)
    assert stream.first_failure is not None
    assert stream.first_failure.kind == "unclear"
    assert stream.first_failure.safe  # nothing was made yet: trying elsewhere loses nothing
    assert stream.first_failure.failure
    assert source.closed == 1
    assert await drain(stream) == b""


@pytest.mark.parametrize("step", [1, 2, 3, 5, 16])
async def test_pieces_do_not_matter(step: int) -> None:
    """Cut into small pieces, the same is held and the same passes."""
    whole = b": x\r\n\r\n" + ROLE + text("h\u00e9") + text("llo") + FINISH + USAGE + DONE
    stream = await held([whole[at : at + step] for at in range(0, len(whole), step)], strip_usage=True)
    assert await drain(stream) == whole.replace(USAGE, b"")
    assert stream.complete


_ERRORS: dict[str, tuple[bytes, Kind, str]] = {
    "openai": (data({"error": {"message": "x", "type": "server_error"}}), "server_error", "retry"),
    "rate limit": (data({"error": {"message": "x", "code": "rate_limit_exceeded"}}), "rate_limited", "retry"),
    "overloaded": (data({"type": "error", "error": {"type": "overloaded_error"}}), "overloaded", "retry"),
    "named": (b'event: error\ndata: {"message": "x"}\n\n', "server_error", "retry"),
    "named, as text": (b"event: error\ndata: it broke\n\n", "server_error", "retry"),
    "vllm": (data({"error": {"object": "error", "message": "m", "type": "BadRequestError", "code": 400}}),
             "client_error", "stop"),
    "vllm, old": (data({"object": "error", "message": "boom", "code": 500}), "server_error", "retry"),
    "tgi": (data({"error": "Request failed during generation", "error_type": "generation"}),
            "server_error", "retry"),
    "too long": (data({"error": {"code": 400, "message": "maximum context length is 10"}}),
                 "context_window", "context"),
    "policy": (data({"error": {"code": "content_filter", "message": "m"}}), "content_policy", "policy"),
    "bad gateway": (data({"id": "g", "error": {"code": 502, "message": "m"},
                          "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}),
                    "unclear", "retry"),
    "finished with an error": (chunk({"content": "x"}, "error"), "server_error", "retry"),
    "responses": (_typed("response.failed", response={"error": {"code": "server_error"}}),
                  "server_error", "retry"),
    "responses error": (_typed("error", code="rate_limit_exceeded", message="x"), "rate_limited", "retry"),
}  # fmt: skip


@pytest.mark.parametrize(("event", "kind", "move"), _ERRORS.values(), ids=_ERRORS.keys())
@pytest.mark.parametrize("before", [b"", b": ping\n\n" + ROLE], ids=["first", "after a role"])
async def test_an_early_error_fails_over(event: bytes, kind: Kind, move: str, before: bytes) -> None:
    """The status was 200 and the judgement is that of the error inside; nothing was made, so it is safe."""
    source = Source([before + event, text("never")], "hang")
    stream = await held(source)
    failure = stream.first_failure
    assert failure is not None
    assert (failure.kind, failure.move, failure.safe) == (kind, move, True)
    assert source.closed == 1
    assert await drain(stream) == b""
    assert not stream.complete


async def test_an_early_error_is_there_as_an_answer() -> None:
    """A caller whose mistake it was gets it, with the status that belongs to it."""
    stream = await held([data({"error": {"message": "bad temperature", "code": 400, "type": "T"}})])
    refusal = stream.refusal
    assert refusal is not None
    assert refusal.status == 400
    assert refusal.body is not None
    assert json.loads(refusal.body)["error"]["message"] == "bad temperature"


async def test_an_early_rate_limit_cools_down() -> None:
    """The headers of the stream are those of the error in it."""
    limited = data({"error": {"code": "rate_limit_exceeded"}})
    stream = await held([limited], {"retry-after": "900"}, max_cooldown=40.0)
    assert stream.first_failure is not None
    assert stream.first_failure.cooldown == 40.0


@pytest.mark.parametrize(
    "pieces",
    [
        [], [b""], [b"\n\n"], [ROLE], [ROLE, USAGE],
        [DONE], [ROLE, DONE], [b": ping\n\n", b"data: [DONE]"],
        [b"<!DOCTYPE html><html><body>busy</body></html>"], [b"\n<html>\n\n<body>\n\n</body>"],
        [b"Service Unavailable"], [b"Service\n\nUnavailable\n\n"], [b"\x00\xff" * 500],
        [b'{"id":"c","choices":[]}'], [b"data: hello\n\n"], [b"data: 5\n\n"], [b'data: {"id": "c", \n\n'],
        [b'data: {"choices"'], [b"data: " + b"[" * 3000 + b"\n\n"],
    ],
    ids=["nothing", "empty", "blank", "role", "usage", "done", "role done", "done unended",
         "html", "html later", "text", "texts", "binary", "json", "not json",
         "number", "cut json", "unended", "deep"],
)  # fmt: skip
async def test_what_is_no_stream_of_a_model_fails_over(pieces: list[bytes]) -> None:
    """Empty, ended at once, HTML, JSON, garbage: somebody else may do better."""
    source = Source(pieces)
    stream = await held(source)
    failure = stream.first_failure
    assert failure is not None
    assert (failure.kind, failure.move, failure.safe, failure.failure) == ("malformed", "retry", True, True)
    assert source.closed == 1
    assert stream.usage() is None or pieces[-1:] == [USAGE]


async def test_html_is_recognised_before_its_end() -> None:
    """A page that never ends is not waited for."""
    source = Source([b"<html>"], "hang")
    assert (await held(source)).first_failure is not None
    assert source.closed == 1


async def test_an_error_as_plain_json_is_judged() -> None:
    """Some answer a stream with 200 and an error that is no event."""
    body = json.dumps({"error": {"message": "x", "code": "rate_limit_exceeded"}}, indent=1).encode()
    stream = await held([body[:10], body[10:]])
    assert stream.first_failure is not None
    assert stream.first_failure.kind == "rate_limited"


@pytest.mark.parametrize("before", [[], [ROLE]], ids=["first", "after a role"])
async def test_an_error_whose_event_is_not_ended_is_judged(before: list[bytes]) -> None:
    """Only the empty line after it is missing."""
    stream = await held([*before, data({"error": {"message": "x", "code": 503}})[:-2]])
    assert stream.first_failure is not None
    assert stream.first_failure.kind == "overloaded"


async def test_a_whole_answer_in_one_unended_event_is_content() -> None:
    """Only the empty line at its end is missing."""
    stream = await held([ROLE, FINISH[:-2]])
    assert stream.first_failure is None
    assert await drain(stream) == ROLE + FINISH
    assert stream.complete


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (UpstreamFailure("timeout", "body", sent=True, started=True), "timeout"),
        (UpstreamFailure("reset", "body", sent=True, started=True), "unclear"),
        (UpstreamFailure("malformed", "body", sent=True, started=True), "malformed"),
        (UpstreamFailure("too_large", "body", sent=True, started=True), "malformed"),
    ],
)
async def test_failures_below_are_taken_over(failure: UpstreamFailure, kind: Kind) -> None:
    """The judgement is that of the failure, but for nothing having been made."""
    stream = await held(Source([ROLE], failure))
    assert stream.first_failure is not None
    assert (stream.first_failure.kind, stream.first_failure.safe) == (kind, True)


async def test_the_deadline_is_for_content_not_for_pings() -> None:
    """An upstream that says nothing in time has failed, and the call there is ended."""
    source = Source([b": ping\n\n"] * 3, "hang")
    stream = await held(source, patience=0.02)
    assert stream.first_failure is not None
    assert (stream.first_failure.kind, stream.first_failure.safe) == ("timeout", True)
    assert source.closed == 1


async def test_a_call_out_of_time_does_not_speak_against_the_deployment() -> None:
    """A caller may give a call a hundredth of a second, and must not open circuits with it."""
    source = Source([ROLE], "hang")
    stream = await held(source, total=asyncio.get_running_loop().time() + 0.02)
    assert stream.first_failure is not None
    assert (stream.first_failure.kind, stream.first_failure.failure) == ("timeout", False)
    assert source.closed == 1


async def test_a_deadline_that_is_over_fails_at_once() -> None:
    """Also where the deadline is in the past."""
    stream = await held(Source([], "hang"), patience=-5.0)
    assert stream.first_failure is not None
    assert stream.first_failure.kind == "timeout"


async def test_too_many_events_without_content_are_let_go() -> None:
    """The caller is told that something happens; holding on would hide it, and cost memory."""
    source = Source([b": ping\n\n"] * 65, "hang")
    stream = await held(source)
    assert stream.first_failure is None
    assert await anext(stream.chunks) == b": ping\n\n" * 65
    await stream.aclose()


async def test_too_many_bytes_without_content_are_let_go() -> None:
    """The same for few and large ones."""
    large = b": " + b"x" * 100_000 + b"\n\n"
    source = Source([large] * 3, "hang")
    stream = await held(source)
    assert await anext(stream.chunks) == large * 3
    await stream.aclose()


async def test_a_line_that_never_ends_is_no_stream() -> None:
    """No more than a megabyte of it is kept, of however many."""
    piece = b"x" * 65536
    source = Source(piece for _ in range(4096))
    stream = await held(source)
    assert stream.first_failure is not None
    assert stream.first_failure.kind == "malformed"
    assert source.taken <= 17
    assert source.closed == 1
    assert not stream._splitter.pending


async def test_a_large_first_event_is_content() -> None:
    """An image comes as one event of several hundred kilobytes."""
    image = data({"type": "image_generation.partial_image", "b64_json": "A" * 700_000})
    stream = await held([image[at : at + 50_000] for at in range(0, len(image), 50_000)])
    assert stream.first_failure is None
    assert await anext(stream.chunks) == image


async def test_a_cancellation_closes_the_upstream() -> None:
    """The caller went away while nothing had come yet."""
    source = Source([ROLE], "hang")
    task = asyncio.ensure_future(held(source))
    await source.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed == 1


async def test_a_fault_of_a_client_closes_the_upstream_and_is_not_hidden() -> None:
    """An error in our own code is no judgement about the upstream."""
    source = Source([ROLE], ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await held(source)
    assert source.closed == 1


async def test_a_whole_answer_cannot_be_held() -> None:
    """That is a mistake of whoever asks for it."""
    with pytest.raises(TypeError):
        await hold(Reply(200, {}, b"{}"), deadline=0.0)
