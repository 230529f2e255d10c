"""Fetching from and posting to real servers on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router_core.errors import UpstreamTimeout
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard
from tests.security.fetch_parts import answer, client, drops, redirect, serving, silence

# --- what works ---------------------------------------------------------------------------------


async def test_a_file_comes_with_name_and_type() -> None:
    """Body, media type and a plain file name; the request asks for no encoding and carries no credentials."""
    async with serving(answer(b"\x89PNG", "Content-Type: image/png; x=y")) as server:
        got = await client().fetch(server.url + "/a/b%20c.png?sig=1")
    assert (got.read(), got.filename, got.content_type) == (b"\x89PNG", "b c.png", "image/png; x=y")
    request = server.requests[0].decode().lower()
    assert request.startswith("get /a/b%20c.png?sig=1 http/1.1\r\n")
    assert f"host: 127.0.0.1:{server.port}\r\n" in request
    assert "accept-encoding: identity\r\n" in request
    assert "authorization" not in request
    assert "cookie" not in request


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil closed", b"until closed"),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n"
            b"0\r\nTrailer: t\r\n\r\n",
            b"abc0123456789",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more than was announced", b"ok"),
    ],
)
async def test_bodies_end_in_every_way_that_http_knows(raw: bytes, body: bytes) -> None:
    """Length, chunks, end of connection and interim answers."""
    async with serving(raw) as server:
        assert (await client()(server.url)).read() == body


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", ""),
        ("/", ""),
        ("/x/", ""),
        ("/..", ""),
        ("/%2e%2e%2fetc%2fpasswd", "passwd"),
        ("/a%5C..%5Cb.png", "b.png"),
        ("/a%00%0d%0ab.png", "ab.png"),
        ("/%ff.png", "\ufffd.png"),
        ("/" + "n" * 300, "n" * 255),
    ],
)
async def test_a_file_name_is_only_ever_a_name(path: str, name: str) -> None:
    """Separators, control characters and dots do not survive; a nonsensical type falls back to the name."""
    async with serving(answer(b"x", "Content-Type: nonsense")) as server:
        got = await client().fetch(server.url + path)
    assert got.filename == name
    assert got.content_type in ("application/octet-stream", "image/png")


async def test_redirects_are_followed_three_times() -> None:
    """Absolute and relative ones, and the last body counts."""
    answers = iter([redirect("/one"), redirect("two", "307 Temporary Redirect"), redirect("?three")])

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers, answer(b"there")))
        await writer.drain()

    async with serving(talk) as server:
        assert (await client().fetch(server.url + "/x/zero")).read() == b"there"
    paths = [request.split(b" ")[1] for request in server.requests]
    assert paths == [b"/x/zero", b"/one", b"/two", b"/two?three"]


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that would lead elsewhere when asked again is not asked again."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return next(answers)

    async with (
        serving(answer(b"checked")) as good,
        serving(answer(b"rebound"), host="127.0.0.2", port=good.port) as bad,
    ):
        http = GuardedHttp(UrlGuard(allow_private=True, resolve=rebinding))
        got = await http.fetch(f"http://rebind.example.com:{good.port}/")
    assert got.read() == b"checked"
    assert not bad.requests
    assert b"Host: rebind.example.com:" in good.requests[0]


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    """A name with a dead address and a live one can be reached."""

    async def both(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.3", "127.0.0.1"]

    async with serving(answer(b"alive")) as server:
        http = GuardedHttp(UrlGuard(allow_private=True, resolve=both))
        assert (await http.fetch(f"http://two.example.com:{server.port}/")).read() == b"alive"


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name again, out of reach of the guard."""
    async with serving(answer(b"proxied")) as proxy, serving(answer(b"direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await client().fetch(server.url)).read() == b"direct"
    assert not proxy.requests


# --- post ---------------------------------------------------------------------------------------


async def test_a_post_sends_what_it_was_given_and_returns_the_status() -> None:
    """Body and headers arrive whole; status and headers come back, whatever the status."""
    async with serving(answer(b"busy", "Retry-After: 7", status="503 Busy")) as server:
        got = await client().post(server.url + "/hook", {"Content-Type": "application/json"}, b'{"a":1}')
    assert (got.status, got.headers["retry-after"]) == (503, "7")
    request = server.requests[0]
    assert request.startswith(b"POST /hook HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in request
    assert request.endswith(b"Content-Length: 7\r\n\r\n" + b'{"a":1}')


async def test_a_post_follows_no_redirect() -> None:
    """A receiver that redirects gets one request; its status is the outcome."""
    async with serving(redirect("/elsewhere", "307 Temporary Redirect")) as server:
        assert (await client().post(server.url, {}, b"x")).status == 307
    assert len(server.requests) == 1


async def test_a_post_does_not_wait_for_the_body_of_the_answer() -> None:
    """A receiver that says 200 and then dawdles has taken the message."""
    async with serving(drops) as server:
        assert (await client().post(server.url, {}, b"x", timeout=5)).status == 200


async def test_a_post_to_a_silent_receiver_times_out() -> None:
    """No answer in time is 504."""
    async with serving(silence) as server:
        with pytest.raises(UpstreamTimeout):
            await client().post(server.url, {}, b"x", timeout=0.1)


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X": "a\nb"},
        {"X": "a\x00"},
        {"X": "\u20ac"},
        {"X\r\nY": "b"},
        {"": "b"},
        {"X Y": "b"},
        {"Host": "other"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
    ],
)
async def test_a_header_cannot_break_out_or_change_the_framing(headers: dict[str, str]) -> None:
    """Line breaks, NUL and framing headers are refused before anything is sent."""
    async with serving(answer(b"")) as server:
        with pytest.raises(ValueError, match="cannot be sent"):
            await client().post(server.url, headers, b"x")
    assert not server.requests
