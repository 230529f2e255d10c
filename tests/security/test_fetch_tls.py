"""Fetching over TLS: who is believed to be whom."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from router_core.errors import Misconfigured, UpstreamError
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard, UrlRefused
from tests.security.fetch_parts import answer, redirect, serving, to_loopback


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
