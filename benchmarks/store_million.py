"""What a million finished jobs in the SQLite store cost a submission, a poll and a claim.

The records are written by SQL of this benchmark's own, in the shape that the store gives them; then the same
calls are timed against this store and an empty one, in turns, so that the noise of the machine meets both.

    python -m benchmarks.store_million [--records 1000000] [--dir PATH] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.report import Row, Skip
from benchmarks.store_cycle import ROUTE, finish, new_job
from router_core.jobs.job import Job
from router_core.jobs.store import Claim, JobQuery
from router_core.stores.sqlite import SqliteJobStore

_ROUNDS = 40
_CALLS = 100


async def fill(path: Path, records: int) -> None:
    """Make a store with so many ended jobs of a thousand owners."""
    store = SqliteJobStore(path)
    await store.open()
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO jobs (id, owner, route, state, version, epoch, attempt, created_at, started_at, "
        "finished_at, expires_at, progress, rank, input, result, attempts) "
        "VALUES (?, ?, ?, 'succeeded', 3, 1, 1, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
        _rows(records),
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _rows(records: int) -> Iterator[tuple[object, ...]]:
    begun = time.time() - 3600
    for number in range(records):
        at = begun + number * 0.001
        job_id = f"{int(at * 1000):012x}{os.urandom(10).hex()}"
        yield (
            job_id, f"owner{number % 1000}", f"/route{number % 20}", at, at, at, at + 86400, at, b"x" * 300,
            b'"done"', b"[]",
        )  # fmt: skip


async def _timed(calls: Sequence[Callable[[], Awaitable[object]]]) -> float:
    started = time.perf_counter()
    for call in calls:
        await call()
    return (time.perf_counter() - started) / len(calls)


async def _steps(store: SqliteJobStore, old: Sequence[str]) -> dict[str, float]:
    """Return seconds for each call of one round on one store."""
    jobs = [new_job() for _ in range(_CALLS)]
    taken: list[Job] = []

    async def claim() -> None:
        taken.extend(await store.claim(Claim("bench", 30.0, {ROUTE: 1})))

    times = {
        "submit": await _timed([lambda job=job: store.add(job, queue_limit=1000) for job in jobs]),  # type: ignore[misc]
        "poll": await _timed([lambda job=job: store.get(job.id) for job in jobs]),  # type: ignore[misc]
        "claim": await _timed([claim] * _CALLS),
    }
    times["finish"] = await _timed([lambda job=job: finish(store, job) for job in taken])  # type: ignore[misc]
    if old:
        times["poll old"] = await _timed([lambda key=key: store.get(key) for key in old])  # type: ignore[misc]
    times["due"] = await _timed([store.due, store.overdue, store.next_due, store.stats])
    times["list"] = await _timed([lambda: store.find(JobQuery(owner="owner7", limit=20))])
    return times


async def measure(records: int, directory: Path) -> dict[str, dict[str, float]]:
    """Return for each call the median microseconds on both stores, and their ratio."""
    await fill(directory / "full.db", records)
    full, empty = SqliteJobStore(directory / "full.db"), SqliteJobStore(directory / "empty.db")
    await full.open()
    await empty.open()
    try:
        page = await full.find(JobQuery(owner="owner7", limit=_CALLS))
        old = [job.id for job in page.jobs]
        rounds: dict[str, list[dict[str, float]]] = {"full": [], "empty": []}
        for number in range(_ROUNDS):
            pair = [("full", full), ("empty", empty)]
            for name, store in pair if number % 2 else reversed(pair):
                rounds[name].append(await _steps(store, old if name == "full" else ()))
    finally:
        await full.close()
        await empty.close()
    result: dict[str, dict[str, float]] = {}
    for step in rounds["full"][0]:
        micros = {
            name: statistics.median(times[step] for times in taken) * 1e6
            for name, taken in rounds.items()
            if step in taken[0]
        }
        base = micros.get("empty") or statistics.median(times["poll"] for times in rounds["empty"]) * 1e6
        result[step] = {**micros, "ratio": micros["full"] / base}
    return result


def run() -> list[Row | Skip]:
    """Return the ratios that have a goal."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = asyncio.run(measure(1_000_000, Path(folder)))
    rows: list[Row | Skip] = []
    for step in ("submit", "poll", "claim", "finish"):
        us = result[step]
        name = f"{step} with 1,000,000 records vs none"
        rows.append(
            Row(name, f"{us['full']:.0f} us", f"{us['empty']:.0f} us", us["ratio"], 1.2, at_least=False)
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="measure on the disk of this directory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix=".bench-") as folder:
        result = asyncio.run(measure(options.records, Path(folder)))
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'call':12}{'empty us':>12}{'full us':>12}{'ratio':>8}   ({options.records:,} ended jobs)")
    for step, figures in result.items():
        empty = f"{figures['empty']:12.1f}" if "empty" in figures else f"{'(poll)':>12}"
        print(f"{step:12}{empty}{figures['full']:12.1f}{figures['ratio']:8.2f}")


if __name__ == "__main__":
    main()
