"""Clients over real sockets: what leaves is HTTP, and what comes back is what they say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import trustme

from router_core.gateway.call import Call
from router_core.gateway.clients.factory import make_client
from router_core.gateway.clients.http import HttpClient
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.pool import ConnectionPool
from router_core.http.multipart import parse_multipart
from router_core.testing.upstream import Upstream, closed_port
from router_core.testing.upstream_faults import hang, ok, raw, reset_in_stream, status
from tests.gateway.client_parts import KEY, called, deployed, error_of


def client_at(pool: ConnectionPool, url: str, kind: str = "openai", **more: object) -> HttpClient:
    """Return a client of a type."""
    client = make_client(deployed(kind, url, **more), pool)
    assert isinstance(client, HttpClient)
    return client


def soon() -> float:
    """Return a deadline that nothing here needs."""
    return asyncio.get_running_loop().time() + 10


async def read(reply: Reply) -> bytes:
    """Return all of a stream."""
    assert reply.chunks is not None
    return b"".join([bytes(chunk) async for chunk in reply.chunks])


async def test_a_chat_and_what_the_upstream_saw(pool: ConnectionPool, upstream: Upstream) -> None:
    """One connection carries all of it."""
    client = client_at(pool, f"{upstream.url}/v1")
    for number in range(3):
        reply = await client.send(called(headers={"x-request-id": f"r{number}", "cookie": "a=b"}), soon())
        assert reply.status == 200
        assert json.loads(reply.body or b"")["model"] == "upstream-model"
    seen = upstream.requests[-1]
    assert (seen.method, seen.target) == ("POST", "/v1/chat/completions")
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert seen.headers["x-request-id"] == "r2"
    assert "cookie" not in seen.headers
    assert upstream.connections == 1


async def test_a_stream_comes_with_its_usage(pool: ConnectionPool, upstream: Upstream) -> None:
    """Whether or not the caller asked for it; who did not has it taken out later."""
    reply = await client_at(pool, upstream.url).send(
        called(body={"model": "turbo", "messages": [], "stream": True}, stream=True), soon()
    )
    text = await read(reply)
    assert text.endswith(b"data: [DONE]\n\n")
    assert b'"prompt_tokens"' in text
    assert upstream.requests[0].json()["stream_options"] == {"include_usage": True}


async def test_a_stream_that_breaks_off_is_a_failure(pool: ConnectionPool, upstream: Upstream) -> None:
    """What had come before it has been passed on."""
    upstream.queue(reset_in_stream())
    body = {"model": "turbo", "messages": [], "stream": True}
    reply = await client_at(pool, upstream.url).send(called(body=body, stream=True), soon())
    with pytest.raises(UpstreamFailure) as caught:
        await read(reply)
    assert caught.value.started


async def test_errors_are_rewritten_and_keep_retry_after(pool: ConnectionPool, upstream: Upstream) -> None:
    """In a stream that was asked for, too: errors come whole."""
    page = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
    upstream.queue(status(429, retry_after="7", message=f"slow down {KEY}", name="rate"), raw(page))
    client = client_at(pool, upstream.url)
    reply = await client.send(called(stream=True), soon())
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    assert error_of(reply) == {
        "message": "slow down ***", "type": "scripted_error", "param": None, "code": "rate",
    }  # fmt: skip
    reply = await client.send(called(), soon())
    assert (reply.status, error_of(reply)["message"]) == (502, "the upstream answered 502 Bad Gateway")


async def test_our_key_does_not_follow_a_redirect(pool: ConnectionPool, upstream: Upstream) -> None:
    """The server that it points to sees nothing at all."""
    async with Upstream() as other:
        upstream.queue(ok(b"", code=307, headers={"location": f"{other.url}/v1/chat/completions"}))
        with pytest.raises(UpstreamFailure, match="redirect"):
            await client_at(pool, upstream.url).send(called(), soon())
        assert other.connections == 0


async def test_an_upload_arrives_whole(pool: ConnectionPool, upstream: Upstream) -> None:
    """Another parser than ours reads the new name of the model, and the very same file."""
    sound = bytes(range(256)) * 4000
    head = b'--B1\r\nContent-Disposition: form-data; name="model"\r\n\r\nturbo\r\n'
    part = b'--B1\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + sound
    kind = "multipart/form-data; boundary=B1"
    call = Call("audio/transcriptions", "turbo", body=head + part + b"\r\n--B1--\r\n", content_type=kind)
    upstream.queue(ok({"text": "hello"}))
    reply = await client_at(pool, upstream.url, model="whisper-large").send(call, soon())
    assert json.loads(reply.body or b"") == {"text": "hello"}
    seen = upstream.requests[0]
    model, file = parse_multipart(seen.body, seen.headers["content-type"])
    assert model == ("model", "whisper-large")
    assert not isinstance(file[1], str)
    assert file[1].read() == sound


async def test_rerank_of_tei_over_the_wire(pool: ConnectionPool, upstream: Upstream) -> None:
    """Asked in its words, answered in everybody's."""
    upstream.queue(ok([{"index": 0, "score": 0.2}, {"index": 1, "score": 0.8}]))
    body = {"model": "turbo", "prompt": "q", "input": ["a", "b"]}
    reply = await client_at(pool, upstream.url, "tei").send(called("rerank", body), soon())
    assert upstream.requests[0].target == "/rerank"
    assert upstream.requests[0].json() == {"query": "q", "texts": ["a", "b"]}
    answered = json.loads(reply.body or b"")
    assert [each["index"] for each in answered["results"]] == [1, 0]
    assert [each["score"] for each in answered["data"]] == [0.8, 0.2]


@pytest.mark.parametrize(
    ("kind", "path"),
    [("openai", "/v1/models"), ("vllm", "/health"), ("tei", "/health"), ("generic", "/v1/models")],
)
async def test_probes_over_the_wire(pool: ConnectionPool, upstream: Upstream, kind: str, path: str) -> None:
    """A GET without a body, on the connections that calls use."""
    client = client_at(pool, f"{upstream.url}/v1", kind)
    reply = await client.probe_once(5.0)
    assert reply.status == 200
    seen = upstream.requests[0]
    assert (seen.method, seen.target, seen.body) == ("GET", path, b"")
    await client.send(called("embeddings"), soon())
    assert upstream.connections == 1


async def test_a_probe_waits_no_longer_than_it_may(pool: ConnectionPool, upstream: Upstream) -> None:
    """A server that hangs is not alive."""
    upstream.queue(hang())
    with pytest.raises(UpstreamFailure) as caught:
        await client_at(pool, upstream.url).probe_once(0.05)
    assert caught.value.kind == "timeout"


async def test_a_closed_port_is_refused(pool: ConnectionPool) -> None:
    """Nothing was sent, so that any other deployment may be asked."""
    with closed_port() as port:
        with pytest.raises(UpstreamFailure) as caught:
            await client_at(pool, f"http://127.0.0.1:{port}").send(called(), soon())
    assert (caught.value.kind, caught.value.sent) == ("refused", False)


async def test_a_private_authority_is_trusted_where_it_is_named(pool: ConnectionPool, tmp_path: Path) -> None:
    """And nowhere else: verification is never off."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca_file, certificate, key = (str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca_file)
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    async with Upstream(certificate=certificate, key=key) as upstream:
        reply = await client_at(pool, upstream.url, args={"ca_file": ca_file}).send(called(), soon())
        assert reply.status == 200
        with pytest.raises(UpstreamFailure) as caught:
            await client_at(pool, upstream.url).send(called(), soon())
        assert (caught.value.kind, caught.value.sent) == ("tls", False)
        assert len(upstream.requests) == 1


async def test_a_cancelled_call_ends_at_the_upstream(pool: ConnectionPool, upstream: Upstream) -> None:
    """Who does not wait for an answer does not pay for it."""
    upstream.queue(hang())
    task = asyncio.create_task(client_at(pool, upstream.url).send(called(), soon()))
    await upstream.until(lambda: upstream.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda: upstream.cancelled == 1)
