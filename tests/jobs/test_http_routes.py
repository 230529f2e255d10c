"""The routes of jobs: reading, listing, results, following, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pydantic_core
import pytest

from router_core.errors import MethodNotAllowed
from router_core.http.message import Request, Response
from router_core.http.sse import ServerEvent, SseParser
from router_core.jobs import moves
from router_core.jobs.openapi import _OPERATIONS, describe
from router_core.jobs.store import NewEvent
from router_core.settings import Settings
from tests.jobs.serving import ANN, BOB, Bench, all_of, data, until


def parsed(body: bytes) -> list[ServerEvent]:
    """Return the events of an SSE body."""
    return SseParser().feed(body)


async def test_a_job_is_read_with_etag_and_304() -> None:
    """Unchanged: 304 without a body; changed: 200."""
    bench = Bench()
    job = (await bench.submit()).job
    answer = await bench.call("GET", f"/jobs/{job.id}")
    tag = answer.header("etag") or ""
    assert (answer.status, tag) == (200, '"1"')
    for header in (tag, f"W/{tag}", f'"9", {tag}', "*"):
        same = await bench.call("GET", f"/jobs/{job.id}", headers={"if-none-match": header})
        assert (same.status, same.body, same.header("etag")) == (304, b"", tag)
    await bench.claim(job.id)
    assert (await bench.call("GET", f"/jobs/{job.id}", headers={"if-none-match": tag})).status == 200


async def test_polling_is_asked_for_less_often_as_a_job_gets_older() -> None:
    """1 s at first, 5 s later, nothing once it has ended."""
    bench = Bench()
    job = (await bench.submit()).job
    seen = []
    for seconds in (0, 30, 300):
        bench.clock.advance(seconds)
        seen.append((await bench.call("GET", f"/jobs/{job.id}")).header("retry-after"))
    assert seen == ["1", "3", "5"]
    await bench.succeed(await bench.claim(job.id))
    assert (await bench.call("GET", f"/jobs/{job.id}")).header("retry-after") is None


@pytest.mark.parametrize("path", ["/jobs/{}", "/status/{}"])
async def test_a_long_poll_ends_with_the_job(path: str) -> None:
    """?wait=N holds the answer until the end."""
    bench = Bench()
    job = (await bench.submit()).job
    poll = asyncio.create_task(bench.call("GET", path.format(job.id), query="wait=20"))
    await until(lambda: bench.clock.sleepers)
    await bench.succeed(await bench.claim(job.id))
    assert data(await poll)["result"] == {"ok": True}


async def test_a_long_poll_with_a_tag_ends_with_any_change_or_304() -> None:
    """Progress is a change; no change within the time is 304."""
    bench = Bench()
    job = await bench.claim((await bench.submit()).job.id)
    headers = {"if-none-match": f'"{job.version}"'}
    poll = asyncio.create_task(bench.call("GET", f"/jobs/{job.id}", query="wait=20", headers=headers))
    await until(lambda: bench.clock.sleepers)
    job = await bench.progress(job, 0.25, "drawing")
    assert data(await poll)["progress"] == 0.25
    headers = {"if-none-match": f'"{job.version}"'}
    poll = asyncio.create_task(bench.call("GET", f"/jobs/{job.id}", query="wait=3", headers=headers))
    for _ in range(8):
        await bench.clock.pass_time(1)
    assert (await poll).status == 304


@pytest.mark.parametrize("query", ["wait=x", "wait=-1", "wait=1e9", "wait=", "wait=1&wait=2", "shape=odd"])
async def test_a_malformed_query_is_400(query: str) -> None:
    """Also when it would have been ignored later."""
    bench = Bench()
    job = (await bench.submit()).job
    assert (await bench.call("GET", f"/jobs/{job.id}", query=query)).status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/{}"), ("GET", "/jobs/{}/result"), ("GET", "/jobs/{}/events"), ("GET", "/status/{}"),
        ("POST", "/status/{}"), ("GET", "/stream/{}"), ("POST", "/cancel/{}"), ("POST", "/jobs/{}/cancel"),
        ("POST", "/jobs/{}/retry"), ("DELETE", "/jobs/{}"),
    ],
)  # fmt: skip
async def test_unknown_foreign_and_malformed_ids_get_one_answer(method: str, path: str) -> None:
    """The same 404 body for each: who does not own a job does not learn that it exists."""
    bench = Bench()
    job = (await bench.submit()).job
    bodies = []
    for job_id in (job.id, "f" * 32, "x", "..", "%2e%2e", "a" * 4096, "\x00"):
        answer = await bench.call(method, path.format(job_id), who=BOB)
        bodies.append((answer.status, answer.headers, answer.body))
    assert bodies[0][0] == 404
    assert all(body == bodies[0] for body in bodies)


async def test_a_job_past_its_retention_is_410() -> None:
    """For its owner; others still see 404."""
    bench = Bench()
    job = (await bench.submit()).job
    await bench.succeed(await bench.claim(job.id))
    bench.clock.advance(3601)
    assert (await bench.call("GET", f"/jobs/{job.id}")).status == 410
    assert (await bench.call("GET", f"/jobs/{job.id}/result")).status == 410
    assert (await bench.call("GET", f"/jobs/{job.id}", who=BOB)).status == 404


async def test_the_listing_filters_and_pages() -> None:
    """Newest first, by state and route, with a cursor to the rest."""
    bench = Bench()
    jobs = [(await bench.submit(route=route)).job for route in ("/paint", "/words", "/paint", "/paint")]
    await bench.service.cancel(jobs[0].id, ANN)
    page = data(await bench.call("GET", "/jobs", query="limit=2&route=/paint"))
    rest = data(await bench.call("GET", "/jobs", query=f"limit=2&route=/paint&cursor={page['cursor']}"))
    ids = [job["job_id"] for job in page["jobs"] + rest["jobs"]]
    assert sorted(ids) == sorted([jobs[3].id, jobs[2].id, jobs[0].id])
    assert len(page["jobs"]) == 2
    assert "cursor" not in rest
    queued = data(await bench.call("GET", "/jobs", query="status=queued,running&status=retrying"))
    assert {job["status"] for job in queued["jobs"]} == {"queued"}
    assert data(await bench.call("GET", "/jobs", who=BOB)) == {"jobs": []}


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=",
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=",
        "cursor=../x",
        "status=%ff",
    ],
)
async def test_a_malformed_listing_is_400(query: str) -> None:
    """Each parameter is checked before the store sees it."""
    assert (await Bench().call("GET", "/jobs", query=query)).status == 400


async def test_a_result_can_be_read_again_and_again() -> None:
    """409 with Retry-After before, 200 after, a problem for a failed one."""
    bench = Bench()
    job = (await bench.submit()).job
    early = await bench.call("GET", f"/jobs/{job.id}/result")
    assert (early.status, early.header("retry-after"), data(early)["code"]) == (409, "1", "job_unfinished")
    await bench.succeed(await bench.claim(job.id), b"[1]")
    for _ in range(3):
        assert (await bench.call("GET", f"/jobs/{job.id}/result")).body == b"[1]"
    other = await bench.claim((await bench.submit()).job.id)
    await bench.fail(other, {"type": "ValueError", "message": "no"})
    assert (await bench.call("GET", f"/jobs/{other.id}/result")).status == 500


async def test_cancel_answers_200_202_and_409() -> None:
    """Also under its alias, and with a query that fastsdk adds."""
    bench = Bench()
    waiting, running, done = [(await bench.submit()).job for _ in range(3)]
    await bench.claim(running.id)
    await bench.succeed(await bench.claim(done.id))
    for _ in range(2):
        assert (await bench.call("POST", f"/jobs/{waiting.id}/cancel")).status == 200
        assert (await bench.call("POST", f"/cancel/{running.id}", query="action=interrupt")).status == 202
        answer = await bench.call("POST", f"/jobs/{done.id}/cancel")
        assert (answer.status, data(answer)["job_status"]) == (409, "succeeded")


async def test_retry_and_delete_over_http() -> None:
    """202 with the new job; 204, and 409 for what has not ended."""
    bench = Bench()
    job = (await bench.submit()).job
    assert (await bench.call("POST", f"/jobs/{job.id}/retry")).status == 409
    assert (await bench.call("DELETE", f"/jobs/{job.id}")).status == 409
    await bench.service.cancel(job.id, ANN)
    answer = await bench.call("POST", f"/jobs/{job.id}/retry")
    body = data(answer)
    assert (answer.status, body["retry_of"]) == (202, job.id)
    assert answer.header("location") == f"/jobs/{body['job_id']}"
    assert (await bench.call("DELETE", f"/jobs/{job.id}")).status == 204
    assert (await bench.call("DELETE", f"/jobs/{job.id}")).status == 410


async def test_a_job_is_read_at_its_routes_own_address() -> None:
    """GET <job route>?job_id=; without the id the address takes POST only."""
    bench = Bench()
    job = (await bench.submit()).job
    request = Request("GET", "/paint", f"job_id={job.id}", principal=ANN)
    assert data(await bench.http.by_query(request))["job_id"] == job.id
    with pytest.raises(MethodNotAllowed) as caught:
        await bench.http.by_query(Request("GET", "/paint", principal=ANN))
    assert caught.value.headers == {"Allow": "POST"}


async def test_each_job_route_gets_an_address_to_read_jobs_at() -> None:
    """Unless its author serves GET there; plain calls get none."""
    bench = Bench()
    paint, words = bench.routes.values()
    own = replace(words, methods=("GET",), kind="call")
    plain = replace(paint, path="/plain", kind="call")
    rows = bench.http.at_routes([paint, paint, words, own, plain])
    assert [(method, path) for method, path, _, _ in rows] == [("GET", "/paint")]


async def test_links_name_the_place_where_the_app_is_mounted() -> None:
    """Inside another app below /ai; a public address in the settings wins."""
    bench = Bench()
    job = (await bench.submit()).job
    request = Request("GET", "/jobs/x", principal=ANN, path_params={"job_id": job.id}, root="/ai")
    assert data(await bench.http.get(request))["links"]["self"] == f"/ai/jobs/{job.id}"
    named = Bench(settings=Settings(server_url="https://x.example/"), records=bench.inner)
    assert data(await named.http.get(request))["links"]["self"] == f"https://x.example/jobs/{job.id}"


def test_every_route_is_described_and_nothing_else() -> None:
    """The OpenAPI members of the job routes match the table of the job routes."""
    routes = {(method, path) for method, path, _, _ in Bench().http.table()}
    assert routes == set(_OPERATIONS)
    for method, path in routes:
        operation = describe(method, path)
        assert ("{job_id}" in path) == any(one["in"] == "path" for one in operation["parameters"])
        assert "default" in operation["responses"]


# -- following ---------------------------------------------------------------------------------------


class Reader:
    """Reads a live answer piece by piece."""

    def __init__(self, answer: Response) -> None:
        assert not isinstance(answer.body, bytes)
        self.body: AsyncIterator[bytes] = answer.body
        self.parser = SseParser()

    async def next(self) -> list[ServerEvent]:
        """Return the events of the next piece."""
        return self.parser.feed(await asyncio.wait_for(anext(self.body), 60))


async def test_a_job_is_followed_live() -> None:
    """State first, events as they happen, state changes without a number, the end last."""
    bench = Bench()
    job = (await bench.submit()).job
    answer = await bench.call("GET", f"/jobs/{job.id}/events")
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("x-accel-buffering") == "no"
    reader = Reader(answer)
    (first,) = await reader.next()
    assert (first.event, first.id, pydantic_core.from_json(first.data)["status"]) == ("job", "", "queued")
    claimed = await bench.claim(job.id)
    (state,) = await reader.next()
    assert (state.event, state.id, pydantic_core.from_json(state.data)["status"]) == ("job", "", "running")
    await bench.say(claimed, "a", "b\nc")
    await bench.say(claimed, {"fraction": 0.5}, type="progress")
    events: list[ServerEvent] = []
    while len(events) < 3:
        events += await reader.next()
    assert [(e.event, e.id, e.data) for e in events] == [
        ("output", "1", '"a"'), ("output", "2", '"b\\nc"'), ("progress", "3", '{"fraction":0.5}'),
    ]  # fmt: skip
    await bench.succeed(claimed)
    (last,) = await reader.next()
    assert (last.event, last.id, pydantic_core.from_json(last.data)["status"]) == ("job", "4", "succeeded")
    with pytest.raises(StopAsyncIteration):
        await reader.next()
    assert bench.hub.waiting == 0


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_progress_is_followed_without_a_number(accept: str) -> None:
    """A snapshot comes for a new fraction and for a new message; the numbers are those of the events."""
    bench = Bench()
    claimed = await bench.claim((await bench.submit()).job.id)
    answer = await bench.call("GET", f"/jobs/{claimed.id}/events", headers={"accept": accept})
    assert not isinstance(answer.body, bytes)
    seen: list[tuple[str, int, Any]] = []

    async def read() -> None:
        assert not isinstance(answer.body, bytes)
        chunk = await asyncio.wait_for(anext(answer.body), 60)
        if accept == "text/event-stream":
            seen.extend((e.event, int(e.id or 0), pydantic_core.from_json(e.data)) for e in parsed(chunk))
        else:
            lines = map(pydantic_core.from_json, chunk.splitlines())
            seen.extend((line["event"], line.get("id", 0), line["data"]) for line in lines)

    await read()
    for fraction, message in ((0.5, ""), (0.5, "half"), (0.75, "half")):
        await bench.progress(claimed, fraction, message)
        await read()
    await bench.say(claimed, "a")
    await read()
    await bench.succeed(claimed)
    await read()
    assert [(name, number) for name, number, _ in seen] == [("job", 0)] * 4 + [("output", 1), ("job", 2)]
    faces = [(body["progress"], body.get("message", "")) for name, _, body in seen if name == "job"]
    assert faces[:4] == [(0.0, ""), (0.5, ""), (0.5, "half"), (0.75, "half")]


async def _talked(bench: Bench, count: int) -> str:
    claimed = await bench.claim((await bench.submit()).job.id)
    await bench.say(claimed, *range(count))
    await bench.succeed(claimed)
    return claimed.id


@pytest.mark.parametrize(
    ("headers", "query"),
    [({"last-event-id": "2"}, ""), ({}, "starting_after=2"), ({"last-event-id": "2"}, "starting_after=1")],
)
async def test_a_reader_resumes_where_it_was(headers: dict[str, str], query: str) -> None:
    """Nothing twice, nothing missing; a browser that reconnects sends its first query and a later header."""
    bench = Bench()
    job_id = await _talked(bench, 4)
    answer = await bench.call("GET", f"/jobs/{job_id}/events", headers=headers, query=query)
    assert [(e.event, e.id) for e in parsed(await all_of(answer))] == [
        ("output", "3"), ("output", "4"), ("job", "5"),
    ]  # fmt: skip


async def test_resuming_after_the_end_is_204() -> None:
    """A browser that gets 204 stops to reconnect; before the end the end is sent again."""
    bench = Bench()
    job_id = await _talked(bench, 2)
    assert (await bench.call("GET", f"/jobs/{job_id}/events", query="starting_after=3")).status == 204
    answer = await bench.call("GET", f"/jobs/{job_id}/events", query="starting_after=2")
    assert [(e.event, e.id) for e in parsed(await all_of(answer))] == [("job", "3")]


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "1e3", "9" * 40, "\u0663"])
async def test_a_malformed_position_is_400(position: str) -> None:
    """In the header and in the query."""
    bench = Bench()
    job = (await bench.submit()).job
    path = f"/jobs/{job.id}/events"
    assert (await bench.call("GET", path, headers={"last-event-id": position})).status == 400
    assert (await bench.call("GET", path, query=f"starting_after={position}")).status == 400


async def test_a_gap_is_named() -> None:
    """1,500 events, 1,000 kept: the reader is told how many it missed."""
    bench = Bench()
    claimed = await bench.claim((await bench.submit()).job.id)
    for _ in range(15):
        await bench.store.append(claimed.fence, [NewEvent("output", b"0")] * 100)
    await bench.succeed(claimed)
    answer = await bench.call("GET", f"/jobs/{claimed.id}/events", query="starting_after=10")
    first, second, *rest = parsed(await all_of(answer))
    assert (first.event, first.id, pydantic_core.from_json(first.data)) == (
        "truncated", "", {"dropped": 490, "next": 501},
    )  # fmt: skip
    assert second.id == "501"
    assert (rest[-1].event, rest[-1].id, len(rest)) == ("job", "1501", 1000)


async def test_an_idle_stream_has_a_heartbeat() -> None:
    """A comment every 15 seconds, which readers pass over."""
    bench = Bench()
    job = (await bench.submit()).job
    answer = await bench.call("GET", f"/jobs/{job.id}/events")
    assert not isinstance(answer.body, bytes)
    body: Any = answer.body
    await anext(body)
    beat = asyncio.ensure_future(anext(body))
    await bench.clock.pass_time(14, turns=8)
    assert not beat.done()
    await bench.clock.pass_time(3, turns=8)
    assert (await beat).startswith(b":")
    await body.aclose()
    assert bench.hub.waiting == 0


async def test_a_stream_that_is_never_read_gives_its_place_back() -> None:
    """Closed before the first piece, as when the caller is gone already."""
    bench = Bench(max_watches=1)
    job = (await bench.submit()).job
    answer = await bench.call("GET", f"/jobs/{job.id}/events")
    assert (await bench.call("GET", f"/jobs/{job.id}/events")).status == 503
    body: Any = answer.body
    await body.aclose()
    assert (await bench.call("GET", f"/jobs/{job.id}/events")).status == 200


async def test_a_stream_ends_when_its_job_is_deleted() -> None:
    """Ended and deleted by another process between two reads: the reader is not left hanging."""
    bench = Bench()
    claimed = await bench.claim((await bench.submit()).job.id)
    answer = await bench.call("GET", f"/jobs/{claimed.id}/events")
    body: Any = answer.body
    await anext(body)
    move = moves.succeed(claimed.fence, now=bench.clock.now(), retention=60, attempts=b"", result=b"1")
    await bench.inner.move(claimed.id, move)
    await bench.inner.delete(claimed.id)
    rest = asyncio.ensure_future(_rest(body))
    await bench.clock.pass_time(3, turns=8)
    assert await rest == b""
    assert bench.hub.waiting == 0


async def test_streams_and_waits_end_with_the_process() -> None:
    """Once nothing runs here any more, after what there is to tell: who followed resumes elsewhere."""
    bench = Bench()
    claimed = await bench.claim((await bench.submit()).job.id)
    followed = await bench.call("GET", f"/jobs/{claimed.id}/events")
    body: Any = followed.body
    await anext(body)
    rest = asyncio.ensure_future(_rest(body))
    poll = asyncio.create_task(bench.call("GET", f"/jobs/{claimed.id}", query="wait=20"))
    await until(lambda: bench.clock.sleepers == 2)
    bench.service.draining = True
    await bench.say(claimed, "last words")
    await until(lambda: bench.clock.sleepers == 2)
    assert not rest.done()
    assert not poll.done()
    bench.service.release()
    assert b'event: output\nid: 1\ndata: "last words"' in await rest
    assert data(await poll)["status"] == "running"
    assert bench.hub.waiting == 0
    late = await bench.call("GET", f"/jobs/{claimed.id}/events", headers={"last-event-id": "1"})
    assert (await all_of(late)).count(b"event: ") == 1


async def _rest(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


async def test_ndjson_for_who_prefers_it() -> None:
    """The same items, one object a line."""
    bench = Bench()
    job_id = await _talked(bench, 2)
    answer = await bench.call("GET", f"/jobs/{job_id}/events", headers={"accept": "application/x-ndjson"})
    assert answer.header("content-type") == "application/x-ndjson"
    lines = [pydantic_core.from_json(line) for line in (await all_of(answer)).splitlines()]
    assert [(line["event"], line["id"]) for line in lines] == [("output", 1), ("output", 2), ("job", 3)]
    assert lines[0]["data"] == 0
    assert lines[2]["data"]["status"] == "succeeded"


async def test_the_stream_alias_speaks_as_fastsdk_listens() -> None:
    """Output is unnamed, snapshots come with progress, [DONE] ends; the shape follows the link."""
    bench = Bench()
    job = (await bench.submit(route="/words")).job
    answer = await bench.call("GET", f"/stream/{job.id}", query="shape=apipod")
    reader = Reader(answer)
    (first,) = await reader.next()
    assert pydantic_core.from_json(first.data)["status"] == "QUEUED"
    claimed = await bench.claim(job.id)
    await reader.next()
    await bench.progress(claimed, 0.5, "half")
    (half,) = await reader.next()
    assert pydantic_core.from_json(half.data)["progress"] == 0.5
    await bench.say(claimed, "hello")
    await bench.say(claimed, "a log line", type="log")
    (word,) = await reader.next()
    assert (word.event, word.data) == ("", '"hello"')
    await bench.fail(claimed, {"type": "ValueError", "message": "no"})
    last, done = await reader.next()
    body = pydantic_core.from_json(last.data)
    assert (body["status"], body["error"]) == ("FAILED", "ValueError: no")
    assert done.data == "[DONE]"


async def test_fastsdk_parses_every_job_body_in_its_shape() -> None:
    """The client's own model reads queued, failed, expired and offloaded jobs."""
    from fastsdk.service_interaction.response.api_job_status import APIJobStatus
    from socaity_schemas.public.providers import SocaityJobResponse  # type: ignore[import-untyped]

    bench = Bench()
    claimed = [await bench.claim((await bench.submit()).job.id) for _ in range(2)]
    await bench.fail(claimed[0], {"type": "ValueError", "message": "no"})
    blob = await bench.blobs.put(b"\x89PNG", content_type="image/png")
    ref = pydantic_core.to_json({"key": blob.key, "size": 4, "content_type": "image/png"})
    await bench.succeed(claimed[1], ref=ref)
    words = []
    for job in claimed:
        body = (await bench.call("POST", f"/status/{job.id}", query="shape=apipod")).body
        parsed_job = SocaityJobResponse.model_validate_json(body)
        words.append(APIJobStatus.from_str(str(parsed_job.status)).value)
        assert parsed_job.links is not None
    assert words == ["FAILED", "FINISHED"]
    assert data(await bench.call("GET", f"/status/{claimed[1].id}", query="shape=apipod"))["result"] == {
        "file_name": "", "content_type": "image/png", "content": "iVBORw==",
    }  # fmt: skip
