"""One worker, deliveries by hand: routing, values, errors, what is posted on the way, limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from handlers.runpod.worker import Worker
from router_core import Depends, File, JobProgress, Router
from router_core.blobs.memory import MemoryBlobStore
from router_core.clock import SystemClock
from router_core.errors import HTTPError
from router_core.http.message import Request, Response
from router_core.jobs.context import JobContext
from router_core.telemetry.events import Note, RequestDone
from tests.runpod.in_process import Kept, problem, running, value


def job(path: str | None = None, job_id: str = "job-1", **arguments: Any) -> dict[str, Any]:
    """Return a delivery."""
    return {"id": job_id, "input": arguments if path is None else {"path": path, **arguments}}


def service() -> Router:
    """Return what most tests call."""
    router = Router()

    @router.get("/hello")
    def hello(name: str = "world") -> str:
        return f"hello {name}"

    @router.post("/thing")
    async def make(size: int) -> int:
        return size

    @router.put("/thing")
    async def change(size: int) -> int:
        return -size

    @router.post("/any")
    def anything(value: Any) -> Any:
        return value

    @router.get("/answer")
    def answer(status: int, text: str = "") -> Response:
        return Response.text(text, status)

    _add_ends(router)
    return router


def _add_ends(router: Router) -> None:
    @router.post("/leave")
    def leave(how: str) -> None:
        if how == "system":
            raise SystemExit(3)
        raise KeyboardInterrupt

    @router.post("/leave-async")
    async def leave_async() -> None:
        raise SystemExit(3)

    @router.route("/double")
    def double(job_progress: JobProgress, n: int) -> int:
        job_progress.update(0.5, "half way")
        return 2 * n

    @router.post("/told")
    def told(request: Request, job: JobContext) -> list[Any]:
        return [request.method, request.path, json.loads(request.body), job.job_id]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """Return a worker of that service."""
    async with running(service()) as worker:
        yield worker


# --- routing and values


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (job("/hello"), "hello world"),
        (job("hello", name="ann"), "hello ann"),
        (job("/thing/", method="PUT", size="3"), -3),
        (job("/double", n=4), 8),
        ({**job("/hello"), "webhook": "https://example.org", "policy": {"ttl": 1}, "x": [1]}, "hello world"),
        ({**job("/hello"), "policy": None}, "hello world"),
        (job("/told", a=1), ["POST", "/told", {"a": 1}, "job-1"]),
    ],
)
async def test_the_input_names_the_route(worker: Worker, given: dict[str, Any], wanted: Any) -> None:
    """With any slashes, a method where it decides; members that are not ours are tolerated."""
    assert value(await worker.handle(given)) == wanted


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (job("/thing", size=1), ["input", "method"]),
        (job("/thing", size=1, method="DELETE"), ["input", "method"]),
        (job("/thing", size="x", method="PUT"), ["input", "size"]),
        (job("/thing", method="PUT"), ["input", "size"]),
        (job("/nowhere"), ["input", "path"]),
        (job("/hello", name=[1]), ["input", "name"]),
        (job("/double", n=None), ["input", "n"]),
        (job(), ["input", "path"]),
        ({"id": "job-1"}, ["input"]),
        ({"id": "job-1", "input": "text"}, ["input"]),
        ({"input": []}, ["input"]),
        ({}, ["input"]),
    ],
)
async def test_what_is_wrong_is_named_where_it_stands(
    worker: Worker, given: dict[str, Any], where: list[str]
) -> None:
    """All that a caller gives is in the input, so every place begins there."""
    told = problem(await worker.handle(given))
    assert (told["status"], told["code"]) == (422, "validation_failed")
    assert [error["loc"] for error in told["errors"]] == [where]


async def test_input_that_no_json_parser_of_ours_would_pass(worker: Worker) -> None:
    """Too deep, not a number, half a surrogate pair: an error in words, encodable itself."""
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    for bad in (deep, float("nan"), float("inf"), "\ud800", {"\udfff": 1}):
        told = problem(await worker.handle(job("/any", value=bad)))
        assert told["status"] in (400, 422)
    assert problem(await worker.handle(job("\ud800")))["status"] == 422


async def test_a_single_route_needs_no_path() -> None:
    """The function's own parameters called path or method are arguments there."""
    router = Router()

    @router.post("/only")
    def only(method: str, path: str = "none") -> list[str]:
        return [method, path]

    async with running(router) as worker:
        assert value(await worker.handle(job(method="x", path="y"))) == ["x", "y"]
        assert value(await worker.handle(job("/only", method="x"))) == ["x", "none"]


@pytest.mark.parametrize(
    "given",
    [
        {}, {"error": "mine"}, {"refresh_worker": True}, [], None, False, 0, "", "text", {"a": {"error": 1}},
        {"output": 1}, {"status": "IN_PROGRESS"}, {"stopPod": True},
    ],
)  # fmt: skip
async def test_a_result_is_posted_as_it_is(worker: Worker, given: Any) -> None:
    """Also what the SDK would take for an order, or leave out; and also through the SDK's own loop."""
    outcome = await worker.handle(job("/any", value=given))
    assert value(outcome) == given
    through = through_the_sdk(outcome.for_sdk())
    assert through == {"output": given}


def through_the_sdk(returned: Any) -> Any:
    """Do to a handler's return value what the SDK's ``run_job`` does, and what it posts then."""
    rp_job = pytest.importorskip("runpod.serverless.modules.rp_job", reason="the runpod SDK is not installed")
    made = asyncio.new_event_loop()
    result: list[Any] = []

    def run() -> None:
        result.append(made.run_until_complete(rp_job.run_job(lambda _job: returned, {"id": "x"})))
        made.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return json.loads(json.dumps(result[0]))


async def test_a_failure_goes_through_the_sdks_own_loop_too(worker: Worker) -> None:
    """As its error, which is a text."""
    outcome = await worker.handle(job("/nowhere"))
    through = through_the_sdk(outcome.for_sdk())
    assert set(through) == {"error"}
    assert json.loads(through["error"])["status"] == 422


async def test_the_description_is_a_virtual_route(worker: Worker) -> None:
    """Under both spellings."""
    for path in ("openapi.json", "/openapi.json"):
        document = value(await worker.handle(job(path)))
        assert "/double" in document["paths"]


async def test_files_go_in_and_come_out_as_objects() -> None:
    """A data URI or an object in, an object with name and type out."""
    router = Router()

    @router.post("/turn")
    def turn(file: File) -> File:
        return File.from_bytes(file.read()[::-1], filename="out.bin", content_type="application/x-thing")

    async with running(router) as worker:
        for given in ("data:text/plain;base64,YWJj", {"file_name": "a", "content": "YWJj"}):
            got = value(await worker.handle(job("/turn", file=given)))
            assert got == {"file_name": "out.bin", "content_type": "application/x-thing", "content": "Y2Jh"}
        told = problem(await worker.handle(job("/turn", file="http://127.0.0.1:1/x")))
        assert told["errors"][0]["type"] == "file_url"


async def test_each_delivery_is_reported_to_log_and_metrics(worker: Worker) -> None:
    """With its route, what a caller over HTTP would have been told, and its id on the platform."""
    seen: list[RequestDone] = []
    worker.app.events.subscribe(lambda event: seen.append(event) if isinstance(event, RequestDone) else None)
    for given in (job("/hello"), job("/double", n="x"), job("/leave", how="system"), job("/nowhere")):
        await worker.handle(given)
    assert [(done.method, done.route, done.status, done.request_id) for done in seen] == [
        ("RUNPOD", "/hello", 200, "job-1"),
        ("RUNPOD", "/double", 422, "job-1"),
        ("RUNPOD", "/leave", 500, "job-1"),
        ("RUNPOD", "", 422, "job-1"),
    ]


async def test_an_error_in_the_log_names_its_route(worker: Worker) -> None:
    """An operator looks for it by that."""
    notes: list[Note] = []
    worker.app.events.subscribe(lambda event: notes.append(event) if isinstance(event, Note) else None)
    await worker.handle(job("/leave", how="system"))
    (note,) = [note for note in notes if note.name == "unhandled_error"]
    assert (note.fields["route"], note.fields["request_id"]) == ("/leave", "job-1")


# --- errors


async def test_an_answer_that_refuses_fails_the_job(worker: Worker) -> None:
    """A Response with 4xx is no result; one with 200 is."""
    told = problem(await worker.handle(job("/answer", status=404, text="not here")))
    assert (told["status"], told["detail"]) == (404, "not here")
    assert value(await worker.handle(job("/answer", status=200, text="here")))["content"]


@pytest.mark.parametrize(
    "given", [job("/leave", how="system"), job("/leave", how="keyboard"), job("/leave-async")]
)
async def test_a_function_that_ends_the_interpreter_ends_only_its_job(
    worker: Worker, given: dict[str, Any]
) -> None:
    """SystemExit and KeyboardInterrupt, from a thread or from the loop."""
    assert problem(await worker.handle(given))["status"] == 500
    assert value(await worker.handle(job("/hello"))) == "hello world"


async def test_the_authors_exception_handlers_are_asked() -> None:
    """They may name the error, or make a result of it."""
    router = Router()

    @router.exception_handler(KeyError)
    def missing(request: Request, error: KeyError) -> Exception:
        return HTTPError(410, f"{request.path} lost {error.args[0]}")

    @router.exception_handler(ZeroDivisionError)
    def infinite(request: Request, error: ZeroDivisionError) -> Response:
        return Response.json({"result": "infinite"})

    @router.post("/lost")
    def lost() -> None:
        raise KeyError("it")

    @router.post("/divide")
    def divide() -> float:
        return 1 / 0

    async with running(router) as worker:
        told = problem(await worker.handle(job("/lost")))
        assert (told["status"], told["detail"]) == (410, "/lost lost it")
        assert value(await worker.handle(job("/divide"))) == {"result": "infinite"}


@pytest.mark.parametrize("shown", [True, False])
async def test_tracebacks_are_shown_on_request_only(shown: bool) -> None:
    """For plain calls and for jobs."""
    router = Router()

    @router.post("/call")
    def call() -> None:
        raise ValueError("a secret")

    @router.route("/job")
    def as_job() -> None:
        raise ValueError("a wheel came off")

    async with running(router, tracebacks=shown) as worker:
        for path in ("/call", "/job"):
            told = problem(await worker.handle(job(path)))
            assert ("ValueError" in told.get("traceback", "")) is shown
            assert ("a secret" in json.dumps(told)) is (shown and path == "/call")


async def test_a_key_that_nobody_would_honour_is_refused(worker: Worker) -> None:
    """Without shared records, and for calls that keep none; wherever it is given."""
    for given in (
        job("/double", n=1, idempotency_key="k"), job("/double", n=1) | {"policy": {"idempotencyKey": "k"}},
        job("/hello", **{"Idempotency-Key": "k"}),
    ):  # fmt: skip
        told = problem(await worker.handle(given))
        assert (told["status"], told["code"]) == (422, "idempotency_unsupported")
    assert problem(await worker.handle(job("/double", n=1, idempotency_key=5)))["status"] == 422


async def test_a_parameter_of_that_name_is_the_functions() -> None:
    """Then it is no key."""
    router = Router()

    @router.route("/keep")
    def keep(idempotency_key: str) -> str:
        return idempotency_key

    async with running(router) as worker:
        assert value(await worker.handle(job("/keep", idempotency_key="k"))) == "k"


# --- progress and streams


def teller() -> Router:
    """Return functions that say something on their way."""
    router = Router()

    @router.route("/job")
    def as_job(job_progress: JobProgress, steps: int, pause: float = 0.005) -> str:
        for step in range(steps):
            job_progress.update((step + 1) / steps, f"step {step}")
            threading.Event().wait(pause)
        return "done"

    @router.post("/call")
    def call(job_progress: JobProgress, steps: int, pause: float = 0.005) -> str:
        return as_job(job_progress, steps, pause)

    @router.post("/tokens")
    async def tokens(count: int, size: int = 1, fail_at: int = -1) -> AsyncIterator[str]:
        for number in range(count):
            if number == fail_at:
                raise RuntimeError("a wheel came off")
            yield str(number) * size

    @router.route("/letters", job=True)
    def letters(count: int, size: int = 1) -> Iterator[str]:
        for number in range(count):
            yield str(number) * size

    return router


@pytest.mark.parametrize("path", ["/job", "/call"])
async def test_progress_is_in_order_coalesced_and_over_before_the_end(path: str) -> None:
    """One post at a time; a slow platform gets the latest, and nothing after the end."""
    async with running(teller(), progress_interval=0.02) as worker:
        line = Kept()
        assert value(await worker.handle(job(path, steps=60), line)) == "done"
        count = len(line.posts)
        assert line.fractions == sorted(line.fractions)
        assert 2 <= count < 60
        await asyncio.sleep(0.05)
        assert len(line.posts) == count


async def test_the_end_waits_for_the_post_that_is_under_way() -> None:
    """Otherwise the platform might read it after the result."""
    async with running(teller()) as worker:
        line = Kept()
        line.open.clear()
        task = asyncio.create_task(worker.handle(job("/call", steps=3, pause=0), line))
        await line.begun.wait()
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        line.open.set()
        assert value(await task) == "done"
        assert len(line.posts) == 1


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_chunks_are_in_order_and_all_there(path: str) -> None:
    """More of them, and larger, than a record keeps: the platform's pace is the generator's."""
    async with running(teller()) as worker:
        line = Kept()
        outcome = await worker.handle(job(path, count=1500, size=1000), line)
        wanted = [str(number) * 1000 for number in range(1500)]
        assert outcome.stream
        assert line.chunks == wanted
        assert value(outcome) == wanted


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_a_refused_chunk_ends_the_stream_and_not_the_job(path: str) -> None:
    """Readers must not see a gap; the whole comes at the end."""
    async with running(teller()) as worker:
        line = Kept()
        line.refuses = True
        assert len(value(await worker.handle(job(path, count=50), line))) == 50
        assert line.chunks == ["0"]


@pytest.mark.parametrize("path", ["/tokens", "/letters"])
async def test_an_item_larger_than_a_chunk_fails_the_job(path: str) -> None:
    """Loudly, and what it needed is free again."""
    async with running(teller(), runpod_concurrency=1) as worker:
        line = Kept()
        told = problem(await worker.handle(job(path, count=2, size=1_000_000), line))
        assert told["code"] == "chunk_too_large"
        assert line.chunks == []
        assert value(await worker.handle(job(path, "job-2", count=1))) == ["0"]


async def test_a_stream_that_fails_has_said_what_it_had() -> None:
    """The chunks come before the error."""
    async with running(teller()) as worker:
        line = Kept()
        assert problem(await worker.handle(job("/tokens", count=5, fail_at=3), line))["status"] == 500
        assert line.chunks == ["0", "1", "2"]


# --- size


class SharedBlobs(MemoryBlobStore):
    """Blobs that callers can fetch."""

    presigns = True

    def presign(
        self, key: str, *, seconds: int = 300, content_type: str | None = None, filename: str | None = None
    ) -> str:
        """Return where a blob is."""
        return f"https://blobs.example/{key}?for={seconds}&type={content_type}&name={filename}"


def maker() -> Router:
    """Return functions with results of any size."""
    router = Router()

    @router.post("/call")
    def call(size: int) -> str:
        return "x" * size

    @router.route("/job")
    def as_job(size: int) -> str:
        return "x" * size

    @router.post("/file")
    def file(size: int) -> File:
        return File.from_bytes(b"x" * size, filename="x.bin", content_type="application/x-thing")

    @router.route("/job-file")
    def job_file(size: int) -> File:
        return file(size)

    @router.post("/stream")
    async def stream(size: int) -> AsyncIterator[str]:
        for _ in range(size // 1000):
            yield "x" * 1000

    return router


PATHS = ("/call", "/job", "/file", "/job-file", "/stream")


@pytest.mark.parametrize("path", PATHS)
async def test_a_result_that_is_too_large_fails(path: str) -> None:
    """With a word for it; /runsync takes twice as much."""
    async with running(maker(), runpod_result_bytes=400_000) as worker:
        assert value(await worker.handle(job(path, size=200_000)))
        told = problem(await worker.handle(job(path, "job-2", size=450_000)))
        assert told["code"] == "result_too_large"
        assert "450" in told["detail"] or "ROUTER_BLOBS" in told["detail"]
        assert value(await worker.handle(job(path, "sync-3", size=450_000)))


@pytest.mark.parametrize("path", PATHS)
async def test_a_large_result_goes_where_its_caller_can_fetch_it(path: str) -> None:
    """Before anything is posted: a link, the size and the checksum of what lies there."""
    blobs = SharedBlobs(SystemClock())
    async with running(maker(), runpod_result_bytes=300_000, blobs=blobs) as worker:
        ref = value(await worker.handle(job(path, size=600_000)))["result_ref"]
        key = ref["href"].removeprefix("https://blobs.example/").partition("?")[0]
        data = await blobs.get(key)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (ref["size"], ref["sha256"])
        if "file" in path:
            assert data == b"x" * 600_000
            assert (ref["content_type"], ref["filename"]) == ("application/x-thing", "x.bin")
        else:
            assert (json.loads(data), ref["content_type"]) is not None
            assert ref["content_type"] == "application/json"


# --- limits of routes


async def test_a_worker_takes_no_more_than_its_routes_run() -> None:
    """A job that waits here could run elsewhere: the platform believes that it runs."""
    router = Router()

    @router.route("/one")
    def one() -> None:
        return None

    async with running(router) as worker:
        assert worker.concurrency == 1

    @router.route("/three", concurrency=3)
    def three() -> None:
        return None

    async with running(router) as worker:
        assert worker.concurrency == 4
    async with running(router, runpod_concurrency=2) as worker:
        assert worker.concurrency == 2
    async with running(service()) as worker:
        assert worker.concurrency == 4


@pytest.mark.parametrize("kind", ["job", "call"])
async def test_a_route_runs_no_more_at_once_than_it_says(kind: str) -> None:
    """Sync jobs one by one unless their author allows more; calls where a number is given."""
    router = Router()
    busy, most = 0, 0

    def work() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        threading.Event().wait(0.02)
        busy -= 1

    if kind == "job":
        router.route("/work")(work)
    else:
        router.post("/work", concurrency=1)(work)
    async with running(router) as worker:
        outcomes = await asyncio.gather(*(worker.handle(job("/work", f"job-{n}")) for n in range(4)))
        assert [value(outcome) for outcome in outcomes] == [None] * 4
        assert most == 1


async def test_dependencies_are_cleaned_up_after_the_stream() -> None:
    """Not before its last item."""
    router, seen = Router(), []

    async def opened() -> AsyncIterator[str]:
        yield "open"
        seen.append("closed")

    @router.post("/stream")
    async def stream(state: str = Depends(opened)) -> AsyncIterator[str]:
        for number in range(3):
            seen.append(str(number))
            yield state

    async with running(router) as worker:
        assert value(await worker.handle(job("/stream"))) == ["open"] * 3
        assert seen == ["0", "1", "2", "closed"]
