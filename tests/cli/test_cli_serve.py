"""``router-core serve`` in a process of its own: what it says, where it listens, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router_core.stores.sqlite_file import FileLock, has_wal_reset_bug
from tests.served import ROOT, free_port

SERVICE = """\
import os
from router_core import Router, build_app
from router_core.clock import SystemClock
from router_core.stores.memory import MemoryJobStore

class SharedStore(MemoryJobStore):
    multi_process = True

router = Router()

@router.get("/pid")
def pid() -> int:
    return os.getpid()

@router.route("/later")
def later() -> int:
    return os.getpid()

def make_app():
    return build_app(router, store=SharedStore(SystemClock()))

app = build_app(router)
router.start()
"""


@contextmanager
def serving(folder: Path, *words: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command; it is gone at the end."""
    (folder / "svc.py").write_text(SERVICE)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "handlers.cli", "serve", *words], cwd=folder, text=True,
        env={**inherited, "PYTHONPATH": str(ROOT), "ROUTER_JOBS": "memory://", "ROUTER_BLOBS": "memory://",
             **environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def served_at(process: subprocess.Popen[str]) -> str:
    """Return the address that it says it serves."""
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "serving":
            assert event["message"].startswith(f"serving on {event['url']}")
            assert event.get("docs", "") == (f"{event['url']}/docs" if "docs" in event["message"] else "")
            assert event.get("app", "svc:router").endswith(":router")  # a ready-made App knows no name
            assert event["jobs"] in ("memory://", "none://")
            return str(event["url"])
    raise AssertionError("it ended without serving")


def refusal(folder: Path, *words: str, **environ: str) -> str:
    """Return the one line that it ends with, and see that it calls it wrong usage."""
    with serving(folder, *words, **environ) as process:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2, said
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("target", ["svc:router", "svc:app"])
def test_it_says_where_it_serves_and_ends_at_the_first_signal(tmp_path: Path, target: str) -> None:
    """A module that ends in ``router.start()`` is not served twice: one SIGTERM is enough."""
    port = free_port()
    with serving(tmp_path, target, PORT=str(port)) as process:
        url = served_at(process)
        assert url == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/pid", timeout=60) as answer:
            assert json.load(answer) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_port_of_the_systems_choice_is_told(tmp_path: Path) -> None:
    """Whoever asks for port 0 has to learn which it became."""
    with serving(tmp_path, "svc:router", "--port", "0") as process:
        with urllib.request.urlopen(f"{served_at(process)}/pid", timeout=60) as answer:
            assert answer.status == 200


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """Neither a traceback nor a start that is undone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal(tmp_path, "svc:router", "--port", str(port))
    assert said == f"router-core: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def serves_with_two_workers(process: subprocess.Popen[str], port: int) -> None:
    """Check that both workers say where they serve, that one of them answers, and that all of it ends."""
    served_at(process)
    served_at(process)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/pid", timeout=60) as answer:
        assert json.load(answer) != process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_ready_made_app_has_as_many_workers_as_asked(tmp_path: Path) -> None:
    """Each loads it by its name."""
    port = free_port()
    with serving(tmp_path, "svc:make_app", "--workers", "2", PORT=str(port)) as process:
        serves_with_two_workers(process, port)


def test_without_jobs_workers_need_no_store_to_share(tmp_path: Path) -> None:
    """A gateway has none, and is served by as many processes as asked, whatever the SQLite of this Python."""
    (tmp_path / "plain.py").write_text(
        "import os\nfrom router_core import Router\nrouter = Router()\n"
        "@router.get('/pid')\ndef pid() -> int:\n    return os.getpid()\n"
    )
    port = free_port()
    with serving(tmp_path, "plain:router", "--workers", "2", PORT=str(port)) as process:
        serves_with_two_workers(process, port)
    assert not list(tmp_path.glob(".router-core/jobs.db*"))


def test_what_cannot_be_served_so_is_refused(tmp_path: Path) -> None:
    """Workers without a store to share, options that an App does not hear, a provider that is not there."""
    assert "ROUTER_JOBS=memory:// is the memory of one process" in refusal(
        tmp_path, "svc:app", "--workers", "2"
    )
    assert "svc:app is an App" in refusal(tmp_path, "svc:app", "--port", "9")
    assert "EXECUTION_PROVIDER is 'mainframe', which no installed package offers" in refusal(
        tmp_path, "svc:router", EXECUTION_PROVIDER="mainframe"
    )


def test_a_variable_that_is_no_setting_is_a_line_of_the_log(tmp_path: Path) -> None:
    """A misspelt one would have no effect, and nobody would know."""
    with serving(tmp_path, "svc:router", "--port", "0", ROUTER_LEESE="5") as process:
        assert process.stderr is not None
        event = json.loads(process.stderr.readline())
        assert (event["level"], event["event"]) == ("warning", "unknown_setting")
        assert event["message"].endswith("did you mean ROUTER_LEASE?")
        served_at(process)


def test_a_job_file_that_is_taken_is_refused_once(tmp_path: Path) -> None:
    """Whichever way it is asked for: no line of a service that then does not come."""
    if not has_wal_reset_bug():
        pytest.skip("this SQLite lets several processes write to one file")
    path = tmp_path / "jobs.db"
    jobs = f"sqlite:///{path}"
    said = refusal(tmp_path, "svc:router", "--workers", "2", ROUTER_JOBS=jobs)
    assert f"the SQLite of this Python, {sqlite3.sqlite_version}, may corrupt" in said
    lock = FileLock(path)
    lock.take(shared=False)
    try:
        assert "another process uses" in refusal(tmp_path, "svc:router", "--port", "0", ROUTER_JOBS=jobs)
    finally:
        lock.release()
