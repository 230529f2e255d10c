"""Direct calls of the function: what they answer, and what becomes of their jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from handlers.aws.direct import CALLER, invoke
from handlers.aws.sqs import run_batch
from router_core import File, JobProgress, Router, Settings, build_app
from router_core.blobs.s3 import S3BlobStore
from router_core.errors import HTTPError, QueueFull, StoreError, Unavailable
from router_core.http.message import Request, Response
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.types import ANONYMOUS, Principal
from tests.aws.batches import Context, Site, event_of, message_for

router = Router()
tries: list[int] = []


class Order(BaseModel):
    """What is ordered."""

    name: str
    count: int = 1


@router.get("/hello")
def hello(name: str = "world") -> str:
    """Greet."""
    return f"hello {name}"


@router.post("/order/{shop}")
async def order(shop: str, order: Order, limit: Annotated[int, Field(le=9)] = 3) -> dict[str, Any]:
    """Take an order."""
    return {"shop": shop, "name": order.name, "count": order.count, "limit": limit}


@router.get("/thing")
def read_thing() -> str:
    """Read."""
    return "read"


@router.delete("/thing")
def drop_thing() -> str:
    """Delete."""
    return "dropped"


@router.get("/words")
async def words(n: int) -> AsyncIterator[str]:
    """Yield."""
    for number in range(n):
        yield f"word {number}"


@router.get("/numbers")
def numbers() -> Iterator[int]:
    """Yield from a thread."""
    yield from range(3)


@router.get("/file")
def file() -> File:
    """Return bytes."""
    return File(b"\x89PNG", filename="a.png", content_type="image/png")


@router.get("/big")
def big(size: int) -> str:
    """Return a large text."""
    return "x" * size


@router.get("/picture")
def picture(size: int) -> File:
    """Return a large file."""
    return File(b"p" * size, filename="p.png", content_type="image/png")


@router.post("/narrow", max_body_bytes=50)
def narrow(text: str) -> int:
    """Take little."""
    return len(text)


@router.get("/who")
def who(request: Request, principal: Principal, progress: JobProgress) -> dict[str, Any]:
    """Tell who asks."""
    progress.update(0.5)
    return {"who": principal.id, "method": request.method, "path": request.path, "id": request.id}


@router.get("/bad")
async def bad(kind: str) -> Any:
    """Fail in several ways."""
    if kind == "http":
        raise HTTPError(418, "teapot", code="teapot")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "timeout":
        raise TimeoutError("the upstream")
    if kind == "answer":
        return Response.json({"detail": "no"}, status=402)
    if kind == "nothing":
        return None
    if kind == "slow":
        await asyncio.Event().wait()
    raise KeyError("secret")


@router.route("/job")
async def job(n: int, job_progress: JobProgress) -> int:
    """Work."""
    job_progress.update(0.5, "half")
    return n * 2


@router.route("/flaky", max_attempts=3, backoff=0.01)
async def flaky(until: int) -> int:
    """Fail some times."""
    tries.append(until)
    if len(tries) < until:
        raise ConnectionError("again")
    return len(tries)


@router.route("/wrong")
async def wrong() -> None:
    """Fail for good."""
    raise ValueError("broken input")


@router.route("/slow", max_attempts=5)
async def slow() -> str:
    """Wait until somebody stops it."""
    await asyncio.Event().wait()
    return "never"


@router.route("/later", max_attempts=5, backoff=300)
async def later() -> str:
    """Fail, to be tried much later."""
    raise ConnectionError("again")


@router.route("/large")
async def large(size: int) -> str:
    """Return a large text."""
    return "y" * size


@router.route("/full", queue_size=1)
async def full() -> None:
    """Be waited for."""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Return a service with a queue elsewhere."""
    tries.clear()
    made = Site(router)
    await made.app.start(background=False)
    yield made
    await made.app.stop(0)


async def call(site: Site, event: dict[str, Any], context: Context | None = None) -> dict[str, Any]:
    """Call the function; what it answers survives JSON as the runtime writes it."""
    answer = await invoke(site.app, event, context or Context(60, site.clock))
    found: dict[str, Any] = json.loads(json.dumps(answer))
    return found


@pytest.mark.parametrize(
    ("event", "output"),
    [
        ({"path": "/hello"}, "hello world"),
        ({"path": "/hello", "input": {"name": "Zo\u00eb"}}, "hello Zo\u00eb"),
        ({"input": {"path": "/hello", "name": "you"}}, "hello you"),
        ({"path": "hello", "method": "GET", "input": None}, "hello world"),
        (
            {"path": "/order/here", "input": {"order": {"name": "tea", "count": "2"}, "limit": 9}},
            {"shop": "here", "name": "tea", "count": 2, "limit": 9},
        ),
        ({"path": "/thing", "method": "DELETE"}, "dropped"),
        ({"path": "/words", "input": {"n": 2}}, ["word 0", "word 1"]),
        ({"path": "/numbers"}, [0, 1, 2]),
        (
            {"path": "/file"},
            {
                "file_name": "a.png", "content_type": "image/png",
                "content": base64.b64encode(b"\x89PNG").decode(),
            },
        ),
        ({"path": "/bad", "input": {"kind": "nothing"}}, None),
    ],
)  # fmt: skip
async def test_a_call_answers_with_its_result(site: Site, event: Any, output: Any) -> None:
    """Named as on RunPod, or with the path beside the input."""
    assert await call(site, event) == {"output": output}


async def test_a_function_may_ask_who_calls(site: Site) -> None:
    """There is a request, made for it."""
    context = Context(60, site.clock)
    output = (await call(site, {"path": "/who"}, context))["output"]
    assert output == {
        "who": "anonymous", "method": "GET", "path": "/who", "id": context.aws_request_id,
    }  # fmt: skip


async def test_a_job_can_be_followed(site: Site) -> None:
    """As text, when it has ended; until shortly before the deadline else."""
    submitted = await call(site, {"path": "/job", "input": {"n": 4}, "mode": "submit"})
    job_id = submitted["job"]["job_id"]
    await site.app.run(job_id, "w")
    followed = await call(site, {"path": f"/jobs/{job_id}/events"})
    assert '"succeeded"' in followed["output"]


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        ({"path": "/narrow", "input": {"text": "x" * 50}}, 413, "payload_too_large"),
        ({"path": "/nowhere"}, 422, "validation_failed"),
        ({"path": "/hello", "input": [1]}, 422, "validation_failed"),
        ({"path": "/hello", "input": "x"}, 422, "validation_failed"),
        ({"path": "/hello", "mode": "fly"}, 422, "validation_failed"),
        ({"path": "/hello", "mode": ["run"]}, 422, "validation_failed"),
        ({"path": "/job", "input": {"n": 1}, "idempotency_key": 7}, 422, "validation_failed"),
        ({"path": "/job", "input": {"n": 1}, "idempotency_key": "\u4e2d"}, 400, "bad_key"),
        ({"path": 7, "input": {}}, 422, "validation_failed"),
        ({"input": {}}, 422, "validation_failed"),
        ({"path": "/thing"}, 422, "validation_failed"),
        ({"path": "/thing", "method": "PATCH"}, 422, "validation_failed"),
        ({"path": "/order/x", "input": {"order": {}, "limit": 10}}, 422, "validation_failed"),
        ({"path": "/job", "input": {"n": "many"}}, 422, "validation_failed"),
        ({"path": "/" + "x" * 5000}, 422, "validation_failed"),
        ({"path": "/bad", "input": {"kind": "http"}}, 418, "teapot"),
        ({"path": "/bad", "input": {"kind": "other"}}, 500, "internal_error"),
        ({"path": "/bad", "input": {"kind": "exit"}}, 500, "internal_error"),
        ({"path": "/bad", "input": {"kind": "timeout"}}, 500, "internal_error"),
        ({"path": "/wrong"}, 500, "job_failed"),
        ({"path": "/jobs/" + "f" * 32}, 404, "job_not_found"),
        ({"path": "/jobs", "input": {"limit": 0}}, 400, "bad_request"),
    ],
)
async def test_an_error_is_an_answer(site: Site, event: Any, status: int, code: str) -> None:
    """The problem that callers over HTTP read, without what is only ours."""
    answer = await call(site, event)
    assert set(answer) == {"error"}
    assert (answer["error"]["status"], answer["error"]["code"]) == (status, code)
    assert "secret" not in json.dumps(answer)


async def test_an_error_that_is_answered_rather_than_raised(site: Site) -> None:
    """Its body is the error."""
    assert await call(site, {"path": "/bad", "input": {"kind": "answer"}}) == {"error": {"detail": "no"}}


async def test_a_call_that_takes_too_long_is_answered_before_the_end(site: Site) -> None:
    """Or the caller would hear of a killed function only."""
    answer = await call(site, {"path": "/bad", "input": {"kind": "slow"}}, Context(0.2, site.clock))
    assert answer["error"]["status"] == 504


async def test_a_job_route_is_run_and_answers_with_its_result(site: Site) -> None:
    """It has a record like every job; the queue is not told of it."""
    assert await call(site, {"path": "/job", "input": {"n": 4}}) == {"output": 8}
    (found,) = (await call(site, {"path": "/jobs"}))["output"]["jobs"]
    assert (found["status"], found["route"]) == ("succeeded", "/job")
    whole = await call(site, {"path": f"/jobs/{found['job_id']}"})
    assert (whole["output"]["result"], whole["output"]["message"]) == (8, "half")
    assert await call(site, {"path": f"/jobs/{found['job_id']}/result"}) == {"output": 8}
    assert site.queue.told == []


async def test_a_job_is_tried_again_while_there_is_time(site: Site) -> None:
    """By its route's policy; each waits out its pause."""
    task = asyncio.ensure_future(call(site, {"path": "/flaky", "input": {"until": 3}}))
    while not task.done():
        site.clock.advance(0.05)
        await asyncio.sleep(0.005)
    assert await task == {"output": 3}


async def test_what_the_deadline_cuts_off_goes_to_the_queue(site: Site) -> None:
    """Uncounted; the answer is the job, which can be read."""
    answer = await call(site, {"path": "/slow"}, Context(0.4, site.clock))
    job_id = answer["job"]["job_id"]
    found = await site.job(job_id)
    assert (answer["job"]["status"], found.attempt, found.releases) == ("queued", 0, 1)
    assert (site.queue.told, found.dispatch_pending) == ([job_id], False)


@pytest.mark.parametrize("takes", [True, False])
async def test_a_retry_that_is_due_later_is_left_to_others(site: Site, takes: bool) -> None:
    """To the queue, as far as it can hold it; to the sweeper else."""
    if not takes:
        site.queue.abilities = type(site.queue)(max_delay=0.0).abilities
    site.app.parts.runner.settlement._draw = lambda: 1.0
    answer = await call(site, {"path": "/later"})
    assert answer["job"]["status"] == "retrying"
    job_id = answer["job"]["job_id"]
    assert (job_id in site.queue.told) is takes
    assert (await site.job(job_id)).dispatch_pending is not takes


@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize("path", ["/job", "/hello"])
async def test_a_submitted_job_is_run_from_the_queue(site: Site, path: str) -> None:
    """Any route's call can be one; the answer comes at once."""
    values = {"n": 4} if path == "/job" else {"name": "you"}
    answer = await call(site, {"path": path, "input": values, "mode": "submit"})
    job_id = answer["job"]["job_id"]
    assert (answer["job"]["status"], site.queue.told) == ("queued", [job_id])
    await run_batch(site.app, event_of(message_for(job_id)), Context(60, site.clock))
    output = (await call(site, {"path": f"/jobs/{job_id}/result"}))["output"]
    assert output == (8 if path == "/job" else "hello you")
    again = await call(site, {"path": f"/jobs/{job_id}/cancel", "method": "POST"})
    assert again["error"]["code"] == "job_ended"


async def test_an_invocation_that_lambda_repeats_makes_one_job(site: Site) -> None:
    """It keeps its id; so does a caller with a key of his own."""
    context = Context(60, site.clock)
    for event in ({"path": "/job", "input": {"n": 4}}, {"path": "/job", "input": {"n": 4}}):
        assert await call(site, event, context) == {"output": 8}
    for _ in range(2):
        assert await call(site, {"path": "/job", "input": {"n": 5}, "idempotency_key": "k"}) == {"output": 10}
    other = await call(site, {"path": "/job", "input": {"n": 6}, "idempotency_key": "k"})
    assert other["error"]["code"] == "idempotency_key_reused"
    assert len((await call(site, {"path": "/jobs"}))["output"]["jobs"]) == 2


async def test_a_repeated_invocation_waits_for_who_runs_the_job(site: Site) -> None:
    """Its first try may still be running, or be dead."""
    context = Context(60, site.clock)
    submitted = await call(site, {"path": "/job", "input": {"n": 4}, "mode": "submit"}, context)
    job_id = submitted["job"]["job_id"]
    (held,) = await site.app.parts.store.claim(Claim("other", 300, job_id=job_id))
    task = asyncio.ensure_future(call(site, {"path": "/job", "input": {"n": 4}}, context))
    await asyncio.sleep(0.01)
    await site.app.parts.runner.run(held)
    assert await task == {"output": 8}


async def test_a_job_that_could_not_be_recorded_fails_the_invocation(site: Site) -> None:
    """Lambda then repeats an asynchronous one, which nobody reads the answer of; a run is answered."""
    event = {"path": "/full", "mode": "submit"}
    await call(site, event)
    with pytest.raises(QueueFull):
        await call(site, event)
    assert (await call(site, {**event, "mode": "run"}))["error"]["status"] == 429
    add = site.store.add

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("no answer")

    site.store.add = fail
    with pytest.raises(Unavailable):
        await call(site, {"path": "/job", "input": {"n": 1}, "mode": "submit"})
    assert (await call(site, {"path": "/job", "input": {"n": 1}}))["error"]["status"] == 503
    site.store.add = add


async def test_a_job_whose_queue_does_not_answer_is_recorded_all_the_same(site: Site) -> None:
    """The sweeper tells the queue; failing here would only make the caller submit it twice."""
    site.queue.down = Unavailable("no")
    answer = await call(site, {"path": "/job", "input": {"n": 1}, "mode": "submit"})
    site.queue.down = None
    found = await site.job(answer["job"]["job_id"])
    assert (found.state, found.dispatch_pending) == (State.QUEUED, True)
    site.clock.advance(11)
    await site.app.tend()
    assert site.queue.told == [found.id]


async def test_direct_callers_are_somebody_where_others_have_keys() -> None:
    """They own their jobs and see no others."""
    settings = Settings(jobs="memory://", blobs="memory://", api_keys="ann:" + "k" * 40)
    app = build_app(router, settings)
    await app.start(background=False)
    try:
        answer = await invoke(app, {"path": "/job", "input": {"n": 1}, "mode": "submit"}, Context())
        found = await app.parts.store.get(answer["job"]["job_id"])
        assert isinstance(found, Job)
        assert found.owner == CALLER.id != ANONYMOUS.id
        listed = await invoke(app, {"path": "/jobs"}, Context())
        assert len(listed["output"]["jobs"]) == 1
        refused = await app.handle(Request("GET", f"/jobs/{found.id}"))
        assert refused.status == 401
    finally:
        await app.stop(0)


async def test_a_result_larger_than_a_reply_is_read_elsewhere(bucket: str) -> None:
    """Of a call as of a job; what fits stays in the answer."""
    app = build_app(router, Settings(jobs="memory://"), blobs=S3BlobStore(bucket, "p"))
    await app.start(background=False)
    try:
        for path, letter in (("/big", b"x"), ("/large", b"y")):
            small = await invoke(app, {"path": path, "input": {"size": 1_000_000}}, Context())
            assert len(small["output"]) == 1_000_000
            answer = await invoke(app, {"path": path, "input": {"size": 7_000_000}}, Context())
            assert answer["content_type"] == "application/json"
            assert answer["size"] == 7_000_002
            body = await asyncio.to_thread(_read, answer["output_url"])
            assert body == b'"' + letter * 7_000_000 + b'"'
        listed = (await invoke(app, {"path": "/jobs"}, Context()))["output"]["jobs"]
        (large_one,) = [one["job_id"] for one in listed if one.get("result_ref", {}).get("size", 0) > 5e6]
        again = await invoke(app, {"path": f"/jobs/{large_one}/result"}, Context())
        assert await asyncio.to_thread(_read, again["output_url"]) == b'"' + b"y" * 7_000_000 + b'"'
        answer = await invoke(app, {"path": "/picture", "input": {"size": 6_000_000}}, Context())
        assert (answer["content_type"], answer["size"]) == ("image/png", 6_000_000)
        assert await asyncio.to_thread(_read, answer["output_url"]) == b"p" * 6_000_000
    finally:
        await app.stop(0)


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        data: bytes = answer.read()
        return data


async def test_without_a_place_for_it_a_large_result_is_an_error(site: Site) -> None:
    """Which says so, instead of a reply that the platform throws away."""
    answer = await call(site, {"path": "/big", "input": {"size": 7_000_000}})
    assert answer["error"]["code"] == "reply_too_large"
