"""Requests go out and answers come back over connections that are used again only when that is safe."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from router_core.gateway.transport.chunks import Chunks
from router_core.testing.upstream_faults import (
    Behaviour,
    close_delimited,
    early_answer,
    flood_1xx,
    gzip_bomb,
    gzipped,
    junk_after,
    ok,
    raw,
    status,
    then_close,
)
from router_core.testing.upstream_openai import embeddings, openai_stream
from router_core.testing.upstream_wire import Exchange
from tests.gateway.transport_kit import Kit, both_loops, broken, whole

OK = b"HTTP/1.1 200 OK\r\n"
ONE = OK + b"content-length: 1\r\n\r\na"
CUT = gzip.compress(b"abc")[:15]
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
SSE = {"content-type": "text/event-stream"}


@both_loops
async def test_a_call_goes_out_as_it_is_and_its_answer_comes_back_whole(kit: Kit) -> None:
    """Status, fields in lower case, body; one request, one write."""
    kit.upstream.queue(ok(b"abc", code=201, headers={"X-Two": "first", "x-TWO": "second"}))
    reply = await kit.send(b'{"model":"m"}')
    (seen,) = kit.upstream.requests
    assert (reply.status, reply.body, reply.chunks) == (201, b"abc", None)
    assert reply.headers["x-two"] == "first"
    assert reply.content_type == "application/json"
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", b'{"model":"m"}')


@both_loops
async def test_one_connection_serves_calls_that_follow_each_other(kit: Kit) -> None:
    """Whole answers, streams and errors alike leave it reusable."""
    kit.upstream.queue(ok(), status(500), openai_stream(), embeddings(), ok(b""))
    for stream in (False, False, True, False, False):
        reply = await kit.send(stream=stream)
        if reply.chunks is not None:
            await whole(reply)
    assert kit.upstream.connections == 1
    assert kit.stats == (1, 1, 0, 0)


@both_loops
async def test_parallel_calls_take_a_connection_each_and_the_last_used_first(kit: Kit) -> None:
    """Those that were used least recently are left to grow old."""
    await asyncio.gather(*(kit.send() for _ in range(20)))
    assert kit.upstream.connections == 20
    assert kit.stats == (20, 20, 0, 0)
    for _ in range(3):
        await kit.send()
    assert len({each.connection for each in kit.upstream.requests[-3:]}) == 1


@both_loops
async def test_large_bodies_go_both_ways(kit: Kit) -> None:
    """Megabytes out and in, in a length and in chunks."""
    big = bytes(range(256)) * 12_000
    pieces = [big[at : at + 70_000] for at in range(0, len(big), 70_000)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in [*pieces, b""])
    kit.upstream.queue(ok(big), raw(CHUNKED + chunked, close=False))
    assert (await kit.send(big)).body == big
    assert (await kit.send(big)).body == big
    assert [each.body == big for each in kit.upstream.requests] == [True, True]
    assert kit.upstream.connections == 1


@both_loops
async def test_a_stream_comes_piece_by_piece(kit: Kit) -> None:
    """What has come is handed over before the rest is there, and the connection is used again."""
    go_on = asyncio.Event()

    async def run(exchange: Exchange) -> None:
        await exchange.head(200, {**SSE, "transfer-encoding": "chunked"})
        for number in range(3):
            await exchange.chunk(b"data: %d\n\n" % number)
            await go_on.wait()
            go_on.clear()
        await exchange.chunk(b"")

    kit.upstream.queue(Behaviour("stepwise", run))
    reply = await kit.send(stream=True)
    assert isinstance(reply.chunks, Chunks)
    assert (reply.status, reply.body, reply.content_type) == (200, None, "text/event-stream")
    for number in range(3):
        assert await anext(reply.chunks) == b"data: %d\n\n" % number
        assert kit.stats.in_use == 1
        go_on.set()
    with pytest.raises(StopAsyncIteration):
        await anext(reply.chunks)
    assert reply.chunks.ended_by == "framing"
    await reply.aclose()
    await kit.send()
    assert kit.upstream.connections == 1


@both_loops
async def test_only_good_answers_that_are_no_json_are_streamed(kit: Kit) -> None:
    """Errors, and whoever answers a stream with a whole completion, come whole."""
    kit.upstream.queue(
        ok({"a": 1}),
        ok(b"{}", headers={"content-type": "application/problem+json; charset=utf-8"}),
        ok(b"data: x\n\n", code=503, headers=SSE),
        ok(b"data: x\n\n", headers=SSE),
        ok(b"data: x\n\n", headers={"content-type": ""}),
    )
    replies = [await kit.send(stream=True) for _ in range(5)]
    assert [each.body is None for each in replies] == [False, False, False, True, True]
    assert await whole(replies[3]) == b"data: x\n\n"
    assert (await kit.send(stream=False)).body is not None
    for reply in replies:
        await reply.aclose()


GOOD: list[tuple[str, bytes, int, bytes, bool]] = [
    ("length", OK + b"content-length: 3\r\n\r\nabc", 200, b"abc", True),
    ("empty", OK + b"content-length: 0\r\n\r\n", 200, b"", True),
    ("chunks", CHUNKED + b"3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", 200, b"abcd", True),
    ("trailers", CHUNKED + b"1\r\na\r\n0\r\nx-late: 1\r\n\r\n", 200, b"a", True),
    ("no reason", b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    ("no content", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ("not modified", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
    ("interim", b"HTTP/1.1 103 Hints\r\nx: y\r\n\r\nHTTP/1.1 100 C\r\n\r\n" + ONE, 200, b"a", True),
    ("to the end", OK + b"\r\nall of it", 200, b"all of it", False),
    ("close", OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", 200, b"a", False),
    ("1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 200, b"a", False),
    ("1.0 that stays", b"HTTP/1.0 200 OK\r\nconnection: keep-alive" + ONE[15:], 200, b"a", False),
    ("body to 204", b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil", 204, b"", False),
    ("junk after", ONE + b"GARBAGE", 200, b"a", False),
    ("an answer too many", ONE * 2, 200, b"a", False),
    ("half an answer too many", ONE + b"HTTP/1.1 200 OK\r\ncont", 200, b"a", False),
    ("an interim too many", ONE + b"HTTP/1.1 100 Continue\r\n\r\n", 200, b"a", False),
]  # fmt: skip


@both_loops
@pytest.mark.parametrize(
    ("answer", "code", "body", "kept"), [each[1:] for each in GOOD], ids=[each[0] for each in GOOD]
)
async def test_an_answer_ends_where_its_framing_says(
    kit: Kit, answer: bytes, code: int, body: bytes, kept: bool
) -> None:
    """The connection serves the next call only when nothing is left over and nobody said otherwise."""
    kit.upstream.queue(raw(answer, close=answer.endswith(b"all of it")), ok(b"second"))
    reply = await kit.send()
    assert (reply.status, reply.body) == (code, body)
    assert "x-late" not in reply.headers
    assert (await kit.send()).body == b"second"
    assert kit.upstream.connections == (1 if kept else 2)


LONG = b"".join(b"x-%d: %b\r\n" % (number, b"v" * 900) for number in range(80))
BAD: list[tuple[str, bytes]] = [
    ("both lengths", OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both, other way", OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
    ("two lengths", OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc"),
    ("list of lengths", OK + b"content-length: 3, 4\r\n\r\nabc"),
    ("negative length", OK + b"content-length: -1\r\n\r\n"),
    ("signed length", OK + b"content-length: +1\r\n\r\na"),
    ("length of words", OK + b"content-length: one\r\n\r\na"),
    ("length beyond 64 bits", OK + b"content-length: 18446744073709551617\r\n\r\na"),
    ("other transfer-encoding", OK + b"transfer-encoding: gzip\r\n\r\nabc"),
    ("coded chunks", OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("bad chunk size", CHUNKED + b"xyz\r\n"),
    ("negative chunk", CHUNKED + b"-1\r\na\r\n0\r\n\r\n"),
    ("chunk beyond 64 bits", CHUNKED + b"fffffffffffffffff\r\n"),
    ("chunk longer than said", CHUNKED + b"1\r\nab\r\n0\r\n\r\n"),
    ("bare line feed in a chunk", CHUNKED + b"1\na\n0\n\n"),
    ("folded field", OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n"),
    ("NUL", OK + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n"),
    ("space before the colon", OK + b"content-length : 0\r\n\r\n"),
    ("no name", OK + b": a\r\ncontent-length: 0\r\n\r\n"),
    ("bare line feeds", b"HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
    ("bare return", OK + b"x: a\rb\r\ncontent-length: 0\r\n\r\n"),
    ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("HTML", b"<html>502 Bad Gateway</html>\r\n\r\n"),
    ("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
    ("status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n"),
    ("status below 100", b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
    ("upgrade", b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc"),
    ("long head", OK + LONG + b"content-length: 0\r\n\r\n"),
    ("endless head", OK + b"x: " + b"y" * 200_000),
    ("many fields", OK + b"".join(b"x-%d: y\r\n" % each for each in range(101)) + b"\r\n"),
    ("many equal fields", OK + b"x: y\r\n" * 101 + b"content-length: 0\r\n\r\n"),
    ("endless trailer", CHUNKED + b"1\r\na\r\n0\r\nx: " + b"y" * 400_000),
    ("endless chunk extension", CHUNKED + b"1;" + b"y" * 400_000),
    ("unknown coding", OK + b"content-encoding: br\r\ncontent-length: 3\r\n\r\nabc"),
    ("two codings", OK + b"content-encoding: gzip, gzip\r\ncontent-length: 3\r\n\r\nabc"),
    ("cut within its coding", OK + b"content-encoding: gzip\r\ncontent-length: 15\r\n\r\n" + CUT),
    ("not what its coding says", OK + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"),
]  # fmt: skip


@both_loops
@pytest.mark.parametrize("answer", [each[1] for each in BAD], ids=[each[0] for each in BAD])
async def test_an_answer_that_breaks_the_rules_is_malformed(kit: Kit, answer: bytes) -> None:
    """It is not used, and neither is its connection."""
    kit.upstream.queue(raw(answer, close=False), ok(b"second"))
    failure = await kit.failure()
    assert (failure.kind, failure.sent, failure.started) == ("malformed", True, True)
    assert kit.stats.open == 0
    assert (await kit.send()).body == b"second"
    assert kit.upstream.connections == 2


@both_loops
async def test_an_answer_may_come_byte_by_byte(kit: Kit) -> None:
    """Where reads cut it makes no difference."""
    answer = (
        b"HTTP/1.1 103 H\r\n\r\n"
        + CHUNKED.replace(b"\r\n\r\n", b"\r\nX-Y: z\r\n\r\n")
        + b"3\r\nabc\r\n0\r\n\r\n"
    )
    kit.upstream.queue(raw(*(bytes([each]) for each in answer), close=False))
    reply = await kit.send()
    assert (reply.body, reply.headers["x-y"]) == (b"abc", "z")


@both_loops
async def test_interim_answers_are_bounded(kit: Kit) -> None:
    """A flood of them is malformed."""
    kit.upstream.queue(flood_1xx(1000))
    assert (await kit.failure()).kind == "malformed"


@both_loops
async def test_bytes_on_an_idle_connection_close_it(kit: Kit) -> None:
    """What nobody asked for is never the answer to the next request."""
    kit.upstream.queue(junk_after(pause=0.0), ok(b"mine"))
    await kit.send()
    await kit.upstream.until(lambda: kit.upstream.open == 0)
    assert (await kit.send()).body == b"mine"
    assert kit.upstream.connections == 2


@both_loops
async def test_a_connection_closed_while_idle_is_forgotten(kit: Kit) -> None:
    """Its end is noticed, and it is not used."""
    kit.upstream.queue(then_close(ok()), ok(b"mine"))
    await kit.send()
    await kit.upstream.until(lambda: kit.upstream.open == 0)
    await asyncio.sleep(0.01)
    assert kit.stats.open == 0
    assert (await kit.send()).body == b"mine"


@both_loops
@pytest.mark.parametrize("close", [True, False], ids=["closes", "stays"])
async def test_an_answer_before_the_request_was_read_is_taken(kit: Kit, close: bool) -> None:
    """The connection is closed, as nobody knows where the next request would begin."""
    kit.upstream.queue(early_answer(413, close=close), ok(b"next"))
    reply = await kit.send(b"x" * 8_000_000)
    assert reply.status == 413
    assert kit.stats.open == 0
    assert json.loads(reply.body or b"")["error"]["message"] == "too large"
    assert (await kit.send()).body == b"next"
    assert kit.upstream.connections == 2


@both_loops
async def test_an_answer_that_ends_with_its_connection_says_so(kit: Kit) -> None:
    """A stream without framing may have been cut: whoever reads it can tell."""
    kit.upstream.queue(close_delimited(b"data: x\n\n", "text/event-stream"))
    reply = await kit.send(stream=True)
    assert await whole(reply) == b"data: x\n\n"
    assert isinstance(reply.chunks, Chunks)
    assert reply.chunks.ended_by == "close"


@both_loops
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_codings_that_nobody_asked_for_are_undone(kit: Kit, coding: str, stream: bool) -> None:
    """The fields that spoke of it are gone."""
    body = b"data: hello\n\n" * 1000
    kit.upstream.queue(gzipped(body, coding, "text/event-stream" if stream else "application/json"))
    reply = await kit.send(stream=stream)
    assert (await whole(reply) if stream else reply.body) == body
    assert "content-encoding" not in reply.headers
    assert "content-length" not in reply.headers
    assert kit.stats == (1, 1, 0, 0)


@both_loops
async def test_a_coded_stream_that_is_cut_does_not_end_as_if_it_were_whole(kit: Kit) -> None:
    """Its framing is whole, what is in it is not."""
    kit.upstream.queue(
        ok(gzip.compress(b"data: hello\n\n")[:-9], headers={**SSE, "content-encoding": "gzip"})
    )
    failure = await broken(await kit.send(stream=True))
    assert (failure.kind, failure.phase) == ("malformed", "body")


@both_loops
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_bombs_are_refused_long_before_they_are_large(kit: Kit, stream: bool) -> None:
    """A body that grows a thousandfold is not read on."""
    kit.upstream.queue(gzip_bomb(1 << 30, "text/event-stream" if stream else "application/json"))
    if stream:
        reply = await kit.send(stream=True)
        got: list[bytes] = []
        failure = await broken(reply, got)
        assert max(map(len, got)) <= 65536
        assert 1 << 20 < sum(map(len, got)) < 5 << 20
    else:
        failure = await kit.failure()
    assert failure.kind == "too_large"
    assert kit.stats.open == 0


@both_loops
async def test_whole_answers_are_bounded(kit: Kit) -> None:
    """By the length they announce, by what comes, and by what becomes of it; streams are not."""
    await kit.use(max_body=100_000)
    chunk = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
    kit.upstream.queue(
        raw(OK + b"content-length: 100001\r\n\r\n", close=False),
        raw(CHUNKED + chunk * 6, close=False),
        raw(OK + b"\r\n" + b"x" * 300_000, close=False),
        gzipped(b"x" * 100_001),
        ok(b"y" * 100_000),
        gzipped(b"x" * 100_000),
        ok(b"z" * 200_000, headers=SSE),
    )
    for _ in range(4):
        failure = await kit.failure()
        assert (failure.kind, failure.sent, failure.started) == ("too_large", True, True)
    assert len((await kit.send()).body or b"") == 100_000
    assert len((await kit.send()).body or b"") == 100_000
    assert len(await whole(await kit.send(stream=True))) == 200_000
