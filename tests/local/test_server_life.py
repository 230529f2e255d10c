"""Real server processes: how they refuse to start, drain and end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.local.listen import bind
from handlers.local.processes import children_of
from handlers.local.server import ServeOptions, check_exposure, make_config, run_app
from router_core.errors import Misconfigured
from router_core.settings import Settings
from tests.local.tiny_app import TinyApp, served, talk
from tests.served import free_port

GET = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ROOT = Path(__file__).parents[2]

SERVER = """
import asyncio, subprocess, sys
from handlers.local.server import run_app
from router_core.errors import Misconfigured
from router_core.http.message import Response
from tests.local.tiny_app import TinyApp, echo

async def slow(request):
    print("slow", flush=True)
    await asyncio.sleep(1.0)
    return Response.text("done")

async def child(request):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    return Response.text(str(process.pid))

class App(TinyApp):
    async def start(self):
        if "fail" in sys.argv:
            raise Misconfigured("no such store")
        print("started", flush=True)
    async def drain(self, grace):
        print("drain", flush=True)
        if "hang" in sys.argv:
            await asyncio.sleep(60)
    async def stop(self, grace=None):
        print("stopped", flush=True)

app = App({("GET", "/echo"): echo, ("GET", "/slow"): slow, ("GET", "/child"): child},
          port=int(sys.argv[1]), drain_grace=300.0 if "hang" in sys.argv else 3.0)
sys.exit(run_app(app))
"""


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server in a process of its own, ready to answer."""
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "started\n"
            wait_for_port(port)
            yield running, port
        finally:
            running.kill()


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    limit = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.02)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_zero(number: signal.Signals) -> None:
    """A request under way is answered, then drain, then stop."""
    with process() as (running, port), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(GET.replace(b"/echo", b"/slow"))
        assert running.stdout is not None
        assert running.stdout.readline() == "slow\n"
        running.send_signal(number)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"done")
        assert running.wait(60) == 0
        assert running.stdout.read() == "drain\nstopped\n"
        assert running.stderr is not None
        assert running.stderr.read() == ""


@pytest.mark.process
def test_it_answers_while_it_drains() -> None:
    """Probes and pollers are not cut off; a second signal ends it and its children at once."""
    with process("hang") as (running, port):
        answer = talk(port, GET.replace(b"/echo", b"/child"))
        child = int(answer.rpartition(b"\r\n")[2])
        assert child in children_of(running.pid)
        running.send_signal(signal.SIGTERM)
        assert running.stdout is not None
        assert running.stdout.readline() == "drain\n"
        assert talk(port, GET).startswith(b"HTTP/1.1 200")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM
        assert not _alive(child)


def _alive(pid: int) -> bool:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True


@pytest.mark.process
def test_a_start_that_fails_says_why() -> None:
    """The reason is raised to whoever asked to serve."""
    command = [sys.executable, "-c", SERVER, str(free_port()), "fail"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Misconfigured: no such store" in done.stderr


# --- who may be served ---------------------------------------------------------------------------

REFUSED = ["0.0.0.0", "::", "192.168.1.5", "8.8.8.8", "example.com", "", "127.0.0.1.example.com"]


@pytest.mark.parametrize("environment", ["localhost", "hosted"])
@pytest.mark.parametrize("host", REFUSED)
def test_an_open_address_needs_authentication(environment: str, host: str) -> None:
    """Closed by default, with one sentence that says what to do."""
    settings = Settings(environment=environment, host=host)
    with pytest.raises(Misconfigured, match="ROUTER_API_KEYS"):
        check_exposure(settings, ServeOptions())
    check_exposure(replace(settings, api_keys="me:0123456789abcdef"), ServeOptions())
    check_exposure(settings, ServeOptions(allow_unauthenticated=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_needs_none(host: str) -> None:
    """A laptop is served as it is."""
    check_exposure(Settings(host=host), ServeOptions())


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an authority, a server certificate and a client certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.pem", "-days", "2", "-extfile", "san")  # fmt: skip
    return folder


def tls(port: int, context: ssl.SSLContext) -> bytes:
    """Send one request over TLS."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.sendall(GET)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
        return answer


def tls_or_nothing(port: int, context: ssl.SSLContext) -> bytes:
    """The same; an alert, a reset and a close all mean no answer: timing decides between them."""
    try:
        return tls(port, context)
    except OSError:
        return b""


def test_tls_and_client_certificates(certificates: Path) -> None:
    """With a client authority, who has no certificate is not served."""
    options = ServeOptions(
        certfile=str(certificates / "server.pem"),
        keyfile=str(certificates / "server.key"),
        client_ca=str(certificates / "ca.pem"),
    )
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with served(TinyApp(), options=replace(options, client_ca="")) as port:
        assert tls(port, context).startswith(b"HTTP/1.1 200")
    with served(TinyApp(), options=options) as port:
        assert tls_or_nothing(port, context) == b""
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert tls(port, context).startswith(b"HTTP/1.1 200")


def test_a_client_authority_without_a_certificate_is_refused() -> None:
    """It would protect nothing."""
    app = TinyApp()
    with pytest.raises(Misconfigured, match="--tls-cert and --tls-key"):
        make_config(None, app, ServeOptions(client_ca="ca.pem"))


@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_tls_files_that_cannot_be_used_are_named(broken: str, tmp_path: Path) -> None:
    """Before anything is started."""
    path = tmp_path / "cert.pem"
    if broken == "empty":
        path.write_text("")
    with pytest.raises(Misconfigured, match=r"cert\.pem"):
        make_config(None, TinyApp(), ServeOptions(certfile=str(path), keyfile=str(path)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"certfile": "server.pem"}, "server.pem holds no private key: name its file with --tls-key"),
        ({"keyfile": "server.key"}, "--tls-key needs the certificate that belongs to it: --tls-cert"),
        ({"certfile": "server.key", "keyfile": "server.pem"},
         "--tls-cert server.key holds no certificate (PEM), and --tls-key server.pem does: they are swapped"),
        ({"certfile": "server.pem", "keyfile": "ca.pem"}, "--tls-key ca.pem holds no private key (PEM)"),
        ({"certfile": "server.pem", "keyfile": "client.key"}, "do not belong together"),
        ({"certfile": "server.pem", "keyfile": "nowhere"}, "--tls-key nowhere cannot be read: No such file"),
        ({"certfile": "server.pem", "keyfile": "locked.key"}, "the private key is encrypted"),
        ({"certfile": "server.pem", "keyfile": "server.key", "client_ca": "san"},
         "--client-ca san holds no certificate"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_files_of_tls_is_said(
    certificates: Path, options: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, with the option that is to be changed; nobody is asked for a password."""
    monkeypatch.chdir(certificates)
    subprocess.run(
        ["openssl", "pkey", "-in", "server.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key"],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(Misconfigured) as caught:
        make_config(None, TinyApp(), ServeOptions(**options))  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_certificate_and_its_key_may_be_one_file(certificates: Path, tmp_path: Path) -> None:
    """As some authorities deliver them."""
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join((certificates / name).read_bytes() for name in ("server.key", "server.pem")))
    assert make_config(None, TinyApp(), ServeOptions(certfile=str(both))).is_ssl


# --- addresses -----------------------------------------------------------------------------------


def test_an_address_that_is_taken_is_said_in_one_line() -> None:
    """And the app is not started for nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = TinyApp(port=taken.getsockname()[1])
        with pytest.raises(Misconfigured, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            run_app(app)
        assert app.life == []


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    """A name that means nothing, no address, an address of somebody else."""
    with pytest.raises(Misconfigured, match="cannot listen on"):
        bind(host, 0)


def test_localhost_is_one_port_on_every_family() -> None:
    """Nothing listens before the app has started."""
    sockets = bind("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1]), timeout=2)
    finally:
        for sock in sockets:
            sock.close()


def test_children_of_an_unknown_process() -> None:
    """Nobody has no children."""
    assert children_of(2**22 + 1) == []
    assert os.getpid() not in children_of(os.getpid())
