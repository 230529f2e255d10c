"""Several processes behind one port: each with a state of its own, and one file of records."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.served import free_port

pytestmark = pytest.mark.process
CONFIG = """
models:
  - id: m
    type: text-generation
    clients: [{id: d, model: d, type: scripted, args: {reply: hi}, price: {input: 1, output: 1}}]
"""
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve a gateway by two processes; yields their port. They have to end well."""
    (folder / "gateway.yaml").write_text(CONFIG)
    port = free_port()
    environ = {
        **os.environ, "ROUTER_GATEWAY": "gateway.yaml", "ROUTER_GATEWAY_RECORDS": "records.jsonl",
        "PYTHONPATH": str(Path(__file__).parents[2]), "ROUTER_LOG_LEVEL": "error",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "handlers.cli", "serve", "router_core.gateway.app:create_app",
        "--port", str(port), "--workers", "2",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield port
            running.terminate()
            assert running.wait(30) == 0
        finally:
            running.terminate()
            running.wait(30)


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, str, bytes]:
    """Send a request on a connection of its own; returns status, who answered, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body or None, {"content-type": "application/json"})
        answer = connection.getresponse()
        # a process counts its requests in the last digits of their ids
        return answer.status, (answer.getheader("x-request-id") or "")[:-8], answer.read()
    finally:
        connection.close()


def until_up(port: int) -> None:
    """Wait for the first process that answers."""
    limit = time.monotonic() + 30
    while True:
        try:
            if ask(port, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_each_process_tells_the_metrics_of_all_and_all_write_one_file(tmp_path: Path) -> None:
    """Every call is answered, is counted once whoever is asked, and has one whole line."""
    with serving(tmp_path) as port:
        until_up(port)
        calls, limit = 0, time.monotonic() + 30
        who: set[str] = set()
        while len(who) < 2 or calls < 40:
            assert time.monotonic() < limit, who
            status, process, _ = ask(port, "POST", "/v1/chat/completions", BODY)
            assert status == 200
            who.add(process)
            calls += 1
        told: dict[str, int] = {}
        while len(told) < 2 or min(told.values()) < calls:
            assert time.monotonic() < limit, told
            _, process, text = ask(port, "GET", "/metrics")
            found = re.search(rb'model_router_requests_total\{[^}]*model="m"[^}]*\} (\d+)', text)
            told[process] = int(found[1]) if found else 0
    assert set(told.values()) == {calls}
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["request_id"] for line in lines}) == calls
