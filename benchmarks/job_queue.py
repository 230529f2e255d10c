"""(b) Durable jobs (SQLite, fsync before the 202) against APIPod, SAQ on Redis and huey on SQLite.

Concurrency is 10 everywhere. Over HTTP: submits alone, and submit + wait until finished from ten clients.
In one process: drain of a filled queue, as SAQ and huey are measured, and the full cycle.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.load import ROOT, free_port, serve, wrk
from benchmarks.report import Row, Skip, median

_SERVE = [sys.executable, "-m", "handlers.cli", "serve", "benchmarks.apps.ours:router"]
_PEERS = os.environ.get("PEERS_PYTHON", str(ROOT / ".venv-peers" / "bin" / "python"))
_SECONDS = 4


def run() -> list[Row | Skip]:
    """Return the ratios."""
    rows: list[Row | Skip] = []
    with tempfile.TemporaryDirectory() as folder:
        with _ours(f"{folder}/submits") as port:
            rows.append(_submits(port))
        with _ours(f"{folder}/clients") as port:  # another one: its queue is empty
            rows.append(_against_apipod(_synchronous(port)))
        drain = median([_in_process(folder, f"drain{n}", "drain") for n in range(3)])
        cycle = median([_in_process(folder, f"cycle{n}", "cycle") for n in range(3)])
        for name, other, goal in (
            ("SAQ on Redis", _saq(folder), 3.0),
            ("huey on SQLite, fsync", _peer("huey_sqlite.py", f"{folder}/huey.db"), 5.0),
        ):
            label = f"finished jobs/s, drain at concurrency 10, vs {name}"
            if isinstance(other, str):
                rows.append(Skip(label, other))
                continue
            rows.append(Row(label, f"{drain:,.0f}/s", f"{name} {other:,.0f}/s", drain / other, goal))
        rows.append(Row("full cycle submit->done at concurrency 10, in process", f"{cycle:,.0f}/s",
                        f"drain alone {drain:,.0f}/s", cycle / drain, 0.3))  # fmt: skip
    return rows


@contextlib.contextmanager
def _ours(folder: str) -> Iterator[int]:
    port = free_port()
    env = {"ROUTER_JOBS": f"sqlite:///{folder}/jobs.db", "ROUTER_BLOBS": f"file://{folder}/blobs"}
    with serve([*_SERVE, "--log-level", "warning", "--port", str(port)], port, env=env, core=None):
        yield port


def _submits(port: int) -> Row | Skip:
    name = "accepted submits/s over HTTP (202 after fsync)"
    if shutil.which("wrk") is None:
        return Skip(name, "the load generator wrk is not installed")
    rate, bad = wrk(
        f"http://127.0.0.1:{port}/noop", body='{"n": 1}', connections=64, seconds=_SECONDS, core=None
    )
    if bad:
        return Skip(name, f"{bad} submits were refused")
    return Row(name, f"{rate:,.0f}/s", "goal 5,000/s", rate / 5000, 1.0)


def _clients(port: int, job: Callable[[http.client.HTTPConnection, int], None]) -> float:
    """Ten clients, each: submit, wait until finished, again."""
    done = [0] * 10
    until = time.monotonic() + _SECONDS

    def client(n: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.monotonic() < until:
            job(connection, done[n])
            done[n] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(10)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", kind: str = ""
) -> bytes:
    connection.request(method, path, body or None, {"content-type": kind} if kind else {})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
    return data


def _synchronous(port: int) -> float | str:
    """Ten connections, each: submit and wait in one request, again. The load comes from wrk, because ten
    clients in Python are busy with themselves at 1,000 requests/s."""
    if shutil.which("wrk") is None:
        return "the load generator wrk is not installed"
    url = f"http://127.0.0.1:{port}/noop?sync=true"
    rate, bad = wrk(url, body='{"n": 1}', connections=10, seconds=_SECONDS, core=None)
    return f"{bad} jobs were refused" if bad else rate


def _apipod_job(connection: http.client.HTTPConnection, n: int) -> None:
    """Submit, then poll every 5 ms, as there is no long poll."""
    body = _request(connection, "POST", "/noop", b"n=%d" % n, "application/x-www-form-urlencoded")
    path = json.loads(body)["links"]["status"]
    while json.loads(_request(connection, "GET", path))["status"] != "finished":
        time.sleep(0.005)


def _against_apipod(ours: float | str) -> Row | Skip:
    name = "finished jobs/s over HTTP, 10 clients, vs APIPod in memory"
    if isinstance(ours, str):
        return Skip(name, ours)
    if not Path(_PEERS).exists():
        return Skip(name, "the peers are not installed: make bench installs them")
    port = free_port()
    script = ROOT / "benchmarks" / "peers" / "apipod_service.py"
    with (
        tempfile.TemporaryDirectory() as folder,
        serve([_PEERS, str(script), str(port)], port, cwd=folder, core=None),
    ):
        other = _clients(port, _apipod_job)
    return Row(name, f"{ours:,.0f}/s", f"APIPod {other:,.0f}/s", ours / other, 8.0)


def _in_process(folder: str, name: str, mode: str) -> float:
    command = [sys.executable, "-m", "benchmarks.job_queue_ours", f"{folder}/{name}.db", mode]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def _peer(script: str, *arguments: str) -> float | str:
    if not Path(_PEERS).exists():
        return "the peers are not installed: make bench installs them"
    command = [_PEERS, str(ROOT / "benchmarks" / "peers" / script), *arguments]
    rates = []
    for _ in range(3):
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            return f"it failed: {result.stderr[-200:]}"
        rates.append(float(result.stdout))
    return median(rates)


def _saq(folder: str) -> float | str:
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
    with serve(command, port, core=None):
        return _peer("saq_redis.py", f"redis://127.0.0.1:{port}/0")
