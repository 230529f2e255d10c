"""The handler in AWS's own runtime: awslambdaric under the runtime interface emulator."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.adapter_contract import Call
from router_core.testing.lambda_rie import Emulator, Invoked
from tests.aws.lambda_events import alb, http_api, received, rest_api, url
from tests.parts import rie_binary

ROOT = Path(__file__).parent.parent.parent
ENVIRON = {
    "PYTHONPATH": str(ROOT), "LAMBDA_TASK_ROOT": str(ROOT), "ROUTER_APP": "tests.aws.lambda_app:router",
}  # fmt: skip

pytestmark = pytest.mark.process


def _emulator(timeout: int = 20, **environ: str) -> Emulator:
    pytest.importorskip("awslambdaric", reason="AWS's runtime client is not installed")
    binary = rie_binary()
    return Emulator(
        binary, "handlers.aws.entry.handler", environ={**ENVIRON, **environ}, timeout=timeout, folder=ROOT
    )


@pytest.fixture(scope="module")
def function() -> Iterator[Emulator]:
    """Run one execution environment."""
    with _emulator() as emulator:
        yield emulator


def _get(function: Emulator, path: str, query: str = "") -> Invoked:
    return function.invoke(url(Call("GET", path, query)))


def _reply(called: Invoked) -> Any:
    return json.loads(received(called.json()).body)


def test_the_process_is_started_once_and_used_again(function: Emulator) -> None:
    """The hooks run in the init phase; the second call finds the process of the first."""
    first, second = _reply(_get(function, "/count")), _reply(_get(function, "/count"))
    assert second == {"calls": first["calls"] + 1, "pid": first["pid"]}
    log = function.log()
    assert log.count("loaded\n") == 1
    assert log.index("loaded\n") < log.index("INIT REPORT")
    requests = [json.loads(line) for line in log.splitlines() if '"event":"request"' in line]
    assert [line["cold_start"] for line in requests[:2]] == [True, False]
    assert len({line["function_request_id"] for line in requests}) == len(requests)


@pytest.mark.parametrize("shape", [http_api, url, rest_api, alb])
def test_every_front_door_is_answered(function: Emulator, shape: Any) -> None:
    """Validated, in the shape of the event."""
    call = Call(
        "POST", "/order", "", (("content-type", "application/json"),), '{"name": "é", "count": 2}'.encode()
    )
    answer = received(function.invoke(shape(call)).json())
    assert (answer.status, json.loads(answer.body)) == (200, {"name": "é", "count": 2})


def test_errors_of_a_call_are_answers(function: Emulator) -> None:
    """No error of the function: the next call is warm."""
    pid = _reply(_get(function, "/count"))["pid"]
    assert _get(function, "/broken").json()["statusCode"] == 500
    assert "secret" not in _get(function, "/broken").body.decode()
    assert _get(function, "/refused").json()["statusCode"] == 418
    assert _get(function, "/nowhere").json()["statusCode"] == 404
    assert _reply(_get(function, "/count"))["pid"] == pid


def test_an_unknown_event_is_an_error_of_the_function(function: Emulator) -> None:
    """It names what was seen, and the process lives on."""
    pid = _reply(_get(function, "/count"))["pid"]
    failed = function.invoke({"Records": [{"eventSource": "aws:kinesis"}]}).json()
    assert failed["errorType"] == "UnknownEvent"
    assert "aws:kinesis" in failed["errorMessage"]
    assert _reply(_get(function, "/count"))["pid"] == pid


def test_a_reply_above_the_limit_is_a_problem_and_not_the_end_of_the_process(function: Emulator) -> None:
    """Lambda would take the process down for it; just below it goes through."""
    pid = _reply(_get(function, "/count"))["pid"]
    large = _get(function, "/large", "size=6500000").json()
    assert (large["statusCode"], json.loads(large["body"])["code"]) == (500, "reply_too_large")
    below = _get(function, "/large", "size=6280000")
    assert below.status == 200
    assert len(below.json()["body"]) == 6_280_002
    assert _reply(_get(function, "/count"))["pid"] == pid


def test_a_crash_ends_one_call_only(function: Emulator) -> None:
    """The next one starts another process."""
    pid = _reply(_get(function, "/count"))["pid"]
    assert _get(function, "/crash").status == 502
    assert _reply(_get(function, "/count"))["pid"] != pid


def test_a_function_that_takes_too_long_is_killed_and_started_again() -> None:
    """What Lambda does; a sync wait would have been answered before."""
    with _emulator(timeout=2) as function:
        assert _get(function, "/sleep", "seconds=0.01").json()["statusCode"] == 200
        assert b"timed out" in _get(function, "/busy", "seconds=20").body
        assert _reply(_get(function, "/count"))["calls"] == 1


def test_a_service_that_cannot_start_says_why() -> None:
    """Once in the log, as one line of ours, and in the error that Lambda shows."""
    with _emulator(ROUTER_APP="tests.aws.lambda_app:nix") as function:
        called = _get(function, "/count")
        assert called.status == 502
        log = function.log()
        lines = [json.loads(line) for line in log.splitlines() if '"event":"init_failed"' in line]
        assert lines
        assert "nix" in lines[0]["message"]
        assert "Misconfigured" in log


def test_many_callers_are_served_by_many_environments() -> None:
    """Each takes one call at a time, as on AWS; all answers are right and each process is used again."""
    count = min(2, os.cpu_count() or 1)
    emulators = [_emulator() for _ in range(count)]
    try:
        for emulator in emulators:
            emulator.__enter__()
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda n: _reply(_get(emulators[n % count], "/count")), range(40)))
    finally:
        for emulator in emulators:
            emulator.__exit__()
    seen: dict[int, list[int]] = {}
    for reply in replies:
        seen.setdefault(reply["pid"], []).append(reply["calls"])
    assert len(seen) == count
    assert all(sorted(calls) == list(range(1, 40 // count + 1)) for calls in seen.values())


def test_the_emulator_measures_how_long_the_start_took(function: Emulator) -> None:
    """For the benchmark: there is a figure for each start."""
    _get(function, "/count")
    assert all(0 < ms < 30_000 for ms in function.init_ms())
    assert re.search(r"INIT REPORT", function.log())
