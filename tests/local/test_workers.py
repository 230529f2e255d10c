"""Several processes on one socket: replaced when they die, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.local.processes import children_of
from handlers.local.provider import serve
from handlers.local.server import ServeOptions
from router_core import Router
from router_core.errors import Misconfigured
from router_core.settings import Settings
from tests.local.tiny_app import drain

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.process


@contextmanager
def supervised(kind: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a supervisor; yields its process and port."""
    command = [sys.executable, "-m", "tests.local.worker_app", kind]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            yield running, int(running.stdout.readline())
        finally:
            for pid in _descendants(running.pid):
                _kill(pid)
            running.kill()


def _descendants(pid: int) -> list[int]:
    found = children_of(pid)
    return found + [deeper for child in found for deeper in _descendants(child)]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def ask(port: int, path: bytes = b"/echo") -> bytes:
    """Send one request on a connection of its own; returns the body."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return drain(sock).rpartition(b"\r\n\r\n")[2]


def both(port: int) -> set[bytes]:
    """Ask until two processes have answered."""
    limit = time.monotonic() + 30
    seen: set[bytes] = set()
    while len(seen) < 2:
        assert time.monotonic() < limit, seen
        seen.add(ask(port))
    return seen


def test_a_dead_worker_is_replaced_and_all_end_together() -> None:
    """Requests go on; after SIGTERM everybody drains and the exit code is 0."""
    with supervised("plain") as (running, port):
        first = both(port)
        killed = int(first.pop())
        os.kill(killed, signal.SIGKILL)
        limit = time.monotonic() + 30
        while len(seen := {ask(port), ask(port), ask(port)} | first) < 2 or str(killed).encode() in seen:
            assert time.monotonic() < limit
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            time.sleep(0.2)
            running.send_signal(signal.SIGTERM)
            assert drain(sock).endswith(b"done")
        assert running.wait(60) == 0
        assert running.stderr is not None
        assert f"worker {killed} ended with -9" in running.stderr.read()


def test_a_second_signal_kills() -> None:
    """Although the workers would drain for a minute."""
    with supervised("stubborn") as (running, port):
        both(port)
        workers = _descendants(running.pid)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        running.send_signal(signal.SIGTERM)
        assert running.wait(40) == 1
        assert not [pid for pid in workers if Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid)]


def _is_ours(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_workers_do_not_outlive_their_supervisor() -> None:
    """Not even one that was killed."""
    with supervised("plain") as (running, port):
        both(port)
        workers = [pid for pid in _descendants(running.pid) if _is_ours(pid)]
        assert len(workers) == 2
        running.kill()
        running.wait(60)
        limit = time.monotonic() + 60
        while any(_is_ours(pid) for pid in workers):
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_workers_that_cannot_start_are_not_started_for_ever() -> None:
    """The supervisor gives up with an exit code."""
    with supervised("broken") as (running, _port):
        assert running.wait(40) == 1


def _work() -> None:
    """Do nothing."""


def test_several_workers_need_a_name_and_a_store_to_share() -> None:
    """Said before anything is started."""
    options = ServeOptions(workers=2)
    with pytest.raises(Misconfigured, match="ROUTER_APP"):
        serve(Router(), Settings(jobs="memory://", blobs="memory://"), options)
    router = Router()
    router.route("/work")(_work)
    with pytest.raises(Misconfigured, match="share"):
        serve(router, Settings(app="a:b", jobs="memory://", blobs="memory://"), options)
