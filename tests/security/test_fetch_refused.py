"""What is not fetched, and what becomes of servers that are broken, hostile or slow."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence

import pytest

from router_core.errors import BadRequest, PayloadTooLarge, UpstreamError, UpstreamTimeout
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard, UrlRefused
from tests.security.fetch_parts import (
    OneOrigin,
    Talk,
    answer,
    client,
    drops,
    half_a_head,
    redirect,
    serving,
    silence,
)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://private.example.com/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "//127.0.0.1:{port}/secret",
        "http://2130706433/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "http://user:pass@public.example.com/",
        "http://[::1",
        "/\\127.0.0.1/",
    ],
)
async def test_a_redirect_is_held_to_the_rules_of_the_first_url(location: str) -> None:
    """A public server cannot send us to loopback: the second place is never asked."""
    sent: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent[0])
        await writer.drain()

    async with serving(talk) as server:
        sent.append(redirect(location.format(port=server.port)))
        with pytest.raises(UrlRefused) as caught:
            await GuardedHttp(OneOrigin(server)).fetch(f"http://public.example.com:{server.port}/")
    assert len(server.requests) == 1
    assert "secret" not in caught.value.detail


async def test_a_loop_of_redirects_ends() -> None:
    """The fourth redirect is one too many."""
    async with serving(redirect("/again")) as server:
        with pytest.raises(BadRequest, match="more than 3 times"):
            await client().fetch(server.url)
    assert len(server.requests) == 4


async def test_a_redirect_to_nowhere_is_the_servers_fault() -> None:
    """A redirect without a Location is an upstream error."""
    async with serving(answer(b"", status="302 Found")) as server:
        with pytest.raises(UpstreamError, match="nowhere"):
            await client().fetch(server.url)


@pytest.mark.parametrize(
    ("status", "error"),
    [("404 Not Found", BadRequest), ("206 Partial", BadRequest), ("503 Busy", UpstreamError)],
)
async def test_a_status_is_told_and_its_body_is_not(status: str, error: type[Exception]) -> None:
    """The caller learns the status; what the page says stays out of the text."""
    async with serving(answer(b"internal detail", status=status)) as server:
        with pytest.raises(error, match=status[:3]) as caught:
            await client().fetch(server.url)
    assert "internal detail" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001,
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n",
    ],
)
async def test_a_body_beyond_the_limit_is_refused(raw: bytes) -> None:
    """Announced or not, more than the limit is 413."""
    async with serving(raw) as server:
        with pytest.raises(PayloadTooLarge, match="1000 bytes"):
            await client().fetch(server.url, max_bytes=1000)


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    """The limit itself is allowed, however the body is framed."""
    for raw in (
        answer(b"x" * 1000),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n",
    ):
        async with serving(raw) as server:
            assert len((await client().fetch(server.url, max_bytes=1000)).read()) == 1000


async def test_an_endless_body_is_cut_off_early() -> None:
    """A server that never stops is left as soon as the limit is passed."""
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with serving(talk) as server:
        with pytest.raises(PayloadTooLarge):
            await client().fetch(server.url, max_bytes=1_000_000)
    assert written < 50_000_000


async def test_a_compressed_body_is_not_inflated() -> None:
    """A gzip bomb is refused before any of its body is read."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    for encoding in ("gzip", "GZIP", "br", "identity, gzip"):
        async with serving(answer(bomb, f"Content-Encoding: {encoding}")) as server:
            with pytest.raises(UpstreamError, match="compressed"):
                await client().fetch(server.url)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x16\x03\x01\x02\x00 not http at all",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"-ERR unknown command\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 020 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 70 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 20_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 20_000,
    ],
)
async def test_an_answer_that_is_not_http_is_an_upstream_error(raw: bytes) -> None:
    """Garbage is 502 with a fixed text: nothing of it is handed on."""
    async with serving(raw) as server:
        with pytest.raises(UpstreamError) as caught:
            await client().fetch(server.url)
    assert caught.value.status == 502
    assert "not valid HTTP" in caught.value.detail or "broke" in caught.value.detail


async def test_nobody_there_is_an_upstream_error() -> None:
    """A closed port is 502, and the text names no address."""
    async with serving(b"") as server:
        url = server.url
    with pytest.raises(UpstreamError, match="could not be reached") as caught:
        await client().fetch(url)
    assert "127.0.0.1" not in caught.value.detail


@pytest.mark.parametrize("talk", [silence, half_a_head, drops])
async def test_one_deadline_covers_everything(talk: Talk) -> None:
    """Silence, half an answer and a body in drops all end with 504 when the time is over."""
    async with serving(talk) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await client().fetch(server.url, timeout=0.15)
    assert caught.value.status == 504


async def test_a_slow_resolver_is_under_the_deadline_too() -> None:
    """A name server that does not answer cannot hold a request."""

    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(UpstreamTimeout):
        await GuardedHttp(UrlGuard(resolve=never), timeout=0.05).fetch("http://example.com/")


async def test_a_url_can_be_checked_without_going_there() -> None:
    """As a webhook is when it is registered: nothing is sent, and a bad one is refused."""
    async with serving(answer(b"")) as server:
        assert (await client().check(server.url)).addresses == ("127.0.0.1",)
        with pytest.raises(UrlRefused):
            await GuardedHttp(UrlGuard()).check(server.url)
    assert not server.requests


async def test_the_strict_guard_connects_to_nothing_private() -> None:
    """Without allow_private a server on loopback is never asked."""
    async with serving(answer(b"secret")) as server:
        for url in (server.url, f"http://localhost:{server.port}"):
            with pytest.raises(UrlRefused):
                await GuardedHttp(UrlGuard(ports=frozenset({server.port}))).fetch(url)
            with pytest.raises(UrlRefused):
                await GuardedHttp(UrlGuard(ports=frozenset({server.port}))).post(url, {}, b"")
    assert not server.requests
