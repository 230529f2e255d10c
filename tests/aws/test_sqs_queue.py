"""The dispatcher on SQS: what it sends, and what becomes of a job that it cannot send."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from router_core import App, Misconfigured, Router, Settings, Unavailable, build_app
from router_core.http.message import Headers, Request, Response
from router_core.jobs.job import Job, State
from router_core.jobs.submission import SubmitOptions
from router_core.queues.sqs import SqsDispatcher, hide, url_of
from router_core.testing.clock import FakeClock
from router_core.types import new_id
from router_core.vendors import boto3

router = Router()


@router.route("/double")
async def double(n: int) -> int:
    """Double."""
    return 2 * n


@pytest.fixture
def queue(aws: str) -> str:
    """Make a queue of this test's own; returns its name."""
    name = f"jobs-{secrets.token_hex(6)}"
    boto3.client("sqs").create_queue(QueueName=name)
    return name


def received(name: str, **options: Any) -> list[dict[str, Any]]:
    """Take what lies in a queue."""
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], **options)
    return list(answer.get("Messages", ()))


def job_of(clock: FakeClock, ahead: float = 0.0, **values: Any) -> Job:
    """Return a job that becomes ready so many seconds from now."""
    job = Job(id=new_id(), owner="me", route="/double", state=State.QUEUED, created_at=clock.now())
    return replace(job, not_before=clock.now() + ahead if ahead else 0.0, **values)


@pytest.mark.parametrize("spelling", ["name", "host", "with scheme"])
async def test_the_message_is_the_id_alone(queue: str, spelling: str) -> None:
    """Whichever way the queue is named; the emulator's host replaces that of the URL."""
    place = {
        "name": queue,
        "host": f"sqs.eu-west-1.amazonaws.com/000000000000/{queue}",
        "with scheme": f"sqs://{queue}",
    }[spelling]
    clock = FakeClock()
    dispatcher = SqsDispatcher(place, clock)
    job = job_of(clock, input=b'{"secret":1}')
    await dispatcher.dispatch(job)
    await dispatcher.dispatch(job)
    found = received(queue)
    assert [json.loads(message["Body"]) for message in found] == [{"job_id": job.id}] * 2


async def test_the_name_is_resolved_once(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first job comes."""
    sqs = boto3.client("sqs")
    asked: list[str] = []
    resolve = sqs.get_queue_url

    def counted(**parameters: Any) -> Any:
        asked.append(parameters["QueueName"])
        return resolve(**parameters)

    monkeypatch.setattr(sqs, "get_queue_url", counted)
    clock = FakeClock()
    dispatcher = SqsDispatcher(queue, clock)
    assert asked == []
    for _ in range(3):
        await dispatcher.dispatch(job_of(clock))
    assert asked == [queue]


@pytest.mark.parametrize(
    ("ahead", "delay"), [(0.0, None), (-5.0, None), (0.2, 1), (60.0, 60), (900.0, 900), (1000.0, 900)]
)
async def test_a_job_that_is_not_due_is_delayed(
    queue: str, monkeypatch: pytest.MonkeyPatch, ahead: float, delay: int | None
) -> None:
    """Never too early, and at most as long as SQS can."""
    sqs, sent = boto3.client("sqs"), []

    def keep(**parameters: Any) -> None:
        sent.append(parameters.get("DelaySeconds"))

    monkeypatch.setattr(sqs, "send_message", keep)
    clock = FakeClock()
    await SqsDispatcher(queue, clock).dispatch(job_of(clock, ahead))
    assert sent == [delay]


async def test_a_fifo_queue_keeps_the_order_of_a_route_and_drops_what_it_has(aws: str) -> None:
    """Same job and same claim count: one message. A job that was put back is another."""
    name = f"jobs-{secrets.token_hex(6)}.fifo"
    boto3.client("sqs").create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
    clock = FakeClock()
    dispatcher = SqsDispatcher(name, clock)
    assert not dispatcher.abilities.takes(job_of(clock, 5), clock.now())
    job = job_of(clock, route="POST /a b\u4e2d")
    for one in (job, job, replace(job, epoch=1)):
        await dispatcher.dispatch(one)
    messages = received(name)
    assert [message["Attributes"]["MessageGroupId"] for message in messages] == ["POST_/a_b_"] * 2


@pytest.mark.parametrize("place", ["", "a/b", "x" * 81, "has space", "host/123/bad name", "q?x", "host//q"])
def test_a_name_that_no_queue_has_is_refused(place: str) -> None:
    """When the dispatcher is made, naming the setting."""
    with pytest.raises(Misconfigured, match="ROUTER_QUEUE"):
        SqsDispatcher(place)


async def test_a_queue_that_is_not_there_is_unavailable(aws: str) -> None:
    """The job waits: somebody has to make the queue, or mend its name."""
    with pytest.raises(Unavailable, match="cannot be used"):
        await SqsDispatcher("nobody-made-this").dispatch(job_of(FakeClock()))


async def test_a_queue_that_does_not_answer_is_unavailable(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead endpoint, which may come back."""
    boto3.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await SqsDispatcher("any").dispatch(job_of(FakeClock()))
    finally:
        boto3.forget()


async def test_a_message_can_be_hidden_by_the_arn_of_its_queue(queue: str) -> None:
    """As an event names it; beyond what SQS allows it is hidden as long as it can be."""
    await SqsDispatcher(queue).dispatch(job_of(FakeClock()))
    (message,) = received(queue)
    url = await url_of(f"arn:aws:sqs:us-east-1:000000000000:{queue}")
    await hide(url, message["ReceiptHandle"], 99_999)
    assert received(queue) == []
    await hide(url, message["ReceiptHandle"], -3)
    assert [again["MessageId"] for again in received(queue)] == [message["MessageId"]]


@pytest.mark.parametrize("arn", ["", "arn:aws:sqs:us-east-1:0", "arn:aws:s3:::bucket", "a:b:sqs:d:e:../x"])
async def test_an_arn_of_something_else_is_refused(arn: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match="ARN"):
        await url_of(arn)


@pytest.fixture
async def app(queue: str) -> AsyncIterator[App]:
    """Serve without workers, with records in memory and jobs on SQS."""
    clock = FakeClock()
    settings = Settings(jobs="memory://", blobs="memory://", queue=f"sqs://{queue}")
    app = build_app(router, settings, clock=clock)
    await app.start(background=False)
    yield app
    await app.stop(1)


async def post(app: App, **headers: str) -> Response:
    """Submit a job over HTTP."""
    pairs = [("content-type", "application/json"), *headers.items()]
    return await app.handle(Request("POST", "/double", headers=Headers(pairs), body=b'{"n":4}', id="r"))


async def test_a_job_whose_send_fails_is_kept_sent_later_and_run_once(
    app: App, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with its id; a repetition with the key finds it; the sweeper sends it; it runs once."""
    clock = app.parts.clock
    assert isinstance(clock, FakeClock)
    sqs = boto3.client("sqs")
    send = sqs.send_message

    def refuse(**_parameters: Any) -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(sqs, "send_message", refuse)
    answer = await post(app, **{"idempotency-key": "k"})
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert (answer.status, body["code"]) == (503, "dispatch_failed")
    assert answer.header("location") == f"/jobs/{body['job_id']}"
    again = await post(app, **{"idempotency-key": "k"})
    assert again.status == 503
    monkeypatch.setattr(sqs, "send_message", send)
    clock.advance(12)
    assert (await app.tend())["sweeper"]
    (message,) = received(queue)
    job_id = json.loads(message["Body"])["job_id"]
    assert job_id == body["job_id"]
    job = await app.run(job_id, "w")
    assert job is not None
    assert (job.state, job.result, job.attempt) == (State.SUCCEEDED, b"8", 1)
    clock.advance(12)
    await app.tend()
    assert received(queue) == []


async def test_a_scheduled_job_lies_in_the_queue_until_it_is_due(app: App, queue: str) -> None:
    """As long as the queue can hold it; a later one is sent by the sweeper."""
    route = next(route for route in app.routes if route.path == "/double")
    for delay in (2.0, 3600.0):
        inputs = route.plan.collect_input({"n": 1})
        await app.service.submit(
            route, inputs, principal=Request("GET", "/").principal, options=SubmitOptions(delay=delay)
        )
    assert received(queue) == []
    assert len(received(queue, WaitTimeSeconds=10)) == 1
    clock = app.parts.clock
    assert isinstance(clock, FakeClock)
    clock.advance(3601)
    await app.tend()
    assert len(received(queue)) == 2
