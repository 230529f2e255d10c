"""A real server in a process of its own, and scripts with real clients in others."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.served import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
Script = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the test service on loopback, with the stores that users get by default."""
    folder = tmp_path_factory.mktemp("compat")
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "ROUTER_JOBS": f"sqlite:///{folder}/jobs.db",
        "ROUTER_BLOBS": f"file://{folder}/blobs",
        "ROUTER_DRAIN_GRACE": "2",
    }
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.compat.service"],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _until_healthy(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    pytest.fail(f"the server did not come up:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def run_script(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Run a client script in a process of its own and return the JSON that it prints last.

    These packages read the environment when they are imported, warn, and start threads: nothing that a test
    process should have inside.
    """

    def run(name: str, package: str, **environment: str) -> dict[str, Any]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
        home = tmp_path_factory.mktemp("home")
        done = subprocess.run(
            [sys.executable, str(HERE / name), service_url],
            cwd=home, env={**os.environ, "HOME": str(home), **environment},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name} failed:\n{done.stderr[-4000:]}\n{done.stdout[-2000:]}"
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run
