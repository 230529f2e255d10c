"""POST of a job route: 202, the sync wait, preferences, headers."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
import pytest

from router_core.http.message import Headers, Request, Response
from router_core.http.problem import PROBLEM_TYPE
from router_core.jobs.http import wants_job
from router_core.jobs.job import Job
from router_core.jobs.prefer import parse_prefer
from tests.jobs.serving import Bench, data, until


async def _then(bench: Bench, post: asyncio.Task[Response], end: Any) -> Response:
    """Let the request wait, end its job by ``end``, and return the answer."""
    await until(lambda: bench.clock.sleepers)
    await end(await bench.claim(bench.queue.told[-1]))
    return await post


async def test_a_job_is_accepted_with_202() -> None:
    """Location, Retry-After, ETag and the job as body."""
    bench = Bench()
    answer = await bench.post()
    body = data(answer)
    assert answer.status == 202
    assert answer.header("location") == f"/jobs/{body['job_id']}" == body["links"]["self"]
    assert answer.header("retry-after") == "1"
    assert answer.header("etag") == '"1"'
    assert body["status"] == "queued"
    assert set(body) == {
        "job_id", "route", "status", "progress", "attempt", "created_at", "metrics", "links",
    }  # fmt: skip


@pytest.mark.parametrize("query", ["sync=true", "sync=1", "sync=True"])
async def test_a_sync_call_answers_with_the_result(query: str) -> None:
    """200 and the result as the function returned it."""
    bench = Bench()
    post = asyncio.create_task(bench.post(query=query))
    answer = await _then(bench, post, lambda job: bench.succeed(job, b'{"ok":[1,2]}'))
    assert (answer.status, data(answer)) == (200, {"ok": [1, 2]})
    assert answer.header("content-type") == "application/json"
    assert answer.header("location") == f"/jobs/{bench.queue.told[0]}"
    assert answer.header("preference-applied") is None


async def test_prefer_wait_answers_in_time_or_with_the_job() -> None:
    """In time: 200. Else 202, and the job lives on. Both say which wait was applied."""
    bench = Bench()
    post = asyncio.create_task(bench.post(headers={"prefer": "wait=7"}))
    answer = await _then(bench, post, bench.succeed)
    assert (answer.status, answer.header("preference-applied")) == (200, "wait=7")
    late = asyncio.create_task(bench.post(headers={"prefer": "wait=7"}))
    for _ in range(10):
        await bench.clock.pass_time(1)
    answer = await late
    assert (answer.status, answer.header("preference-applied")) == (202, "wait=7")
    assert data(answer)["status"] == "queued"


async def test_a_wait_beyond_the_limit_is_shortened() -> None:
    """The applied preference tells the caller."""
    bench = Bench()
    post = asyncio.create_task(bench.post(headers={"prefer": "wait=9999"}))
    answer = await _then(bench, post, bench.succeed)
    assert answer.header("preference-applied") == "wait=60"


async def test_a_file_result_is_sent_as_its_bytes() -> None:
    """The base64 object of a file becomes the file again, with its type and a safe name."""
    bench = Bench()
    result = b'{"file_name":"a \\"b\\".png","content_type":"image/png","content":"iVBORw=="}'
    post = asyncio.create_task(bench.post(query="sync=true"))
    answer = await _then(bench, post, lambda job: bench.succeed(job, result))
    assert (answer.body, answer.header("content-type")) == (b"\x89PNG", "image/png")
    assert answer.header("content-disposition") == "inline; filename*=UTF-8''a%20%22b%22.png"


async def test_a_page_made_by_a_function_is_saved_rather_than_run() -> None:
    """As for plain calls; a look-alike with other members stays JSON."""
    bench = Bench()
    for result, kind, disposition in (
        (b'{"file_name":"","content_type":"text/html","content":"PGI+"}', "text/html", "attachment"),
        (b'{"file_name":"","content_type":"text/html","content":"?"}', "application/json", None),
        (b'{"file_name":"","content_type":"text/html","content":"PGI+","x":1}', "application/json", None),
    ):
        post = asyncio.create_task(bench.post(query="sync=true"))
        answer = await _then(bench, post, lambda job, result=result: bench.succeed(job, result))
        assert (answer.header("content-type"), answer.header("content-disposition")) == (kind, disposition)
        assert answer.header("x-content-type-options") == "nosniff"


async def test_a_text_result_is_text_for_who_wants_text() -> None:
    """As for plain calls."""
    bench = Bench()
    for accept, body in (("text/plain", b"caf\xc3\xa9"), ("*/*", b'"caf\xc3\xa9"')):
        post = asyncio.create_task(bench.post(query="sync=true", headers={"accept": accept}))
        answer = await _then(bench, post, lambda job: bench.succeed(job, b'"caf\xc3\xa9"'))
        assert answer.body == body


async def test_a_large_result_is_read_from_its_blob() -> None:
    """The blob's type is the answer's type; a blob that is gone is 410."""
    bench = Bench()
    blob = await bench.blobs.put(b"x" * 300_000, content_type="text/csv")
    ref = pydantic_core.to_json(
        {"key": blob.key, "sha256": blob.sha256, "size": blob.size, "content_type": blob.content_type}
    )
    post = asyncio.create_task(bench.post(query="sync=true"))
    answer = await _then(bench, post, lambda job: bench.succeed(job, ref=ref))
    assert (answer.body, answer.header("content-type")) == (b"x" * 300_000, "text/csv")
    job_id = bench.queue.told[0]
    body = data(await bench.call("GET", f"/jobs/{job_id}"))
    assert body["result_ref"]["href"] == f"/jobs/{job_id}/result"
    assert blob.key not in str(body)
    await bench.blobs.delete(blob.key)
    assert (await bench.call("GET", f"/jobs/{job_id}/result")).status == 410


@pytest.mark.parametrize(
    ("error", "reason", "status", "code"),
    [
        ({"type": "ValueError", "message": "no cat"}, "error", 500, "job_failed"),
        ({"type": "BadRequest", "message": "no cat"}, "error", 400, "job_failed"),
        ({"type": "HTTPError", "message": "t", "status": 418, "code": "tea"}, "error", 418, "tea"),
        ({"type": "HTTPError", "message": "t", "status": 99}, "error", 500, "job_failed"),
        ({"type": "JobTimeout", "message": "slow"}, "timeout", 504, "job_timeout"),
        ({"type": "JobError", "message": "gone"}, "lost", 500, "job_lost"),
        ({"type": "X", "message": "big"}, "result_too_large", 500, "job_result_too_large"),
    ],
)
async def test_a_failed_sync_call_is_a_problem(
    error: dict[str, Any], reason: str, status: int, code: str
) -> None:
    """The problem carries the job's error; the status is the one the function meant."""
    bench = Bench()
    post = asyncio.create_task(bench.post(query="sync=true"))
    answer = await _then(bench, post, lambda job: bench.fail(job, error, reason))
    body = data(answer)
    assert (answer.status, body["status"], body["code"]) == (status, status, code)
    assert answer.header("content-type") == PROBLEM_TYPE
    assert body["error"]["message"] == body["detail"] == error["message"]
    locations = [value for name, value in answer.headers if name.lower() == "location"]
    assert locations == [f"/jobs/{body['job_id']}"]


async def test_a_job_cancelled_during_a_sync_call_is_409() -> None:
    """And an expired one is 504."""
    bench = Bench()
    post = asyncio.create_task(bench.post(query="sync=true"))
    await until(lambda: bench.clock.sleepers)
    await bench.call("POST", f"/jobs/{bench.queue.told[0]}/cancel")
    answer = await post
    assert (answer.status, data(answer)["code"]) == (409, "job_cancelled")


async def test_a_replay_says_so_and_a_sync_replay_joins_the_wait() -> None:
    """Two sync calls with one key get one result from one job."""
    bench = Bench()
    headers = {"idempotency-key": "k"}
    one = asyncio.create_task(bench.post(query="sync=true", headers=headers))
    two = asyncio.create_task(bench.post(query="sync=true", headers=headers))
    await until(lambda: bench.clock.sleepers == 2)
    await bench.succeed(await bench.claim(bench.queue.told[0]))
    answers = [await one, await two]
    assert [answer.body for answer in answers] == [b'{"ok":true}'] * 2
    assert sorted(str(a.header("idempotency-replayed")) for a in answers) == ["None", "true"]
    assert len(bench.queue.told) == 1
    other = await bench.post({"prompt": "a dog"}, headers=headers)
    assert (other.status, data(other)["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"idempotency-key": ""}, ""),
        ({"idempotency-key": "x" * 256}, ""),
        ({"x-job-priority": "high"}, ""),
        ({"x-job-priority": "101"}, ""),
        ({"x-job-priority": "\u0661"}, ""),
        ({"x-job-delay": "soon"}, ""),
        ({"x-job-delay": "-5"}, ""),
        ({"x-job-delay": "40d"}, ""),
        ({"cancel-after": "5 minutes"}, ""),
        ({"cancel-after": "nan"}, ""),
        ({"x-webhook-url": "https://example.com"}, ""),
        ({}, "sync=perhaps"),
        ({}, "sync="),
        ({}, "sync=true&sync=true"),
        ({}, "sync=%ff"),
        ({}, "cancel_on_disconnect=maybe"),
    ],
)
async def test_malformed_wishes_are_400(headers: dict[str, str], query: str) -> None:
    """None of them is a 500, and none leaves a job."""
    bench = Bench()
    assert (await bench.post(query=query, headers=headers)).status == 400
    assert bench.queue.told == []


async def test_header_options_reach_the_record() -> None:
    """Priority, delay and deadline by header, as durations."""
    bench = Bench()
    headers = {"x-job-priority": "-3", "x-job-delay": "1m", "cancel-after": "5m"}
    body = data(await bench.post(headers=headers))
    job = await bench.inner.get(body["job_id"])
    assert isinstance(job, Job)
    assert (job.priority, job.not_before - job.created_at, job.deadline_at - job.created_at) == (-3, 60, 300)
    assert body["status"] == "scheduled"
    assert "not_before" in body


async def test_a_full_queue_is_429() -> None:
    """With Retry-After and RateLimit."""
    bench = Bench(queue_size=0)
    answer = await bench.post()
    assert answer.status == 429
    assert answer.header("retry-after") is not None
    assert answer.header("ratelimit") is not None


async def test_a_dispatch_failure_is_503_with_the_job() -> None:
    """The caller can follow or cancel the job that exists."""
    bench = Bench(external=True)
    bench.queue.down = True
    answer = await bench.post()
    body = data(answer)
    assert (answer.status, answer.header("location")) == (503, f"/jobs/{body['job_id']}")


async def test_a_caller_who_leaves_does_not_cancel_unless_asked() -> None:
    """The job lives on; with cancel_on_disconnect it does not."""
    bench = Bench()
    for query, state in (("sync=true", "queued"), ("sync=true&cancel_on_disconnect=true", "cancelled")):
        post = asyncio.create_task(bench.post(query=query))
        await until(lambda: bench.hub.waiting)
        post.cancel()
        await asyncio.gather(post, return_exceptions=True)
        assert bench.hub.waiting == 0
        body = data(await bench.call("GET", f"/jobs/{bench.queue.told[-1]}"))
        assert body["status"] == state


async def test_unknown_query_parameters_are_let_through_and_details_id_asks_for_the_apipod_shape() -> None:
    """fastsdk sends details_id; its job has upper-case words and links that keep the shape."""
    body = data(await Bench().post(query="details_id=det-1&utm=x"))
    assert body["status"] == "QUEUED"
    assert body["links"]["status"] == f"/status/{body['job_id']}?shape=apipod"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["wait=10"], {"wait": "10"}),
        (["respond-async, wait=10"], {"respond-async": "", "wait": "10"}),
        (["Respond-Async", "WAIT = 5"], {"respond-async": "", "wait": "5"}),
        (['wait="10"; foo=bar, wait=20'], {"wait": "10"}),
        (['x="a,b\\"c", respond-async;q=1'], {"x": 'a,b"c', "respond-async": ""}),
        ([", ,=;,"], {}),
        (['x="unclosed, wait=3'], {"x": ""}),
        (["wait=" + "9" * 5000], {"wait": "9" * 1019}),
    ],
)
def test_prefer_is_read_as_rfc_7240_says(values: list[str], found: dict[str, str]) -> None:
    """Names without case, first one wins, quotes, and nonsense is ignored."""
    assert parse_prefer(values) == found


@pytest.mark.parametrize("wait", ["-1", "abc", "1e3", "", "9" * 30, "\u0661"])
async def test_an_unreadable_wait_is_no_wait(wait: str) -> None:
    """A preference is not a condition: the job is accepted as usual."""
    answer = await Bench().post(headers={"prefer": f"wait={wait}"})
    assert (answer.status, answer.header("preference-applied")) == (202, None)


async def test_respond_async_makes_a_job_of_any_route_of_the_author() -> None:
    """And of none of the product's own."""
    from dataclasses import replace

    bench = Bench()
    job_route = bench.routes["/paint"]
    plain = replace(job_route, kind="call")
    asked = Request("POST", "/paint", headers=Headers([("Prefer", "respond-async")]))
    assert wants_job(job_route, Request("POST", "/paint"))
    assert wants_job(plain, asked)
    assert not wants_job(plain, Request("POST", "/paint"))
    assert not wants_job(replace(plain, internal=True), asked)
    answer = await bench.post(headers={"prefer": "respond-async"})
    assert answer.header("preference-applied") == "respond-async"
