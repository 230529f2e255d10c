"""Real worker processes that are killed, frozen and terminated, on a real SQLite file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydantic_core
import pytest

from router_core.jobs.failpoints import VARIABLE
from router_core.jobs.job import Job, State
from router_core.jobs.settle import MAX_INLINE
from router_core.stores.sqlite import SqliteJobStore
from router_core.types import new_id
from tests.apps.run_worker import LEASE
from tests.jobs.running import eventually

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@dataclass
class Site:
    """A folder with a database, and the processes that worked on it."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start a worker and wait until it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.apps.run_worker", str(self.folder), *arguments],
            cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    async def add(self, route: str, count: int = 1, **values: object) -> list[str]:
        """Add jobs while no worker has the file."""
        store = SqliteJobStore(self.folder / "jobs.db")
        await store.open()
        ids = []
        for _ in range(count):
            now = time.time()
            job = Job(
                id=new_id(), owner="tester", route=route, state=State.QUEUED, created_at=now, rank=now,
                input=pydantic_core.to_json({"folder": str(self.folder), **values}), timeout=60.0,
            )  # fmt: skip
            ids.append((await store.add(job)).job.id)
        await store.close()
        return ids

    async def records(self, ids: list[str]) -> list[Job]:
        """Read records while no worker has the file."""
        store = SqliteJobStore(self.folder / "jobs.db")
        await store.open()
        found = [await store.get(job_id) for job_id in ids]
        await store.close()
        return [job for job in found if isinstance(job, Job)]

    def runs(self) -> Counter[str]:
        """Count how often each job ran."""
        lines = (self.folder / "runs").read_text().splitlines()
        return Counter(line.split()[0] for line in lines)


def exists(pid: int) -> bool:
    """Return whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a folder, and end what was started in it."""
    site = Site(tmp_path)
    yield site
    for process in site.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize(
    "failpoint", ["after_claim", "mid_work", "before_blob", "after_blob", "before_settle", "after_settle"]
)
async def test_kill_at_each_failpoint(site: Site, failpoint: str) -> None:
    """Killed between any two writes, every job ends once, with one effect, soon after its lease."""
    ids = await site.add("/work", count=3, size=MAX_INLINE + 10)
    victim = await asyncio.to_thread(site.start, **{VARIABLE: f"{failpoint}:kill"})
    assert await asyncio.to_thread(victim.wait, PATIENCE) == -signal.SIGKILL
    heir = await asyncio.to_thread(site.start, "idle")
    assert await asyncio.to_thread(heir.wait, PATIENCE) == 0
    for record in await site.records(ids):
        assert record.state is State.SUCCEEDED, record
        assert json.loads(record.result_ref)["size"] == MAX_INLINE + 12
        assert record.crash_count <= 1
        outcomes = [attempt["outcome"] for attempt in json.loads(record.attempts)]
        assert outcomes in (["succeeded"], ["rescued", "succeeded"], ["lost", "succeeded"])
    assert len(list(site.folder.glob("effect-*"))) == 3
    assert max(site.runs().values()) <= 2


async def test_frozen_worker_ends_its_jobs_once(site: Site) -> None:
    """A worker that was stopped for longer than its lease and goes on leaves one outcome."""
    ids = await site.add("/work", count=3)
    worker = await asyncio.to_thread(site.start, "idle", **{VARIABLE: "before_settle:stop"})
    status = Path(f"/proc/{worker.pid}/stat")
    await eventually(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    await asyncio.sleep(LEASE * 1.5)
    worker.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(worker.wait, PATIENCE) == 0
    for record in await site.records(ids):
        assert record.state is State.SUCCEEDED
        assert record.attempt <= 2
    assert len(list(site.folder.glob("effect-*"))) == 3


@pytest.mark.parametrize("route", ["/linger", "/spin"])
async def test_sigterm_releases_and_leaves(site: Site, route: str) -> None:
    """SIGTERM in the middle of work: exit 0 in time, the job is queued again and the attempt uncounted."""
    (job_id,) = await site.add(route)
    worker = await asyncio.to_thread(site.start, LEASE="60")
    await eventually(lambda: (site.folder / "lingering").exists())
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, PATIENCE) == 0
    (record,) = await site.records([job_id])
    assert (record.state, record.attempt, record.releases, record.token) == (State.QUEUED, 0, 1, "")


async def test_second_sigterm_ends_at_once(site: Site) -> None:
    """A second SIGTERM kills the child and leaves the lease as it is."""
    (job_id,) = await site.add("/spin")
    worker = await asyncio.to_thread(site.start, GRACE="3600", LEASE="60")
    mark = site.folder / "lingering"
    pid = int(await eventually(lambda: mark.exists() and mark.read_text()))
    worker.terminate()
    assert worker.stdout is not None
    assert await asyncio.to_thread(worker.stdout.readline) == "heard\n", "two that nobody has heard are one"
    await asyncio.sleep(0.2)
    assert worker.poll() is None
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, PATIENCE) == 0
    assert not exists(pid)
    (record,) = await site.records([job_id])
    assert (record.state, record.attempt) == (State.RUNNING, 1)


async def test_children_die_with_their_worker(site: Site) -> None:
    """A worker that is killed with -9 takes its children along, busy or not."""
    await site.add("/spin")
    worker = await asyncio.to_thread(site.start)
    mark = site.folder / "lingering"
    pid = int(await eventually(lambda: mark.exists() and mark.read_text()))
    worker.kill()
    worker.wait()
    await eventually(lambda: not exists(pid), seconds=PATIENCE)
