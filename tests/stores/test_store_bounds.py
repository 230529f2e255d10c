"""What bounds the stores: eviction in memory, listings that stop looking, the words of a full queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_core.jobs import moves
from router_core.jobs.job import Job, State, Tombstone
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery, NewEvent
from router_core.stores.agenda import Agenda
from router_core.stores.drain import DrainRate
from router_core.stores.memory import MemoryJobStore
from router_core.stores.sqlite import SqliteJobStore
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, ROUTE, ended, new_job


@pytest.fixture
def clock() -> FakeClock:
    """The stores' time."""
    return FakeClock()


@pytest.fixture
async def sqlite(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteJobStore]:
    """A store on a fresh file."""
    store = SqliteJobStore(tmp_path / "jobs.db", clock)
    await store.open()
    yield store
    await store.close()


async def test_memory_keeps_so_many_ended_jobs(clock: FakeClock) -> None:
    """The least recently used goes first, as a tombstone, and its blobs with the next purge."""
    store = MemoryJobStore(clock, max_finished=3)
    jobs = [await ended(store, clock, input_ref=f"blob{number}") for number in range(3)]
    assert isinstance(await store.get(jobs[0].id), Job)
    waits = (await store.add(new_job(clock))).job
    await ended(store, clock)
    assert isinstance(await store.get(jobs[1].id), Tombstone)
    assert isinstance(await store.get(jobs[0].id), Job)
    assert await store.get(waits.id) == waits
    purged = await store.purge()
    assert (purged.jobs, list(purged.blobs)) == (0, ["blob1"])


async def test_memory_keeps_so_many_bytes(clock: FakeClock) -> None:
    """Whatever their number."""
    store = MemoryJobStore(clock, max_finished_bytes=10_000)
    jobs = [await ended(store, clock, input=b"x" * 4000) for _ in range(5)]
    kept = [job for job in jobs if isinstance(await store.get(job.id), Job)]
    assert kept == jobs[-2:]


async def test_a_listing_looks_at_a_bounded_number(
    sqlite: SqliteJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be short, or empty, and still have a cursor; following it finds everything once."""
    monkeypatch.setattr("router_core.stores.sqlite_listing._SCAN", 10)
    wanted = []
    for number in range(45):
        job = await ended(sqlite, clock, id=f"job{number:05}", route="/rare" if number % 20 == 3 else ROUTE)
        if job.route == "/rare":
            wanted.append(job.id)
    for owner in ("alice", None):
        for states in (frozenset[State](), frozenset({State.SUCCEEDED, State.QUEUED})):
            seen, cursor, pages = [], "", 0
            while True:
                query = JobQuery(owner=owner, route="/rare", states=states, cursor=cursor, limit=2)
                page = await sqlite.find(query)
                seen += [job.id for job in page.jobs]
                cursor, pages = page.cursor, pages + 1
                if not cursor:
                    break
            assert seen == sorted(wanted, reverse=True)
            assert pages >= 4


async def test_every_query_uses_its_index(sqlite: SqliteJobStore, clock: FakeClock) -> None:
    """No statement of the store reads the table of jobs from end to end, whatever it holds."""
    connection = sqlite._reader._connection
    writer = sqlite._writer._connection
    assert connection is not None
    assert writer is not None
    scans: list[str] = []

    def look(statement: str) -> None:
        if "jobs" not in statement or statement.startswith("EXPLAIN"):
            return
        seen.append(statement)

    seen: list[str] = []
    connection.set_trace_callback(look)
    writer.set_trace_callback(look)
    await _one_of_everything(sqlite, clock)
    connection.set_trace_callback(None)
    writer.set_trace_callback(None)
    assert len(seen) > 30
    for statement in seen:
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            plan = row[3]
            if plan.startswith("SCAN") and "jobs" in plan and "INDEX jobs_" not in plan:
                scans.append(f"{plan}: {statement}")
            if plan.startswith("SCAN") and any(
                index in plan for index in ("jobs_id", "jobs_owner", "jobs_expiry")
            ):
                scans.append(f"{plan}: {statement}")
    assert scans == []


async def _one_of_everything(store: SqliteJobStore, clock: FakeClock) -> None:
    key = IdempotencyKey("scope", "body", clock.now() + 5)
    await store.add(new_job(clock, input_ref="blob"), queue_limit=5, key=key)
    await store.add(new_job(clock), queue_limit=5, key=key)
    done = await ended(store, clock, webhook='{"url":"https://example.com/"}')
    (job,) = await store.claim(Claim("w", LEASE, {ROUTE: 1}))
    await store.append(job.fence, [NewEvent("log", b"1")])
    await store.events(job.id)
    await store.renew([job.fence], LEASE)
    retry = moves.retry(job.fence, now=0, not_before=clock.now(), rank=0, attempts=b"", error=b"")
    await store.move(job.id, retry)
    await store.claim(Claim("w", LEASE, {ROUTE: 1}))
    for owner in ("alice", None):
        for states in (
            set(),
            {State.QUEUED, State.RUNNING},
            {State.FAILED, State.EXPIRED},
            {State.SUCCEEDED},
        ):
            for route in ("", ROUTE):
                await store.find(JobQuery(owner=owner, states=frozenset(states), route=route))
    await store.overdue()
    await store.due()
    await store.next_due()
    await store.stats()
    await store.deliveries()
    await store.unreferenced(["blob"])
    await store.get(done.id)
    await store.delete(done.id)
    clock.advance(1e6)
    await store.purge()


def test_retry_after_follows_the_drain() -> None:
    """Depth over rate, within 1..60 seconds, and not the same for everybody."""
    rate = DrainRate()
    now = 1000.0
    for _ in range(200):
        now += 0.1
        rate.taken("/a", 1, now)
    waits = {rate.retry_after("/a", 100, now) for _ in range(50)}
    assert len(waits) > 10
    assert 7 <= min(waits) <= max(waits) <= 13
    assert rate.retry_after("/a", 1, now) >= 1
    assert rate.retry_after("/a", 10**6, now) <= 60
    assert 1 <= rate.retry_after("/never", 10, now) <= 60


def test_an_agenda_stays_in_proportion_to_its_members() -> None:
    """Members that are moved ten thousand times leave no trail."""
    agenda = Agenda()
    for number in range(10_000):
        agenda.put(f"m{number % 10}", number)
    assert len(agenda) == 10
    assert len(agenda._heap) <= 2 * 10 + 64
    agenda.discard("m0")
    assert agenda.first() == (9991, "m1")
    assert agenda.upto(9993, 10) == ["m1", "m2", "m3"]
    assert agenda.upto(9993, 10) == ["m1", "m2", "m3"]
