"""The stand-in for RunPod's platform: how it can be made to fail, and what does not bring it down."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.plain_http import Wire


def test_an_answer_can_be_replaced_for_some_requests(api: RunpodApi, wire: Wire) -> None:
    """For one job, for two times, then all is as before; nothing was done meanwhile."""
    one, other = api.submit_all([{}, {}])
    wire.take(), wire.take()
    fault = api.fault("job-done", status=503, times=2, job=one)
    posts = [
        wire.post(f"job-done/w/{job}?isStream=false", {"output": 1})[0] for job in (one, other, one, one)
    ]
    assert (posts, fault.hits) == ([503, 200, 503, 200], 2)
    assert [each.status for each in api.posts(one)] == [503, 503, 200]


def test_connections_can_be_cut_before_and_after_the_deed(api: RunpodApi, wire: Wire) -> None:
    """drop does nothing, lose and cut do all and say nothing or half of it, garbage lies."""
    job = api.submit({})
    wire.take()
    done = f"job-done/w/{job}?isStream=false"
    api.fault("job-done", "drop")
    with pytest.raises(http.client.RemoteDisconnected):
        wire.post(done, {"output": 1})
    assert api.job(job).status == "IN_PROGRESS"
    api.fault("job-done", "lose")
    with pytest.raises(http.client.RemoteDisconnected):
        wire.post(done, {"output": 1})
    assert api.job(job).status == "COMPLETED"
    api.fault("status", "cut")
    with pytest.raises(http.client.IncompleteRead):
        wire.send("GET", f"status/{job}")
    api.fault("status", "garbage")
    with pytest.raises(json.JSONDecodeError):
        wire.send("GET", f"status/{job}")
    assert wire.send("GET", f"status/{job}")[1]["status"] == "COMPLETED"


def test_a_request_can_be_held(api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]) -> None:
    """Nothing is done before the release."""
    held = api.fault("run", "hold")
    asked = beside(wire.post, "run", {"input": {}})
    api.asked("run")
    assert wire.send("GET", "health")[1]["jobs"]["inQueue"] == 0
    held.release()
    assert asked.result(60)[0] == 200
    assert wire.send("GET", "health")[1]["jobs"]["inQueue"] == 1


def test_the_api_can_be_down_and_come_back_where_it_was(
    api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]
) -> None:
    """Connections are refused, open polls end, jobs stay."""
    poll = beside(wire.send, "GET", "job-take/w?gpu=X")
    api.asked("job-take")
    api.down()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        poll.result(60)
    with pytest.raises(ConnectionRefusedError):
        wire.send("GET", "health")
    job = api.submit({"n": 1})
    api.up()
    assert wire.take()["id"] == job


def test_requests_are_kept_in_order_with_their_answers(api: RunpodApi, wire: Wire) -> None:
    """Time, path, headers, body and status of each."""
    wire.post("run", {"input": {"n": 1}})
    wire.send("GET", "nothing")
    first, second = api.requests
    assert (first.action, first.json, first.status) == ("run", {"input": {"n": 1}}, 200)
    assert (second.status, second.number) == (404, 1)
    assert first.at <= second.at
    assert first.headers["authorization"] == api.key


def test_waiting_for_what_does_not_come_says_what_was(api: RunpodApi, wire: Wire) -> None:
    """The last requests are named."""
    job = api.submit({})
    wire.send("GET", "health")
    with pytest.raises(TimeoutError, match=r"the end of .*health  200"):
        api.ended(job, timeout=0.05)


@pytest.mark.parametrize(
    "noise", [b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 70_000, b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
              b"POST /v2/fake/run HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc",
              b"POST /v2/fake/run HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_noise_on_the_wire_harms_nobody(wire: Wire, noise: bytes) -> None:
    """The connection is closed; the next one works."""
    with socket.create_connection(("127.0.0.1", wire.port), timeout=60) as peer:
        peer.sendall(noise)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1000) == b""
    assert wire.send("GET", "health")[0] == 200


def test_a_chunked_body_is_read(api: RunpodApi, wire: Wire) -> None:
    """And several requests come over one connection."""
    body = b'{"input": {"n": 1}}'
    with socket.create_connection(("127.0.0.1", wire.port), timeout=60) as peer:
        for _ in range(2):
            head = f"POST /v2/fake/run HTTP/1.1\r\nAuthorization: {api.key}\r\n"
            peer.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n7\r\n" + body[:7] + b"\r\n")
            peer.sendall(f"{len(body) - 7:x}\r\n".encode() + body[7:] + b"\r\n0\r\n\r\n")
            assert peer.recv(4000).startswith(b"HTTP/1.1 200")
    assert [each.json["input"] for each in api.seen("run")] == [{"n": 1}] * 2


def test_many_workers_and_callers_at_once_lose_and_double_nothing(api: RunpodApi, wire: Wire) -> None:
    """Two hundred jobs through eight workers: each handed out once, each ended once."""
    stop = threading.Event()

    def work(worker: str) -> None:
        while not stop.is_set():
            status, job = wire.send("GET", f"job-take/{worker}?gpu=X")
            if status == 200:
                wire.post(f"job-done/{worker}/{job['id']}?isStream=false", {"output": job["input"]["n"]})

    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
    for worker in workers:
        worker.start()
    try:
        ids = [api.submit({"n": n}) for n in range(200)]
        jobs = api.all_ended(ids)
    finally:
        stop.set()
        while any(worker.is_alive() for worker in workers):
            api.release_polls()
            time.sleep(0.01)
    assert [job.output for job in jobs] == list(range(200))
    assert all(len(job.workers) == 1 and not job.late for job in jobs)
