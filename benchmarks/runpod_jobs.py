"""Our RunPod worker against a bare handler in the same SDK: jobs a second, CPU for each, time to start.

Both poll a pretended platform in this process, one after the other. As they come means: what a user gets who
sets nothing. The bare SDK runs one job a second then: it looks once a second whether its only slot is free.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.load import ROOT, pinned
from benchmarks.report import Row, Skip, median
from router_core.testing.runpod_api import RunpodApi

_OURS: Final = ("-m", "handlers.runpod", "benchmarks.apps.runpod_ours:router")
_BARE: Final = ("-m", "benchmarks.peers.runpod_bare")
_QUIET: Final = {"RUNPOD_LOG_LEVEL": "ERROR", "ROUTER_LOG_LEVEL": "error"}
_SLOTS: Final = 50
_BATCH: Final = 250
_ROUNDS: Final = 3
_STARTS: Final = 5


@dataclass(frozen=True, slots=True)
class _Worker:
    """One that runs, and its platform."""

    api: RunpodApi
    process: subprocess.Popen[bytes]
    started: float
    """Seconds from its start to its first question for jobs."""

    def load(self, jobs: int, given: Mapping[str, Any]) -> tuple[float, float]:
        """Run so many jobs that wait together; returns jobs/s and milliseconds of CPU for one."""
        before = _cpu_seconds(self.process.pid)
        began = time.perf_counter()
        ids = self.api.submit_all([{**given, "n": n} for n in range(jobs)])
        ended = self.api.all_ended(ids, 300)
        seconds = time.perf_counter() - began
        if [job.output for job in ended] != [{"n": n} for n in range(jobs)]:
            raise RuntimeError("a job has another result")
        return jobs / seconds, (_cpu_seconds(self.process.pid) - before) / jobs * 1000


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of another process: its clock, as the ticks of /proc are too coarse for this."""
    return time.clock_gettime((~pid << 3) | 2)


def run() -> list[Row | Skip]:
    """Return the ratios of throughput, CPU and start."""
    if importlib.util.find_spec("runpod") is None:
        return [Skip("RunPod worker", "the runpod SDK is not installed")]
    return [*_throughput(), *_cpu(), *_start()]


def _throughput() -> list[Row | Skip]:
    """One worker each, nothing set."""
    with _worker(_BARE, "0") as bare:
        theirs, _ = bare.load(6, {})
    rows: list[Row | Skip] = []
    with _worker(_OURS) as ours:
        ours.load(50, {"path": "/noop"})
        for path in ("/noop", "/blocking", "/job"):
            rate = median([ours.load(300, {"path": path})[0] for _ in range(_ROUNDS)])
            name = f"RunPod: short jobs/s, as they come: {path[1:]}"
            rows.append(Row(name, f"{rate:.0f}/s", f"bare SDK {theirs:.1f}/s", rate / theirs, 2.0))
    return rows


def _cpu() -> list[Row | Skip]:
    """The same number of slots, and nothing logged: what a job costs."""
    slots = str(_SLOTS)
    with (
        _worker(_BARE, slots, **_QUIET) as bare,
        _worker(_OURS, **_QUIET, ROUTER_RUNPOD_CONCURRENCY=slots) as ours,
    ):
        found: dict[str, list[tuple[float, float]]] = {"": [], "/noop": [], "/blocking": [], "/job": []}
        for _ in range(_ROUNDS):
            found[""].append(bare.load(_BATCH, {}))
            for path in ("/noop", "/blocking", "/job"):
                found[path].append(ours.load(_BATCH, {"path": path}))
    cost = {path: median([each[1] for each in rounds]) for path, rounds in found.items()}
    rate = {path: median([each[0] for each in rounds]) for path, rounds in found.items()}
    rows: list[Row | Skip] = [
        Row(f"RunPod: CPU of a job, {slots} slots: {path[1:]}", f"{cost[path]:.2f} ms",
            f"bare SDK {cost['']:.2f} ms", cost[path] / cost[""], goal, at_least=False)
        for path, goal in (("/noop", 1.0), ("/blocking", 1.2), ("/job", 2.0))
    ]  # fmt: skip
    rows.append(
        Row(f"RunPod: short jobs/s, {slots} slots: noop", f"{rate['/noop']:.0f}/s",
            f"bare SDK {rate['']:.0f}/s", rate["/noop"] / rate[""], 2.0)
    )  # fmt: skip
    return rows


def _start() -> list[Row | Skip]:
    """From the start of the process to its first question for jobs; runs alternate."""
    ours, bare = [], []
    for _ in range(_STARTS):
        with _worker(_BARE, "0") as worker:
            bare.append(worker.started)
        with _worker(_OURS) as worker:
            ours.append(worker.started)
    a, b = median(ours), median(bare)
    return [
        Row("RunPod: start of a worker", f"{a * 1000:.0f} ms", f"bare SDK {b * 1000:.0f} ms", a / b, 1.0,
            at_least=False)
    ]  # fmt: skip


@contextlib.contextmanager
def _worker(command: Sequence[str], *words: str, **environ: str) -> Iterator[_Worker]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "RUNPOD_"))}
    with tempfile.TemporaryDirectory() as folder, RunpodApi(poll=1.0) as api:
        env = {**inherited, "HOME": folder, "PYTHONPATH": str(ROOT), **api.environ(), **environ}
        with (Path(folder) / "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*pinned(1), sys.executable, *command, *words], cwd=folder, env=env, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            api.wait(lambda: any(seen.action.startswith("job-take") for seen in api.requests), 60, "a worker")
            yield _Worker(api, process, time.perf_counter() - began)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
