"""Calling an app in its own process: the test client, and the client library over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router_core import File, JobProgress, Router
from router_core.client import JobFailed
from router_core.errors import NotFound, ValidationFailed
from router_core.testing.client import TestClient


def service() -> Router:
    """A service with a route of each kind."""
    router = Router()
    started: list[str] = []
    router.on_startup(lambda: started.append("up"))

    @router.get("/started")
    def was_started() -> list[str]:
        return started

    @router.get("/items/{item_id}")
    def item(item_id: int, size: int = 1) -> dict[str, int]:
        return {"item_id": item_id, "size": size}

    @router.post("/add")
    def add(a: int, b: int = 2) -> int:
        return a + b

    @router.route("/predict")
    def predict(job_progress: JobProgress, text: str, times: int = 1) -> str:
        job_progress.update(0.5, "half way")
        if text == "bad":
            raise ValueError("bad text")
        return text * times

    @router.route("/upper")
    def upper(image: File) -> File:
        return File.from_bytes(image.read().upper(), f"up-{image.filename}", image.content_type)

    @router.route("/tokens")
    async def tokens(count: int = 3) -> AsyncIterator[str]:
        for number in range(count):
            yield f"token {number}"
            await asyncio.sleep(0)

    @router.route("/job-tokens", queue_size=5)
    def job_tokens(count: int) -> Any:
        yield from range(count)

    return router


def test_requests_are_answered_without_sockets() -> None:
    """Query, path, JSON, form, errors."""
    with TestClient(service()) as client:
        assert client.get("/started").value == ["up"]
        assert client.get("/items/7", query={"size": 3}).value == {"item_id": 7, "size": 3}
        assert client.post("/add", json={"a": 1}).value == 3
        assert client.post("/add", json={"a": "x"}).status == 422
        assert client.get("/nowhere").header("content-type") == "application/problem+json"
        assert client.post("/upper", files={"image": b"x"}).status == 202


def test_streams_come_piece_by_piece() -> None:
    """As a socket would give them."""
    with TestClient(service()) as client:
        pieces = list(client.stream("POST", "/tokens", json={"count": 2}))
        assert b"".join(pieces) == b'"token 0"\n"token 1"\n'


def test_the_client_library_works_over_it() -> None:
    """Values, jobs, files, streams, errors: the whole way, without a server."""
    with TestClient(service()) as client, client.connect() as library:
        assert library.add(1, b=5) == 6
        assert library.endpoint("/items/{item_id}")(4) == {"item_id": 4, "size": 1}
        job = library.predict("ab", times=2)
        assert job.result(timeout=60) == "abab"
        assert (job.status, job.progress) == ("succeeded", 1.0)
        file = library.upper(File.from_bytes(b"text", "a.txt")).result(timeout=60)
        assert (file.read(), file.filename, file.content_type) == (b"TEXT", "up-a.txt", "text/plain")
        assert list(library.tokens(count=2)) == ["token 0", "token 1"]
        with pytest.raises(JobFailed, match="ValueError: bad text"):
            library.predict("bad").result(timeout=20)
        with pytest.raises(ValidationFailed, match="times"):
            library.predict("x", times="many")
        with pytest.raises(NotFound):
            library.job("no-such-job")
        assert {view.route for view in library.jobs().jobs} == {"/predict", "/upper"}


def test_events_of_a_job_over_it() -> None:
    """What a job yields comes as outputs, its state comes last."""
    with TestClient(service()) as client, client.connect() as library:
        job = library.endpoint("job-tokens")(3)
        assert list(job.outputs()) == [0, 1, 2]
        events = list(job)
        assert [event.data for event in events if event.type == "output"] == [0, 1, 2]
        assert events[-1].data.status == "succeeded"
        assert job.result() == [0, 1, 2]
        assert list(job.events(after=events[-1].id))[-1].type == "job"


def test_outputs_of_a_job_that_starts_again() -> None:
    """Who gathers them is told when to drop what he has; who reads the events sees it there."""
    router, tries = Router(), []

    @router.route("/halves", max_attempts=2, backoff=0.01)
    def halves() -> Any:
        tries.append(1)
        yield "first"
        if len(tries) == 1:
            raise ValueError("fell over")
        yield "second"

    with TestClient(router) as client, client.connect() as library:
        job = library.halves()
        gathered: list[str] = []
        for value in job.outputs(on_restart=gathered.clear):
            gathered.append(value)
        assert gathered == ["first", "second"] == job.result()
        told = [(event.type, event.data) for event in job if event.type != "job"]
        assert told == [
            ("output", "first"),
            ("attempt", {"attempt": 2}),
            ("output", "first"),
            ("output", "second"),
        ]
        assert list(job.outputs()) == ["first", "first", "second"]


def test_any_route_can_be_made_a_job() -> None:
    """submit asks for it with Prefer: respond-async."""
    with TestClient(service()) as client, client.connect() as library:
        assert library.add.submit(1, 2).result(timeout=60) == 3


async def test_inside_an_event_loop() -> None:
    """The same app, with await."""
    async with TestClient(service()) as client:
        assert (await client.post("/add", json={"a": 1})).value == 3
        library = client.connect()
        job = await library.predict("x")
        assert await job.result(timeout=60) == "x"
