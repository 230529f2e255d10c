"""Streams after their first content: bytes as they came, usage, and honest ends."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.call import Usage
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.streams.scan import MAX_EVENT
from router_core.gateway.streams.watch import Watch
from tests.gateway.stream_parts import (
    DONE,
    FINISH,
    ROLE,
    USAGE,
    Source,
    chunk,
    cut,
    data,
    drain,
    errors_in,
    held,
    text,
)

# --- what passes ---------------------------------------------------------------------------------


async def test_bytes_pass_as_they_came() -> None:
    """One piece in, one piece out, after those that were held."""
    pieces = [
        ROLE,
        text("a"),
        text("b"),
        b": ping\n\n",
        text('an error, [DONE] and "_tokens":'),
        FINISH,
        DONE,
    ]
    stream = await held(pieces)
    got = [piece async for piece in stream.chunks]
    assert got == [ROLE + text("a"), *pieces[2:]]
    assert stream.complete
    assert stream.failure is None
    assert stream.usage() is None


async def test_several_events_in_one_piece_stay_one_piece() -> None:
    """The piece with the first content is no exception."""
    stream = await held([ROLE + text("a") + text("b"), text("c") + FINISH + USAGE + DONE])
    assert [piece async for piece in stream.chunks] == [
        ROLE + text("a") + text("b"), text("c") + FINISH + USAGE + DONE,
    ]  # fmt: skip
    assert stream.usage() == Usage(7, 2)
    assert stream.complete


_EVENTS = st.lists(
    st.sampled_from([
        text("a"), text("h\u00e9 \U0001f600"), text("error"), text("[DONE]"), b": ping\n\n", b":\r\n\r\n",
        text("b").replace(b"\n", b"\r\n"), chunk({"tool_calls": [{"function": {"arguments": "{\""}}]}),
        b"event: x\nid: 1\ndata: {\"choices\": [{\"delta\":\ndata: {\"content\": \"x\"}}]}\n\n",
        chunk({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": 1}), USAGE,
    ]),
    max_size=12,
)  # fmt: skip


@given(_EVENTS, st.lists(st.integers(0, 3000), max_size=40), st.booleans(), st.booleans(), st.booleans())
def test_any_cut_gives_the_same_stream(
    events: list[bytes], cuts: list[int], strip: bool, bom: bool, ends: bool
) -> None:
    """The same bytes, the same usage and the same end, wherever the upstream's pieces are cut."""
    whole = (b"\xef\xbb\xbf" if bom else b"") + b"".join([ROLE, text("x"), *events, FINISH, USAGE])
    whole += DONE if ends else b""
    places = sorted({min(each, len(whole)) for each in cuts} | {0, len(whole)})
    pieces = [whole[start:end] for start, end in pairwise(places)]

    async def read() -> None:
        stream = await held(pieces, strip_usage=strip)
        out = await drain(stream)
        assert out == (whole.replace(USAGE, b"") if strip else whole)
        assert stream.complete
        assert stream.failure is None
        assert stream.usage() == Usage(7, 2)

    asyncio.run(read())


@given(st.integers(0, 2000))
def test_a_cut_anywhere_ends_with_an_error_and_no_half_event(place: int) -> None:
    """Whatever the upstream got out, the client reads whole events, then the error, then the end."""
    whole = ROLE + text("x") + b"".join(text(f"word {number} ") for number in range(10))
    first = len(ROLE + text("x"))
    place = first + place % (len(whole) - first + 1)

    async def read() -> None:
        source = Source([whole[:first], whole[first:place]], cut())
        stream = await held(source)
        out = await drain(stream)
        events = out.split(b"\n\n")
        assert events.pop() == b""
        documents = [json.loads(event.removeprefix(b"data: ")) for event in events]
        assert documents[-1]["error"]["code"] == "stream_interrupted"
        assert whole.startswith(out[: out.rindex(b"data: ")])
        assert b"[DONE]" not in out
        assert not stream.complete
        assert source.closed == 1

    asyncio.run(read())


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "kind", "word"),
    [
        ("end", "unclear", "broke off"),
        (cut(), "unclear", "reset"),
        (UpstreamFailure("timeout", "body", "10.1.1.1", sent=True, started=True), "timeout", "timeout"),
        (UpstreamFailure("malformed", "body", sent=True, started=True), "malformed", "malformed"),
    ],
    ids=["end", "reset", "timeout", "malformed"],
)
async def test_a_stream_that_breaks_off_says_so(end: Any, kind: str, word: str) -> None:
    """An error event with the code, and a failure of the deployment; never a silent end."""
    source = Source([ROLE, text("a"), text("b")], end)
    stream = await held(source)
    out = await drain(stream)
    [error] = errors_in(out)
    assert error["code"] == "stream_interrupted"
    assert word in error["message"]
    assert "10.1.1.1" not in error["message"]
    assert out.startswith(ROLE + text("a") + text("b") + b"data: {")
    assert stream.failure is not None
    assert (stream.failure.kind, stream.failure.move, stream.failure.failure) == (kind, "stop", True)
    assert not stream.complete
    assert source.closed == 1


async def test_named_events_get_a_named_error() -> None:
    """The events of responses have names, and their clients look at them."""
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n'
    stream = await held(Source([delta], cut()))
    out = await drain(stream)
    assert b"\n\nevent: error\ndata: " in out
    document = json.loads(out.rsplit(b"data: ", 1)[1])
    assert (document["type"], document["code"]) == ("error", "stream_interrupted")


@pytest.mark.parametrize(
    "last",
    [
        [FINISH],
        [FINISH, USAGE],
        [FINISH + USAGE],
        [FINISH, b": ping\n\n"],
        [FINISH, USAGE, b": ping\n\n", b": ping\n\n"],
        [chunk({"content": "!"}, "length")],
        [data({"choices": [{"text": "!", "finish_reason": "stop"}]})],
        [FINISH[:-2]],
        [FINISH, DONE[:-2]],
        [FINISH, DONE[:-1]],
    ],
    ids=[
        "finish",
        "usage",
        "both",
        "ping",
        "pings",
        "length",
        "completion",
        "unended",
        "done unended",
        "one newline",
    ],
)
async def test_a_reason_for_the_end_is_an_end(last: list[bytes]) -> None:
    """Not every upstream sends [DONE], and none is made up for it."""
    stream = await held([ROLE, text("a"), *last])
    out = await drain(stream)
    assert stream.complete
    assert stream.failure is None
    assert errors_in(out) == []
    assert out.count(b"[DONE]") == sum(b"[DONE]" in piece for piece in last)
    assert out.startswith(ROLE + text("a") + b"".join(last))


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "message_stop"])
async def test_named_ends_are_ends(kind: str) -> None:
    """Responses and messages end with an event of their own."""
    delta = data({"type": "response.output_text.delta", "delta": "x"})
    stream = await held([delta, data({"type": kind})])
    assert errors_in(await drain(stream)) == []
    assert stream.complete


async def test_nothing_passes_after_done() -> None:
    """What comes behind the end is not the caller's, and a failure there is nobody's."""
    source = Source([text("a"), FINISH + DONE + text("junk"), text("more")], cut())
    stream = await held(source)
    assert await drain(stream) == text("a") + FINISH + DONE
    assert stream.complete
    assert stream.failure is None
    assert source.taken == 3  # read to its end, so that the connection can be used again
    assert source.closed == 1


async def test_an_upstream_that_stays_open_after_done_is_not_waited_for() -> None:
    """A moment for the connection's sake, not more."""
    source = Source([text("a"), DONE], "hang")
    stream = await held(source)
    assert await drain(stream) == text("a") + DONE
    assert stream.complete
    assert source.closed == 1


async def test_junk_without_end_after_done_is_not_read() -> None:
    """Nor does it matter how much more there is."""
    source = Source([text("a"), DONE, *[b"x" * 65536] * 50])
    stream = await held(source)
    await drain(stream)
    assert source.taken < 6
    assert source.closed == 1


async def test_an_error_inside_is_passed_on_once_and_ends_the_stream() -> None:
    """As it came, without one of ours behind it, and what follows is not read any more."""
    error = data({"error": {"message": "boom", "type": "server_error", "code": 503}})
    source = Source([text("a"), text("b") + error + text("c"), text("d")], "hang")
    stream = await held(source)
    assert await anext(stream.chunks) == text("a")
    assert await anext(stream.chunks) == text("b") + error
    assert source.closed == 1
    assert await drain(stream) == b""
    assert stream.failure is not None
    assert (stream.failure.kind, stream.failure.move) == ("overloaded", "stop")
    assert not stream.complete
    assert source.closed == 1


async def test_an_error_in_the_same_piece_as_the_first_content() -> None:
    """The content was content: it passes, then the error, then the end."""
    error = data({"error": {"message": "boom"}})
    source = Source([ROLE + text("a") + error], "hang")
    stream = await held(source)
    assert stream.first_failure is None
    assert source.closed == 1
    assert await drain(stream) == ROLE + text("a") + error
    assert stream.failure is not None
    assert stream.failure.failure
    assert source.closed == 1


async def test_a_credential_in_an_error_does_not_pass() -> None:
    """Errors of upstreams are untrusted, in a stream as elsewhere."""
    error = data({"error": {"message": "key sk-canary-1234567890abcdef is over its limit", "code": "x"}})
    stream = await held([text("a"), error])
    out = await drain(stream)
    assert b"canary" not in out
    [found] = errors_in(out)
    assert found["code"] == "x"


async def test_an_event_that_is_too_large_ends_the_stream() -> None:
    """No more than a megabyte is kept, and the caller is told."""
    piece = b"data: " + b"x" * 65530
    source = Source([text("a"), *[piece] * 100])
    stream = await held(source)
    out = await drain(stream)
    [error] = errors_in(out)
    assert error["code"] == "stream_interrupted"
    assert source.taken <= MAX_EVENT // 65536 + 2
    assert source.closed == 1


async def test_a_whole_event_that_is_too_large_does_not_pass_either() -> None:
    """It came in one piece, with its end."""
    stream = await held([text("a"), text("x" * MAX_EVENT)])
    out = await drain(stream)
    assert len(out) < 1000
    assert stream.failure is not None
    assert stream.failure.kind == "malformed"


# --- usage ---------------------------------------------------------------------------------------


async def test_usage_that_was_not_asked_for_is_taken_out() -> None:
    """The chunk that has nothing else in it, wherever its piece begins and ends; others keep theirs."""
    both = chunk({"content": "x"}, usage={"prompt_tokens": 7, "completion_tokens": 1})
    stream = await held([text("a"), both, FINISH + USAGE + DONE], strip_usage=True)
    assert await drain(stream) == text("a") + both + FINISH + DONE
    assert stream.usage() == Usage(7, 2)


async def test_null_usage_is_none() -> None:
    """OpenAI writes it into every chunk when the last one is to have it."""
    stream = await held([chunk({"content": "x"}, usage=None), DONE], strip_usage=True)
    await drain(stream)
    assert stream.usage() is None


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([data({"choices": [], "usage": {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 3}}})], Usage(10, 5, 4, 3)),
        ([data({"type": "response.completed", "response": {"usage": {
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 3}}}})], Usage(10, 5, 4, 3)),
        ([data({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 5}})], Usage(0, 5)),
        ([data({"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}),
          data({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5}})], Usage(10, 5)),
        ([chunk({}, "stop", x_groq={"usage": {"prompt_tokens": 10, "completion_tokens": 5}})], Usage(10, 5)),
        ([chunk({"content": "x"}, usage={"prompt_tokens": 10, "completion_tokens": n}) for n in (1, 2, 3)],
         Usage(10, 3)),
        ([chunk({}, usage={"completion_tokens": 5}), chunk({}, usage={"prompt_tokens": 10})], Usage(10, 5)),
        ([data({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": "5"}})], None),
        ([data({"choices": [], "usage": {"prompt_tokens": 1e30, "completion_tokens": True}})], None),
        ([data({"choices": [], "usage": {"prompt_tokens": 10**15, "completion_tokens": 1}})], Usage(0, 1)),
        ([data({"choices": [], "usage": [{"prompt_tokens": 1}]})], None),
        ([data({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5,
                                         "total_tokens": 40}})], Usage(10, 30)),
    ],
)  # fmt: skip
async def test_usage_in_all_its_forms(events: list[bytes], usage: Usage | None) -> None:
    """Chat, responses, messages, Groq, running totals; what cannot be a count is none."""
    stream = await held([text("a"), *events, FINISH, DONE])
    await drain(stream)
    assert stream.usage() == usage


async def test_the_text_of_a_cut_stream_is_estimated() -> None:
    """From the size of what came, without reading it: within a tenth."""
    words = [f"word{number:04d} " for number in range(200)]
    stream = await held(Source([ROLE, *map(text, words)], cut()))
    await drain(stream)
    wrote = sum(map(len, words))
    assert stream.usage() is None
    assert 0.9 * wrote <= stream.text_bytes <= 1.2 * wrote


async def test_what_is_announced_is_not_counted_as_text() -> None:
    """The first events of responses repeat the whole request."""
    created = data({"type": "response.created", "response": {"instructions": "x" * 5000}})
    delta = data({"type": "response.output_text.delta", "delta": "hello"})
    stream = await held(Source([created, delta, delta], "hang"))
    await anext(stream.chunks)
    await anext(stream.chunks)
    assert stream.text_bytes == 10
    await stream.aclose()


@pytest.mark.parametrize("together", [False, True])
async def test_an_error_takes_nothing_off_what_was_written(together: bool) -> None:
    """It is shorter than an event with content, and no text: what came before it is what is booked."""
    pieces = [text("hello "), text("there"), data({"error": {"message": "overloaded"}})]
    stream = await held([b"".join(pieces)] if together else pieces)
    await drain(stream)
    assert stream.failure is not None
    assert stream.text_bytes == len("hello there")


@pytest.mark.parametrize("burst", [1, 7, 50])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_the_estimate_does_not_hang_on_the_pieces(burst: int, newline: bytes) -> None:
    """Events that come in bursts are counted as events."""
    events = [text("hello").replace(b"\n", newline)] * 100
    pieces = [b"".join(events[at : at + burst]) for at in range(0, 100, burst)]
    stream = await held(Source(pieces, "hang"))
    for _ in pieces:
        await anext(stream.chunks)
    assert stream.text_bytes == 500
    await stream.aclose()


# --- time, and who goes away ---------------------------------------------------------------------


async def test_silence_between_two_pieces_is_noticed() -> None:
    """Where the idle time is watched here, it ends the stream with the error."""
    source = Source([text("a"), text("b")], "hang")
    stream = await held(source, idle=0.02)
    out = await drain(stream)
    [error] = errors_in(out)
    assert (error["code"], error["type"]) == ("stream_interrupted", "timeout_error")
    assert stream.failure is not None
    assert stream.failure.kind == "timeout"
    assert source.closed == 1


async def test_the_total_deadline_ends_a_stream() -> None:
    """However lively it is; the task that read it is not left cancelled."""
    source = Source([text("a")], "hang")
    stream = await held(source, idle=30.0, total=asyncio.get_running_loop().time() + 0.02)
    [error] = errors_in(await drain(stream))
    assert error["type"] == "timeout_error"
    assert stream.failure is not None
    assert not stream.failure.failure  # the call was out of time, the deployment was not slow
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_slow_reader_is_not_taken_for_a_silent_upstream() -> None:
    """Time counts while the upstream is waited for, not while the caller takes its time."""
    stream = await held([text("a"), text("b"), DONE], idle=0.01)
    out = await anext(stream.chunks)
    await asyncio.sleep(0.03)
    out += await drain(stream)
    assert out == text("a") + text("b") + DONE
    assert stream.complete


async def test_one_timer_serves_many_waits() -> None:
    """It fires in the middle of a later wait, finds that this one is not over its time, and lets it be."""
    watch = Watch()
    now = asyncio.get_running_loop().time()
    with watch.until(now + 0.01):
        await asyncio.sleep(0)
    with watch.until(now + 60.0):
        await asyncio.sleep(0.03)
    with pytest.raises(TimeoutError), watch.until(now + 0.04):
        await asyncio.sleep(60.0)
    watch.close()


async def test_a_timer_that_fires_while_nobody_waits_does_nothing() -> None:
    """The next wait sets it anew."""
    troubles: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    watch = Watch()
    with watch.until(loop.time() + 0.01):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    with pytest.raises(TimeoutError), watch.until(loop.time() + 0.01):
        await asyncio.sleep(60.0)
    assert troubles == []


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_closing_ends_the_call_at_the_upstream(after: int) -> None:
    """Before the first piece is taken, in the middle, and at the end; twice is once."""
    source = Source([text("a"), text("b"), text("c")], "hang")
    stream = await held(source)
    for _ in range(after):
        await anext(stream.chunks)
    await stream.aclose()
    await stream.aclose()
    assert source.closed == 1
    assert not stream.complete
    assert [piece async for piece in stream.chunks] == []


@pytest.mark.parametrize("options", [{}, {"idle": 30.0}], ids=["unwatched", "watched"])
async def test_a_cancelled_reader_closes_the_upstream(options: dict[str, Any]) -> None:
    """The caller's connection broke while the next piece was awaited; the watch takes back only its own
    cancellation."""
    source = Source([text("a")], "hang")
    stream = await held(source, **options)
    reader = asyncio.ensure_future(drain(stream))
    await source.hangs.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert source.closed == 1
    assert not stream.complete


async def test_an_upstream_that_fails_to_close_harms_nobody() -> None:
    """Whoever closes is done with it."""

    class Stubborn(Source):
        async def aclose(self) -> None:
            raise OSError("no")

    stream = await held(Stubborn([text("a")], cut()))
    assert len(errors_in(await drain(stream))) == 1
