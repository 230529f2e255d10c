"""RunPod-shaped endpoints: the route stands in the input, states have other names, the rest is the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.client import Client, ConnectionCut, JobCancelled, JobFailed, connect
from router_core.client.connect import open_client
from router_core.client.runpod import RunpodDialect
from router_core.errors import BadRequest
from tests.client.conftest import QUICK
from tests.client.fake_service import SCHEMA, FakeService, Reply


def reply(**body: Any) -> Reply:
    """Build an answer of the platform."""
    return Reply(200, json.dumps(body).encode())


@pytest.fixture
def runpod(fake: FakeService) -> Iterator[Client]:
    """A client that speaks RunPod to the fake service."""
    fake.answers["POST /run"] = reply(id="j-1", status="IN_QUEUE")
    with connect(fake.url, protocol="runpod", api_key="k", retry=QUICK) as service:
        yield service


def test_a_call_by_name_is_one_request(fake: FakeService, runpod: Client) -> None:
    """No document is asked for: that would start a worker."""
    job = runpod.predict(a="x", f=b"data")
    assert (job.id, job.view.status.value) == ("j-1", "queued")
    (seen,) = fake.requests("POST /run")
    content = base64.b64encode(b"data").decode()
    file = {"file_name": "file", "content_type": "application/octet-stream", "content": content}
    assert seen.json() == {"input": {"path": "/predict", "a": "x", "f": file}}
    assert seen.headers["authorization"] == "Bearer k"
    assert "idempotency-key" not in seen.headers


def test_positional_arguments_ask_a_worker_for_their_names(fake: FakeService, runpod: Client) -> None:
    """Once; the virtual route is that of the worker."""
    fake.answers["POST /runsync"] = reply(id="d", status="COMPLETED", output=SCHEMA)
    runpod.predict("x", 2)
    runpod.predict("y")
    assert [seen.json()["input"] for seen in fake.requests("POST /run")] == [
        {"path": "/predict", "a": "x", "b": 2},
        {"path": "/predict", "a": "y"},
    ]
    assert [seen.json() for seen in fake.requests("POST /runsync")] == [{"input": {"path": "/openapi.json"}}]


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        ("IN_QUEUE", "queued"),
        ("IN_PROGRESS", "running"),
        ("COMPLETED", "succeeded"),
        ("FAILED", "failed"),
        ("CANCELLED", "cancelled"),
        ("TIMED_OUT", "failed"),
    ],
)
def test_states_get_our_names(fake: FakeService, runpod: Client, status: str, ours: str) -> None:
    """As the specification maps them."""
    fake.answers["GET /status/j-1"] = reply(id="j-1", status=status, executionTime=1500)
    view = runpod.job("j-1").view
    assert view.status == ours
    assert view.metrics["execution_time_s"] == 1.5


@pytest.mark.parametrize(
    ("output", "progress", "message"),
    [({"progress": 0.5, "message": "half"}, 0.5, "half"), ("step 2", 0.0, "step 2"), (None, 0.0, "")],
)
def test_progress_is_read_out_of_the_output(
    fake: FakeService, runpod: Client, output: Any, progress: float, message: str
) -> None:
    """Ours is an object; workers of others send text."""
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="IN_PROGRESS", output=output)
    job = runpod.job("j-1")
    assert (job.progress, job.message) == (progress, message)


def test_results_and_errors(fake: FakeService, runpod: Client) -> None:
    """Files come back as files, the vendor's error text as type and message."""
    content = base64.b64encode(b"png").decode()
    output = {"file_name": "a.png", "content_type": "image/png", "content": content}
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="COMPLETED", output=output)
    assert runpod.job("j-1").result().read() == b"png"
    told = json.dumps(
        {"error_type": "<class 'ValueError'>", "error_message": "bad", "error_traceback": "..."}
    )
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="FAILED", error=told)
    with pytest.raises(JobFailed, match=r"^ValueError: bad$"):
        runpod.job("j-1").result()
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="CANCELLED")
    with pytest.raises(JobCancelled):
        runpod.job("j-1").result()


def test_the_stream_is_polled_to_its_end(fake: FakeService, runpod: Client) -> None:
    """Chunks come once; the state comes last."""
    chunks = [reply(status="IN_PROGRESS", stream=[{"output": n}]) for n in (1, 2)]
    fake.faults["GET /stream/j-1"] = [*chunks, reply(status="COMPLETED", stream=[])]
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="COMPLETED", output=[1, 2])
    job = runpod.predict(a=1)
    assert list(job.outputs()) == [1, 2]


def test_cancel_and_retry(fake: FakeService, runpod: Client) -> None:
    """Both read the status afterwards."""
    fake.answers["GET /status/j-1"] = reply(id="j-1", status="CANCELLED")
    fake.answers["POST /cancel/j-1"] = reply(id="j-1", status="CANCELLED")
    fake.answers["POST /retry/j-1"] = reply(id="j-2", status="IN_QUEUE")
    fake.answers["GET /status/j-2"] = reply(id="j-2", status="IN_QUEUE")
    job = runpod.job("j-1")
    assert job.cancel().status == "cancelled"
    assert job.retry().id == "j-2"


def test_an_unclear_submission_is_not_repeated(fake: FakeService, runpod: Client) -> None:
    """The platform has no idempotency keys: a second try could be a second job, and a second bill."""
    fake.faults["POST /run"] = ["lose"]
    with pytest.raises(ConnectionCut):
        runpod.predict(a=1)
    assert len(fake.requests("POST /run")) == 1


def test_a_refused_submission_is_repeated(fake: FakeService, runpod: Client) -> None:
    """429: nothing was accepted."""
    fake.faults["POST /run"] = [429]
    assert runpod.predict(a=1).id == "j-1"


def test_what_the_platform_lacks_is_refused(runpod: Client) -> None:
    """Rather than ignored in silence."""
    with pytest.raises(BadRequest, match="no idempotency_key"):
        runpod.predict.options(idempotency_key="k")(a=1)
    with pytest.raises(BadRequest, match="does not list its jobs"):
        runpod.jobs()
    with pytest.raises(TypeError, match="'path' cannot be sent"):
        runpod.predict(path="/etc")


def test_options_become_the_policy(fake: FakeService, runpod: Client) -> None:
    """Deadline, low priority, webhook."""
    runpod.predict.options(expires_in=60, priority=-5, webhook="https://w", method="post")(a=1)
    body = fake.requests("POST /run")[0].json()
    assert body["policy"] == {"ttl": 60000, "lowPriority": True}
    assert (body["webhook"], body["input"]["method"]) == ("https://w", "POST")


def test_the_platforms_address_chooses_the_protocol() -> None:
    """Nothing has to be said for api.runpod.ai."""
    assert isinstance(open_client("https://api.runpod.ai/v2/abc")._dialect, RunpodDialect)
    assert not isinstance(open_client("https://api.runpod.ai.evil.example/v2/abc")._dialect, RunpodDialect)
