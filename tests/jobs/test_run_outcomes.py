"""How one attempt ends in its record: results, errors, sizes, retries."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from router_core.errors import BadRequest, HTTPError, Misconfigured, RateLimited, StoreError, ValidationFailed
from router_core.http.media import File
from router_core.http.message import Response
from router_core.jobs import moves, settle
from router_core.jobs.context import JobContext, JobProgress
from router_core.jobs.job import Reason, State
from router_core.jobs.settle import MAX_INLINE, MAX_INLINE_FILE
from router_core.jobs.store import NewEvent
from tests.jobs.running import Bench, bench_of, route_of


async def echo(n: int = 0) -> int:
    """Return the argument."""
    return n


def in_thread(n: int = 0) -> str:
    """Say in which thread it runs."""
    return f"{n} in {threading.current_thread().name}"


async def fail(kind: str = "value") -> None:
    """Raise what the caller asks for."""
    raise _error(kind)


async def stuck() -> None:
    """Never return."""
    await asyncio.Event().wait()


def fail_sync(kind: str = "value") -> None:
    """Raise in a thread."""
    raise _error(kind)


def fail_stream(kind: str = "value") -> Any:
    """Raise in a sync generator."""
    yield 1
    raise _error(kind)


class Unprintable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _error(kind: str) -> BaseException:
    errors: dict[str, BaseException] = {
        "value": ValueError("bad value"), "exit": SystemExit(3), "interrupt": KeyboardInterrupt(),
        "memory": MemoryError("no room"), "generator": GeneratorExit(), "cancelled": asyncio.CancelledError(),
        "bad": BadRequest("mend it"), "misconfigured": Misconfigured("change it"),
        "long": ValueError("x" * 9999),
        "http": HTTPError(404, "not here"), "limited": RateLimited("later", retry_after=7),
        "unprintable": Unprintable(), "surrogate": ValueError("\ud800"), "stop": StopIteration(4),
        "store": StoreError("away"),
    }  # fmt: skip
    return errors[kind]


def made(size: int = 0) -> str:
    """Return a text whose JSON has so many bytes."""
    return "x" * (size - 2)


def picture(size: int = 0, kind: str = "file") -> Any:
    """Return a file of so many bytes, in each of the ways in which a function may do that."""
    data = bytes(size)
    match kind:
        case "bytes":
            return data
        case "response":
            return Response(200, (("content-type", "image/png"),), data)
    return File(data, filename="dot.png", content_type="application/json" if kind == "json" else "image/png")


async def odd(kind: str = "") -> Any:
    """Return what is no JSON."""
    return {"object": object(), "nan": math.nan, "deep": {"inf": math.inf}, "loop": None}[kind]


async def stream(n: int = 3) -> Any:
    """Yield numbers."""
    for i in range(n):
        yield {"i": i}


def stream_sync(n: int = 3) -> Any:
    """Yield numbers from a thread."""
    yield from range(n)


def bench(**options: Any) -> Bench:
    """Return a bench with all functions above, which try each error up to twice."""
    functions = (
        echo,
        in_thread,
        stuck,
        fail,
        fail_sync,
        fail_stream,
        made,
        picture,
        odd,
        stream,
        stream_sync,
    )
    return bench_of(*(route_of(function, **options) for function in functions))


def error_of(record: Any) -> dict[str, Any]:
    """Return the error in a record."""
    body: dict[str, Any] = json.loads(record.error)
    return body


async def test_result_and_history() -> None:
    """A job that returns has its result, progress 1, one attempt, and no lease or token left."""
    record = await bench().run("/echo", n=7)
    assert (record.state, record.result, record.progress, record.attempt) == (State.SUCCEEDED, b"7", 1.0, 1)
    assert (record.token, record.lease_until, record.worker_id) == ("", 0.0, "")
    assert [a["outcome"] for a in json.loads(record.attempts)] == ["succeeded"]
    assert record.expires_at == pytest.approx(record.finished_at + 86_400)


async def test_sync_function_runs_in_a_thread() -> None:
    """A sync function does not run on the loop."""
    record = await bench().run("/in_thread", n=1)
    assert record.result == b'"1 in router-core-job"'


@pytest.mark.parametrize("route", ["/fail", "/fail_sync", "/fail_stream"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("value", "ValueError"), ("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError"), ("generator", "GeneratorExit"), ("cancelled", "CancelledError"),
        ("http", "HTTPError"), ("unprintable", "Unprintable"), ("surrogate", "ValueError"),
    ],
)  # fmt: skip
async def test_whatever_is_raised_fails_the_job_only(route: str, kind: str, name: str) -> None:
    """Every error, be it SystemExit, is the job's: the runner returns and the record says failed."""
    b = bench()
    record = await b.run(route, kind=kind)
    assert (record.state, record.reason) == (State.FAILED, "error")
    body = error_of(record)
    known = {"type", "message", "attempt", "retryable"}
    assert set(body) == (known | {"status", "code"} if kind == "http" else known)
    assert (body["type"], body["attempt"]) == (name, 1)
    assert not b.runner.active
    (note,) = b.noted("job_error")
    assert note.error is not None
    assert (await b.run("/echo", n=1)).state is State.SUCCEEDED


async def test_stop_iteration_out_of_a_thread() -> None:
    """StopIteration, which a future cannot carry, fails the job like any error."""
    assert error_of(await bench().run("/fail_sync", kind="stop"))["type"] == "StopIteration"


async def test_message_is_bounded() -> None:
    """An error's text is cut to 2,000 characters."""
    assert len(error_of(await bench().run("/fail", kind="long"))["message"]) == 2000


async def test_router_error_shows_its_detail() -> None:
    """A RouterError's detail is the message."""
    assert error_of(await bench().run("/fail", kind="http"))["message"] == "not here"


async def test_without_max_attempts_an_error_ends_the_job() -> None:
    """A route that asks for no retries gets none, although crashes would be replaced."""
    record = await bench().run("/fail", kind="value")
    assert (record.state, record.attempt, record.max_attempts) == (State.FAILED, 1, 3)
    assert error_of(record)["retryable"] is False


@pytest.mark.parametrize(
    ("kind", "max_attempts", "retryable"),
    [
        ("value", 2, True),
        ("value", 1, False),
        ("value", None, False),
        ("http", 2, False),
        ("store", None, True),
    ],
)
async def test_retryable_is_what_the_service_tries_again(
    kind: str, max_attempts: int | None, retryable: bool
) -> None:
    """Nobody should wait for an attempt that never comes: without max_attempts, none does."""
    record = await bench(max_attempts=max_attempts).run("/fail", kind=kind)
    assert error_of(record)["retryable"] is retryable
    assert (record.state is State.RETRYING) is retryable


async def test_a_timeout_is_not_tried_again_and_says_so() -> None:
    """It ends its job, whatever max_attempts is."""
    record = await bench(max_attempts=3).run("/stuck", {"timeout": 0.05})
    assert (record.reason, error_of(record)["retryable"]) == ("timeout", False)


async def test_retry_until_attempts_are_exhausted() -> None:
    """With max_attempts=2 the first error leads to retrying, the second to failed(attempts_exhausted)."""
    b = bench(max_attempts=2)
    record = await b.run("/fail", kind="value")
    assert (record.state, record.reason, record.token) == (State.RETRYING, "error", "")
    assert record.not_before <= b.clock.now()
    await b.runner.run(await b.claim(record.id))
    record = await b.record(record.id)
    assert (record.state, record.reason) == (State.FAILED, "attempts_exhausted")
    assert [a["number"] for a in json.loads(record.attempts)] == [1, 2]
    assert error_of(record)["attempt"] == 2


@pytest.mark.parametrize("kind", ["bad", "misconfigured", "http"])
async def test_some_errors_are_never_retried(kind: str) -> None:
    """What the caller or the author has to mend is not tried again."""
    record = await bench(max_attempts=5).run("/fail", kind=kind)
    assert record.state is State.FAILED
    assert error_of(record)["retryable"] is False


async def test_retry_on_selects() -> None:
    """An exception outside retry_on fails at once."""
    record = await bench(max_attempts=5, retry_on=(KeyError,)).run("/fail", kind="value")
    assert (record.state, error_of(record)["retryable"]) == (State.FAILED, False)


async def test_retry_after_is_honoured() -> None:
    """A wait that the other side asked for is a lower bound of the backoff."""
    b = bench(max_attempts=2)
    record = await b.run("/fail", kind="limited")
    assert record.state is State.RETRYING
    assert 6 < record.not_before - b.clock.now() <= 7


async def test_store_error_is_retried_although_errors_are_not() -> None:
    """The machinery's own failure costs an attempt, not the job."""
    assert (await bench().run("/fail", kind="store")).state is State.RETRYING


async def test_invalid_arguments_fail_without_retry() -> None:
    """Arguments that do not validate (a record of another version) fail the job as ValidationFailed."""
    record = await bench(max_attempts=3).run("/echo", n="many")
    assert (record.state, error_of(record)["type"]) == (State.FAILED, ValidationFailed.__name__)


async def test_broken_input_fails() -> None:
    """Stored input that is no JSON fails the job."""
    record = await bench().run("/echo", {"input": b"{"})
    assert record.state is State.FAILED


async def test_unknown_route_fails() -> None:
    """A job of a route that this service does not have fails with a text that says so."""
    b = bench()
    job = replace(b.job("/echo"), route="/gone")
    await b.store.add(job)
    await b.runner.run(await b.claim(job.id))
    record = await b.record(job.id)
    assert record.state is State.FAILED
    assert "/gone" in error_of(record)["message"]


@pytest.mark.parametrize("kind", ["object", "nan", "deep"])
async def test_what_is_no_json_never_becomes_a_result(kind: str) -> None:
    """An object, NaN or infinity either fails the job or becomes valid JSON; never invalid JSON."""
    record = await bench().run("/odd", kind=kind)
    if record.state is State.SUCCEEDED:
        json.loads(record.result, parse_constant=lambda word: pytest.fail(word))
    else:
        assert record.state is State.FAILED
    if kind == "object":
        assert record.state is State.FAILED


@pytest.mark.parametrize(("size", "blobs"), [(MAX_INLINE - 1, 0), (MAX_INLINE, 0), (MAX_INLINE + 1, 1)])
async def test_large_results_go_to_the_blob_store(size: int, blobs: int) -> None:
    """256 KB stay in the record; one byte more goes to a blob, whose reference the record holds."""
    b = bench()
    record = await b.run("/made", size=size)
    assert record.state is State.SUCCEEDED
    assert b.blobs.puts == blobs
    if not blobs:
        assert len(record.result) == size
        return
    ref = json.loads(record.result_ref)
    assert record.result == b""
    assert ref["size"] == size
    assert len(b.blobs.kept[ref["key"]]) == size


@pytest.mark.parametrize(
    ("kind", "content_type", "name"),
    [
        ("file", "image/png", "dot.png"),
        ("json", "application/json", "dot.png"),
        ("bytes", "application/octet-stream", ""),
        ("response", "image/png", ""),
    ],
)
async def test_a_large_file_is_kept_as_its_bytes(kind: str, content_type: str, name: str) -> None:
    """What the reference tells is true of the file itself, not of its base64 object."""
    b = bench()
    size = MAX_INLINE_FILE + 1
    record = await b.run("/picture", size=size, kind=kind)
    ref = json.loads(record.result_ref)
    assert b.blobs.kept[ref.pop("key")] == bytes(size)
    assert ref == {
        "sha256": hashlib.sha256(bytes(size)).hexdigest(), "size": size, "content_type": content_type,
        "filename": name,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "bytes", "response"])
async def test_a_small_file_stands_in_the_record(kind: str) -> None:
    """The largest of them, in base64 and with all that belongs to it, is not too large for the record."""
    b = bench()
    record = await b.run("/picture", size=MAX_INLINE_FILE, kind=kind)
    assert b.blobs.puts == 0
    assert base64.b64decode(json.loads(record.result)["content"]) == bytes(MAX_INLINE_FILE)


async def test_too_large_result_fails_without_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result over the cap is failed(result_too_large) at once, and no blob is written."""
    monkeypatch.setattr("router_core.jobs.settle.MAX_RESULT", 300_000)
    b = bench(max_attempts=3)
    record = await b.run("/made", size=300_001)
    assert (record.state, record.reason) == (State.FAILED, Reason.RESULT_TOO_LARGE.value)
    assert b.blobs.puts == 0


async def test_blob_store_that_comes_back() -> None:
    """A blob store that is down for a while is asked again before the record is written."""
    b = bench()
    b.blobs.down = 3
    record = await b.run("/made", size=MAX_INLINE + 1)
    assert record.state is State.SUCCEEDED
    assert b.blobs.puts == 4


async def test_blob_store_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob store that stays down costs the attempt, and the job is tried again."""
    monkeypatch.setattr("router_core.jobs.settle.PATIENCE", 0.1)
    b = bench()
    b.blobs.down = 10_000
    record = await b.run("/made", size=MAX_INLINE + 1)
    assert (record.state, error_of(record)["type"]) == (State.RETRYING, "StoreError")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_generator_without_end_is_stopped_at_the_size_of_a_result(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it yields is not collected without bound: it is closed and not tried again."""
    monkeypatch.setattr(settle, "MAX_RESULT", 10_000)
    yielded, closed = [], []

    def flood() -> Iterator[str]:
        try:
            while True:
                yielded.append(1)
                yield "x" * 1000
        finally:
            closed.append(1)

    async def flood_async() -> AsyncIterator[str]:
        for item in flood():
            yield item

    route = route_of(flood if kind == "sync" else flood_async, "/flood", max_attempts=3)
    record = await bench_of(route).run("/flood")
    assert (record.state, record.reason, record.attempt) == (State.FAILED, "result_too_large", 1)
    assert (len(yielded), closed) == (10, [1])


async def test_a_generator_may_yield_as_much_as_a_result_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is that of the list, to the byte."""

    async def pair() -> AsyncIterator[str]:
        yield "a"
        yield "bc"

    bench = bench_of(route_of(pair))
    monkeypatch.setattr(settle, "MAX_RESULT", len('["a","bc"]'))
    assert (await bench.run("/pair")).state is State.SUCCEEDED
    monkeypatch.setattr(settle, "MAX_RESULT", len('["a","bc"]') - 1)
    assert (await bench.run("/pair")).reason == "result_too_large"


@pytest.mark.parametrize("route", ["/stream", "/stream_sync"])
async def test_generator_yields_events_and_a_list(route: str) -> None:
    """Each value of a generator is an output event; the result is the list of them."""
    b = bench()
    record = await b.run(route, n=3)
    values = json.loads(record.result)
    assert len(values) == 3
    page = await b.store.events(record.id)
    assert [event.type for event in page.events] == ["output"] * 3
    assert [json.loads(event.data) for event in page.events] == values
    assert [event.seq for event in page.events] == [1, 2, 3]


async def test_another_attempt_is_announced_before_its_first_output() -> None:
    """What came before does not count any more, and only an event can say so to who has read it."""
    b = bench(max_attempts=2)
    job = (await b.store.add(b.job("/fail_stream"))).job
    for _ in range(2):
        await b.runner.run(await b.claim(job.id))
    page = await b.store.events(job.id)
    told = [(event.seq, event.type, json.loads(event.data)) for event in page.events]
    assert told == [(1, "output", 1), (2, "attempt", {"attempt": 2}), (3, "output", 1)]


async def test_a_job_that_was_given_back_announces_its_new_start() -> None:
    """Its attempt has the same number again, as a shut-down counts none."""
    b = bench()
    job = (await b.store.add(b.job("/stream_sync", n=1))).job
    claimed = await b.claim(job.id)
    await b.store.append(claimed.fence, [NewEvent("output", b"0")])
    assert (await b.store.move(job.id, moves.release(claimed.fence, attempts=b"[]"))).applied
    await b.runner.run(await b.claim(job.id))
    page = await b.store.events(job.id)
    assert [(event.type, event.data) for event in page.events] == [
        ("output", b"0"), ("attempt", b'{"attempt":1}'), ("output", b"0"),
    ]  # fmt: skip


async def test_long_stream_does_not_outrun_its_events() -> None:
    """A fast generator waits for its events: the last ones are there, none was dropped on the way."""
    b = bench()
    record = await b.run("/stream", n=5_000)
    assert record.event_seq == 5_000
    assert not b.noted("events_dropped")


async def test_retry_history_is_bounded() -> None:
    """A record keeps the last 20 attempts."""
    b = bench(max_attempts=40)
    job = (await b.store.add(b.job("/fail", kind="value"))).job
    for _ in range(25):
        await b.runner.run(await b.claim(job.id))
    numbers = [a["number"] for a in json.loads((await b.record(job.id)).attempts)]
    assert numbers == list(range(6, 26))


async def test_started_context_is_complete() -> None:
    """A function sees its job's id and attempt, when it will be stopped, and a stable key per step."""
    seen: list[JobContext] = []

    async def look(job: JobContext, job_progress: JobProgress) -> str:
        seen.append(job)
        assert job.progress is job_progress
        job_progress.update(0.5, "half")
        return job.idempotency_key("pay")

    b = bench_of(route_of(look, timeout=60.0))
    record = await b.run("/look")
    assert record.state is State.SUCCEEDED
    assert (seen[0].job_id, seen[0].attempt, seen[0].cancelled) == (record.id, 1, False)
    assert seen[0].deadline == pytest.approx(b.clock.now() + 60, abs=5)
    assert json.loads(record.result) == JobContext(record.id, 2).idempotency_key("pay")
    assert record.message == "half"


def test_this_python_can_exit_in_threads() -> None:
    """Guard the premise of the SystemExit tests: it is no Exception."""
    assert not issubclass(SystemExit, Exception)
    assert sys.version_info >= (3, 11)
