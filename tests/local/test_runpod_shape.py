"""RunPod-shaped routes over a real service and store; jobs are moved by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
import pytest

from router_core.errors import BadRequest, Conflict, Gone, KeyReused, ValidationFailed
from router_core.jobs import moves
from router_core.jobs.inputs import load
from router_core.jobs.job import Reason, State
from router_core.jobs.store import JobQuery, NewEvent, Page
from router_core.types import Principal
from tests.local.shape_parts import EVERYTHING, INPUT, Endpoint

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
