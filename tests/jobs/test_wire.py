"""The shape of a job on the wire, written and read back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pydantic_core
import pytest

from router_core.errors import UpstreamError
from router_core.jobs.job import Job, State
from router_core.jobs.wire import (
    apipod_body,
    encode_job,
    job_body,
    parse_job,
    parse_state,
    runpod_word,
    timestamp,
)

JOB = Job("0123456789abcdef", "ann", "/paint", State.QUEUED, 1_700_000_000.25)


def test_a_new_job_has_no_nulls() -> None:
    """What is not known yet is left out."""
    assert job_body(JOB) == {
        "job_id": JOB.id,
        "route": "/paint",
        "status": "queued",
        "progress": 0.0,
        "attempt": 0,
        "created_at": "2023-11-14T22:13:20.250000Z",
        "metrics": {},
        "links": {
            "self": f"/jobs/{JOB.id}",
            "status": f"/status/{JOB.id}",
            "cancel": f"/jobs/{JOB.id}/cancel",
            "events": f"/jobs/{JOB.id}/events",
            "result": f"/jobs/{JOB.id}/result",
        },
    }


def test_an_ended_job_has_times_metrics_and_result() -> None:
    """Waiting and running are told apart; the result is passed on byte for byte."""
    raw = b'{"a":[1,2.50,"\xc3\xa9"]}'
    job = replace(
        JOB, state=State.SUCCEEDED, result=raw, started_at=JOB.created_at + 2, attempt=1,
        finished_at=JOB.created_at + 3.5, progress=1.0, message='say "hi"\n', expires_at=JOB.created_at + 100,
    )  # fmt: skip
    body = job_body(job, prefix="https://x.example", stream=True)
    assert raw in encode_job(job)
    assert body["metrics"] == {"execution_time_s": 1.5, "queue_time_s": 2.0}
    assert body["message"] == 'say "hi"\n'
    assert body["links"]["stream"] == f"https://x.example/stream/{job.id}"
    assert body["finished_at"] == "2023-11-14T22:13:23.750000Z"


@pytest.mark.parametrize("result", [b"", b"null"])
def test_no_result_is_left_out(result: bytes) -> None:
    """A function that returned nothing has no result member."""
    assert "result" not in job_body(replace(JOB, result=result))


def test_an_offloaded_result_is_named_without_its_key() -> None:
    """The blob's key is nobody's business outside."""
    ref = pydantic_core.to_json({"key": "secret-key", "size": 9, "sha256": "ab", "content_type": "image/png"})
    text = encode_job(replace(JOB, result_ref=ref))
    assert b"secret-key" not in text
    assert pydantic_core.from_json(text)["result_ref"] == {
        "href": f"/jobs/{JOB.id}/result", "size": 9, "sha256": "ab", "content_type": "image/png",
    }  # fmt: skip


@pytest.mark.parametrize("text", ['"\\', "\u2028\x00\x1f", "\U0001f600", "é" * 100])
def test_any_text_stays_json(text: str) -> None:
    """Messages and routes come from authors and may hold anything that can be encoded."""
    body = job_body(replace(JOB, message=text, route=text))
    assert (body["message"], body["route"]) == (text, text)


@pytest.mark.parametrize("progress", [float("nan"), float("inf"), 5e-324, 1.0])
def test_progress_is_always_a_json_number(progress: float) -> None:
    """Whatever a store may hold."""
    assert isinstance(job_body(replace(JOB, progress=progress))["progress"], float)


def test_what_is_written_is_read() -> None:
    """The client's view agrees with the record."""
    job = replace(
        JOB, state=State.FAILED, reason="timeout", attempt=2, started_at=JOB.created_at + 1,
        error=b'{"type":"JobTimeout","message":"slow","attempt":2,"retryable":false}',
    )  # fmt: skip
    view = parse_job(encode_job(job))
    assert (view.job_id, view.status, view.done, view.attempt, view.reason) == (
        job.id,
        "failed",
        True,
        2,
        "timeout",
    )
    assert view.error == {"type": "JobTimeout", "message": "slow", "attempt": 2, "retryable": False}
    assert view.created_at == datetime.fromtimestamp(JOB.created_at, UTC)
    assert view.links["cancel"] == f"/jobs/{job.id}/cancel"


def test_a_runpod_body_is_read() -> None:
    """id, output and milliseconds."""
    view = parse_job(
        {"id": "x-e1", "status": "COMPLETED", "output": [1], "executionTime": 1500, "delayTime": 20}
    )
    assert (view.job_id, view.status, view.result, view.progress) == ("x-e1", State.SUCCEEDED, [1], 1.0)
    assert view.metrics == {"execution_time_s": 1.5, "queue_time_s": 0.02}
    failed = parse_job({"id": "y", "status": "TIMED_OUT", "error": "too slow"})
    assert failed.error is not None
    assert (failed.status, failed.reason, failed.error["message"]) == (State.FAILED, "timeout", "too slow")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"job_id":"x"}', {"job_id": "x", "status": "odd"}, {}]
)
def test_what_is_no_job_is_an_upstream_error(body: Any) -> None:
    """Another service answered there."""
    with pytest.raises(UpstreamError):
        parse_job(body)


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_word_in_each_dialect_and_comes_back(state: State) -> None:
    """Ours exactly; RunPod's and apipod's to a state that is as final."""
    ended = state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)
    assert parse_state(state.value.upper()) is state
    for word in (runpod_word(state), apipod_body(replace(JOB, state=state))["status"]):
        back = parse_state(word)
        assert (back in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)) == ended


def test_timestamps_have_microseconds() -> None:
    """Also where they are zero."""
    assert timestamp(0.0) == "1970-01-01T00:00:00.000000Z"
