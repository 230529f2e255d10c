"""What breaks on the way: one call stays one job, and no event is lost or doubled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from router_core.client import ConnectionCut, JobCancelled, JobExpired, JobFailed, Retry, connect
from router_core.client.errors import CannotConnect, error_from
from router_core.client.sync import Client
from router_core.errors import Conflict, HTTPError, RateLimited, Unavailable
from router_core.http.message import Headers
from tests.client.fake_service import FakeService, Reply, problem


@pytest.mark.parametrize("fault", [503, 502, 504, "refuse", "lose"])
def test_a_retried_submission_carries_the_same_key_and_is_one_job(
    fake: FakeService, client: Client, fault: Any
) -> None:
    """Also when the answer 202 was lost after the job was accepted."""
    fake.faults["POST /predict"] = [fault, fault]
    job = client.predict("x")
    keys = {seen.headers["idempotency-key"] for seen in fake.requests("POST /predict")}
    assert len(fake.requests("POST /predict")) == 3
    assert len(keys) == 1
    assert list(fake.jobs) == [job.id]


def test_an_answer_cut_in_its_body_is_asked_for_again(fake: FakeService, client: Client) -> None:
    """Half a 202 is as good as none."""
    fake.faults["POST /predict"] = [Reply(202, b'{"job_id":"half', cut_after=5)]
    client.predict("x")
    assert len(fake.jobs) == 1


def test_a_silent_service_is_a_timeout(fake: FakeService, client: Client) -> None:
    """A plain call is not repeated, as it may have been carried out."""
    fake.faults["POST /add"] = ["hang"]
    with pytest.raises(TimeoutError, match="silent for too long"):
        client.add.options(timeout=0.05)(x=1, y=2)
    assert len(fake.requests("POST /add")) == 1


def test_two_calls_are_two_jobs(fake: FakeService, client: Client) -> None:
    """A key belongs to one call."""
    client.predict("x")
    client.predict("x")
    assert len(fake.jobs) == 2


@pytest.mark.parametrize("fault", [502, "lose"])
def test_a_plain_call_with_unclear_outcome_is_not_repeated(
    fake: FakeService, client: Client, fault: Any
) -> None:
    """It may have been carried out, and it has no key."""
    fake.faults["POST /add"] = [fault]
    with pytest.raises((ConnectionCut, Exception)):
        client.add(x=1, y=2)
    assert len(fake.requests("POST /add")) == 1


@pytest.mark.parametrize("fault", [503, 429])
def test_a_plain_call_that_was_refused_is_repeated(fake: FakeService, client: Client, fault: int) -> None:
    """The service said itself that it did nothing."""
    fake.faults["POST /add"] = [fault]
    assert client.add(x=1, y=2) == 3


def test_errors_that_stay_are_not_repeated(fake: FakeService, client: Client) -> None:
    """A 404 will be a 404 again."""
    with pytest.raises(Exception, match="no such job"):
        client.job("job-nothing")
    assert len(fake.requests("GET /jobs/job-nothing")) == 1


def test_giving_up_raises_the_last_error(fake: FakeService, client: Client) -> None:
    """After as many tries as the policy has."""
    fake.faults["POST /predict"] = [503] * 9
    with pytest.raises(Unavailable, match="later"):
        client.predict("x")
    assert len(fake.requests("POST /predict")) == 4
    assert fake.jobs == {}


def test_events_resume_behind_the_last_one_that_arrived(fake: FakeService, client: Client) -> None:
    """Cut in the middle of the third event: each comes once, in order."""
    fake.events = [("output", n) for n in range(5)]
    fake.cut_events_after = 85
    job = client.predict("x")
    events = list(job)
    assert [event.data for event in events if event.type == "output"] == [0, 1, 2, 3, 4]
    assert events[-1].type == "job"
    seen = fake.requests(f"GET /jobs/{job.id}/events")
    assert [request.headers.get("last-event-id") for request in seen] == [None, "2"]


def test_a_stream_that_never_comes_back_raises(fake: FakeService, client: Client) -> None:
    """A loop over events does not end as if the job had."""
    job = client.predict("x")
    fake.answers[f"GET /jobs/{job.id}/events"] = Reply(
        200, b": hello\n\n", {"content-type": "text/event-stream"}
    )
    with pytest.raises(ConnectionCut, match="ended before the job did"):
        list(job)
    assert len(fake.requests(f"GET /jobs/{job.id}/events")) == 4


def test_nothing_left_ends_with_the_job(fake: FakeService, client: Client) -> None:
    """204: the reader has seen it all before."""
    job = client.predict("x")
    fake.jobs[job.id]["status"] = "succeeded"
    fake.answers[f"GET /jobs/{job.id}/events"] = Reply(204, b"", {})
    assert [event.type for event in job.events(after=7)] == ["job"]


@pytest.mark.parametrize(
    ("status", "kind"), [("failed", JobFailed), ("cancelled", JobCancelled), ("expired", JobExpired)]
)
def test_a_job_without_result_raises_how_it_ended(
    fake: FakeService, client: Client, status: str, kind: type[JobFailed]
) -> None:
    """With the job's own error."""
    job = client.predict("x")
    error = {"type": "ValueError", "message": "bad", "attempt": 1, "retryable": False}
    fake.jobs[job.id] |= {"status": status, "error": error, "reason": "error"}
    with pytest.raises(kind) as caught:
        job.result()
    assert (caught.value.job_id, caught.value.error, caught.value.reason) == (job.id, error, "error")
    if kind is JobFailed:
        assert str(caught.value) == "ValueError: bad"


def test_waiting_too_long_leaves_the_job_running(fake: FakeService, client: Client) -> None:
    """TimeoutError, and the job can be waited for again."""
    job = client.predict("x")
    with pytest.raises(TimeoutError, match="still queued"):
        job.result(timeout=0.05)
    fake.jobs[job.id] |= {"status": "succeeded", "result": 1}
    assert job.result(timeout=0) == 1


def test_cancel_of_a_job_that_has_ended_shows_how_it_ended(fake: FakeService, client: Client) -> None:
    """The race between both is nobody's error."""
    job = client.predict("x")
    fake.jobs[job.id] |= {"status": "succeeded", "result": 1}
    fake.answers[f"POST /jobs/{job.id}/cancel"] = problem(409, "conflict", "ended")
    assert job.cancel().status == "succeeded"


def test_a_closed_client_says_so(fake: FakeService, client: Client) -> None:
    """Instead of waiting for a loop that is gone."""
    job = client.predict("x")
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        job.refresh()


def test_a_waiting_call_can_be_interrupted(fake: FakeService, client: Client) -> None:
    """Closing the client from another thread ends a call that waits."""
    job = client.predict("x")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            job.result()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    client.close()
    thread.join(60)
    assert not thread.is_alive()
    assert errors


def test_the_policy_waits_as_asked_and_within_its_deadline() -> None:
    """Retry-After is honoured, jitter is bounded, and the total is a limit."""
    now = [0.0]
    policy = Retry(attempts=10, total=20.0, now=lambda: now[0])
    asked = RateLimited("x", retry_after=5, headers={"retry-after": "5"})
    wait = policy.wait(asked, 1, 0.0)
    assert wait is not None
    assert 5.0 <= wait <= 5.5
    assert policy.wait(RateLimited("x", retry_after=11, headers={"retry-after": "11"}), 1, 0.0) is not None
    assert (
        Retry(patience=10).wait(RateLimited("x", retry_after=11, headers={"retry-after": "11"}), 1, 0) is None
    )
    now[0] = 16.0
    assert policy.wait(asked, 1, 0.0) is None
    assert policy.wait(CannotConnect("x"), 10, 16.0) is None
    assert all(0 <= (policy.wait(CannotConnect("x"), tries, 16.0) or 0) <= 8 for tries in range(1, 10))


def test_a_key_that_is_being_recorded_is_waited_for() -> None:
    """409 with Retry-After is repeatable under a key; any other 409 is an answer."""
    policy = Retry()
    assert policy.may(Conflict("x", headers={"retry-after": "1"}), repeatable=True)
    assert not policy.may(Conflict("x", headers={"retry-after": "1"}), repeatable=False)
    assert not policy.may(Conflict("x"), repeatable=True)


def test_error_answers_of_strangers_do_not_break_the_parser() -> None:
    """Any body, any status, any member."""
    headers = Headers([("content-type", "application/problem+json"), ("retry-after", "nan")])
    for body in (
        b"",
        b"null",
        b"[1]",
        b'{"code": 7, "errors": 3, "detail": null}',
        b'{"errors": [1, {"loc": 1}]}',
        b"\xff",
    ):
        for status in (400, 404, 418, 422, 429, 500, 503, 599, 700):
            assert isinstance(error_from(status, headers, body), Exception)
    assert isinstance(error_from(418, headers, b"{}"), HTTPError)


def test_the_client_closes_without_being_told(fake: FakeService) -> None:
    """A program that forgets to close it ends all the same."""
    service = connect(fake.url)
    service.predict("x")
    service.close()
    service.close()
