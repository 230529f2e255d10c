"""The stand-in for RunPod's platform: its wire, its limits, and the ways in which it can be made to fail."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from router_core.testing.runpod_api import Limits, RunpodApi

POLL = 20.0
"""Long polls end because of what happens, never because their time is up: a test that relies on it hangs."""


class Wire:
    """Plain HTTP to the API, as a worker and as a caller."""

    def __init__(self, api: RunpodApi) -> None:
        self.api = api

    def send(
        self, method: str, path: str, body: bytes | None = None, *, key: str = "", connect: float = 30
    ) -> tuple[int, Any]:
        """Return status and decoded body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=connect)
        try:
            headers = {"Authorization": key or self.api.key}
            connection.request(method, f"/v2/fake/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Post JSON."""
        return self.send("POST", path, json.dumps(value).encode())

    def take(self, worker: str = "w") -> dict[str, Any]:
        """Take one job."""
        status, job = self.send("GET", f"job-take/{worker}?gpu=X&job_in_progress=0")
        assert status == 200, status
        assert isinstance(job, dict)
        return job

    def _port(self) -> int:
        return int(self.api.base_url.split(":")[2].split("/")[0])


@pytest.fixture
def api() -> Iterator[RunpodApi]:
    """Return a platform whose limits are small."""
    with RunpodApi(poll=POLL, limits=Limits(run=1000, runsync=2000, chunk=100)) as running:
        yield running


@pytest.fixture
def wire(api: RunpodApi) -> Wire:
    """Return plain HTTP to it."""
    return Wire(api)


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Return what does a call in another thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


# --- the wire


def test_a_job_goes_from_a_caller_through_a_worker_and_back(api: RunpodApi, wire: Wire) -> None:
    """run, job-take, progress, job-done, status; members beside the input reach the worker."""
    status, job = wire.post("run", {"input": {"n": 1}, "webhook": "http://127.0.0.1/hook"})
    assert (status, job["status"]) == (200, "IN_QUEUE")
    taken = wire.take()
    assert taken == {"id": job["id"], "input": {"n": 1}, "webhook": "http://127.0.0.1/hook"}
    wire.post(f"job-done/w/{job['id']}?gpu=X&isStream=false", {"status": "IN_PROGRESS", "output": "half"})
    running = wire.send("GET", f"status/{job['id']}")[1]
    assert (running["status"], running["output"], running["workerId"]) == ("IN_PROGRESS", "half", "w")
    assert wire.post(f"job-done/w/{job['id']}?gpu=X&isStream=false", {"output": {"n": 2}})[0] == 200
    told = wire.send("POST", f"status/{job['id']}", b"")[1]
    assert (told["status"], told["output"]) == ("COMPLETED", {"n": 2})
    assert told["delayTime"] >= 0
    assert told["executionTime"] >= 0
    assert api.job(job["id"]).progress == ["half"]


@pytest.mark.parametrize("output", [None, False, [], {}, "", 0])
def test_an_output_may_be_nothing(api: RunpodApi, wire: Wire, output: Any) -> None:
    """What a worker posted is what a caller reads."""
    job = api.submit({})
    wire.take()
    wire.post(f"job-done/w/{job}?isStream=false", {"output": output})
    assert wire.send("GET", f"status/{job}")[1]["output"] == output


def test_an_error_makes_a_job_failed_and_a_retry_keeps_its_id(api: RunpodApi, wire: Wire) -> None:
    """The old output is gone, the attempt is counted; a completed job cannot be retried."""
    job = api.submit({"n": 1})
    wire.take()
    wire.post(f"job-done/w/{job}?isStream=false", {"error": "no cat", "output": {"x": 1}})
    assert wire.send("GET", f"status/{job}")[1]["error"] == "no cat"
    assert wire.post(f"retry/{job}", None) == (200, {"id": job, "status": "IN_QUEUE"})
    assert wire.take()["id"] == job
    wire.post(f"job-done/w/{job}?isStream=false", {"output": 3})
    told = wire.send("GET", f"status/{job}")[1]
    assert (told["status"], told["output"], told["retries"], "error" in told) == ("COMPLETED", 3, 1, False)
    assert wire.post(f"retry/{job}", None)[0] == 400


def test_a_worker_with_free_slots_takes_several(api: RunpodApi, wire: Wire) -> None:
    """A list, of at most the size that was asked for, in order."""
    ids = api.submit_all([{"n": n} for n in range(3)])
    status, jobs = wire.send("GET", "job-take-batch/w?gpu=X&batch_size=2&job_in_progress=0")
    assert (status, [job["id"] for job in jobs]) == (200, ids[:2])
    assert wire.take()["id"] == ids[2]


def test_a_long_poll_is_answered_as_soon_as_there_is_a_job(
    api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]
) -> None:
    """Of several polls that are open, exactly one gets it."""
    polls = [beside(wire.send, "GET", f"job-take/w{n}?gpu=X") for n in range(3)]
    api.asked("job-take", count=3)
    job = api.submit({"n": 1})
    api.taken(job)
    api.release_polls()
    answers = [poll.result(20) for poll in polls]
    assert sorted(status for status, _ in answers) == [200, 204, 204]
    assert [body["id"] for _, body in answers if body] == [job]


def test_no_job_is_given_to_a_worker_that_has_hung_up(api: RunpodApi, wire: Wire) -> None:
    """It waits for the next one instead."""
    gone = socket.create_connection(("127.0.0.1", wire._port()))
    gone.sendall(f"GET /v2/fake/job-take/gone?gpu=X HTTP/1.1\r\nAuthorization: {api.key}\r\n\r\n".encode())
    api.asked("job-take", worker="gone")
    gone.close()
    api.wait(lambda: api.seen("job-take", worker="gone")[0].status != 0)
    job = api.submit({})
    assert wire.take("here")["id"] == job
    assert api.job(job).workers == ["here"]


def test_runsync_waits_for_the_end(api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]) -> None:
    """Its answer is the whole status; ``wait`` bounds it, and the job goes on."""
    asked = beside(wire.post, "runsync", {"input": {"n": 1}})
    job = wire.take()
    assert job["id"].startswith("sync-")
    wire.post(f"job-done/w/{job['id']}?isStream=false", {"output": 7})
    status, told = asked.result(20)
    assert (status, told["status"], told["output"]) == (200, "COMPLETED", 7)
    status, told = wire.post("runsync?wait=1000", {"input": {"n": 2}})
    assert (status, told["status"]) == (200, "IN_QUEUE")


def test_a_stream_is_handed_out_once(api: RunpodApi, wire: Wire) -> None:
    """Each chunk goes to one reader; the platform keeps the position."""
    job = api.submit({})
    wire.take()
    for n in range(3):
        assert wire.post(f"job-stream/w/{job}?isStream=false", {"output": {"tok": n}})[0] == 200
    first = wire.send("GET", f"stream/{job}")[1]
    assert first == {"id": job, "status": "IN_PROGRESS", "stream": [{"output": {"tok": n}} for n in range(3)]}
    assert wire.send("GET", f"stream/{job}")[1]["stream"] == []


def test_a_cancel_reaches_the_worker_that_has_the_job(
    api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]
) -> None:
    """On its stop channel, once; one that still waited is not handed out any more."""
    running, waiting = api.submit_all([{}, {}])
    wire.take("a")
    stop = beside(wire.send, "GET", "job-stop/a?gpu=X")
    other = beside(wire.send, "GET", "job-stop/b?gpu=X")
    api.asked("job-stop", count=2)
    assert wire.post(f"cancel/{waiting}", None)[1] == {"id": waiting, "status": "CANCELLED"}
    assert wire.post(f"cancel/{running}", None)[1] == {"id": running, "status": "CANCELLED"}
    assert stop.result(20) == (200, {"jobsToStop": [running]})
    api.release_polls()
    assert other.result(20)[0] == 204
    assert api.job(waiting).workers == []


def test_what_comes_after_the_end_is_seen(api: RunpodApi, wire: Wire) -> None:
    """A second result changes nothing; a late progress spoils the job, as on the platform."""
    job = api.submit({})
    wire.take()
    wire.post(f"job-done/w/{job}?isStream=false", {"output": 1})
    wire.post(f"job-done/w/{job}?isStream=false", {"output": 2})
    assert (api.job(job).status, api.job(job).output) == ("COMPLETED", 1)
    wire.post(f"job-done/w/{job}?isStream=false", {"status": "IN_PROGRESS", "output": 0.5})
    assert api.job(job).status == "IN_PROGRESS"
    assert len(api.job(job).late) == 2


def test_the_platforms_own_doings_happen_at_a_word(api: RunpodApi, wire: Wire) -> None:
    """A second delivery, a timeout and the end of retention."""
    job = api.submit({"n": 1})
    assert wire.take("a")["id"] == job
    api.deliver_again(job)
    assert wire.take("b")["id"] == job
    api.time_out(job)
    assert wire.send("GET", "job-stop/b?gpu=X")[1] == {"jobsToStop": [job]}
    assert wire.send("GET", f"status/{job}")[1]["status"] == "TIMED_OUT"
    api.forget(job)
    assert wire.send("GET", f"status/{job}")[0] == 404
    assert wire.post(f"job-done/w/{job}?isStream=false", {"output": 1})[0] == 404


def test_health_and_purge_count_what_is_there(api: RunpodApi, wire: Wire) -> None:
    """In RunPod's words."""
    api.submit_all([{}, {}, {}])
    wire.take()
    assert wire.send("GET", "health")[1] == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 1, "inQueue": 2, "retried": 0},
        "workers": {"idle": 0, "running": 1},
    }
    assert wire.post("purge-queue", None) == (200, {"removed": 2, "status": "completed"})
    assert wire.send("GET", "health")[1]["jobs"]["inQueue"] == 0


# --- limits and refusals


def test_bodies_have_limits(api: RunpodApi, wire: Wire) -> None:
    """A result may have what its request might, a chunk less; more is refused and leaves no trace."""
    assert wire.post("run", {"input": {"x": "y" * 1000}})[0] == 400
    assert wire.post("runsync?wait=1000", {"input": {"x": "y" * 1000}})[0] == 200
    long, job = "y" * 1500, api.submit({})
    assert {wire.take()["id"][:5], wire.take()["id"][:5]} == {"sync-", job[:5]}
    assert wire.post(f"job-done/w/{job}?isStream=false", {"output": long})[0] == 400
    assert wire.post(f"job-stream/w/{job}?isStream=false", {"output": long[:100]})[0] == 400
    assert (api.job(job).status, api.job(job).chunks) == ("IN_PROGRESS", [])
    synced = api.submit({}, sync=True)
    wire.take()
    assert wire.post(f"job-done/w/{synced}?isStream=false", {"output": long})[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff", b'{"input": NaN}', b"[" * 900])
def test_a_submission_that_is_none_is_refused(wire: Wire, body: bytes) -> None:
    """With 400, never with 500."""
    assert wire.send("POST", "run", body)[0] == 400


@pytest.mark.parametrize("body", [b"", b"{", b'{"output": NaN}', b"\xff"])
def test_a_result_that_is_no_json_is_refused(api: RunpodApi, wire: Wire, body: bytes) -> None:
    """The job stays as it was."""
    job = api.submit({})
    wire.take()
    assert wire.send("POST", f"job-done/w/{job}?isStream=false", body)[0] == 400
    assert api.job(job).status == "IN_PROGRESS"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "status/nobody", 404), ("POST", "cancel/nobody", 404), ("GET", "run", 405),
     ("GET", "nothing", 404), ("GET", "", 404), ("POST", "job-done/w/nobody?isStream=false", 404),
     ("GET", "job-done/w/x", 405),
     ("GET", "job-take-batch/w?batch_size=x", 400), ("GET", "status", 404)],
)  # fmt: skip
def test_what_is_not_there_is_said_to_be_so(wire: Wire, method: str, path: str, status: int) -> None:
    """404, 405 and 400, with an error in words."""
    found, body = wire.send(method, path, b"{}" if method == "POST" else None)
    assert (found, isinstance(body["error"], str)) == (status, True)


def test_both_sides_need_the_key(wire: Wire, api: RunpodApi) -> None:
    """A worker sends it bare, a caller as a bearer token."""
    assert wire.send("GET", "health", key=f"Bearer {api.key}")[0] == 200
    assert wire.send("GET", "health", key="Bearer other")[0] == 401
    assert wire.send("GET", "job-take/w?gpu=X", key=f"Bearer {api.key}")[0] == 401
    assert wire.send("GET", "ping/w", key=api.key)[0] == 200


def test_the_variables_have_the_platforms_forms(api: RunpodApi) -> None:
    """Placeholders are left for the SDK to fill in."""
    environ = api.environ("pod-7")
    assert environ["RUNPOD_WEBHOOK_GET_JOB"].endswith("/v2/fake/job-take/$ID?gpu=FAKE")
    assert environ["RUNPOD_WEBHOOK_POST_OUTPUT"].endswith("/job-done/$RUNPOD_POD_ID/$ID?gpu=FAKE")
    assert environ["RUNPOD_WEBHOOK_POST_STREAM"].endswith("/job-stream/$RUNPOD_POD_ID/$ID?gpu=FAKE")
    assert (environ["RUNPOD_POD_ID"], environ["RUNPOD_AI_API_KEY"]) == ("pod-7", api.key)


# --- what a test can make go wrong


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
    assert asked.result(20)[0] == 200
    assert wire.send("GET", "health")[1]["jobs"]["inQueue"] == 1


def test_the_api_can_be_down_and_come_back_where_it_was(
    api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]
) -> None:
    """Connections are refused, open polls end, jobs stay."""
    poll = beside(wire.send, "GET", "job-take/w?gpu=X")
    api.asked("job-take")
    api.down()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        poll.result(20)
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
    with socket.create_connection(("127.0.0.1", wire._port()), timeout=10) as peer:
        peer.sendall(noise)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1000) == b""
    assert wire.send("GET", "health")[0] == 200


def test_a_chunked_body_is_read(api: RunpodApi, wire: Wire) -> None:
    """And several requests come over one connection."""
    body = b'{"input": {"n": 1}}'
    with socket.create_connection(("127.0.0.1", wire._port()), timeout=10) as peer:
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
