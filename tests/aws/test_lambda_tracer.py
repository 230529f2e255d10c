"""The opt-in tracer: the real X-Ray SDK sends to a socket that stands where its daemon would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.aws.function import LambdaApp, build
from router_core import Router
from router_core.errors import Misconfigured
from router_core.testing.adapter_contract import Call
from router_core.testing.lambda_runtime_api import RuntimeApi
from tests.aws.lambda_events import url

_ROOT = Path(__file__).parent.parent.parent
_SERVICE = [sys.executable, "-m", "tests.aws.traced_service"]


def _run(**environ: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the service printed, and the segments that it sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(0.2)
        host, port = daemon.getsockname()
        given = {
            "PATH": os.environ["PATH"], "LAMBDA_TASK_ROOT": str(_ROOT), "POWERTOOLS_SERVICE_NAME": "greeter",
            "ROUTER_TRUSTED_HOSTS": "*", "AWS_XRAY_DAEMON_ADDRESS": f"{host}:{port}", **environ,
        }  # fmt: skip
        done = subprocess.run(
            _SERVICE, cwd=_ROOT, env=given, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return lines, _received(daemon)


def _received(daemon: socket.socket) -> list[dict[str, Any]]:
    segments: list[dict[str, Any]] = []
    while True:
        try:
            text = daemon.recv(65536).decode()
        except TimeoutError:
            return segments
        header, _, body = text.partition("\n")
        assert json.loads(header) == {"format": "json", "version": 1}
        segments.append(json.loads(body))


@pytest.mark.process
def test_a_streamed_answer_is_a_span_as_well() -> None:
    """In the runtime of our own, to the end of the stream."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon, RuntimeApi() as api:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(60)
        host, port = daemon.getsockname()
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "AWS_LAMBDA_RUNTIME_API": api.address,
            "LAMBDA_TASK_ROOT": str(_ROOT), "ROUTER_APP": "tests.aws.lambda_app:router",
            "ROUTER_TRACER": "powertools", "AWS_XRAY_DAEMON_ADDRESS": f"{host}:{port}",
        }  # fmt: skip
        command = [sys.executable, "-m", "handlers.aws.runtime"]
        process = subprocess.Popen(command, cwd=_ROOT, env=environ, stdout=subprocess.DEVNULL)
        try:
            answer = api.invoke(url(Call("GET", "/count"))).wait()
            span = json.loads(daemon.recv(65536).decode().partition("\n")[2])
        finally:
            process.kill()
            process.wait()
    assert answer.prelude["statusCode"] == 200
    assert span["annotations"]["Route"] == "/count"
    assert span["trace_id"] == "1-5c536348-3d683b8b04734faae651f476"


def test_each_invocation_becomes_a_span() -> None:
    """It says which route answered what, whether the start was cold, and what went wrong."""
    lines, spans = _run(ROUTER_TRACER="powertools")
    assert [line["status"] for line in lines if "status" in line and "event" not in line] == [
        200, 500, 404, "raised", 200,
    ]  # fmt: skip
    greeted, broken, nowhere, raised, job = spans
    assert {span["name"] for span in spans} == {"## handler"}
    assert {span["type"] for span in spans} == {"subsegment"}
    assert greeted["trace_id"] == "1-5e1b4151-000000000000000000000000"
    assert greeted["parent_id"] == "0000000000000001"
    marks = greeted["annotations"]
    assert marks.pop("RequestId")
    assert marks == {
        "Route": "/hello/{name}", "Method": "GET", "Status": 200, "ColdStart": True, "Service": "greeter",
    }  # fmt: skip
    assert "fault" not in greeted
    assert broken["fault"] is True
    assert broken["annotations"]["ColdStart"] is False
    (error,) = broken["cause"]["exceptions"]
    assert (error["type"], error["message"]) == ("ZeroDivisionError", "by nothing")
    assert error["stack"][-1]["label"] == "broken"
    assert nowhere["annotations"]["Status"] == 404
    assert "Route" not in nowhere["annotations"]
    assert raised["cause"]["exceptions"][0]["type"] == "UnknownEvent"
    (job_id,) = job["metadata"]["greeter"]["jobs"]
    assert job["annotations"]["JobId"] == job_id
    assert job["metadata"]["greeter"]["jobs"][job_id] == {"route": "/double", "state": "succeeded"}


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    """A cold start does not pay for it."""
    lines, spans = _run()
    assert lines[0] == {"modules": []}
    assert spans == []


def test_what_is_not_sampled_is_not_sent() -> None:
    """The tracer's own switch works as well."""
    lines, spans = _run(ROUTER_TRACER="powertools", POWERTOOLS_TRACE_DISABLED="true")
    assert any("powertools" in name for name in lines[0]["modules"])
    assert spans == []


@pytest.mark.parametrize("module", ["aws_xray_sdk", "aws_xray_sdk.core", "aws_lambda_powertools"])
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    """In one line of the log, and in the error that ends the start."""
    from aws_lambda_powertools import Tracer

    monkeypatch.setattr(Tracer, "_config", dict(Tracer._default_config))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Misconfigured, match=r"aws-lambda-powertools\[tracer\]"):
        build({"ROUTER_TRACER": "powertools"}, Router())
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["code"] == "misconfigured"


def test_another_tracer_is_refused() -> None:
    """A word that nothing is known by."""
    with pytest.raises(Misconfigured, match="it must be powertools"):
        build({"ROUTER_TRACER": "xray"}, Router())


def test_a_handler_without_a_tracer_has_no_span() -> None:
    """What the streaming runtime puts around an invocation does nothing then."""
    handler = build({"ROUTER_TRACER": " "}, Router())
    assert type(handler) is LambdaApp
    with handler.traced() as span:
        assert span is None
    handler.stop()
