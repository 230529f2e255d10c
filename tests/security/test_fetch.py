"""Fetching and posting to real servers on this machine: honest, broken, hostile and slow ones."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router_core.errors import BadRequest, Misconfigured, PayloadTooLarge, UpstreamError, UpstreamTimeout
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import Target, UrlGuard, UrlRefused

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server on loopback, with what it was asked."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    answer: bytes | Talk, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve one fixed answer, or whatever a coroutine writes, until the block ends."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            server.requests.append(head + (await reader.readexactly(length) if length else b""))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(client, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return the bytes of an answer with a length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return the bytes of a redirect."""
    return answer(b"", f"Location: {location}", status=status)


def client(**options: object) -> GuardedHttp:
    """Return a client that may connect to loopback, where the servers of these tests are."""
    return GuardedHttp(UrlGuard(allow_private=True), timeout=10, **options)  # type: ignore[arg-type]


class OneOrigin(UrlGuard):
    """The strict guard, but for one origin, which stands for a public server."""

    def __init__(self, server: Server) -> None:
        super().__init__(resolve=to_loopback)
        self._port = server.port

    async def check(self, url: str) -> Target:
        """Pass the one origin; hold everything else to the rules."""
        target = UrlGuard(allow_private=True).parse(url)
        if (target.host, target.port) == ("public.example.com", self._port):
            return Target(target.scheme, target.host, target.port, target.path, ("127.0.0.1",))
        return await super().check(url)


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


# --- what is refused ----------------------------------------------------------------------------


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


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.Event().wait()


async def _drops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("talk", [_silence, _half_a_head, _drops])
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
    async with serving(_drops) as server:
        assert (await client().post(server.url, {}, b"x", timeout=5)).status == 200


async def test_a_post_to_a_silent_receiver_times_out() -> None:
    """No answer in time is 504."""
    async with serving(_silence) as server:
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


# --- TLS ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A certificate for secure.example.com and 127.0.0.1 that is its own authority."""

    cert: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """Return what a server with this certificate needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context

    def trust(self) -> ssl.SSLContext:
        """Return what a client that trusts this certificate needs."""
        return ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make a certificate with the openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=secure.example.com", "-keyout", str(made.key), "-out", str(made.cert),
         "-addext", "subjectAltName=DNS:secure.example.com,IP:127.0.0.1",
         "-addext", "keyUsage=critical,digitalSignature,keyCertSign"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return made


async def to_loopback(host: str, port: int) -> Sequence[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]


def secure(tls: ssl.SSLContext | None) -> GuardedHttp:
    """Return a client for which every name is on this machine."""
    return GuardedHttp(UrlGuard(allow_private=True, resolve=to_loopback), tls=tls, timeout=10)


async def test_tls_is_verified_against_the_name_of_the_url(certificate: Certificate) -> None:
    """The connection goes to the pinned address, the certificate has to be for the name; SNI is sent."""
    names: list[str | None] = []
    context = certificate.server()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with serving(answer(b"safe"), tls=context) as server:
        http = secure(certificate.trust())
        assert (await http.fetch(f"https://secure.example.com:{server.port}/")).read() == b"safe"
        assert (await http.fetch(f"https://127.0.0.1:{server.port}/")).read() == b"safe"
        assert (await http.post(f"https://secure.example.com:{server.port}/", {}, b"x")).status == 200
    assert names[0] == "secure.example.com"


async def test_a_certificate_for_another_name_or_of_an_unknown_authority_is_refused(
    certificate: Certificate,
) -> None:
    """Nothing is sent over a connection that cannot be verified."""
    async with serving(answer(b"spoofed"), tls=certificate.server()) as server:
        for tls, host in ((certificate.trust(), "other.example.com"), (None, "secure.example.com")):
            with pytest.raises(UpstreamError, match="certificate"):
                await secure(tls).fetch(f"https://{host}:{server.port}/")
    assert not server.requests


async def test_https_to_a_server_without_tls_fails_cleanly() -> None:
    """A plain server under an https URL is an upstream error."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", status="400 Bad Request"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamError, match="could not be reached"):
            await secure(None).fetch(f"https://secure.example.com:{port}/")


async def test_a_redirect_never_leaves_https(certificate: Certificate) -> None:
    """https -> http is refused even where the second place would be allowed."""
    async with (
        serving(answer(b"plain")) as plain,
        serving(redirect(f"http://127.0.0.1:{plain.port}/"), tls=certificate.server()) as server,
    ):
        with pytest.raises(UrlRefused, match="less safe"):
            await secure(certificate.trust()).fetch(f"https://secure.example.com:{server.port}/")
    assert not plain.requests


def test_a_context_that_does_not_verify_is_refused() -> None:
    """Verification cannot be switched off through the back door."""
    lax = ssl.create_default_context()
    lax.check_hostname = False
    for mode in (ssl.CERT_REQUIRED, ssl.CERT_NONE):
        lax.verify_mode = mode
        with pytest.raises(Misconfigured):
            GuardedHttp(UrlGuard(), tls=lax)
