"""The SQLite store among other processes: kills, locks, full disks, failing disks."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import Misconfigured, StoreError
from router_core.jobs.job import Job
from router_core.jobs.store import JobQuery
from router_core.stores.sqlite import SqliteJobStore
from router_core.stores.sqlite_file import has_wal_reset_bug
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import claim_one, new_job

pytestmark = pytest.mark.process

CHILD = Path(__file__).parent / "sqlite_child.py"
ROOT = Path(__file__).parents[2]


def command(mode: str, path: Path, number: int = 0) -> list[str]:
    """Return how to start a child."""
    return [sys.executable, str(CHILD), mode, str(path), str(number)]


def environment() -> dict[str, str]:
    """Return an environment in which a child finds the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def child(mode: str, path: Path, number: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a child, and end it at the latest when the test ends."""
    process = subprocess.Popen(
        command(mode, path, number),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> list[str]:
    """Read lines up to one that begins with a word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(word):
            return lines
    raise AssertionError(f"the child ended without {word!r}: {lines}")


def ids(lines: list[str], word: str = "added") -> list[str]:
    """Return the ids that a child has reported."""
    return [line.split()[1] for line in lines if line.startswith(word)]


@asynccontextmanager
async def opened(path: Path, busy: float = 5.0) -> AsyncIterator[SqliteJobStore]:
    """Open a store and close it."""
    store = SqliteJobStore(path, busy=busy)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def present(path: Path, wanted: list[str]) -> set[str]:
    """Return which of the ids a newly opened store has; the file has to be sound."""
    async with opened(path) as store:
        found = {job_id for job_id in wanted if isinstance(await store.get(job_id), Job)}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return found


# --- who may use the file ---------------------------------------------------------------------


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """With a SQLite that may corrupt the file, in one clear sentence; not when the first has gone."""
    if not has_wal_reset_bug():
        pytest.skip(f"SQLite {sqlite3.sqlite_version} lets several processes write")
    path = tmp_path / "jobs.db"
    with child("hold", path) as first:
        wait_for(first, "ready")
        with pytest.raises(Misconfigured, match=r"another process uses .*jobs\.db.*3\.51\.3"):
            await SqliteJobStore(path).open()
        with child("hold", path) as second:
            (line,) = wait_for(second, "not opened")
            assert "misconfigured" in line
        first.kill()
        first.wait()
        async with opened(path) as store:
            await store.ping()


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """kill -9 in the middle of a flood: every job that was answered is there (fault 5)."""
    path = tmp_path / "jobs.db"
    for _ in range(3):
        with child("flood", path, 10) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(200)]
            process.kill()
            lines += process.stdout.read().splitlines()
        answered = ids([line for line in lines if len(line.split()) == 2 and len(line.split()[1]) == 32])
        assert len(answered) >= 200
        assert await present(path, answered) == set(answered)


# --- locks -------------------------------------------------------------------------------------


async def test_a_locked_file_is_503_and_blocks_nobody(tmp_path: Path) -> None:
    """Writes wait up to the bound, then are refused; reads and the loop go on; it recovers (fault 9)."""
    path = tmp_path / "jobs.db"
    clock = FakeClock()
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    busy = 2.0
    async with opened(path, busy=busy) as store:
        job = (await store.add(new_job(clock))).job
        with child("lock", path) as locker:
            wait_for(locker, "locked")
            watcher = asyncio.create_task(watch())
            started = time.perf_counter()
            waiting: list[asyncio.Task[Any]] = [
                asyncio.create_task(store.add(new_job(clock))) for _ in range(20)
            ]
            await asyncio.sleep(0.05)
            waiting += [asyncio.create_task(store.ping()), asyncio.create_task(claim_one(store))]
            assert await store.get(job.id) == job
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            waited = time.perf_counter() - started
            watcher.cancel()
            assert all(isinstance(answer, StoreError) for answer in answers)
            assert "locked" in str(answers[0])
            assert waited < 2 * busy, "the second batch must not wait for the whole bound again"
            assert turns > 10, "the loop went on meanwhile"
            with pytest.raises(StoreError):
                await store.ping()
            assert locker.stdin is not None
            locker.stdin.write("\n")
            locker.stdin.flush()
            wait_for(locker, "unlocked")
        await store.ping()
        await store.add(new_job(clock))
        assert (await store.stats()).by_route[job.route, job.state] == 2


async def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    """Nobody is refused when the other process lets go in time."""
    path = tmp_path / "jobs.db"
    async with opened(path, busy=10) as store:
        with child("lock", path) as locker:
            wait_for(locker, "locked")
            task = asyncio.create_task(store.ping())
            await asyncio.sleep(0.1)
            assert not task.done()
            assert locker.stdin is not None
            locker.stdin.write("\n")
            locker.stdin.flush()
            await task


# --- disks -------------------------------------------------------------------------------------


async def test_a_file_that_may_not_grow_is_503_and_recovers(tmp_path: Path) -> None:
    """No half job, reads go on, and writes work again when there is room (fault 6)."""
    path = tmp_path / "jobs.db"
    done = await asyncio.to_thread(
        subprocess.run, command("fill", path, 600_000), capture_output=True, text=True, env=environment(),
        timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["closed"], done.stderr
    refused = [line for line in lines if line.startswith("refused")]
    assert refused
    assert "store_unavailable" in refused[0]
    assert "readable" in lines
    assert any(line.startswith("unwell") for line in lines)
    assert [line.split()[0] for line in lines[-4:]] == ["added", "added", "added", "closed"]
    answered = ids(lines)
    assert await present(path, answered) == set(answered)
    assert await present(path, ids(lines, "refused")) == set()


async def test_a_full_disk_is_503_and_recovers(tmp_path: Path) -> None:
    """The same on a small file system of its own, which only root can make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not await _run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)):
        pytest.skip("a small file system cannot be mounted here")
    clock = FakeClock()
    try:
        async with opened(disk / "jobs.db") as store:
            kept = (await store.add(new_job(clock))).job
            (disk / "filler").write_bytes(b"\0" * 300_000)
            refusals = [await _refusal(store, new_job(clock, input=b"x" * 20_000)) for _ in range(100)]
            assert "full" in refusals[-1]
            assert await store.get(kept.id) == kept
            (disk / "filler").unlink()
            after = (await store.add(new_job(clock, input=b"x" * 20_000))).job
            assert await store.get(after.id) == after
            count = len((await store.find(JobQuery(limit=1000))).jobs)
        async with opened(disk / "jobs.db") as store:
            assert len((await store.find(JobQuery(limit=1000))).jobs) == count
    finally:
        assert await _run("umount", str(disk))


async def _refusal(store: SqliteJobStore, job: Job) -> str:
    try:
        await store.add(job)
    except StoreError as error:
        assert await store.get(job.id) is None
        return error.detail
    return ""


async def _run(*words: str) -> bool:
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False)
    return done.returncode == 0


def traced(*arguments: str) -> list[str]:
    """Return the beginning of a command that runs under strace; skip where that does not work."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    base = [strace, "-f", "-q", *arguments]
    tried = subprocess.run([*base, "-o", os.devnull, "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("processes cannot be traced here")
    return base


async def test_an_answer_follows_a_sync(tmp_path: Path) -> None:
    """Between two answers to one caller the log is synced: what was answered is on the disk (fault 5)."""
    log = tmp_path / "trace"
    base = traced("-e", "trace=fdatasync,fsync,write", "-o", str(log))
    run = [*base, *command("one_by_one", tmp_path / "jobs.db", 40)]
    done = await asyncio.to_thread(
        subprocess.run, run, capture_output=True, text=True, env=environment(), check=False
    )
    assert done.stdout.count("added") == 40, done.stderr
    synced = answered = 0
    for line in log.read_text().splitlines():
        # a call that another thread interrupts in the trace has ended when it is `resumed`
        if re.search(r"(fdatasync|fsync)(\(\d+\)| resumed>.*\)) += 0", line):
            synced += 1
        elif 'write(1, "added' in line:
            assert synced, f"answer {answered + 1} came before its sync"
            synced, answered = 0, answered + 1
    assert answered == 40


async def test_a_sync_that_fails_is_503(tmp_path: Path) -> None:
    """Every write from then on is refused, reads go on, and what was answered before is there (fault 7)."""
    path = tmp_path / "jobs.db"
    log = os.devnull
    base = traced("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=30..45", "-o", log)
    run = [*base, *command("one_by_one", path, 60)]
    done = await asyncio.to_thread(
        subprocess.run, run, capture_output=True, text=True, env=environment(), check=False
    )
    lines = done.stdout.splitlines()
    refused = [line for line in lines if line.startswith("refused")]
    assert refused, done.stderr
    assert "store_unavailable: the disk of the job store reports an error" in refused[0]
    assert lines[-1] == "closed"
    assert lines[-2].startswith("added"), "it recovers by itself"
    answered = ids(lines)
    assert await present(path, answered) == set(answered)
