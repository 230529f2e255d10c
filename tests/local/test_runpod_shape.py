"""RunPod-shaped routes over a real service and store; jobs are moved by hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pydantic_core
import pytest

from handlers.local.runpod_shape import RunpodShape
from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.binding.plan import compile_plan
from router_core.clock import SystemClock
from router_core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    KeyReused,
    NotFound,
    QueueFull,
    RouterError,
    UnsupportedMedia,
    ValidationFailed,
)
from router_core.http.media import File
from router_core.http.message import Headers, Request, Response
from router_core.jobs import moves
from router_core.jobs.blobs import Blob
from router_core.jobs.dispatch import Abilities
from router_core.jobs.inputs import load
from router_core.jobs.job import Job, Reason, State
from router_core.jobs.service import JobService
from router_core.jobs.store import Claim, JobQuery, NewEvent, Page
from router_core.jobs.watch import Hub, WatchedStore
from router_core.routing.route import JobOptions, Route
from router_core.routing.table import Table
from router_core.settings import Settings
from router_core.stores.memory import MemoryJobStore
from router_core.telemetry.events import Events, JobMoved
from router_core.types import ANONYMOUS, Principal


class Blobs:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, data: Any, *, content_type: str = "application/octet-stream") -> Blob:
        """Keep bytes."""
        key = hashlib.sha256(data).hexdigest()
        self.kept[key] = data
        return Blob(key, key, len(data), content_type)

    async def get(self, key: str) -> bytes:
        """Return bytes."""
        if key not in self.kept:
            raise NotFound()
        return self.kept[key]

    async def delete(self, key: str) -> None:
        """Forget bytes."""
        self.kept.pop(key, None)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return no orphans."""
        return []

    async def ping(self) -> None:
        """Be there."""


class Nobody:
    """A queue that nobody works on."""

    abilities = Abilities(delay=True, priority=True, cancel=True, stream=True, external=False)

    async def dispatch(self, job: Job) -> None:
        """Do nothing."""

    async def start(self, run: Any) -> None:
        """Do nothing."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""


def predict(strength: float = 0.5, image: File | None = None) -> float:
    """Stand for a job."""
    return strength


def words(prompt: str) -> Iterator[str]:
    """Stand for a stream."""
    yield prompt


def hello(name: str = "world") -> str:
    """Stand for a plain call."""
    return name


def secret() -> None:
    """Stand for a route that needs a scope."""


def route_of(func: Callable[..., Any], path: str, kind: Any, method: str = "POST", **given: Any) -> Route:
    """Build the route of a function."""
    plan = compile_plan(func, path=path, methods=(method,), job=method == "POST")
    given.setdefault("job", JobOptions())
    return Route(key=path, methods=(method,), path=path, func=func, plan=plan, kind=kind, **given)


ROUTES = [
    route_of(predict, "/predict", "job", job=JobOptions(queue_size=5, timeout=60)),
    route_of(words, "/words", "stream"),
    route_of(hello, "/hello", "call", "GET"),
    route_of(secret, "/secret", "job", scopes=("admin",)),
]

EVERYTHING = JobQuery()
OTHER = Principal("somebody-else", frozenset(), "api_key")


class Endpoint:
    """The shape, called through its own routes as the server would."""

    def __init__(
        self,
        *,
        secret: str = "",
        routes: list[Route] = ROUTES,
        sync_wait_max: float = 60.0,
        waiters: int = 100,
    ) -> None:
        self.clock = SystemClock()
        self._moved: asyncio.Queue[JobMoved] = asyncio.Queue()
        events, hub = Events(self._listen), Hub(max_watches=waiters)
        self.store = WatchedStore(MemoryJobStore(self.clock), hub, events)
        self.blobs = Blobs()
        self.checked: list[str] = []
        self.fetched: list[str] = []
        settings = Settings(webhook_secret=secret, sync_wait_max=sync_wait_max)
        self.service = JobService(
            store=self.store, hub=hub, dispatcher=Nobody(), blobs=self.blobs,
            routes={route.key: route for route in routes}, clock=self.clock, settings=settings, events=events,
            check_url=self._check,
        )  # fmt: skip
        shape = RunpodShape(
            service=self.service, routes=routes, events=events, intake=Intake(fetch=self._fetch),
            openapi=lambda: {"openapi": "3.1.0", "paths": {}}, slots=3,
        )  # fmt: skip
        self.table = Table(shape.routes())

    def _listen(self, event: object) -> None:
        if isinstance(event, JobMoved):
            self._moved.put_nowait(event)

    async def happened(self, move: str) -> str:
        """Wait until a job has made a move, and return its id."""
        while (event := await self._moved.get()).move != move:
            continue
        return event.job_id

    async def _check(self, url: str) -> None:
        self.checked.append(url)

    async def _fetch(self, url: str) -> File:
        self.fetched.append(url)
        return File.from_bytes(b"picture", "x.png", "image/png")

    async def send(self, request: Request) -> Response:
        """Answer a request; errors are raised."""
        match = self.table.match(request.method, request.path)
        request = replace(request, path_params=match.path_params)
        plan = match.route.plan
        values = plan.validate(await plan.collect(request))
        response = await plan.call(values, {"request": request}, DependencyScope())
        assert isinstance(response, Response)
        return response

    async def call(
        self, method: str, path: str, body: Any = None, *, query: str = "", principal: Principal = ANONYMOUS,
        **headers: str,
    ) -> Any:  # fmt: skip
        """Send JSON and return JSON."""
        pairs = [
            ("content-type", "application/json"),
            *((k.replace("_", "-"), v) for k, v in headers.items()),
        ]
        data = b"" if body is None else body if isinstance(body, bytes) else pydantic_core.to_json(body)
        request = Request(method, f"/v2/local/{path}", query, Headers(pairs), data, principal=principal)
        response = await self.send(request)
        assert response.status == 200
        assert response.header("content-type") == "application/json"
        assert isinstance(response.body, bytes)
        return pydantic_core.from_json(response.body)

    async def submit(self, path: str = "/predict", **arguments: Any) -> str:
        """Run a job and return its id."""
        body = await self.call("POST", "run", {"input": {"path": path, **arguments}})
        assert body == {"id": body["id"], "status": "IN_QUEUE"}
        return str(body["id"])

    async def claim(self, job_id: str) -> Job:
        """Begin to work on a job."""
        (job,) = await self.store.claim(Claim("worker-1", 30.0, job_id=job_id))
        return job

    async def record(self, job_id: str) -> Job:
        """Return the record."""
        found = await self.store.get(job_id)
        assert isinstance(found, Job)
        return found

    async def finish(self, job_id: str, result: bytes = b"0.5", result_ref: bytes = b"") -> None:
        """Work on a job and succeed."""
        job = await self.claim(job_id)
        move = moves.succeed(
            job.fence,
            now=self.clock.now(),
            retention=60,
            attempts=b"[]",
            result=result,
            result_ref=result_ref,
        )
        assert (await self.store.move(job_id, move)).applied

    async def fail(self, job_id: str, error: bytes, reason: Reason = Reason.ERROR) -> None:
        """Work on a job and fail."""
        job = await self.claim(job_id)
        move = moves.fail(
            job.fence, now=self.clock.now(), retention=60, attempts=b"[]", error=error, reason=reason
        )
        assert (await self.store.move(job_id, move)).applied


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint with four routes and an open store."""
    made = Endpoint()
    await made.store.open()
    yield made
    await made.store.close()


# --- run and status -----------------------------------------------------------------------------


async def test_a_job_goes_through_the_words_of_the_platform(endpoint: Endpoint) -> None:
    """IN_QUEUE, IN_PROGRESS with progress, COMPLETED with output and times; by GET and by POST."""
    job_id = await endpoint.submit(strength=0.75)
    assert await endpoint.call("GET", f"status/{job_id}") == {"id": job_id, "status": "IN_QUEUE"}
    record = await endpoint.record(job_id)
    assert (record.route, await load(record, endpoint.blobs)) == ("/predict", {"strength": 0.75})

    job = await endpoint.claim(job_id)
    body = await endpoint.call("POST", f"status/{job_id}")
    assert (body["status"], body["workerId"]) == ("IN_PROGRESS", "worker-1")
    assert body["delayTime"] >= 0
    assert "output" not in body
    await endpoint.store.move(job_id, moves.progress(job.fence, fraction=0.5, message="half way"))
    body = await endpoint.call("GET", f"status/{job_id}")
    assert body["output"] == {"progress": 0.5, "message": "half way"}
    assert (body["progress"], body["message"]) == (0.5, "half way")

    move = moves.succeed(
        job.fence, now=job.started_at + 1.5, retention=60, attempts=b"[]", result=b'{"a":[1]}'
    )
    await endpoint.store.move(job_id, move)
    for method in ("GET", "POST", "GET"):
        body = await endpoint.call(method, f"status/{job_id}")
        assert {key: body[key] for key in ("id", "status", "output")} == {
            "id": job_id, "status": "COMPLETED", "output": {"a": [1]},
        }  # fmt: skip
        assert body["executionTime"] == 1500
        assert "progress" not in body


async def test_a_failure_is_told_in_one_short_line(endpoint: Endpoint) -> None:
    """FAILED with type and message as text; a timeout is TIMED_OUT."""
    job_id = await endpoint.submit()
    error = b'{"type":"ValueError","message":"no cat in the picture","attempt":1,"retryable":false}'
    await endpoint.fail(job_id, error)
    body = await endpoint.call("GET", f"status/{job_id}")
    assert (body["status"], body["error"]) == ("FAILED", "ValueError: no cat in the picture")
    assert "output" not in body

    job_id = await endpoint.submit()
    await endpoint.fail(job_id, b'{"type":"TimeoutError","message":"too long"}', Reason.TIMEOUT)
    assert (await endpoint.call("GET", f"status/{job_id}"))["status"] == "TIMED_OUT"


async def test_a_job_that_was_not_started_within_its_ttl_timed_out(endpoint: Endpoint) -> None:
    """The platform's word for a job that expired in the queue."""
    body = await endpoint.call("POST", "run", {"input": {"path": "predict"}, "policy": {"ttl": 1000}})
    job = await endpoint.record(body["id"])
    assert job.deadline_at == pytest.approx(job.created_at + 1)
    await endpoint.store.move(job.id, moves.deadline(job, now=endpoint.clock.now(), retention=60))
    body = await endpoint.call("GET", f"status/{job.id}")
    assert body == {"id": job.id, "status": "TIMED_OUT", "error": "the job was not started within its ttl"}


async def test_a_repeated_attempt_counts_as_a_retry(endpoint: Endpoint) -> None:
    """The second attempt is the first retry, and between the two the job is queued."""
    job_id = await endpoint.submit()
    job = await endpoint.claim(job_id)
    now = endpoint.clock.now()
    await endpoint.store.move(
        job_id, moves.retry(job.fence, now=now, not_before=now - 1, rank=0.0, attempts=b"[]", error=b"")
    )
    assert (await endpoint.call("GET", f"status/{job_id}"))["status"] == "IN_QUEUE"
    await endpoint.claim(job_id)
    assert (await endpoint.call("GET", f"status/{job_id}"))["retries"] == 1
    assert (await endpoint.call("GET", "health"))["jobs"]["retried"] == 1


async def test_plain_calls_and_streams_become_jobs(endpoint: Endpoint) -> None:
    """Whatever the method of the route, its path alone runs it."""
    assert (await endpoint.record(await endpoint.submit("/hello", name="bob"))).route == "/hello"
    assert (await endpoint.record(await endpoint.submit("words", prompt="a"))).route == "/words"


async def test_an_offloaded_result_stands_in_the_output(endpoint: Endpoint) -> None:
    """JSON as it is; other bytes as a file object with base64."""
    for content_type, data, output in (
        ("application/json", b'{"big":1}', {"big": 1}),
        ("image/png", b"\x89PNG", {"file_name": "", "content_type": "image/png", "content": "iVBORw=="}),
    ):
        job_id = await endpoint.submit()
        blob = await endpoint.blobs.put(data)
        ref = {"key": blob.key, "sha256": blob.sha256, "size": blob.size, "content_type": content_type}
        await endpoint.finish(job_id, b"", pydantic_core.to_json(ref))
        assert (await endpoint.call("GET", f"status/{job_id}"))["output"] == output


async def test_policy_webhook_and_key_reach_the_job() -> None:
    """lowPriority, executionTimeout (never longer than the route allows), webhook and Idempotency-Key."""
    endpoint = Endpoint(secret="whsec_" + "A" * 44)
    body = {
        "input": {"path": "predict"},
        "webhook": "https://example.com/hook",
        "policy": {"executionTimeout": 5000, "lowPriority": True},
    }
    first = await endpoint.call("POST", "run", body, idempotency_key="once")
    again = await endpoint.call("POST", "run", body, idempotency_key="once")
    assert first == again
    job = await endpoint.record(first["id"])
    assert (job.timeout, job.priority) == (5.0, -10)
    assert pydantic_core.from_json(job.webhook)["url"] == "https://example.com/hook"
    assert endpoint.checked[0] == "https://example.com/hook"
    body["policy"] = {"executionTimeout": 3_600_000}
    long = await endpoint.call("POST", "run", body)
    assert (await endpoint.record(long["id"])).timeout == 60.0


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"path": "predict", "idempotency_key": "once"}},
        {"input": {"path": "predict", "Idempotency-Key": "once"}},
        {"input": {"path": "predict"}, "policy": {"idempotencyKey": "once"}},
    ],
)
async def test_a_key_may_stand_in_the_body_as_on_the_platform(
    endpoint: Endpoint, body: dict[str, Any]
) -> None:
    """The same job; it is no argument, and another input under it is refused. A header counts first."""
    first = await endpoint.call("POST", "run", body)
    assert await endpoint.call("POST", "run", body) == first
    assert await endpoint.call("POST", "run", {"input": {"path": "predict"}}, idempotency_key="once") == first
    assert await endpoint.call("POST", "run", body, idempotency_key="other") != first
    with pytest.raises(KeyReused):
        await endpoint.call("POST", "run", {**body, "input": {**body["input"], "strength": 0.9}})


@pytest.mark.parametrize(("key", "error"), [("", ValidationFailed), (1, ValidationFailed), ("é", BadRequest)])
async def test_a_key_that_cannot_be_one_is_refused(endpoint: Endpoint, key: Any, error: Any) -> None:
    """As on the platform."""
    with pytest.raises(error):
        await endpoint.call("POST", "run", {"input": {"path": "predict", "idempotency_key": key}})


async def test_a_file_behind_a_url_is_fetched_before_the_job_is_accepted(endpoint: Endpoint) -> None:
    """The job keeps the file, not the link."""
    job_id = await endpoint.submit(image="https://example.com/x.png")
    values = await load(await endpoint.record(job_id), endpoint.blobs)
    assert values["image"].read() == b"picture"
    assert endpoint.fetched == ["https://example.com/x.png"]


# --- refused input ------------------------------------------------------------------------------

INPUT = {"path": "/predict"}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"[]", ["body"]),
        (b'"text"', ["body"]),
        (b"null", ["body"]),
        ({}, ["body", "input"]),
        ({"input": None}, ["body", "input"]),
        ({"input": []}, ["body", "input"]),
        ({"input": "x"}, ["body", "input"]),
        ({"input": {}}, ["input", "path"]),
        ({"input": {"path": "/nothing"}}, ["input", "path"]),
        ({"input": {"path": "/v2/local/run"}}, ["input", "path"]),
        ({"input": {"path": 1}}, ["input", "path"]),
        ({"input": {"path": "/predict", "method": "DELETE"}}, ["input", "method"]),
        ({"input": INPUT, "webhook": 1}, ["body", "webhook"]),
        ({"input": INPUT, "policy": []}, ["body", "policy"]),
        ({"input": INPUT, "policy": {"ttl": "1h"}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": -1}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": True}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"ttl": 10**30}}, ["body", "policy", "ttl"]),
        ({"input": INPUT, "policy": {"executionTimeout": 0}}, ["body", "policy", "executionTimeout"]),
        ({"input": INPUT, "policy": {"executionTimeout": 1.5}}, ["body", "policy", "executionTimeout"]),
        ({"input": INPUT, "policy": {"lowPriority": "yes"}}, ["body", "policy", "lowPriority"]),
    ],
)
@pytest.mark.parametrize("route", ["run", "runsync"])
async def test_a_wrong_envelope_is_422_and_leaves_no_job(
    endpoint: Endpoint, route: str, body: Any, loc: list[str]
) -> None:
    """The place of the fault is named, on /run and /runsync alike."""
    with pytest.raises(ValidationFailed) as caught:
        await endpoint.call("POST", route, body)
    assert caught.value.errors[0]["loc"] == loc
    assert (await endpoint.call("GET", "health"))["jobs"]["inQueue"] == 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BadRequest),
        (b"{", BadRequest),
        (b"\xff", BadRequest),
        (b'{"input":{},"input":{}}', BadRequest),
        (b'{"input":' + b"[" * 100 + b"]" * 100 + b"}", BadRequest),
        (b'{"input":{"path":"/predict","strength":NaN}}', BadRequest),
        ({"input": {"path": "/predict", "strength": "strong"}}, ValidationFailed),
        ({"input": {"path": "/words"}}, ValidationFailed),
        ({"input": {"path": "/predict", "image": "!"}}, ValidationFailed),
        ({"input": INPUT, "webhook": "https://example.com/"}, BadRequest),
    ],
)
async def test_the_arguments_are_validated_as_everywhere_else(
    endpoint: Endpoint, body: Any, error: type[RouterError]
) -> None:
    """Bad JSON is 400, bad arguments are 422, and a webhook without a secret to sign with is refused."""
    with pytest.raises(error):
        await endpoint.call("POST", "run", body)
    assert (await endpoint.call("GET", "health"))["jobs"]["inQueue"] == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_a_web_page_could_send_unasked_is_refused(
    endpoint: Endpoint, content_type: str
) -> None:
    """Only JSON needs a preflight in a browser."""
    headers = Headers([("content-type", content_type)] if content_type else [])
    with pytest.raises(UnsupportedMedia):
        await endpoint.send(Request("POST", "/v2/local/run", "", headers, b'{"input":{"path":"/predict"}}'))


async def test_the_scopes_of_the_named_route_hold(endpoint: Endpoint) -> None:
    """Naming a route in the input is no way around its scopes."""
    body = {"input": {"path": "/secret"}}
    with pytest.raises(Forbidden):
        await endpoint.call("POST", "run", body, principal=OTHER)
    admin = Principal("admin", frozenset({"admin"}), "api_key")
    assert (await endpoint.call("POST", "run", body, principal=admin))["status"] == "IN_QUEUE"


async def test_a_full_queue_is_429(endpoint: Endpoint) -> None:
    """The sixth job of a queue of five is refused, with the time to wait."""
    for _ in range(5):
        await endpoint.submit()
    with pytest.raises(QueueFull) as caught:
        await endpoint.submit()
    assert int(caught.value.headers["Retry-After"]) >= 1


async def test_a_job_of_somebody_else_does_not_exist(endpoint: Endpoint) -> None:
    """Every route answers 404 for foreign and for unknown ids alike, and a purge leaves them alone."""
    job_id = await endpoint.submit()
    for unknown in (job_id, "0" * 32, "../../etc/passwd", "x"):
        for method, name in (("GET", "status"), ("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
            with pytest.raises(NotFound):
                await endpoint.call(method, f"{name}/{unknown}", principal=OTHER)
    assert (await endpoint.call("POST", "purge-queue", principal=OTHER))["removed"] == 0
    assert (await endpoint.call("GET", f"status/{job_id}"))["status"] == "IN_QUEUE"


# --- runsync ------------------------------------------------------------------------------------


async def test_runsync_waits_for_the_output(endpoint: Endpoint) -> None:
    """The answer of a job that ends in time is its final status."""
    waiting = asyncio.create_task(endpoint.call("POST", "runsync", {"input": INPUT}))
    await endpoint.finish(await endpoint.happened("add"))
    body = await waiting
    assert (body["status"], body["output"]) == ("COMPLETED", 0.5)


async def test_runsync_lets_a_long_job_live_on(endpoint: Endpoint) -> None:
    """After the wait the answer is the status so far, and the id to ask with."""
    body = await endpoint.call("POST", "runsync", {"input": INPUT}, query="wait=1000")
    assert body == {"id": body["id"], "status": "IN_QUEUE"}
    await endpoint.finish(body["id"])
    assert (await endpoint.call("GET", f"status/{body['id']}"))["status"] == "COMPLETED"


async def test_runsync_answers_at_once_when_too_many_wait_already() -> None:
    """The status so far is a better answer than asking the store in a circle."""
    body = await Endpoint(waiters=0).call("POST", "runsync", {"input": INPUT})
    assert body["status"] == "IN_QUEUE"


async def test_runsync_waits_longer_than_one_turn_of_the_service() -> None:
    """The limit for other waits bounds a turn, not the whole."""
    endpoint = Endpoint(sync_wait_max=0.05)
    waiting = asyncio.create_task(endpoint.call("POST", "runsync", {"input": INPUT}, query="wait=10000"))
    job_id = await endpoint.happened("add")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await endpoint.finish(job_id)
    assert (await waiting)["status"] == "COMPLETED"


@pytest.mark.parametrize(
    "wait", ["", "0", "999", "300001", "-1", "1e3", "1000.5", "abc", "9" * 400, "\uff11\uff10\uff10\uff10"]
)
async def test_an_impossible_wait_is_422(endpoint: Endpoint, wait: str) -> None:
    """Milliseconds between one second and five minutes."""
    with pytest.raises(ValidationFailed, match="milliseconds"):
        await endpoint.call("POST", "runsync", {"input": INPUT}, query=f"wait={wait}")
    assert (await endpoint.call("GET", "health"))["jobs"]["inQueue"] == 0


# --- stream -------------------------------------------------------------------------------------


async def test_a_stream_hands_out_each_chunk_once(endpoint: Endpoint) -> None:
    """Each poll gives what is new; the last one is empty and final, and the whole output stays readable."""
    job_id = await endpoint.submit("/words", prompt="x")
    assert await endpoint.call("GET", f"stream/{job_id}") == {
        "id": job_id,
        "status": "IN_QUEUE",
        "stream": [],
    }
    job = await endpoint.claim(job_id)
    await endpoint.store.append(job.fence, [NewEvent("output", b'"a"'), NewEvent("log", b'"not output"')])
    assert (await endpoint.call("GET", f"stream/{job_id}"))["stream"] == [{"output": "a"}]
    assert (await endpoint.call("POST", f"stream/{job_id}"))["stream"] == []
    await endpoint.store.append(job.fence, [NewEvent("output", b'{"b":1}'), NewEvent("output", b"null")])
    move = moves.succeed(
        job.fence, now=endpoint.clock.now(), retention=60, attempts=b"[]", result=b'["a",{"b":1},null]'
    )
    await endpoint.store.move(job_id, move)
    body = await endpoint.call("GET", f"stream/{job_id}")
    assert body == {"id": job_id, "status": "COMPLETED", "stream": [{"output": {"b": 1}}, {"output": None}]}
    for _ in range(2):
        body = await endpoint.call("GET", f"stream/{job_id}")
        assert body == {"id": job_id, "status": "COMPLETED", "stream": []}
    assert (await endpoint.call("GET", f"status/{job_id}"))["output"] == ["a", {"b": 1}, None]


async def test_the_stream_of_a_cancelled_job_ends_with_410(endpoint: Endpoint) -> None:
    """It is told once; the official client would otherwise ask for ever."""
    job_id = await endpoint.submit("/words", prompt="x")
    await endpoint.call("POST", f"cancel/{job_id}")
    assert await endpoint.call("GET", f"stream/{job_id}") == {
        "id": job_id,
        "status": "CANCELLED",
        "stream": [],
    }
    for _ in range(2):
        with pytest.raises(Gone):
            await endpoint.call("GET", f"stream/{job_id}")


# --- cancel, retry, purge, health ---------------------------------------------------------------


async def test_cancel_answers_with_the_status(endpoint: Endpoint) -> None:
    """A waiting job is cancelled at once, repeating is no error, and an ended job keeps its status."""
    job_id = await endpoint.submit()
    for _ in range(2):
        assert await endpoint.call("POST", f"cancel/{job_id}") == {"id": job_id, "status": "CANCELLED"}
    done = await endpoint.submit()
    await endpoint.finish(done)
    assert await endpoint.call("POST", f"cancel/{done}") == {"id": done, "status": "COMPLETED"}


async def test_cancel_waits_a_moment_for_a_running_job(endpoint: Endpoint) -> None:
    """A job that stops promptly is CANCELLED in the answer itself."""
    job_id = await endpoint.submit()
    job = await endpoint.claim(job_id)
    waiting = asyncio.create_task(endpoint.call("POST", f"cancel/{job_id}"))
    await endpoint.happened("cancel")
    await endpoint.store.move(
        job_id, moves.cancelled(job.fence, now=endpoint.clock.now(), retention=60, attempts=b"[]")
    )
    assert await waiting == {"id": job_id, "status": "CANCELLED"}


async def test_retry_makes_a_new_job_of_the_same_input(endpoint: Endpoint) -> None:
    """Only a job that did not succeed can be retried; the old record stays."""
    job_id = await endpoint.submit(strength=0.25)
    with pytest.raises(Conflict):
        await endpoint.call("POST", f"retry/{job_id}")
    await endpoint.fail(job_id, b'{"type":"E","message":"m"}')
    body = await endpoint.call("POST", f"retry/{job_id}")
    assert body["status"] == "IN_QUEUE"
    assert body["id"] != job_id
    assert await load(await endpoint.record(body["id"]), endpoint.blobs) == {"strength": 0.25}
    assert (await endpoint.call("GET", f"status/{job_id}"))["status"] == "FAILED"


async def test_purge_cancels_what_waits_and_nothing_else(endpoint: Endpoint) -> None:
    """Running and ended jobs stay as they are, and every page of the queue is emptied."""
    running, done = await endpoint.submit(), await endpoint.submit()
    await endpoint.claim(running)
    await endpoint.finish(done)
    waiting = [await endpoint.submit("/words", prompt="x") for _ in range(99)]
    waiting += [await endpoint.submit("/hello") for _ in range(60)]
    assert await endpoint.call("POST", "purge-queue") == {"removed": 159, "status": "completed"}
    assert {(await endpoint.record(job_id)).state for job_id in waiting} == {State.CANCELLED}
    assert (await endpoint.record(running)).state is State.RUNNING
    assert (await endpoint.record(done)).state is State.SUCCEEDED
    assert await endpoint.call("POST", "purge-queue") == {"removed": 0, "status": "completed"}


async def test_purge_lets_a_job_go_that_has_just_begun(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was faster than the purge keeps its job."""
    job_id, find = await endpoint.submit(), endpoint.service.find

    async def find_then_claim(query: JobQuery, principal: Principal) -> Page:
        page = await find(query, principal)
        await endpoint.claim(job_id)
        return page

    monkeypatch.setattr(endpoint.service, "find", find_then_claim)
    assert (await endpoint.call("POST", "purge-queue"))["removed"] == 0
    assert (await endpoint.record(job_id)).state is State.RUNNING


async def test_health_counts_jobs_and_workers(endpoint: Endpoint) -> None:
    """Open jobs by the store, ended ones since the process began."""
    assert await endpoint.call("GET", "health") == {
        "jobs": {"completed": 0, "failed": 0, "retried": 0, "inProgress": 0, "inQueue": 0},
        "workers": {"idle": 3, "running": 0},
    }
    ids = [await endpoint.submit() for _ in range(4)]
    await endpoint.claim(ids[0])
    await endpoint.finish(ids[1])
    await endpoint.fail(ids[2], b"{}")
    assert await endpoint.call("GET", "health") == {
        "jobs": {"completed": 1, "failed": 1, "retried": 0, "inProgress": 1, "inQueue": 1},
        "workers": {"idle": 2, "running": 1},
    }


# --- the virtual route --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["openapi.json", "/openapi.json"])
async def test_the_description_is_there_like_the_output_of_a_job(endpoint: Endpoint, path: str) -> None:
    """Loaders run it and poll its status; no job is made for it."""
    for route in ("run", "runsync"):
        body = await endpoint.call("POST", route, {"input": {"path": path}})
        assert (body["status"], body["output"]["openapi"]) == ("COMPLETED", "3.1.0")
        assert await endpoint.call("POST", f"status/{body['id']}") == body
    assert not (await endpoint.store.find(EVERYTHING)).jobs
