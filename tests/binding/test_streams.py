"""Generators as streams: framing, pace, errors, readers that leave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from router_core.binding.depends import Depends
from router_core.binding.result import to_response
from router_core.binding.stream import StreamBody
from router_core.errors import HTTPError
from router_core.http.message import Response
from router_core.http.sse import HEARTBEAT, ServerEvent, SseParser
from router_core.routing.router import Router
from tests.binding.calling import answer, body_of, request_for, router_with

SSE = [("accept", "text/event-stream")]


async def words() -> AsyncIterator[Any]:
    """Yield three kinds of values."""
    yield "a b"
    yield {"n": 1}
    yield None


def numbers() -> Iterator[int]:
    """Yield from a sync generator."""
    yield 1
    yield 2


def stream_of(response: Response) -> StreamBody:
    """Return the body of a streaming response."""
    assert isinstance(response.body, StreamBody)
    return response.body


async def test_lines_by_default_and_events_on_request() -> None:
    """NDJSON has one value a line; SSE has one event each and says when it is over."""
    router = router_with("/s", words, "get")
    response = await answer(router, request_for("GET", "/s"))
    assert response.header("content-type") == "application/x-ndjson"
    assert await body_of(response) == b'"a b"\n{"n":1}\nnull\n'
    response = await answer(router, request_for("GET", "/s", headers=SSE))
    assert response.header("content-type") == "text/event-stream; charset=utf-8"
    assert response.header("cache-control") == "no-store"
    events = SseParser().feed(await body_of(response))
    assert [event.data for event in events] == ['"a b"', '{"n":1}', "null", "null"]
    assert [event.event for event in events] == ["", "", "", "end"]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("application/jsonl", "application/jsonl"),
        ("text/event-stream;q=0.9, application/x-ndjson;q=0.1", "text/event-stream; charset=utf-8"),
        ("text/event-stream, */*;q=0.1", "text/event-stream; charset=utf-8"),
        ("text/*", "text/event-stream; charset=utf-8"),
        ("application/*", "application/x-ndjson"),
        ("text/event-stream;q=0, */*", "application/x-ndjson"),
        ("application/json", None),
        ("image/png, text/html", None),
        ("garbage", "application/x-ndjson"),
    ],
)
async def test_accept_chooses_the_framing(accept: str, chosen: str | None) -> None:
    """By quality; 406 only when neither fits, and then nothing of the function has run."""
    started: list[int] = []

    async def serve() -> AsyncIterator[int]:
        """Note that it runs."""
        started.append(1)
        yield 1

    response = await answer(
        router_with("/s", serve, "get"), request_for("GET", "/s", headers=[("accept", accept)])
    )
    if chosen is None:
        assert response.status == 406
        assert started == []
    else:
        assert response.header("content-type") == chosen


async def test_a_sync_generator_never_blocks_the_loop() -> None:
    """Each step runs in a thread, one at a time, in one context."""
    names: list[bool] = []

    def serve() -> Iterator[int]:
        """Note the thread."""
        for value in range(3):
            names.append(threading.current_thread() is threading.main_thread())
            yield value

    assert (
        await body_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s"))) == b"0\n1\n2\n"
    )
    assert names == [False] * 3


async def test_a_returned_generator_is_a_stream_as_well() -> None:
    """A plain function may choose its generator; sync ones too."""
    for made in (words, numbers):

        async def serve() -> Any:
            """Return a generator."""
            return made()  # noqa: B023 - called before the next round

        response = await answer(router_with("/s", serve, "get"), request_for("GET", "/s"))
        assert (await body_of(response)).count(b"\n") in (2, 3)


async def test_the_generator_goes_no_faster_than_its_reader() -> None:
    """One step for each piece taken: nothing is made in advance."""
    steps: list[int] = []

    async def serve() -> AsyncIterator[int]:
        """Count steps."""
        for value in range(100):
            steps.append(value)
            yield value

    body = stream_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s")))
    await anext(body)
    await anext(body)
    for _ in range(10):
        await asyncio.sleep(0)
    assert steps == [0, 1]
    await body.aclose()


async def test_a_reader_that_leaves_closes_the_generator() -> None:
    """Wherever it stands: at a yield, inside an await, or not yet begun; then its dependencies close."""
    log: list[str] = []

    async def session() -> AsyncIterator[int]:
        """Be closed last."""
        try:
            yield 1
        finally:
            log.append("session")

    async def serve(wait: bool = False, s: int = Depends(session)) -> AsyncIterator[int]:
        """Wait for ever, or for the reader."""
        try:
            yield 1
            if wait:
                await asyncio.Event().wait()
            yield 2
        finally:
            await asyncio.sleep(0)
            log.append("generator")

    router = router_with("/s", serve, "get")
    body = stream_of(await answer(router, request_for("GET", "/s")))
    await anext(body)
    await body.aclose()
    await body.aclose()
    assert log == ["generator", "session"]
    log.clear()
    body = stream_of(await answer(router, request_for("GET", "/s?wait=true")))
    await anext(body)
    reading = asyncio.ensure_future(anext(body))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await body.aclose()
    assert log == ["generator", "session"]
    log.clear()
    body = stream_of(await answer(router, request_for("GET", "/s")))
    await body.aclose()
    assert log == ["session"]
    with pytest.raises(StopAsyncIteration):
        await anext(body)


async def test_a_sync_generator_is_closed_after_its_step() -> None:
    """A running step cannot be interrupted; when it ends, the generator's finally runs."""
    entered, leave = threading.Event(), threading.Event()
    log: list[str] = []

    def serve() -> Iterator[int]:
        """Block in a thread."""
        try:
            yield 1
            entered.set()
            leave.wait(110)
            yield 2
        finally:
            log.append("closed")

    body = stream_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s")))
    await anext(body)
    reading = asyncio.ensure_future(anext(body))
    await asyncio.to_thread(entered.wait, 10)
    closing = asyncio.ensure_future(body.aclose())
    await asyncio.sleep(0.01)
    assert log == []
    leave.set()
    await closing
    assert log == ["closed"]
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("headers", [[], SSE])
async def test_an_error_in_the_middle_is_the_last_thing_sent(headers: list[tuple[str, str]]) -> None:
    """The reader gets a problem, the log the error, the caller no inner text."""
    told: list[BaseException] = []

    async def serve(kind: str) -> AsyncIterator[int]:
        """Fail after the first value."""
        yield 1
        raise HTTPError(418, "teapot") if kind == "ours" else ValueError("secret")

    router = router_with("/s", serve, "get")
    route = router.routes[0]
    for kind, status in (("ours", 418), ("theirs", 500)):
        request = request_for("GET", f"/s?kind={kind}", headers=headers)
        response = to_response(route, serve(kind), request, on_error=told.append)
        body = await body_of(response)
        assert b"secret" not in body
        if headers:
            event = SseParser().feed(body)[-1]
            assert event.event == "error"
            problem = json.loads(event.data)
        else:
            problem = json.loads(body.splitlines()[-1])["error"]
        assert (problem["status"], problem["request_id"], problem["instance"]) == (status, "req-1", "/s")
    assert [type(error) for error in told] == [HTTPError, ValueError]


async def test_a_value_that_cannot_be_encoded_breaks_the_stream_off() -> None:
    """The generator is closed and the reader told."""
    log: list[str] = []

    async def serve() -> AsyncIterator[Any]:
        """Yield what JSON cannot hold."""
        try:
            yield 1
            yield object()
        finally:
            log.append("closed")

    body = await body_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s")))
    assert json.loads(body.splitlines()[-1])["error"]["code"] == "invalid_result"
    assert log == ["closed"]


async def test_items_are_held_to_the_return_annotation() -> None:
    """``AsyncIterator[int]`` promises ints."""

    async def serve() -> AsyncIterator[int]:
        """Break the promise."""
        yield "1"  # type: ignore[misc]
        yield "x"  # type: ignore[misc]

    body = await body_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s")))
    first, last = body.splitlines()
    assert (first, json.loads(last)["error"]["code"]) == (b"1", "invalid_result")


async def test_idle_streams_send_heartbeats_without_disturbing_the_generator() -> None:
    """The waiting step goes on; its value comes when it is there."""
    go = asyncio.Event()

    async def serve() -> AsyncIterator[int]:
        """Wait in the middle of a step."""
        await go.wait()
        yield 1

    router = router_with("/s", serve, "get")
    request = request_for("GET", "/s", headers=SSE)
    body = stream_of(to_response(router.routes[0], serve(), request, heartbeat=0.001))
    assert [await anext(body), await anext(body)] == [HEARTBEAT, HEARTBEAT]
    go.set()
    rest = [piece async for piece in body]
    assert b"".join(rest).replace(HEARTBEAT, b"") == b"data: 1\n\nevent: end\ndata: null\n\n"


async def test_an_error_before_the_first_value_can_choose_the_status() -> None:
    """``prime`` raises it; a stream that begins well is not disturbed and loses nothing."""

    async def serve(ok: bool) -> AsyncIterator[int]:
        """Fail at once, or not."""
        if not ok:
            raise HTTPError(404, "no such model")
        yield 1
        yield 2

    router = router_with("/s", serve, "get")
    body = stream_of(await answer(router, request_for("GET", "/s?ok=false")))
    with pytest.raises(HTTPError, match="no such model"):
        await body.prime()
    body = stream_of(await answer(router, request_for("GET", "/s?ok=true")))
    await body.prime()
    assert [piece async for piece in body] == [b"1\n", b"2\n"]


async def test_a_generator_keeps_its_task_and_context_across_yields() -> None:
    """``asyncio.timeout`` around yields works, because all steps run in one task."""
    tasks: set[Any] = set()

    async def serve() -> AsyncIterator[int]:
        """Hold a timeout open while yielding."""
        async with asyncio.timeout(60):
            for value in range(3):
                tasks.add(asyncio.current_task())
                yield value

    body = await body_of(await answer(router_with("/s", serve, "get"), request_for("GET", "/s")))
    assert (body, len(tasks)) == (b"0\n1\n2\n", 1)


async def test_server_events_choose_their_own_name_and_id() -> None:
    """Their data is sent as it is; in NDJSON it is a text."""

    async def serve() -> AsyncIterator[ServerEvent]:
        """Yield named events."""
        yield ServerEvent("line 1\nline 2", event="chunk", id="7")

    router = router_with("/s", serve, "get")
    body = await body_of(await answer(router, request_for("GET", "/s", headers=SSE)))
    assert body.startswith(b"event: chunk\nid: 7\ndata: line 1\ndata: line 2\n\n")
    assert await body_of(await answer(router, request_for("GET", "/s"))) == b'"line 1\\nline 2"\n'


async def test_clean_up_after_a_stream_sees_its_error() -> None:
    """A dependency of a stream is told what ended it."""
    seen: list[str] = []

    async def session() -> AsyncIterator[int]:
        """Note the error."""
        try:
            yield 1
        except ValueError as error:
            seen.append(str(error))
            raise

    router = Router()

    @router.get("/s")
    async def serve(s: Annotated[int, Depends(session)]) -> AsyncIterator[int]:
        """Fail."""
        yield s
        raise ValueError("broken")

    await body_of(await answer(router, request_for("GET", "/s")))
    assert seen == ["broken"]
