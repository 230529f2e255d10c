"""The streaming runtime, as its own process, against a stand-in for Lambda's runtime API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.adapter_contract import Call
from router_core.testing.lambda_runtime_api import Invocation, RuntimeApi
from tests.aws.lambda_events import http_api, url

ROOT = Path(__file__).parent.parent.parent
OWN = (sys.executable, "-m", "handlers.aws.runtime")
AWS = (sys.executable, "-m", "awslambdaric", "handlers.aws.entry.handler")
_MARK = b"\0" * 8


@contextlib.contextmanager
def _running(
    api: RuntimeApi, command: tuple[str, ...], environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    variables = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "AWS_LAMBDA_RUNTIME_API": api.address,
        "ROUTER_APP": "tests.aws.lambda_app:router", "LAMBDA_TASK_ROOT": str(ROOT), "AWS_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": "service", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "PYTHONWARNINGS": "error", **(environ or {}),
    }  # fmt: skip
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def api() -> Iterator[RuntimeApi]:
    """Pretend to be Lambda, with one streaming runtime that asks for calls."""
    with RuntimeApi() as stand_in, _running(stand_in, OWN):
        yield stand_in


def _get(path: str, query: str = "", **headers: str) -> dict[str, Any]:
    return url(Call("GET", path, query, tuple(headers.items())))


def _body(call: Invocation) -> bytes:
    return call.wait().content


@pytest.mark.process
@pytest.mark.parametrize("path", ["/steps", "/threaded"])
def test_a_piece_arrives_before_the_next_is_made(api: RuntimeApi, tmp_path: Path, path: str) -> None:
    """The function waits for a file that is only made once the piece before has come."""
    call = api.invoke(_get(path, f"gate={tmp_path}&to=3", accept="application/x-ndjson"))
    head = call.piece()
    assert head is not None
    assert head.endswith(_MARK)
    for number in range(3):
        assert call.pieces.empty()
        (tmp_path / str(number)).touch()
        piece = call.piece()
        assert piece is not None
        assert str(number).encode() in piece
    assert call.piece() is None
    answer = call.wait()
    assert answer.complete
    assert answer.failure is None
    assert answer.headers["lambda-runtime-function-response-mode"] == "streaming"
    assert answer.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert answer.prelude["statusCode"] == 200
    assert answer.prelude["headers"]["content-type"] == "application/x-ndjson"


@pytest.mark.process
def test_a_plain_answer_of_a_url_is_sent_the_same_way(api: RuntimeApi) -> None:
    """Status, headers and body in one answer; an error is one as well."""
    call = api.invoke(
        url(Call("POST", "/order", "", (("content-type", "application/json"),), b'{"name": 1}'))
    )
    answer = call.wait()
    assert answer.prelude["statusCode"] == 422
    assert json.loads(answer.content)["code"] == "validation_failed"
    assert api.invoke(_get("/refused")).wait().prelude["statusCode"] == 418
    assert api.invoke(_get("/nowhere")).wait().prelude["statusCode"] == 404
    large = api.invoke(_get("/large", "size=7000000")).wait()  # a stream may be larger than a whole answer
    assert len(large.content) == 7_000_002


@pytest.mark.process
def test_an_error_in_the_middle_is_told_at_the_end(api: RuntimeApi) -> None:
    """The status is out already: the trailer says what happened. The next call is answered."""
    answer = api.invoke(_get("/raw")).wait()
    assert answer.content == b"one"
    assert answer.prelude["cookies"] == ["a=1", "b=2"]
    assert answer.trailers["lambda-runtime-function-error-type"] == "ValueError"
    failure = answer.failure
    assert failure is not None
    assert failure["errorMessage"] == "the second piece is broken"
    assert api.invoke(_get("/count")).wait().prelude["statusCode"] == 200


@pytest.mark.process
def test_a_reader_that_leaves_stops_the_function(api: RuntimeApi, tmp_path: Path) -> None:
    """The generator's clean-up runs where it stands, and the runtime goes on."""
    call = api.invoke(_get("/steps", f"gate={tmp_path}&to=9", accept="application/x-ndjson"))
    call.piece()
    (tmp_path / "0").touch()
    call.piece()
    call.cut()
    _until((tmp_path / "ended").exists)
    assert not call.wait().complete
    assert api.invoke(_get("/count")).wait().prelude["statusCode"] == 200


@pytest.mark.process
def test_a_stream_ends_before_the_function_is_killed(api: RuntimeApi, tmp_path: Path) -> None:
    """With what there is, and a trailer that says why."""
    (tmp_path / "0").touch()
    call = api.invoke(_get("/steps", f"gate={tmp_path}&to=2", accept="application/x-ndjson"), seconds=1.2)
    answer = call.wait()
    assert answer.content == b'{"n":0}\n'
    failure = answer.failure
    assert failure is not None
    assert failure["errorType"] == "OutOfTime"
    assert (tmp_path / "ended").exists()


@pytest.mark.process
def test_other_events_are_answered_whole(api: RuntimeApi) -> None:
    """An HTTP API buffers; an event of no kind is an error of the call."""
    answer = api.invoke(http_api(Call("GET", "/count"))).wait()
    assert "lambda-runtime-function-response-mode" not in answer.headers
    assert answer.json()["statusCode"] == 200
    failed = api.invoke({"Records": [{"eventSource": "aws:s3"}]}).wait()
    assert failed.kind == "error"
    assert failed.headers["lambda-runtime-function-error-type"] == "UnknownEvent"
    assert "aws:s3" in failed.json()["errorMessage"]
    broken = api.invoke(b"{").wait()
    assert broken.kind == "error"
    assert api.invoke(http_api(Call("GET", "/count"))).wait().json()["statusCode"] == 200


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "set ROUTER_APP"),
        ("tests.aws.nowhere:router", "tests.aws.nowhere"),
        ("tests.aws.lambda_app:nix", "nix"),
    ],
)
def test_a_service_that_cannot_start_says_so(name: str, said: str) -> None:
    """To Lambda, and in one line of the log."""
    with RuntimeApi() as api, _running(api, OWN, {"ROUTER_APP": name}) as process:
        told = api.init_errors.get(timeout=20)
        assert told["errorType"] == "Misconfigured"
        assert said in told["errorMessage"]
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["event"] for line in lines] == ["init_failed"]
        assert said in lines[0]["message"]


@pytest.mark.process
def test_outside_of_lambda_the_runtime_says_what_it_is() -> None:
    """One line, and an exit code of its own."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    done = subprocess.run(OWN, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.process
def test_the_wrapper_script_starts_the_runtime(tmp_path: Path) -> None:
    """As AWS_LAMBDA_EXEC_WRAPPER calls it: with the interpreter and the program that it replaces."""
    wrapper = ROOT / "handlers" / "aws" / "bootstrap"
    assert os.access(wrapper, os.X_OK)
    with RuntimeApi() as api, _running(api, (str(wrapper), sys.executable, "/var/runtime/bootstrap.py")):
        assert api.invoke(_get("/count")).wait(60).prelude["statusCode"] == 200


@pytest.mark.process
def test_the_client_of_aws_runs_against_the_stand_in() -> None:
    """Unmodified: so the stand-in speaks the protocol, and our handler serves in the managed runtime."""
    pytest.importorskip("awslambdaric", reason="AWS's runtime client is not installed")
    with RuntimeApi(limit=100_000) as api, _running(api, AWS, {"PYTHONWARNINGS": "ignore"}):
        replies = [api.invoke(http_api(Call("GET", "/count"))).wait(60).json() for _ in range(3)]
        assert [json.loads(reply["body"])["calls"] for reply in replies] == [1, 2, 3]
        failed = api.invoke({"what": "is this"}).wait(60)
        assert (failed.kind, failed.json()["errorType"]) == ("error", "UnknownEvent")


def _until(condition: Any) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
