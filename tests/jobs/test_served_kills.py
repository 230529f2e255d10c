"""A service that is killed between two writes, seen by its caller and the receiver of its webhook."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from router_core.jobs.failpoints import VARIABLE
from tests.served import Served, served

pytestmark = pytest.mark.process

APP = """
from router_core import Router
router = Router()

@router.route("/work", timeout=30)
async def work(n: int) -> int:
    with open("runs", "a") as file:
        file.write(f"{n}\\n")
    return n
"""


def site(folder: Path, **environ: str) -> dict[str, str]:
    """Write the service down; returns the environment to serve it in."""
    (folder / "killed.py").write_text(APP)
    return {
        "ROUTER_JOBS": f"sqlite:///{folder}/jobs.db",
        "ROUTER_LEASE": "2",
        "ROUTER_HEARTBEAT": "0.5",
        **environ,
    }


def call(service: Served, path: str, body: Any = None, **headers: str) -> tuple[dict[str, Any], str]:
    """Call the service; returns the JSON body and the header that tells a replay."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data=data)
    for name, value in {"content-type": "application/json", **headers}.items():
        request.add_header(name.replace("_", "-"), value)
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found, answer.headers.get("Idempotency-Replayed", "")


def ended(service: Served, job_id: str) -> dict[str, Any]:
    """Wait for the end of a job."""
    until = time.monotonic() + 30
    while True:
        job, _ = call(service, f"/jobs/{job_id}?wait=5")
        if job["status"] not in ("queued", "running", "retrying"):
            return job
        assert time.monotonic() < until, job


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the database, or change it, while no server has it."""
    with closing(sqlite3.connect(folder / "jobs.db")) as db, db:
        return db.execute(query).fetchall()


def test_kill_between_the_record_and_the_answer(tmp_path: Path) -> None:
    """A caller who got no 202 asks again with the same key, and has the job that was accepted."""
    environ = site(tmp_path)
    with served("killed:router", tmp_path, **environ, **{VARIABLE: "after_add:kill"}) as service:
        with pytest.raises((OSError, HTTPException)):
            call(service, "/work", {"n": 7}, idempotency_key="once")
        assert service.process.wait(60) == -signal.SIGKILL
    ((kept,),) = rows(tmp_path, "SELECT id FROM jobs")
    with served("killed:router", tmp_path, **environ) as service:
        job, replayed = call(service, "/work", {"n": 7}, idempotency_key="once")
        assert (job["job_id"], replayed) == (kept, "true")
        assert ended(service, kept)["status"] == "succeeded"
        assert service.stop() == 0
    assert rows(tmp_path, "SELECT id FROM jobs") == [(kept,)]
    assert (tmp_path / "runs").read_text() == "7\n"


@contextmanager
def receiving() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]], threading.Event]]:
    """Run a receiver of webhooks; gives its URL, what came (id and body), and an event for the first."""
    came: list[tuple[str, dict[str, Any]]] = []
    arrived = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        """Takes everything."""

        def do_POST(self) -> None:
            """Keep a message and answer 204."""
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.headers["webhook-id"], json.loads(body)))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", came, arrived
        finally:
            server.shutdown()
            thread.join()


def test_kill_before_a_webhook_is_sent(tmp_path: Path) -> None:
    """The message that was about to go out is sent by the next server, under the id that it had."""
    secret = "whsec_" + "QUFB" * 11
    environ = site(tmp_path, ROUTER_WEBHOOK_SECRET=secret, ROUTER_ALLOW_PRIVATE_URLS="true")
    with receiving() as (url, came, arrived):
        with served("killed:router", tmp_path, **environ, **{VARIABLE: "before_webhook:kill"}) as service:
            job, _ = call(service, "/work", {"n": 1}, x_webhook_url=url)
            assert service.process.wait(60) == -signal.SIGKILL
        assert came == []
        ((kept, job_id),) = rows(tmp_path, "SELECT id, job_id FROM outbox")
        assert job_id == job["job_id"]
        rows(tmp_path, "UPDATE outbox SET next_at = 0")  # it is put aside for a minute while it is being sent
        with served("killed:router", tmp_path, **environ) as service:
            assert arrived.wait(60), service.log
            assert service.stop() == 0
        (message,) = came
        assert message[0] == kept
        assert message[1]["data"]["job_id"] == job_id
    assert rows(tmp_path, "SELECT id FROM outbox") == []
    assert (tmp_path / "runs").read_text() == "1\n"
