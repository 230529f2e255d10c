"""One worker, deliveries by hand: routing, values, errors, keys."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from handlers.runpod.worker import Worker
from router_core import File, JobProgress, Router
from router_core.errors import HTTPError
from router_core.http.message import Request, Response
from router_core.jobs.context import JobContext
from router_core.telemetry.events import Note, RequestDone
from tests.runpod.in_process import job, problem, running, value


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
        ("GET", "/hello", 200, "job-1"),
        ("POST", "/double", 422, "job-1"),
        ("POST", "/leave", 500, "job-1"),
        ("POST", "", 422, "job-1"),
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
