"""What the template has to know of an app's job routes, found out in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.deploy.errors import DeployError, NotPrepared
from handlers.deploy.progress import Progress
from router_core.settings import Settings

__all__ = ["LIMIT", "Facts", "find_facts", "fit"]

LIMIT: Final = 900.0
"""Seconds after which Lambda ends every function."""
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The job routes of an app, taken together."""

    jobs: int
    """How many there are."""
    longest: float
    """Most seconds that one was given; 0 where none was."""
    unlimited: tuple[str, ...]
    """Those that were given no limit of their own."""
    attempts: int
    """Most attempts that one allows."""


def find_facts(app: str, folder: Path) -> Facts:
    """Load the app in a child process and look. Raises DeployError with why it cannot be loaded."""
    root = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-P", "-m", "handlers.deploy.aws_facts", app]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeployError(f"{app} has not been imported after {_SECONDS:g} s") from None
    line = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(line)
    except ValueError:
        told = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise DeployError(f"{app} cannot be loaded: {told}") from None
    if "error" in found:
        raise DeployError(str(found["error"]))
    return Facts(found["jobs"], found["longest"], tuple(found["unlimited"]), found["attempts"])


def fit(facts: Facts, parameters: dict[str, str], before: Mapping[str, str], progress: Progress) -> None:
    """Check that jobs fit into the function, and let messages live as long as their jobs have attempts."""
    if not facts.jobs:
        return
    allowed = float(parameters.get("JobTimeout") or before.get("JobTimeout") or LIMIT)
    # the end of an invocation is kept for writing what became of the job
    kept = min(Settings().lambda_grace, allowed / 4)
    if facts.longest > LIMIT - kept:
        raise NotPrepared(
            f"a job may take {facts.longest:g} s, and Lambda ends every function after {LIMIT:g} s, of which "
            f"{kept:g} s are kept to write its end: set a lower timeout= at its route, or deploy it to RunPod"
        )
    if facts.longest > allowed - kept:
        raise NotPrepared(
            f"a job may take {facts.longest:g} s, and JobTimeout is {allowed:g} s, of which {kept:g} s are "
            "kept to write its end: raise it"
        )
    if facts.unlimited:
        progress.say(
            f"  note: {', '.join(facts.unlimited)}: no timeout= given; an attempt that takes "
            f"{allowed - kept:g} s has timed out (one that keeps its steps in JobContext.once goes on)"
        )
    least = 2 * facts.attempts + 4
    if "MaxReceiveCount" not in parameters and least > int(before.get("MaxReceiveCount") or 10):
        parameters["MaxReceiveCount"] = str(least)


def main(app: str) -> None:
    """Print the facts as the last line."""
    from handlers.loader import load
    from router_core.errors import Misconfigured
    from router_core.routing.route import JobOptions

    try:
        routes = [route for route in load(app).routes if route.kind == "job" and not route.internal]
    except Misconfigured as error:
        print(json.dumps({"error": str(error)}))
        return
    usual = JobOptions().timeout
    given = [route.job.timeout for route in routes if route.job.timeout not in (None, usual)]
    print(json.dumps({
        "jobs": len(routes),
        "longest": max((limit for limit in given if limit), default=0.0),
        "unlimited": [route.path for route in routes if route.job.timeout in (None, usual)],
        "attempts": max((route.job.max_attempts or 1 for route in routes), default=1),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
