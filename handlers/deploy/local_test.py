"""Test a service on this machine before it is deployed: load it, and send it one request."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from handlers.deploy.errors import DeployError, TooSlow

__all__ = ["LocalReport", "brief", "local_test"]

_LAST_LINES: Final = 3
_MAX_ERROR: Final = 600
_START: Final = 10.0
_PLACE: Final = re.compile(r'^ *File "([^"]+)", line (\d+)', re.MULTILINE)
_REFERENCE: Final = "{{"
"""Begins a value that only RunPod can fill in: {{ RUNPOD_SECRET_name }}."""


@dataclass(frozen=True, slots=True)
class LocalReport:
    """What the test showed."""

    routes: int
    longest: float | None
    """Seconds that the slowest job may take; None: no limit; 0: there are no job routes."""
    test: dict[str, Any]
    """The request: the given one, or one that was derived from the routes."""


def local_test(
    app: str, test: Mapping[str, Any] | None, *, folder: Path, env: Mapping[str, str], timeout: float
) -> LocalReport:
    """Run the test in a child process. Raises DeployError with one line, TooSlow when it hangs."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        log = Path(scratch) / "log.txt"
        asked = {"app": app, "test": dict(test or {}), "report": str(report), "timeout": timeout}
        code = _run(asked, log, folder, env, timeout)
        if not report.is_file():
            raise DeployError(f"the test of {app} on this machine ended with code {code}: {_end(log)}")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if "failed" in found:
        raise DeployError(str(found["failed"]))
    if found.get("late"):
        raise TooSlow(f"the test request {json.dumps(found['test'])} has not ended after {timeout:g} s")
    if found["error"]:
        raise DeployError(f"the test request {json.dumps(found['test'])} FAILED: {brief(found['error'])}")
    return LocalReport(found["routes"], found["longest"], found["test"])


def _run(asked: Mapping[str, Any], log: Path, folder: Path, env: Mapping[str, str], timeout: float) -> int:
    root = str(Path(__file__).parent.parent.parent)
    usable = {key: value for key, value in env.items() if _REFERENCE not in value}
    own = {key: value for key, value in os.environ.items() if key != "RUNPOD_API_KEY"}
    path = os.pathsep.join(part for part in (root, own.get("PYTHONPATH", "")) if part)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "handlers.deploy.smoke"],
            cwd=folder, env={**own, **usable, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
        try:
            # to load the app takes its time, too
            process.communicate(json.dumps(asked).encode(), timeout=2 * timeout + _START)
        except subprocess.TimeoutExpired:
            raise TooSlow(f"{asked['app']} did not load or does not end: {_end(log)}") from None
        finally:
            _kill(process)
    return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it with whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-_LAST_LINES:]) or "it said nothing"


def brief(error: Any) -> str:
    """Return the error of a job in one line: our workers send a problem as JSON, others what they like."""
    problem = error
    if isinstance(error, str):
        try:
            problem = json.loads(error)
        except ValueError:
            return error[:_MAX_ERROR] or "without a reason"
    if not isinstance(problem, dict) or not problem.get("detail"):
        return json.dumps(problem)[:_MAX_ERROR]
    detail = str(problem["detail"])
    raised = _raised(problem.get("traceback")) if problem.get("code") == "internal_error" else ""
    if raised:
        return raised[:_MAX_ERROR]
    errors = [
        f"{'.'.join(map(str, each.get('loc') or []))} {each.get('msg', '')}"
        for each in problem.get("errors") or []
        if isinstance(each, dict) and str(each.get("msg", "")) not in detail
    ]
    return "; ".join([detail, *errors[:3]])[:_MAX_ERROR]


def _raised(trace: Any) -> str:
    """Return what was raised and where, from the end of a traceback: without it, only a log would tell."""
    lines = trace.strip().splitlines() if isinstance(trace, str) else []
    places = _PLACE.findall("\n".join(lines))
    if not places:
        return ""
    path, number = places[-1]
    return f"{lines[-1].strip()} ({path}, line {number})"
