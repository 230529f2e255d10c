"""What the assembled app makes of functions that misbehave, and of its own life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from router_core import Depends, HTTPError, Misconfigured, Router, Settings, build_app
from router_core.testing.client import TestClient
from router_core.wiring import open_blobs, open_jobs

router = Router()
closed: list[str] = []


@router.get("/exit")
def leave() -> None:
    """Try to take the server along."""
    raise SystemExit(3)


@router.get("/interrupt")
async def interrupt() -> None:
    """The same on the event loop."""
    raise KeyboardInterrupt


def resource() -> Iterator[str]:
    """Be cleaned up after the stream."""
    yield "resource"
    closed.append("resource")


@router.get("/stream")
async def stream(fail: bool = False, held: str = Depends(resource)) -> AsyncIterator[int]:
    """Fail before the first item, or not."""
    if fail:
        raise HTTPError(418, "no tea")
    for number in range(3):
        yield number


@router.get("/nan")
async def nan() -> float:
    """Return what JSON has no word for."""
    return float("nan")


@router.route("/teapot")
async def teapot() -> None:
    """Fail a job with a status of its own."""
    raise HTTPError(418, "no tea")


@pytest.mark.parametrize("path", ["/exit", "/interrupt"])
def test_an_exit_in_a_function_is_an_error_of_the_call(path: str) -> None:
    """SystemExit and KeyboardInterrupt of a function end neither the loop nor the server."""
    with TestClient(router) as client:
        assert client.get(path).status == 500
        assert client.get("/health").status == 200


def test_an_error_before_the_first_item_chooses_the_status() -> None:
    """A stream that fails at once is a problem, not a 200 with an error in it; its dependency is closed."""
    closed.clear()
    with TestClient(router) as client:
        assert client.get("/stream?fail=true").status == 418
        assert closed == []  # it was given the error, so what follows its yield did not run
        assert client.get("/stream").content == b"0\n1\n2\n"
    assert closed == ["resource"]


def test_a_result_that_json_cannot_say_is_null() -> None:
    """NaN is written as null, never as the bare word."""
    with TestClient(router) as client:
        assert client.get("/nan").content == b"null"


def test_a_failed_job_answers_a_waiting_caller_with_its_own_status() -> None:
    """The status that the function raised survives the record."""
    with TestClient(router) as client:
        answer = client.post("/teapot?sync=true")
        assert (answer.status, answer.value["code"]) == (418, "http_error")


def test_a_job_route_is_read_by_query_too() -> None:
    """GET /teapot?job_id= is the job."""
    with TestClient(router) as client:
        job = client.post("/teapot").value
        assert client.get(f"/teapot?job_id={job['job_id']}").value["job_id"] == job["job_id"]


async def test_start_and_stop_twice_are_once() -> None:
    """Hooks run once, in order; a failed start leaves nothing open."""
    seen: list[str] = []
    service = Router()
    service.on_startup(lambda: seen.append("up"))
    service.on_shutdown(lambda: seen.append("down"))
    app = build_app(service, Settings(jobs="memory://", blobs="memory://"))
    await asyncio.gather(app.start(), app.start())
    assert (await app.ready())["ready"]
    await app.stop(1)
    await app.stop(1)
    assert seen == ["up", "down"]
    assert not (await app.ready())["ready"]


async def test_a_start_hook_that_fails_fails_the_start() -> None:
    """The error of a hook comes out of start."""
    service = Router()

    @service.on_startup
    def hook() -> None:
        raise ValueError("no model")

    app = build_app(service, Settings(jobs="memory://", blobs="memory://"))
    with pytest.raises(ValueError, match="no model"):
        await app.start()
    assert not (await app.ready())["ready"]


@pytest.mark.parametrize("url", ["jobs.db", "nosuch://x", "sqlite://relative.db", "sqlite:///"])
def test_a_wrong_job_url_says_what_to_write(url: str) -> None:
    """One sentence that names the variable."""
    with pytest.raises(Misconfigured, match="ROUTER_JOBS"):
        open_jobs(Settings(jobs=url), build_app(router, Settings(jobs="memory://")).parts.clock)


def test_a_wrong_blob_url_says_what_to_write() -> None:
    """The same for blobs, and for the queue."""
    app = build_app(router, Settings(jobs="memory://", blobs="memory://"))
    with pytest.raises(Misconfigured, match="ROUTER_BLOBS"):
        open_blobs(Settings(blobs="file://"), app.parts.clock)
    with pytest.raises(Misconfigured, match="ROUTER_QUEUE"):
        build_app(router, Settings(jobs="memory://", blobs="memory://", queue="sqs://"))


@router.post("/small", max_body_bytes=20)
async def small(text: str) -> str:
    """Take a few bytes."""
    return text


@router.route("/small-job", max_body_bytes=20)
async def small_job(text: str) -> str:
    """Take a few bytes for later."""
    return text


@pytest.mark.parametrize("path", ["/small", "/small-job"])
def test_the_body_limit_of_a_route_holds_for_small_bodies(path: str) -> None:
    """Adapters ask for it before large ones only."""
    with TestClient(router) as client:
        assert client.post(path, json={"text": "x" * 9}).status in (200, 202)
        refused = client.post(path, json={"text": "x" * 10})
        assert (refused.status, refused.value["code"]) == (413, "payload_too_large")


async def test_a_drain_never_waits_for_the_next_poll() -> None:
    """At whatever moment of the claim loop it comes."""
    for turns in range(25):
        app = build_app(router, Settings(jobs="memory://", blobs="memory://"))
        app.parts.pool._poll = 3600.0
        await app.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(app.stop(600.0), 20.0)
