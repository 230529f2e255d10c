"""The client against ``router-core serve`` in a process of its own, over a network that breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.cli.main import main
from router_core.client import Client, Retry, connect
from router_core.client.errors import CannotConnect
from tests.client.cutting_proxy import CuttingProxy
from tests.served import free_port

pytestmark = pytest.mark.process

SERVICE = """
import time
from router_core import File, JobProgress, Router

router = Router()

@router.route("/count", queue_size=50, concurrency=4)
def count(n: int):
    for number in range(n):
        yield {"number": number, "padding": "x" * 200}
        time.sleep(0.002)

@router.route("/predict", queue_size=50, concurrency=4)
def predict(job_progress: JobProgress, text: str, seconds: float = 0.0) -> str:
    job_progress.update(0.5, "half")
    time.sleep(seconds)
    return text.upper()

@router.route("/invert")
def invert(image: File) -> File:
    data = bytes(255 - byte for byte in image.read())
    return File.from_bytes(data, "inverted.bin", "application/x-test")

@router.post("/add")
def add(a: int, b: int) -> int:
    return a + b
"""


def wait_until_ready(url: str) -> None:
    """Return when the service answers."""
    patient = Retry(attempts=2000, total=60.0, cap=0.1)
    with connect(url, retry=patient) as client:
        client.endpoint("/health", method="GET")()


def start(folder: Path, port: int, command: str = "serve") -> subprocess.Popen[bytes]:
    """Start a server; jobs and blobs live in the folder."""
    words = [sys.executable, "-m", "handlers.cli", command, "real_service:router", "--port", str(port)]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "ROUTER_DRAIN_GRACE": "1"}
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(words, cwd=folder, env=env, stderr=log, stdout=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End what ``start`` has started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a running server."""
    folder = tmp_path_factory.mktemp("real-server")
    (folder / "real_service.py").write_text(SERVICE)
    port = free_port()
    process = start(folder, port)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield port
    finally:
        stop(process)


@pytest.fixture
def proxy(server: int) -> Iterator[CuttingProxy]:
    """A network in front of the server."""
    cutting = CuttingProxy(server)
    yield cutting
    cutting.close()


@pytest.fixture
def client(proxy: CuttingProxy) -> Iterator[Client]:
    """A client on the other side of it."""
    with connect(proxy.url, retry=Retry(base=0.01)) as service:
        yield service


def test_a_lost_202_makes_exactly_one_job(proxy: CuttingProxy, client: Client) -> None:
    """The server accepted the job and its answer never arrived, twice."""
    before = {view.job_id for view in client.jobs(route="/predict").jobs}
    proxy.lose = [b"POST /predict", b"POST /predict"]
    job = client.predict("once")
    assert job.result(timeout=60) == "ONCE"
    assert {view.job_id for view in client.jobs(route="/predict").jobs} - before == {job.id}
    assert sum(line.startswith(b"POST /predict") for line in proxy.seen) == 3


def test_a_lost_upload_is_sent_again_whole(proxy: CuttingProxy, client: Client, tmp_path: Path) -> None:
    """A file of a megabyte, there and back."""
    data = os.urandom(1_000_000)
    (tmp_path / "in.bin").write_bytes(data)
    proxy.lose = [b"POST /invert"]
    file = client.invert(tmp_path / "in.bin").result(timeout=30)
    assert file.read() == bytes(255 - byte for byte in data)
    assert (file.filename, file.content_type) == ("inverted.bin", "application/x-test")


def test_events_survive_cuts_in_their_middle(proxy: CuttingProxy, client: Client) -> None:
    """Cut three times, each time in the middle of an event: all outputs, once, in order."""
    proxy.cut = [(b"GET /jobs/", 5_000), (b"GET /jobs/", 20_000), (b"GET /jobs/", 7_777)]
    job = client.endpoint("/count").submit(200)
    numbers = [value["number"] for value in job.outputs()]
    assert numbers == list(range(200))
    assert sum(b"/events" in line for line in proxy.seen) >= 3


def test_a_wait_survives_a_cut(proxy: CuttingProxy, client: Client) -> None:
    """A long poll that is cut is asked again."""
    job = client.predict("slow", seconds=1.0)
    proxy.lose = [b"GET /jobs/"]
    assert job.result(timeout=60) == "SLOW"


def test_the_runpod_shaped_routes_of_the_server(server: int) -> None:
    """The other dialect, the same functions."""
    with connect(f"http://127.0.0.1:{server}/v2/local", protocol="runpod") as service:
        assert service.predict("a").result(timeout=60) == "A"
        file = service.invert(image=b"\x00\xff").result(timeout=60)
        assert file.read() == b"\xff\x00"
        assert [value["number"] for value in service.endpoint("/count").submit(n=3).outputs()] == [0, 1, 2]
        job = service.predict(text="x", seconds=30)
        assert job.cancel().status in ("cancelled", "running")


def test_the_command_line_end_to_end(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in, a job, a file out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTER_URL", f"http://127.0.0.1:{server}")
    (tmp_path / "in.bin").write_bytes(b"\x00\x01")
    assert main(["call", "invert", "image@in.bin", "--wait", "-o", "out.bin"]) == 0
    assert (tmp_path / "out.bin").read_bytes() == b"\xff\xfe"
    assert main(["call", "predict", "text=hi", "--wait"]) == 0
    assert capsys.readouterr().out == "HI\n"
    assert main(["jobs", "list", "--status", "succeeded", "--route", "/invert"]) == 0
    assert "/invert" in capsys.readouterr().out


def test_dev_starts_again_when_a_file_changes_and_keeps_jobs(tmp_path: Path) -> None:
    """Also after a version that cannot be imported."""
    module = tmp_path / "real_service.py"
    module.write_text(SERVICE)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(tmp_path, port, "dev")
    try:
        wait_until_ready(url)
        with connect(url) as client:
            job_id = client.predict("kept").wait(60).id
        module.write_text("import no_such_library\n")
        log = tmp_path / "server.log"
        _until(lambda: b"no_such_library" in log.read_bytes(), "the broken version to be tried")
        assert not _answers(url)
        module.write_text(SERVICE.replace("return a + b", "return a * b"))
        wait_until_ready(url)
        with connect(url) as client:
            assert client.add(3, 4) == 12
            assert client.job(job_id).result(timeout=0) == "KEPT"
    finally:
        stop(process)
    assert not _answers(url)


def _answers(url: str) -> bool:
    with connect(url, retry=Retry(attempts=1)) as client:
        try:
            client.endpoint("/health", method="GET")()
        except CannotConnect:
            return False
        except Exception:
            return True
    return True


def _until(holds: object, what: str) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
