"""The fault upstream does on the wire what its behaviours are named for."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from router_core.testing.upstream import UNRESOLVABLE, Behaviour, Upstream, closed_port, in_thread
from router_core.testing.upstream_faults import (
    after,
    burst_5xx,
    close_delimited,
    cut_chunked,
    cut_in_body,
    early_answer,
    endless_line,
    error_in_stream,
    flood_1xx,
    garbage_sse,
    gzip_bomb,
    gzipped,
    hang,
    junk_after,
    ok,
    raw,
    reset_after_first_byte,
    reset_before,
    reset_in_stream,
    slow_head,
    stall_in_stream,
    status,
    then_close,
    trickle,
)

LAST = b"connection: close\r\n\r\n"
PING = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n" + LAST + b"{}"


async def tell(upstream: Upstream, data: bytes = PING, *, until: bytes = b"") -> bytes:
    """Send bytes on a connection of its own and return what comes up to some bytes, or to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(data)
    answer = b""
    try:
        while not (until and until in answer) and (piece := await reader.read(65536)):
            answer += piece
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return answer


async def test_speaks_openai_by_default(upstream: Upstream) -> None:
    """Chat, streams with usage on request, embeddings, models, health, and 404 for the rest."""
    asked = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(asked).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n" + LAST
    whole = json.loads((await tell(upstream)).partition(b"\r\n\r\n")[2])
    streamed = await tell(upstream, head % len(body) + body)
    assert whole["choices"][0]["message"]["content"] == "Hello!"
    assert whole["usage"] == {
        **whole["usage"],
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
    }
    assert streamed.count(b"data: ") == 7  # role, three pieces, finish, usage, done
    assert b'"choices":[],"usage":{"prompt_tokens":9' in streamed
    assert streamed.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    plain = b"GET %s HTTP/1.1\r\n" + LAST
    assert b'"object": "model"' in await tell(upstream, plain % b"/v1/models")
    assert b"200 OK" in await tell(upstream, plain % b"/health")
    assert b"404 Not Found" in await tell(upstream, plain % b"/else?x=1")
    two = b'{"input":["a","b"]}'
    vectors = await tell(upstream, b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 19\r\n" + LAST + two)
    assert len(json.loads(vectors.partition(b"\r\n\r\n")[2])["data"]) == 2
    assert [each.path for each in upstream.requests][-2:] == ["/else", "/v1/embeddings"]


async def test_records_what_it_sees_on_one_connection(upstream: Upstream) -> None:
    """Requests that follow each other on a connection are told apart, chunked bodies are put together."""
    chunked = b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\nX-A: 1\r\n" + LAST
    chunked += b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    answer = await tell(upstream, PING.replace(LAST, b"\r\n") + chunked)
    first, second = upstream.requests
    assert answer.count(b"HTTP/1.1") == 2
    assert (first.method, first.body, first.json()) == ("POST", b"{}", {})
    assert (second.path, second.body, second.headers["x-a"]) == ("/b", b"abcd", "1")
    assert (first.connection, second.connection, upstream.connections) == (1, 1, 1)
    assert first.finished
    assert not first.cancelled
    assert "#1" in repr(first)


async def test_answers_from_the_queue_first_then_from_the_script(upstream: Upstream) -> None:
    """Each behaviour of the queue serves one request."""
    upstream.script = ok(b"scripted")
    upstream.queue(status(429, retry_after="2"), *burst_5xx(2))
    answers = [await tell(upstream) for _ in range(4)]
    assert b"429 Too Many Requests" in answers[0]
    assert b"retry-after: 2\r\n" in answers[0]
    assert [each.split()[1] for each in answers] == [b"429", b"503", b"503", b"200"]
    assert answers[3].endswith(b"scripted")
    assert upstream.requests[0].behaviour == "status 429"


WHOLE = [
    (ok({"a": 1}), b'{"a": 1}'),
    (after(0.0, ok(b"later")), b"later"),
    (cut_in_body(1000, 5), b"content-length: 1000\r\n\r\n     "),
    (cut_chunked(1), b"\n\n\r\n"),
    (close_delimited(b"all"), b"connection: close\r\n\r\nall"),
    (garbage_sse(1), b"not json 0\n\n\r\n0\r\n\r\n"),
    (error_in_stream(1), b'"code": null}}\n\n\r\n0\r\n\r\n'),
    (stall_in_stream(1), b"piece 0"),
    (junk_after(b"junk"), b'{"ok":true}junk'),
    (junk_after(b"junk", pause=0.0), b'{"ok":true}junk'),
    (raw(b"exactly", b" this"), b"exactly this"),
    (trickle(0.0, b"ab", 3), b"ababab"),
    (slow_head(0.0, 2), b"x-field-1: value\r\n"),
    (flood_1xx(100), b'{"ok":true}'),
    (early_answer(), b"HTTP/1.1 413 "),
    (then_close(ok(b"bye")), b"bye"),
]


@pytest.mark.parametrize(("behaviour", "end"), WHOLE, ids=[each.name for each, _ in WHOLE])
async def test_sends_what_it_is_named_for(upstream: Upstream, behaviour: Behaviour, end: bytes) -> None:
    """Each behaviour sends what it says."""
    upstream.queue(behaviour)
    assert end in await tell(upstream, until=end)


RESETS = [reset_before(), reset_after_first_byte(), reset_in_stream(1)]


@pytest.mark.parametrize("behaviour", RESETS, ids=[each.name for each in RESETS])
async def test_resets_connections(upstream: Upstream, behaviour: Behaviour) -> None:
    """The caller sees a reset, not an end."""
    upstream.queue(behaviour)
    with pytest.raises(ConnectionResetError):
        await tell(upstream)


async def test_sends_bombs_and_endless_lines(upstream: Upstream) -> None:
    """A bomb is small on the wire; an endless line has no newline in it."""
    upstream.queue(gzip_bomb(32 * 1024 * 1024), endless_line(1 << 20), gzipped(b"zip"))
    bomb, line, small = await tell(upstream), await tell(upstream), await tell(upstream)
    assert 20_000 < len(bomb) < 100_000
    assert bomb.endswith(b"0\r\n\r\n")
    assert line.count(b"x" * 65536) == 16
    assert gzip.decompress(small.partition(b"\r\n\r\n")[2]) == b"zip"


async def test_an_early_answer_leaves_the_body_unread(upstream: Upstream) -> None:
    """The answer is there although the body is not."""
    upstream.queue(early_answer(close=False))
    answer = await tell(upstream, b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n", until=b'error"}}')
    assert b'"too large"' in answer
    assert upstream.requests[0].body == b""


async def test_counts_callers_that_hang_up(upstream: Upstream) -> None:
    """A call that hangs is in flight until its caller goes."""
    upstream.queue(hang())
    task = asyncio.create_task(tell(upstream))
    await upstream.until(lambda: upstream.in_flight == 1)
    assert (upstream.open, upstream.cancelled) == (1, 0)
    task.cancel()
    await upstream.until(lambda: upstream.cancelled == 1)
    assert (upstream.in_flight, upstream.open) == (0, 0)
    assert upstream.requests[0].cancelled
    with suppress(asyncio.CancelledError):
        await task


async def test_dies_and_comes_back_on_the_same_port(upstream: Upstream) -> None:
    """A stopped upstream refuses, resets what was open, and can be started again."""
    upstream.queue(hang())
    task = asyncio.create_task(tell(upstream))
    await upstream.until(lambda: upstream.in_flight == 1)
    await upstream.stop()
    with pytest.raises(ConnectionResetError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await tell(upstream)
    await upstream.start()
    assert b"200 OK" in await tell(upstream)


async def test_a_closed_port_refuses_and_an_unknown_name_is_unknown() -> None:
    """What stands for a server that is not there."""
    with closed_port() as port, pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(socket.gaierror):
        await asyncio.get_running_loop().getaddrinfo(UNRESOLVABLE, 80)


async def test_speaks_tls_with_the_certificate_it_is_given(tmp_path: Path) -> None:
    """Certificates are files that the test makes."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    async with Upstream(ok(b"safe"), certificate=str(tmp_path / "server.pem")) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=context)
        writer.write(PING)
        assert (await reader.read()).endswith(b"safe")
        assert upstream.url.startswith("https://")
        writer.close()
        await writer.wait_closed()


def test_serves_callers_that_block() -> None:
    """Its loop may run in a thread."""
    with in_thread(Upstream(ok(b"threaded"))) as upstream:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"threaded"
        connection.close()
