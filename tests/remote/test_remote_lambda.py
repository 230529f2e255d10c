"""A coordinator on Lambda, over DynamoDB and S3: every request a call of the function, nothing in between."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from handlers.aws.direct import invoke
from handlers.aws.function import LambdaApp
from handlers.remote.worker import RemoteWorker, served_routes
from router_core.clock import SystemClock
from router_core.jobs import moves
from router_core.jobs.store import Claim
from router_core.settings import Settings
from router_core.stores.coordinator import CoordinatorStore
from router_core.stores.coordinator_link import CoordinatorLink
from router_core.stores.dynamodb import create_table
from router_core.telemetry.events import Events
from router_core.testing.adapter_contract import Call
from router_core.testing.scenario_service import router
from router_core.vendors import boto3
from router_core.vendors.httpx import Answer, HttpxSender
from router_core.wiring import build_app
from tests.aws.lambda_events import Context, http_api, received
from tests.remote.remote_bench import BOX, CALLER

URL = "http://coordinator.test"


def started(environ: Mapping[str, str]) -> LambdaApp:
    """Start the function, as the runtime does."""
    app = LambdaApp(build_app(router, Settings.from_env(environ, provider="lambda")))
    app.start()
    return app


class Function:
    """One instance of the function: one call at a time, in a thread of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._outside = HttpxSender(most=2**30)
        self.seen: list[str] = []
        self._app: LambdaApp = self._thread.submit(started, environ).result(60)

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", silence: float
    ) -> Answer:
        """Send through the HTTP API, or to where a signed link leads."""
        if not url.startswith(URL):
            self.seen.append("S3")
            return await self._outside.send(method, url, headers=headers, body=body, silence=silence)
        parts = urlsplit(url)
        self.seen.append(f"{method} {parts.path}")
        call = Call(method, parts.path, parts.query, tuple(headers.items()), body)
        reply = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._app, http_api(call), Context()
        )
        answer = received(reply)
        return Answer(answer.status, dict(answer.headers), answer.body)

    async def aclose(self) -> None:
        """Close what leads outside."""
        await self._outside.aclose()

    def stop(self) -> None:
        """End the function."""
        self._thread.submit(self._app.stop).result(60)
        self._thread.shutdown()


@pytest.fixture
async def function(aws: str) -> AsyncIterator[Function]:
    """Deploy the scenario's service with tables of its own."""
    if boto3.client("s3").meta.endpoint_url != aws:
        boto3.forget()
    name = f"remote-{secrets.token_hex(6)}"
    create_table(name)
    boto3.client("s3").create_bucket(Bucket=name)
    made = Function({
        "EXECUTION_ENVIRONMENT": "decentralized", "ROUTER_JOBS": f"dynamodb://{name}",
        "ROUTER_BLOBS": f"s3://{name}/blobs", "ROUTER_WORKER_KEYS": f"box:{BOX}", "ROUTER_LEASE": "6",
        "ROUTER_HEARTBEAT": "2", "ROUTER_API_KEYS": f"ann:{CALLER}", "ROUTER_LOG_LEVEL": "error",
    })  # fmt: skip
    yield made
    made.stop()


async def ask(function: Function, method: str, path: str, value: object = None) -> Any:
    """Call as a caller; returns the JSON of a good answer."""
    headers = {"authorization": f"Bearer {CALLER}", "content-type": "application/json"}
    body = b"" if value is None else json.dumps(value).encode()
    answer = await function.send(method, URL + path, headers=headers, body=body, silence=30.0)
    assert answer.status < 300, answer.body
    return json.loads(answer.body)


async def ended(function: Function, path: str, **values: object) -> Any:
    """Submit a job and wait for its end."""
    job_id = (await ask(function, "POST", path, values))["job_id"]
    async with asyncio.timeout(60):
        while True:
            job = await ask(function, "GET", f"/jobs/{job_id}")
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            await asyncio.sleep(0.2)


@pytest.fixture
async def worker(function: Function) -> AsyncIterator[None]:
    """Run a worker of it."""
    link = CoordinatorLink(URL, BOX, function)
    stop = asyncio.Event()
    made = RemoteWorker(router, served_routes(router), link, Settings(drain_grace=1.0), Events())
    working = asyncio.create_task(made.run(stop))
    yield
    stop.set()
    await working


@pytest.mark.usefixtures("worker")
async def test_jobs_of_a_function_are_run_elsewhere(function: Function) -> None:
    """Progress, result, error, retry and files; an idle worker asks briefly and is not held."""
    data = bytes(range(256)) * 4_000
    file = {"file_name": "a", "content_type": "a/b", "content": base64.b64encode(data).decode()}
    counted, refused, flaky, turned = await asyncio.gather(
        ended(function, "/count", to=3), ended(function, "/refuse", reason="no tea"),
        ended(function, "/flaky", succeed_at=2), ended(function, "/reverse", file=file),
    )  # fmt: skip
    assert (counted["status"], counted["result"]) == ("succeeded", {"counted": 3})
    assert (refused["status"], refused["error"]["message"]) == ("failed", "no tea")
    assert (flaky["result"], flaky["attempt"]) == (2, 2)
    assert turned["status"] == "succeeded"
    answer = await result(function, turned["job_id"])
    assert answer.body == data[::-1]
    assert "S3" in function.seen, "the input was fetched by its signed link"
    assert "POST /worker/wait" not in function.seen


async def result(function: Function, job_id: str) -> Answer:
    """Fetch a result, where the function says."""
    headers = {"authorization": f"Bearer {CALLER}"}
    answer = await function.send("GET", f"{URL}/jobs/{job_id}/result", headers=headers, silence=30.0)
    if answer.status == 303:
        return await function.send("GET", answer.headers["location"], headers={}, silence=30.0)
    return answer


async def test_more_work_than_a_reply_may_hold(function: Function) -> None:
    """Jobs with many recorded steps, claimed at once: their worker is sent to where the answer lies."""
    jobs = [(await ask(function, "POST", "/refuse", {}))["job_id"] for _ in range(6)]
    link = CoordinatorLink(URL, BOX, function)
    store = CoordinatorStore(link, served_routes(router), SystemClock(), Events())
    await store.hello("worker-0001")
    claim = Claim("worker-0001", 6.0, {"/refuse": 10})
    for job in await store.claim(claim):
        steps = b'{"drawn":"%s"}' % (b'\\"' * 200_000)
        assert (await store.move(job.id, moves.step(job.fence, steps=steps))).applied
        assert (await store.move(job.id, moves.release(job.fence, attempts=b""))).applied
    claimed = await store.claim(claim)
    assert function.seen[-2:] == ["POST /worker/claim", "S3"]
    assert sorted(job.id for job in claimed) == sorted(jobs)
    assert {len(job.steps) for job in claimed} == {400_012}
    assert (await store.renew([claimed[0].fence], 6.0))[0].held
    await link.aclose()


async def test_a_direct_call_opens_no_worker_routes() -> None:
    """IAM lets somebody call the service, and makes nobody a worker."""
    settings = Settings(
        jobs="memory://", blobs="memory://", queue="pull", api_keys=f"ann:{CALLER}", worker_keys=f"box:{BOX}"
    )
    app = build_app(router, settings.checked())
    await app.start(background=False)
    asked = [("POST", "/worker/hello"), ("POST", "/worker/claim"), ("GET", f"/worker/jobs/{'f' * 32}")]
    for method, path in asked:
        answer = await invoke(app, {"path": path, "method": method}, Context())
        assert "names no route" in answer["error"]["detail"]
    await app.stop(0.0)
