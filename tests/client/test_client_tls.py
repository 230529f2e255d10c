"""A client and certificates: whom it trusts, and what it says when it does not."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.cli.exits import Exit
from handlers.cli.main import main
from router_core.client import Retry, TlsFailed, connect
from router_core.client.tls import explain
from router_core.errors import Misconfigured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates that sign themselves: for localhost, and one that has expired."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates")
    made = tmp_path_factory.mktemp("certificates")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"]
    named = ["-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=digitalSignature,keyCertSign"]

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=made, check=True, capture_output=True)

    openssl("req", "-x509", *new, *named, "-keyout", "key.pem", "-out", "good.pem", "-days", "2")
    openssl("req", *new, *named, "-keyout", "old.key", "-out", "old.csr")
    (made / "san").write_text("subjectAltName=DNS:localhost")
    openssl("x509", "-req", "-in", "old.csr", "-CA", "good.pem", "-CAkey", "key.pem", "-CAcreateserial",
            "-extfile", "san", "-days", "-1", "-out", "old.pem")  # fmt: skip
    return made


class Nothing(http.server.BaseHTTPRequestHandler):
    """A service that tells nothing about itself."""

    def do_GET(self) -> None:
        """Answer 404."""
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Counts connections, and does not report those that break."""

    connections = 0

    def verify_request(self, request: object, client_address: object) -> bool:
        """Count."""
        self.connections += 1
        return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@contextmanager
def serving(
    certificate: Path | None, key: Path | None = None, client_ca: Path | None = None
) -> Iterator[Server]:
    """Serve on a port of the system's choice."""
    server = Server(("127.0.0.1", 0), Nothing)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        # the handshake belongs to the thread of its connection
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A service with a certificate for localhost that nobody knows."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with serving(folder / "good.pem", folder / "key.pem") as server:
        yield server


def url(server: Server, host: str = "localhost") -> str:
    """Return its address."""
    return f"https://{host}:{server.server_address[1]}"


async def no_sleep(seconds: float) -> None:
    """Wait not at all."""


def ask(address: str, **options: object) -> None:
    """Ask for the service's description."""
    with connect(address, retry=Retry(sleep=no_sleep), **options) as client:  # type: ignore[call-overload]
        client.schema()


def test_a_certificate_that_nobody_vouches_for_says_what_to_do(service: Server) -> None:
    """Once: it will not be another one at the next try."""
    with pytest.raises(TlsFailed, match=r"not trusted \(self.signed certificate\).*--cacert") as caught:
        ask(url(service))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert service.connections == 1


def test_a_certificate_for_another_name(service: Server, folder: Path) -> None:
    """The name that was called is in the text."""
    with pytest.raises(TlsFailed, match=r"for another name .*127\.0\.0\.1"):
        ask(url(service, "127.0.0.1"), verify=folder / "good.pem")


def test_an_expired_certificate(folder: Path) -> None:
    """Nothing that a caller can do about it."""
    with serving(folder / "old.pem", folder / "old.key") as server:
        with pytest.raises(TlsFailed, match="has expired"):
            ask(url(server), verify=folder / "good.pem")


def test_plain_http_behind_an_https_address() -> None:
    """The commonest slip of all."""
    with serving(None) as server:
        with pytest.raises(TlsFailed, match="speaks no TLS: is its address http://"):
            ask(url(server))


def test_a_service_that_asks_for_a_certificate_says_so(folder: Path) -> None:
    """Whether the alert comes while connecting or after depends on the version of TLS."""
    with serving(folder / "good.pem", folder / "key.pem", folder / "good.pem") as server:
        with pytest.raises(ConnectionError, match=r"asks for a certificate of yours|broke"):
            ask(url(server), verify=folder / "good.pem")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_certificates_is_trusted(service: Server, folder: Path, kind: type) -> None:
    """By its path."""
    ask(url(service), verify=kind(folder / "good.pem"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_usual_variables_hold_on_loopback_too(
    service: Server, folder: Path, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies of the environment are still not used there."""
    digest = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", folder / "good.pem"], check=True, capture_output=True
    )
    shutil.copy(folder / "good.pem", tmp_path / f"{digest.stdout.decode().strip()}.0")
    monkeypatch.setenv(variable, str(folder / "good.pem" if variable == "SSL_CERT_FILE" else tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    ask(url(service))


def test_files_without_certificates_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    with pytest.raises(Misconfigured, match=r"nowhere.pem cannot be read: No such file"):
        ask("https://localhost:9", verify="nowhere.pem")
    with pytest.raises(Misconfigured, match=r"old.key holds no certificate"):
        ask("https://localhost:9", verify=folder / "old.key")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(Misconfigured, match="SSL_CERT_FILE"):
        ask("https://localhost:9")


def test_other_failures_of_tls_are_put_into_words() -> None:
    """Rather than into OpenSSL's numbers."""
    error = ssl.SSLError(1, "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1006)")
    error.reason = "TLSV1_ALERT_PROTOCOL_VERSION"
    assert explain(error) == "no secure connection (tlsv1 alert protocol version)"


def test_the_command_line_takes_a_file_too(
    service: Server, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not advise to start a service that is running."""
    monkeypatch.setenv("ROUTER_URL", url(service))
    assert main(["jobs", "list"]) == Exit.UNREACHABLE
    said = capsys.readouterr().err
    assert "--cacert ca.pem" in said
    assert "is it running" not in said
    # trusted: what is missing now is the route
    assert main(["jobs", "list", "--cacert", str(folder / "good.pem")]) == Exit.REFUSED
