"""Answers that are larger than a reply may be: the caller is sent to the blob store."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest

from handlers.aws.function import LambdaApp
from handlers.aws.offload import offload
from router_core import App, File, Router, Settings, build_app
from router_core.blobs.s3 import S3BlobStore
from router_core.errors import RouterError, StoreError
from router_core.http.message import Request, Response
from router_core.jobs.job import State
from router_core.types import ANONYMOUS
from router_core.vendors import boto3
from tests.aws.batches import Context, event_of, message_for

MIB = 1024 * 1024
router = Router()


@router.get("/big")
def big(size: int) -> File:
    """Return a file of some size."""
    return File(b"x" * size, filename="caf\u00e9.bin", content_type="application/octet-stream")


@router.route("/render")
async def render(size: int) -> File:
    """Make a file of some size."""
    return File(b"y" * size, filename="r.png", content_type="image/png")


@pytest.fixture
async def app(bucket: str) -> AsyncIterator[App]:
    """Serve with blobs in a bucket."""
    made = build_app(router, Settings(jobs="memory://"), blobs=S3BlobStore(bucket, "p"))
    await made.start(background=False)
    yield made
    await made.stop(0)


def read(url: str) -> bytes:
    """Follow an address, as a client does."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        data: bytes = answer.read()
        return data


async def chunks() -> AsyncIterator[bytes]:
    """Yield a body."""
    for _ in range(10):
        yield b"z" * MIB


@pytest.mark.parametrize("body", [b"z" * 10 * MIB, None], ids=["bytes", "stream"])
async def test_a_body_of_any_kind_is_kept_and_pointed_to(app: App, body: bytes | None) -> None:
    """Headers that are not of the body stay; those that are travel in the address."""
    headers = (
        ("Content-Type", "text/csv"), ("content-length", "10485760"), ("x-request-id", "r1"),
        ("content-disposition", "attachment; filename*=UTF-8''caf%C3%A9.csv"), ("vary", "accept"),
    )  # fmt: skip
    answer = await offload(app, Response(200, headers, body if body is not None else chunks()), seconds=60)
    assert (answer.status, answer.body) == (303, b"")
    place = answer.header("location")
    assert place is not None
    kept = {name for name, _ in answer.headers}
    assert kept == {"location", "cache-control", "x-request-id", "vary"}
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(place).query)
    assert query["response-content-type"] == ["text/csv"]
    assert query["response-content-disposition"] == ["attachment; filename*=UTF-8''caf%C3%A9.csv"]
    assert query["X-Amz-Expires"] == ["60"]
    assert await asyncio.to_thread(read, place) == b"z" * 10 * MIB


async def test_what_cannot_be_kept_is_an_error(app: App) -> None:
    """Too large for a blob, or no place that callers can read."""
    small = build_app(router, Settings(jobs="memory://", blobs="memory://"))
    with pytest.raises(RouterError) as caught:
        await offload(small, Response(200, (), b"x"))
    assert caught.value.code == "reply_too_large"

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MIB

    with pytest.raises(RouterError) as caught:
        await offload(app, Response(200, (), endless()))
    assert caught.value.code == "reply_too_large"


async def test_a_store_that_is_away_is_unavailable(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may come back."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("no answer")

    monkeypatch.setattr(app.parts.blobs, "put", fail)
    with pytest.raises(StoreError):
        await offload(app, Response(200, (), b"x"))


async def test_a_large_job_result_is_read_from_the_bucket(app: App) -> None:
    """Through the core: the adapter says how much it can answer."""
    route = next(one for one in app.routes if one.path == "/render")
    inputs = route.plan.collect_input({"size": 2 * MIB})
    added = await app.service.submit(route, inputs, principal=ANONYMOUS)
    job = await app.run(added.job.id, "w")
    assert job is not None
    assert job.state is State.SUCCEEDED
    answers = [
        await app.handle(Request("GET", f"/jobs/{job.id}/result", id="r", max_reply_bytes=limit))
        for limit in (0, 3 * MIB, MIB)
    ]
    assert [answer.status for answer in answers] == [200, 200, 303]
    place = answers[-1].header("location")
    assert place is not None
    assert await asyncio.to_thread(read, place) == b"y" * 2 * MIB


def v2(path: str, query: str = "") -> dict[str, Any]:
    """Return the event of a GET through an HTTP API."""
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4", "userAgent": "t"}
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
        "headers": {"host": "localhost"}, "isBase64Encoded": False,
        "requestContext": {
            "http": http, "domainName": "localhost", "stage": "$default", "requestId": "r",
            "timeEpoch": 0, "accountId": "1", "apiId": "a",
        },
    }  # fmt: skip


def test_one_function_serves_every_kind_of_event(bucket: str) -> None:
    """On its own loop: a large answer, a batch, dead letters, the schedule, a direct call."""
    name = f"jobs-{bucket}"
    boto3.client("sqs").create_queue(QueueName=name)
    arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    settings = Settings(jobs="memory://", queue=f"sqs://{name}")
    app = build_app(router, settings, blobs=S3BlobStore(bucket, "p"))
    served, buries = LambdaApp(app), LambdaApp(app, role="dead_letters")
    served.start()
    buries.loop = served.loop
    try:
        answer = served(v2("/big", f"size={7 * MIB}"), Context())
        assert answer["statusCode"] == 303
        assert len(read(answer["headers"]["location"])) == 7 * MIB
        submitted = served({"path": "/render", "input": {"size": 5}, "mode": "submit"}, Context())
        job_id = submitted["job"]["job_id"]
        assert served(event_of(message_for(job_id, arn=arn)), Context()) == {"batchItemFailures": []}
        output = served({"path": f"/jobs/{job_id}/result"}, Context())["output"]
        assert (output["file_name"], output["content"]) == ("r.png", "eXl5eXk=")
        other = served({"path": "/render", "input": {"size": 5}, "mode": "submit"}, Context())["job"][
            "job_id"
        ]
        assert buries(event_of(message_for(other, arn=arn)), Context()) == {"batchItemFailures": []}
        buried = served({"path": f"/jobs/{other}"}, Context())["output"]
        assert (buried["status"], buried["error"]["type"]) == ("failed", "DeadLetter")
        round_ = served({"source": "aws.events", "detail-type": "Scheduled Event"}, Context())
        assert round_["done"] == {"reaper": True, "sweeper": True}
        assert json.loads(json.dumps(round_)) == round_
    finally:
        served.stop()
