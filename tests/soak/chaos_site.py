"""One server under chaos: kept alive, killed, frozen, and fed with jobs over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.served import ROOT, free_port

__all__ = ["LEASE", "Site"]

LEASE = 1.5
_ANSWER = 3.0


class Site:
    """A server process that is started again whenever it has died, and what its callers know."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.traces = folder / "traces"
        self.traces.mkdir(parents=True)
        self.port = free_port()
        self.random = random.Random(seed)
        self.accepted: dict[int, str] = {}
        """Number -> job id, as the first 202 said."""
        self.contradictions: list[str] = []
        self.kills = self.freezes = 0
        self.ran_again = self.declared_lost = 0
        self._process: subprocess.Popen[bytes] | None = None

    # --- the process

    def start(self) -> None:
        """Start a server and wait until it answers."""
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "EXECUTION_"))},
            "ROUTER_JOBS": f"sqlite:///{self.folder}/jobs.db", "ROUTER_BLOBS": f"file://{self.folder}/blobs",
            "ROUTER_LEASE": str(LEASE), "ROUTER_HEARTBEAT": "0.3", "ROUTER_LOG_LEVEL": "error",
        }  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "handlers.cli",
            "serve",
            "tests.apps.chaos:router",
            "--port",
            str(self.port),
        ]
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 30
        while self.ask("GET", "/health") is None:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "serve.log").read_text()[-3000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL in whatever it was doing, and start it again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.kills += 1
        self.start()

    def freeze(self) -> None:
        """SIGSTOP until its leases have ended, then let it go on as if nothing had been."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE + 0.3)
        self._process.send_signal(signal.SIGCONT)
        self.freezes += 1

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    # --- the callers

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any] | None:
        """Return status and decoded body, or None when nobody answers in time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def submit(self, n: int) -> None:
        """Submit job ``n`` until it is accepted; the key makes the repetition harmless."""
        while True:
            answer = self.ask(
                "POST", "/work", {"n": n, "folder": str(self.traces)}, **{"Idempotency-Key": f"job-{n}"}
            )
            if answer is not None and answer[0] == 202:
                self._note(n, answer[1]["job_id"])
                return
            if answer is not None and answer[0] not in (429, 503):
                self.contradictions.append(f"job {n} was answered with {answer}")
                return
            time.sleep(self.random.uniform(0.02, 0.2))

    def _note(self, n: int, job_id: str) -> None:
        if self.accepted.setdefault(n, job_id) != job_id:
            self.contradictions.append(f"job {n} has two ids")

    def feed(self, numbers: range, pause: float) -> None:
        """Submit all the numbers, at a pace; some of them twice."""
        for n in numbers:
            self.submit(n)
            if self.random.random() < 0.05:
                self.submit(n)
            time.sleep(pause)

    def torment(self, kills: int, freezes: int, done: threading.Event) -> None:
        """Kill and freeze in random order, until all of it has been done."""
        plan = ["kill"] * kills + ["freeze"] * freezes
        self.random.shuffle(plan)
        for act in plan:
            time.sleep(self.random.uniform(0.1, 0.9))
            self.kill() if act == "kill" else self.freeze()
        done.set()
