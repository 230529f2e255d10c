"""How a function starts: its service, its settings, its log, and what it calls for each kind of event."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handlers.aws import entry
from handlers.aws.events import UnknownEvent, sniff
from handlers.aws.function import LambdaApp, build
from handlers.aws.loop import PersistentLoop
from handlers.aws.provider import start
from handlers.aws.snapstart import after_restore, before_snapshot, register
from handlers.aws.telemetry import Telemetry
from router_core import Misconfigured, Router, Settings, build_app
from router_core.calls import CallService
from router_core.telemetry.events import JobMoved, Note, RequestDone
from router_core.testing.adapter_contract import Call
from tests.aws.lambda_events import Context, http_api, url

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Put back what a function does to the log of its process."""
    root, events = logging.getLogger(), logging.getLogger("router_core.events")
    before = root.handlers[:], root.level, events.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    events.setLevel(before[2])


def _calls() -> Router:
    router = Router()

    @router.get("/hello")
    def hello() -> dict[str, object]:
        return {"thread": threading.current_thread().name, "loop": asyncio.run(_one())}

    return router


async def _one() -> int:
    return 1


def _jobs() -> Router:
    router = Router()

    @router.route("/job")
    def job() -> int:
        return 1

    return router


def _body(reply: dict[str, Any]) -> Any:
    return json.loads(reply["body"])


# -- start -------------------------------------------------------------------------------------------


_SCRIPT = """
import sys
import handlers.aws.entry as entry

assert "handler" not in vars(entry)
handler = getattr(entry, "handler")
assert handler is entry.handler
event = {"requestContext": {"http": {"method": "GET", "path": "/count"}}, "rawPath": "/count"}
reply = handler(event, None)
assert reply["statusCode"] == 200, reply
names = ("router_core.jobs.runner", "router_core.wiring", "router_core.app", "router_core.binding.openapi",
         "handlers.local", "boto3", "multiprocessing", "sqlite3")
print([name for name in names if name in sys.modules])
"""


def test_importing_the_entry_does_nothing_and_asking_for_the_handler_builds_it() -> None:
    """In a process of its own, as the runtime does it; nothing of jobs or boto3 is loaded for a call."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": str(ROOT), "LAMBDA_TASK_ROOT": str(ROOT),
             "ROUTER_APP": "tests.aws.lambda_app:router"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_another_attribute_of_the_entry_is_not_there() -> None:
    """The usual error: nothing is built for it."""
    with pytest.raises(AttributeError, match="nix"):
        _ = entry.nix


def test_a_service_of_calls_answers_before_the_rest_is_there() -> None:
    """Sync functions run in place; what is no call of the author's is answered by the whole app."""
    handler = build({}, _calls())
    hello = _body(handler(http_api(Call("GET", "/hello")), Context()))
    assert hello == {"thread": threading.current_thread().name, "loop": 1}
    assert isinstance(handler._service, CallService)
    assert handler._service._app is None
    for path, status in (("/health", 200), ("/health/ready", 200), ("/openapi.json", 200), ("/nowhere", 404),
                         ("/jobs/0123456789abcdef", 404), ("/hello", 200)):  # fmt: skip
        assert handler(http_api(Call("GET", path)), Context())["statusCode"] == status, path
    assert handler(http_api(Call("POST", "/hello")), Context())["statusCode"] == 405
    handler.stop()


def test_a_job_is_not_taken_where_nobody_would_run_it() -> None:
    """A preference is no condition: the call is answered as it is."""
    handler = build({}, _calls())
    event = http_api(Call("GET", "/hello", "", (("prefer", "respond-async"),)))
    assert handler(event, Context())["statusCode"] == 200
    whole = LambdaApp(build_app(_calls(), Settings(jobs="memory://", blobs="memory://")), takes_jobs=False)
    whole.start()
    event["headers"]["host"] = "localhost"
    assert whole(event, Context())["statusCode"] == 200
    whole.stop()
    handler.stop()


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, ("ROUTER_JOBS", "ROUTER_QUEUE", "ROUTER_BLOBS")),
        ({"ROUTER_JOBS": "dynamodb://jobs", "ROUTER_BLOBS": "s3://bucket"}, ("ROUTER_QUEUE",)),
        ({"ROUTER_JOBS": "sqlite:///x.db", "ROUTER_QUEUE": "sqs://q"}, ("ROUTER_JOBS", "ROUTER_BLOBS")),
    ],
)
def test_job_routes_need_stores_that_outlive_the_process(
    environ: Mapping[str, str], missing: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused at the start, in one line that names the route and what to set."""
    with pytest.raises(Misconfigured) as raised:
        build(environ, _jobs())
    for name in ("ROUTER_JOBS", "ROUTER_QUEUE", "ROUTER_BLOBS"):
        assert (name in str(raised.value)) is (name in missing)
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"]) == ("error", "init_failed")
    assert "/job" in told["message"]


def test_start_up_hooks_run_once_and_a_failing_one_is_an_init_error() -> None:
    """Also when the whole app is built later."""
    router, said = _calls(), []

    @router.on_startup
    async def load() -> None:
        said.append("up")

    @router.on_shutdown
    def leave() -> None:
        said.append("down")

    handler = build({}, router)
    handler(http_api(Call("GET", "/nowhere")), Context())
    assert said == ["up"]
    handler.stop()
    assert said == ["up", "down"]

    broken = _calls()

    @broken.on_startup
    def fail() -> None:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        build({}, broken)


def test_api_keys_hold_on_lambda_as_elsewhere() -> None:
    """With one: in; without: 401."""
    handler = build({"ROUTER_API_KEYS": "ann:0123456789abcdef0123456789abcdef"}, _calls())
    assert handler(url(Call("GET", "/hello")), Context())["statusCode"] == 401
    key = (("authorization", "Bearer 0123456789abcdef0123456789abcdef"),)
    assert handler(url(Call("GET", "/hello", "", key)), Context())["statusCode"] == 200
    handler.stop()


def test_start_in_a_module_is_the_handler_inside_lambda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """``handler = router.start()``; elsewhere one line says what to do."""
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    with pytest.raises(Misconfigured, match="router-core deploy aws"):
        start(_calls(), Settings())
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
    handler = start(_calls(), Settings())
    assert handler(url(Call("GET", "/hello")), Context())["statusCode"] == 200
    handler.stop()


# -- events ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"Records": [{"eventSource": "aws:s3"}]}, "aws:s3"), ({"Records": []}, "'Records'"),
        ({"Records": [{"EventSource": "aws:sns"}]}, "aws:sns"), ({"Records": [5]}, "'Records'"),
        ({"source": "aws.ec2", "detail-type": "State"}, "aws.ec2"), ({}, "nothing in it"), (None, "NoneType"),
        ([1], "list"), ({"requestContext": {"eventType": "CONNECT"}}, "'requestContext'"),
        ({"password": "hunter2"}, "'password'"),
    ],
)  # fmt: skip
def test_an_event_of_no_kind_is_named_without_its_values(event: object, said: str) -> None:
    """What was seen, for whoever connected the wrong thing; values may be secrets."""
    with pytest.raises(UnknownEvent) as raised:
        sniff(event)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_events_are_told_apart() -> None:
    """Those that are no HTTP."""
    assert sniff({"Records": [{"eventSource": "aws:sqs"}]}) == "sqs"
    assert sniff({"source": "aws.events", "detail-type": "Scheduled Event"}) == "schedule"
    assert sniff({"path": "/hello"}) == sniff({"input": {"a": 1}}) == "direct"


def test_a_direct_call_names_the_route() -> None:
    """The SDK's invoke: the value itself, or an error that says what is wrong."""
    handler = build({}, _calls())
    answer = handler({"path": "/hello", "method": "GET"}, Context())
    assert "loop" in json.dumps(answer)
    assert "error" in json.dumps(handler({"path": "/nowhere"}, Context()))
    handler.stop()


def test_a_misspelt_setting_is_remarked_upon(capsys: pytest.CaptureFixture[str]) -> None:
    """Once, at the start; the variables of the platform are none of ours."""
    build({"ROUTER_JOBBS": "x", "ROUTER_LAMBDA_ROLE": "jobs", "AWS_REGION": "us-east-1"}, _calls()).stop()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["message"].startswith("ROUTER_JOBBS is no setting")


# -- the loop ----------------------------------------------------------------------------------------


def test_the_loop_lives_through_errors_and_keeps_what_was_opened() -> None:
    """One loop for all calls; what one raised is its own affair."""
    loop, seen = PersistentLoop(), []

    async def call(fail: bool, wait: bool) -> int:
        seen.append(asyncio.get_running_loop())
        assert asyncio.current_task() is not None
        async with asyncio.timeout(60):
            if wait:
                await asyncio.sleep(0.001)
            if fail:
                raise ValueError("no")
        return 1

    for fail, wait in ((False, False), (True, False), (True, True), (False, True)):
        if fail:
            with pytest.raises(ValueError, match="no"):
                loop.run(call(fail, wait))
        else:
            assert loop.run(call(fail, wait)) == 1
    assert len(set(seen)) == 1
    loop.close()
    assert loop.run(call(False, True)) == 1  # somebody has closed it: there is another one
    loop.close()


def test_nothing_is_left_running_after_a_call() -> None:
    """A task gets a moment to end, then it is cancelled; those of the start-up are kept."""
    loop, said = PersistentLoop(), []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append(name)

    async def soon() -> None:
        await asyncio.sleep(0.01)
        said.append("soon")

    async def up() -> asyncio.Task[None]:
        return asyncio.create_task(forever("kept"))

    async def call() -> tuple[asyncio.Task[None], asyncio.Task[None]]:
        return asyncio.create_task(forever("left")), asyncio.create_task(soon())

    kept = loop.start(up())
    left = loop.run(call(), linger=0.1)
    assert said == ["soon", "left"]
    assert all(task.done() for task in left)
    assert not kept.done()
    kept.cancel()
    loop.run(asyncio.wait_for(_ended(kept), 60))
    loop.close()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


# -- the log -----------------------------------------------------------------------------------------


def _telemetry(environ: Mapping[str, str], **settings: Any) -> tuple[Telemetry, io.StringIO]:
    stream = io.StringIO()
    return Telemetry(Settings(**settings), environ, stream), stream


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_names_its_invocation_and_whether_it_was_a_cold_start() -> None:
    """Requests, notes and the logging module's records; the second call is warm."""
    telemetry, stream = _telemetry(
        {"AWS_LAMBDA_FUNCTION_NAME": "f", "_X_AMZN_TRACE_ID": "Root=1-2;Sampled=0"}
    )
    telemetry.install()
    for request_id in ("first", "second"):
        telemetry.begin(Context(request_id=request_id))
        telemetry(RequestDone("GET", "/a", "/a", 200, 0.01, "r-1"))
        telemetry(Note("odd", "warning", "something", error=ValueError("x")))
        logging.getLogger("author").info("hello %s", "world")
    telemetry.restored()
    telemetry.begin(Context(request_id="third"))
    telemetry(Note("odd", "warning"))
    lines = _lines(stream)
    assert [line["function_request_id"] for line in lines] == ["first"] * 3 + ["second"] * 3 + ["third"]
    assert [line["cold_start"] for line in lines] == [True] * 3 + [False] * 3 + [True]
    assert {line["trace_id"] for line in lines} == {"1-2"}
    assert {line["service"] for line in lines} == {"f"}
    assert [line["event"] for line in lines[:3]] == ["request", "odd", "log"]
    assert "ValueError" in lines[1]["traceback"]
    assert lines[2]["message"] == "hello world"


def test_figures_are_in_the_embedded_metric_format() -> None:
    """Cold starts, requests by class of status, ends and durations of jobs; also where no line is wanted."""
    telemetry, stream = _telemetry({"POWERTOOLS_METRICS_NAMESPACE": "shop"}, log_level="error")
    telemetry.begin(Context())
    telemetry(RequestDone("GET", "/a", "/a", 404, 0.0125, "r-1"))
    telemetry(JobMoved("j", "/job", "succeed", "succeeded", seconds=2.0))
    telemetry(JobMoved("j", "/job", "claim", "running"))
    cold, request, job = _lines(stream)
    assert (cold["ColdStarts"], request["Requests"], request["RequestDuration"]) == (1, 1, 12.5)
    assert (request["status_class"], job["JobsSucceeded"], job["JobDuration"]) == ("4xx", 1, 2000.0)
    directive = request["_aws"]["CloudWatchMetrics"][0]
    assert directive["Namespace"] == "shop"
    assert directive["Dimensions"] == [["service"], ["service", "status_class"]]
    for line in (cold, request, job):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        for definition in directive["Metrics"]:
            assert isinstance(line[definition["Name"]], (int, float))
        for dimension in {name for names in directive["Dimensions"] for name in names}:
            assert isinstance(line[dimension], str)


def test_without_a_namespace_there_are_no_figures_and_text_is_possible() -> None:
    """A log for people."""
    telemetry, stream = _telemetry({}, log_format="text")
    telemetry(RequestDone("GET", "/a", "/a", 200, 0.01, "r-1"))
    assert "GET /a 200" in stream.getvalue()
    assert "_aws" not in stream.getvalue()


# -- SnapStart ---------------------------------------------------------------------------------------


def test_a_thawed_process_is_another_one() -> None:
    """Other worker and request ids, other random numbers, a cold start; it answers on the same loop."""
    handler = build({}, _calls())
    handler(url(Call("GET", "/hello")), None)
    before = handler.worker_id, handler.calls._ids.new()[:20]
    random.seed(1)
    expected = random.random()
    random.seed(1)
    before_snapshot()
    after_restore(handler)
    assert random.random() != expected
    assert handler.worker_id != before[0]
    handler.calls._ids.context = None
    assert handler.calls._ids.new()[:20] != before[1]
    assert handler.telemetry._thawed
    assert handler(url(Call("GET", "/hello")), Context())["statusCode"] == 200
    handler.stop()


def test_hooks_are_registered_where_snapshots_are_made() -> None:
    """With the library of the managed runtime; nowhere else."""
    library = pytest.importorskip("snapshot_restore_py", reason="the SnapStart library is not installed")
    handler = build({}, _calls())
    assert not register(handler, {})
    assert register(handler, {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})
    assert library.get_before_snapshot()
    assert library.get_after_restore()
    handler.stop()
