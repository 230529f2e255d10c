"""The stand-in for RunPod's platform: its wire and its limits."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from router_core.testing.runpod_api import RunpodApi
from tests.runpod.plain_http import Wire

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
    answers = [poll.result(60) for poll in polls]
    assert sorted(status for status, _ in answers) == [200, 204, 204]
    assert [body["id"] for _, body in answers if body] == [job]


def test_no_job_is_given_to_a_worker_that_has_hung_up(api: RunpodApi, wire: Wire) -> None:
    """It waits for the next one instead."""
    gone = socket.create_connection(("127.0.0.1", wire.port))
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
    status, told = asked.result(60)
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
    assert stop.result(60) == (200, {"jobsToStop": [running]})
    api.release_polls()
    assert other.result(60)[0] == 204
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


def test_bodies_have_limits(api: RunpodApi, wire: Wire, beside: Callable[..., Future[Any]]) -> None:
    """A result may have what its request might, a chunk less; more is refused and leaves no trace."""
    assert wire.post("run", {"input": {"x": "y" * 1000}})[0] == 400
    asked = beside(wire.post, "runsync", {"input": {"x": "y" * 1000}})
    taken = wire.take()["id"]
    assert taken.startswith("sync-")
    assert wire.post(f"job-done/w/{taken}?isStream=false", {"output": 1})[0] == 200
    assert asked.result(60)[0] == 200
    long, job = "y" * 1500, api.submit({})
    assert wire.take()["id"] == job
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
