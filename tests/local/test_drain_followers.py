"""A service that ends does not wait for those who only look on."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.local.tiny_app import drain, one_answer
from tests.served import served

APP = """
from router_core import Router
router = Router()

@router.route("/work")
async def work(n: int) -> int:
    return n
"""


@pytest.mark.process
def test_followers_of_waiting_jobs_do_not_hold_the_end_up(tmp_path: Path) -> None:
    """Live answers and waits end as soon as nothing runs here, and properly; the grace is not used up."""
    (tmp_path / "followed.py").write_text(APP)
    environ = {"ROUTER_DRAIN_GRACE": "600", "ROUTER_JOBS": f"sqlite:///{tmp_path}/jobs.db"}
    with served("followed:router", tmp_path, **environ) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as sock:
            body = b'{"n": 1}'
            sock.sendall(
                b"POST /work HTTP/1.1\r\nHost: localhost\r\nX-Job-Delay: 600\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            job = json.loads(one_answer(sock).partition(b"\r\n\r\n")[2])
        path = f"/jobs/{job['job_id']}"
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=30) as following,
            socket.create_connection(("127.0.0.1", service.port), timeout=30) as polling,
        ):
            following.sendall(f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = b""
            while b"event: job" not in received:
                received += following.recv(4096)
            polling.sendall(f"GET {path}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.2)  # nothing tells from outside that a poll is waiting
            assert service.stop(signal.SIGTERM) == 0
            assert drain(following).endswith(b"0\r\n\r\n")
            assert b'"status":"scheduled"' in drain(polling)
