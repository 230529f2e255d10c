"""A real queue, its dead-letter queue and real records: jobs, poison, killed functions."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers.aws import sqs as handler
from handlers.aws.dead_letters import bury
from handlers.aws.sqs import run_batch
from router_core import App, Router, Settings, build_app
from router_core.errors import StoreError
from router_core.http.message import Headers, Request
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.stores.dynamodb import create_table
from router_core.telemetry.events import Events, JobMoved, Note
from router_core.testing.clock import FakeClock
from router_core.vendors import boto3
from tests.apps import sqs_batch
from tests.aws.batches import Context, event_of, message_for

MAX_RECEIVES = 4
router = Router()


@router.route("/double", concurrency=5)
async def double(n: int) -> int:
    """Double."""
    return 2 * n


@router.route("/flaky", max_attempts=3, backoff=0.05, concurrency=5)
async def flaky(n: int) -> int:
    """Fail the first time."""
    if n not in seen:
        seen.add(n)
        raise ConnectionError("again")
    return n


seen: set[int] = set()


@dataclass
class Queues:
    """A queue and its dead-letter queue, with the function of each played by hand."""

    name: str
    url: str
    dead_url: str
    answers: list[Any] = field(default_factory=list)

    async def deliver(self, app: App, *, dead: bool = False, wait: int = 0) -> int:
        """Do what an event source does: receive, call, delete what the function does not keep."""
        sqs, url = boto3.client("sqs"), self.dead_url if dead else self.url
        arn = f"arn:aws:sqs:us-east-1:000000000000:{self.name}{'-dead' if dead else ''}"
        found = await asyncio.to_thread(
            sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"],
            WaitTimeSeconds=wait,
        )  # fmt: skip
        messages = found.get("Messages", [])
        records = [
            {
                "messageId": one["MessageId"], "receiptHandle": one["ReceiptHandle"], "body": one["Body"],
                "attributes": one["Attributes"], "eventSource": "aws:sqs", "eventSourceARN": arn,
            }
            for one in messages
        ]  # fmt: skip
        if not records:
            return 0
        serve = bury if dead else run_batch
        answer = await serve(app, event_of(*records), Context(60))
        self.answers.append(answer)
        kept = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        for one in messages:
            if one["MessageId"] not in kept:
                await asyncio.to_thread(sqs.delete_message, QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
        return len(records)

    def counts(self, *, dead: bool = False) -> tuple[int, int]:
        """Return how many messages are visible and hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.dead_url if dead else self.url
        facts = boto3.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(facts[names[0]]), int(facts[names[1]])


@pytest.fixture
def queues(aws: str) -> Queues:
    """Make a queue that gives a message up after four receives."""
    name, sqs = f"jobs-{secrets.token_hex(6)}", boto3.client("sqs")
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    policy = {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{name}-dead",
        "maxReceiveCount": MAX_RECEIVES,
    }
    attributes = {"RedrivePolicy": json.dumps(policy), "VisibilityTimeout": "360"}
    url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    return Queues(name, url, dead)


@pytest.fixture
def settings(queues: Queues) -> Settings:
    """Keep records in a table and blobs in a bucket of this test's own."""
    name = f"jobs-{secrets.token_hex(6)}"
    create_table(name, expire=False)
    boto3.client("s3").create_bucket(Bucket=name)
    return Settings(jobs=f"dynamodb://{name}", blobs=f"s3://{name}/b", queue=f"sqs://{queues.name}")


@dataclass
class Service:
    """The app and what it told."""

    app: App
    ends: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def listen(self, event: object) -> None:
        """Count ends."""
        if isinstance(event, JobMoved) and event.state in ("succeeded", "failed"):
            self.ends.append(event.job_id)
        if isinstance(event, Note):
            self.notes.append(event.name)

    async def post(self, path: str, **values: Any) -> str:
        """Submit a job; returns its id."""
        headers = Headers([("content-type", "application/json")])
        body = json.dumps(values).encode()
        answer = await self.app.handle(Request("POST", path, headers=headers, body=body, id="r"))
        assert answer.status == 202, answer.body
        assert isinstance(answer.body, bytes)
        return str(json.loads(answer.body)["job_id"])

    async def job(self, job_id: str) -> Job:
        """Return the record."""
        found = await self.app.parts.store.get(job_id)
        assert isinstance(found, Job)
        return found


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """Serve from the table, the bucket and the queue."""
    events = Events()
    app = build_app(router, settings, events=events)
    made = Service(app)
    events.subscribe(made.listen)
    seen.clear()
    await app.start(background=False)
    yield made
    await app.stop(0)


async def test_jobs_go_through_the_queue_and_poison_goes_to_the_other(
    queues: Queues, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job ends once; what is no job is given up by the queue and kept by the other."""
    monkeypatch.setattr(handler, "_POISON_PAUSE", 0.0)
    ids = [await service.post("/double" if n % 3 else "/flaky", n=n) for n in range(20)]
    sqs = boto3.client("sqs")
    for body in ("not a job", '{"job_id": "' + "f" * 32 + '"}'):
        sqs.send_message(QueueUrl=queues.url, MessageBody=body)
    for one in ids[:5]:  # told twice
        sqs.send_message(QueueUrl=queues.url, MessageBody=json.dumps({"job_id": one}))
    until = time.monotonic() + 60
    while sum(queues.counts()) and time.monotonic() < until:
        await queues.deliver(service.app, wait=1)
    for n, job_id in enumerate(ids):
        job = await service.job(job_id)
        assert (job.state, job.result) == (State.SUCCEEDED, b"%d" % (2 * n if n % 3 else n))
    assert sorted(service.ends) == sorted(ids)
    assert queues.counts() == (0, 0)
    assert queues.counts(dead=True) == (2, 0)
    assert await queues.deliver(service.app, dead=True) == 2
    assert queues.counts(dead=True) == (0, 2)
    assert service.notes.count("dead_letter_strange") == 2


async def test_a_job_that_is_received_too_often_ends_and_can_be_run_again(
    queues: Queues, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim fails each time, until the queue gives it up; then somebody is told so."""
    monkeypatch.setattr(handler, "_FIRST_PAUSE", 0.0)
    job_id = await service.post("/double", n=21)
    store: Any = service.app.parts.store
    claim = store.inner.claim

    async def fail(wanted: Claim) -> Any:
        raise StoreError("no answer")

    monkeypatch.setattr(store.inner, "claim", fail)
    for _ in range(MAX_RECEIVES):
        assert await queues.deliver(service.app, wait=2) == 1
    assert await queues.deliver(service.app) == 0
    assert await queues.deliver(service.app, dead=True, wait=2) == 1
    assert queues.counts(dead=True) == (0, 0)
    job = await service.job(job_id)
    assert (job.state, job.reason, job.attempt) == (State.FAILED, "dead_letter", 0)
    monkeypatch.setattr(store.inner, "claim", claim)
    answer = await service.app.handle(Request("POST", f"/jobs/{job_id}/retry", id="r"))
    assert isinstance(answer.body, bytes)
    again = json.loads(answer.body)["job_id"]
    assert await queues.deliver(service.app, wait=2) == 1
    assert (await service.job(again)).result == b"42"


@pytest.mark.process
@pytest.mark.parametrize("place", ["after_claim", "mid_work", "before_settle", "after_settle"])
async def test_a_killed_function_loses_nothing(queues: Queues, settings: Settings, place: str) -> None:
    """Its message comes back after the deadline; the job is run again, or has ended already."""
    ends: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, JobMoved) and event.state in ("succeeded", "failed"):
            ends.append(event.state)

    clock = FakeClock(time.time())
    app = build_app(sqs_batch.router, settings, clock=clock, events=Events(listen))
    await app.start(background=False)
    try:
        job_id = await Service(app).post("/double", n=4)
        message = message_for(job_id, arn=f"arn:aws:sqs:us-east-1:000000000000:{queues.name}")
        if place == "after_claim":  # a process that dies before it has begun
            await app.parts.store.claim(Claim("dead", 65, job_id=job_id))
        else:
            assert await _invoke(settings, event_of(message), f"{place}:kill") == -signal.SIGKILL
        job = await app.parts.store.get(job_id)
        assert isinstance(job, Job)
        assert job.state is (State.SUCCEEDED if place == "after_settle" else State.RUNNING)
        if place != "after_settle":
            early = await run_batch(app, event_of(message), Context(60))
            assert len(early["batchItemFailures"]) == 1
            clock.advance(job.lease_until - clock.now() + 1)  # by the clock of the process that was killed
            rescued = await run_batch(app, event_of(message), Context(60))
            assert len(rescued["batchItemFailures"]) == 1
            clock.advance(300)
        assert await run_batch(app, event_of(message), Context(60)) == {"batchItemFailures": []}
        job = await app.parts.store.get(job_id)
        assert isinstance(job, Job)
        assert (job.state, job.result) == (State.SUCCEEDED, b"8")
        assert (job.crash_count, ends) == ((0, []) if place == "after_settle" else (1, ["succeeded"]))
    finally:
        await app.stop(0)


async def _invoke(settings: Settings, event: dict[str, Any], failpoint: str) -> int | None:
    """Run one invocation as a process; returns how it ended."""
    environ = {
        **os.environ, "ROUTER_JOBS": settings.jobs, "ROUTER_BLOBS": settings.blobs,
        "ROUTER_QUEUE": settings.queue, "ROUTER_FAILPOINT": failpoint,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.apps.sqs_batch", env=environ, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(json.dumps(event).encode())
    assert process.returncode == -signal.SIGKILL, (out, err)
    return process.returncode
