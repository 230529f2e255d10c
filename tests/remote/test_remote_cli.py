"""``router-core worker`` and ``router-core keys worker``: what goes wrong is told in one line."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handlers.cli.exits import Exit
from handlers.cli.main import main
from router_core.security.api_keys import WORKERS, ApiKeys
from tests.remote.remote_site import KEY, coordinator
from tests.served import free_port, served

APP = "tests.remote.remote_app:router"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUTER_COORDINATOR", "ROUTER_WORKER_KEY", "ROUTER_APP"):
        monkeypatch.delenv(name, raising=False)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command; returns its exit code and the one line that it wrote."""
    code = main(["worker", *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


WRONG = [
    ([APP], "--coordinator URL"),
    ([APP, "--coordinator", "https://h"], "ROUTER_WORKER_KEY"),
    ([APP, "--coordinator", "ftp://h", "--key", KEY], "no coordinator's address"),
    ([APP, "--coordinator", "https://ann:secret@h", "--key", KEY], "must not hold a password"),
    ([APP, "--coordinator", "http://example.org", "--key", KEY], "--allow-http"),
    ([APP, "--coordinator", "http://127.0.0.1:1", "--key", "rw_\u00e4"], "characters"),
    ([APP, "--coordinator", "http://127.0.0.1:1", "--key", KEY, "--concurrency", "-1"], "--concurrency"),
    ([APP, "--coordinator", "http://127.0.0.1:1", "--key", KEY, "--route", "/wrok"], "'/wrok'"),
    (["--coordinator", "http://127.0.0.1:1", "--key", KEY], "module:attribute"),
    (["no.such.module:router", "--coordinator", "http://127.0.0.1:1", "--key", KEY], "no module"),
    ([APP, "--coordinator", "http://127.0.0.1:1", "--key", KEY, "--cacert", "no.pem"], "no.pem"),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=[text for _, text in WRONG])
def test_a_wrong_command_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is sent."""
    code, line = said(capsys, *words)
    assert (code, text in line) == (Exit.USAGE, True), line


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """A service manager starts it again."""
    code, line = said(capsys, APP, "--coordinator", f"http://127.0.0.1:{free_port()}", "--key", KEY)
    assert (code, "connection refused" in line) == (Exit.UNREACHABLE, True), line


@pytest.mark.process
def test_a_key_that_the_coordinator_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a key for other routes; neither shows up in the message."""
    other = f"picky:{KEY[:-1]}x:/spell"
    with coordinator(APP, tmp_path, ROUTER_WORKER_KEYS=f"box:{KEY},{other}") as service:
        monkeypatch.setenv("ROUTER_COORDINATOR", service.url)
        monkeypatch.setenv("ROUTER_WORKER_KEY", KEY + "x")
        code, line = said(capsys, APP)
        assert (code, "worker key is not valid" in line) == (Exit.REFUSED, True), line
        code, line = said(capsys, APP, "--key", KEY[:-1] + "x", "--route", "/work")
        assert (code, "/work: this worker key is not for this route" in line) == (Exit.REFUSED, True), line
        assert KEY[:-1] not in line


@pytest.mark.process
def test_a_service_that_is_no_coordinator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers, but takes no workers."""
    with served(APP, tmp_path) as service:
        code, line = said(capsys, APP, "--coordinator", service.url, "--key", KEY)
    assert (code, "takes no remote workers" in line) == (Exit.USAGE, True), line


class Page(BaseHTTPRequestHandler):
    """A web server of another kind."""

    def do_POST(self) -> None:
        """Answer with a page."""
        self.send_response(200)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class QuietServer(ThreadingHTTPServer):
    """Does not report connections that are refused."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve over TLS, with a certificate that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificate")
    made = tmp_path / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 2 -addext"
    command = [
        "openssl",
        *words.split(),
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        str(made),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    server = QuietServer(("127.0.0.1", 0), Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_address[1]}", made
    server.shutdown()
    server.server_close()


def test_certificates_are_checked(secure: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The key is sent to nobody whose certificate is not trusted."""
    url, certificate = secure
    code, line = said(capsys, APP, "--coordinator", url, "--key", KEY)
    assert (code, "certificate is not trusted" in line) == (Exit.UNREACHABLE, True), line
    code, line = said(capsys, APP, "--coordinator", url, "--key", KEY, "--cacert", str(certificate))
    assert (code, "no coordinator: it does not answer in JSON" in line) == (Exit.USAGE, True), line


def test_keys_of_workers_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    """The key on standard output, the entry for the setting beside it; with routes where it has some."""
    assert main(["keys", "worker", "gpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("rw_")
    assert f"ROUTER_WORKER_KEYS, or a line of its @file: gpu:{out.strip()}" in err
    assert main(["keys", "worker", "gpu", "--route", "/a", "--route", "/b", "--hashed"]) == 0
    entry = capsys.readouterr().out.strip()
    (principal,) = ApiKeys.from_setting(entry, WORKERS).principals
    assert (principal.id, principal.kind, principal.scopes) == ("gpu", "worker", frozenset({"/a", "/b"}))
