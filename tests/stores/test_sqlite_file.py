"""The file of the SQLite store: its place, its schema, its damage; batches with one bad value in them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from router_core.errors import Misconfigured, QueueFull, StoreError
from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.moves import Move
from router_core.jobs.store import Claim, IdempotencyKey, JobQuery
from router_core.stores.sqlite import SqliteJobStore
from router_core.stores.sqlite_file import connect_reader, connect_writer, has_wal_reset_bug
from router_core.stores.sqlite_schema import MIGRATIONS, migrate
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, claim_one, ended, new_job


@pytest.fixture
def clock() -> FakeClock:
    """The stores' time."""
    return FakeClock()


async def _open(path: Path, clock: FakeClock) -> SqliteJobStore:
    store = SqliteJobStore(path, clock)
    await store.open()
    return store


# --- its place ----------------------------------------------------------------------------------


async def test_missing_directories_are_made_private(tmp_path: Path, clock: FakeClock) -> None:
    """Only their owner may look into them, whatever the umask; a second open is the same store."""
    before = os.umask(0)
    try:
        store = await _open(tmp_path / "a" / "b c?#%41" / "jobs.db", clock)
        await store.open()
        await store.add(new_job(clock))
    finally:
        os.umask(before)
    folder = tmp_path / "a" / "b c?#%41"
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert {file.name for file in folder.iterdir()} >= {"jobs.db", "jobs.db-wal", "jobs.db.lock"}
    await store.close()


async def test_a_directory_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """With a sentence that names it and the setting."""
    with pytest.raises(Misconfigured, match=r"is a directory; ROUTER_JOBS must name a file"):
        await _open(tmp_path, clock)


async def test_a_file_in_the_way_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """A path through a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match=r"cannot use .*file/jobs\.db"):
        await _open(tmp_path / "file" / "jobs.db", clock)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_an_unreadable_file_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """Before anything is begun."""
    path = tmp_path / "jobs.db"
    path.touch(mode=0)
    with pytest.raises(Misconfigured, match="Permission denied"):
        await _open(path, clock)


async def test_a_pipe_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """And does not hang the start."""
    os.mkfifo(tmp_path / "jobs.db")
    with pytest.raises(Misconfigured, match="regular file"):
        await _open(tmp_path / "jobs.db", clock)


@pytest.mark.parametrize("content", [b"not a database" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_garbage_is_refused(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """And left as it is: it may be somebody's."""
    path = tmp_path / "jobs.db"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"cannot use .*jobs\.db: the file of the job store is damaged"):
        await _open(path, clock)
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """Its tables stay alone."""
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (mine TEXT)")
    connection.close()
    with pytest.raises(Misconfigured, match="another program"):
        await _open(path, clock)


async def test_a_newer_schema_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """An older version of the package does not touch what it does not know."""
    path = tmp_path / "jobs.db"
    await (await _open(path, clock)).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(Misconfigured, match=r"schema \d.*upgrade router-core"):
        await _open(path, clock)


def test_an_older_schema_is_brought_forward(tmp_path: Path) -> None:
    """Each step once, all or none of them."""
    path = tmp_path / "jobs.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, str(path))
    more = (*MIGRATIONS, ("CREATE TABLE extra (x)", "INSERT INTO extra VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, str(path), (*more, ("CREATE TABLE nonsense (",)))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    for _ in range(2):
        migrate(connection, str(path), more)
    assert connection.execute("SELECT x FROM extra").fetchall() == [(1,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(more),)
    connection.close()


async def test_a_failed_open_lets_go(tmp_path: Path, clock: FakeClock) -> None:
    """The lock is free again, so that the operator can mend the file and try again."""
    path = tmp_path / "jobs.db"
    path.write_bytes(b"garbage" * 1000)
    store = SqliteJobStore(path, clock)
    with pytest.raises(Misconfigured):
        await store.open()
    path.unlink()
    await store.open()
    await store.ping()
    await store.close()


def test_the_version_rule() -> None:
    """From 3.7.0 to 3.51.2 one process only."""
    known = {
        (3, 6, 23): False,
        (3, 7, 0): True,
        (3, 40, 1): True,
        (3, 51, 2): True,
        (3, 51, 3): False,
        (4, 0, 0): False,
    }
    assert {version: has_wal_reset_bug(version) for version in known} == known


async def test_several_processes_may_not_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a SQLite that may corrupt the file it is no option."""
    monkeypatch.setattr("router_core.stores.sqlite.has_wal_reset_bug", lambda: True)
    with pytest.raises(Misconfigured, match="may corrupt"):
        SqliteJobStore(tmp_path / "jobs.db", exclusive=False)


async def test_two_stores_share_a_file_where_that_is_safe(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job is claimed once, and the queue's limit counts what the other has added."""
    monkeypatch.setattr("router_core.stores.sqlite.has_wal_reset_bug", lambda: False)
    one, other = await _open(tmp_path / "jobs.db", clock), await _open(tmp_path / "jobs.db", clock)
    for number in range(10):
        await (one, other)[number % 2].add(new_job(clock), queue_limit=10)
    for store in (one, other):
        with pytest.raises(QueueFull):
            await store.add(new_job(clock), queue_limit=10)
    claims = await asyncio.gather(*(store.claim(Claim("w", LEASE, {ROUTE: 7})) for store in (one, other)))
    taken = [job.id for jobs in claims for job in jobs]
    assert len(taken) == len(set(taken)) == 10
    await one.close()
    await other.close()


# --- what is in it ------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """Records, keys, queue depth, outbox and tombstones."""
    path = tmp_path / "jobs.db"
    key = IdempotencyKey("scope", "body", clock.now() + 1e6)
    store = await _open(path, clock)
    waits = (await store.add(new_job(clock), queue_limit=2, key=key)).job
    done = await ended(store, clock, webhook='{"url":"https://example.com/"}')
    gone = await ended(store, clock)
    await store.delete(gone.id)
    await store.close()
    store = await _open(path, clock)
    assert await store.get(waits.id) == waits
    assert await store.get(done.id) == done
    assert not isinstance(await store.get(gone.id), Job)
    assert await store.get(gone.id) is not None
    assert (await store.add(new_job(clock), queue_limit=1, key=key)).replayed
    with pytest.raises(QueueFull):
        await store.add(new_job(clock), queue_limit=1)
    assert [row.job_id for row in await store.deliveries()] == [done.id]
    await store.close()


async def test_a_removed_file_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """The readiness probe fails: what is written now would be lost with this process."""
    path = tmp_path / "jobs.db"
    store = await _open(path, clock)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="gone"):
        await store.ping()
    path.touch()
    with pytest.raises(StoreError, match="replaced"):
        await store.ping()
    await store.close()


async def test_a_torn_log_keeps_what_came_before_the_tear(tmp_path: Path, clock: FakeClock) -> None:
    """A hundred cuts of the log, half of them with garbage after: all earlier commits are there (fault 8)."""
    source = tmp_path / "jobs.db"
    store = await _open(source, clock)
    commits: list[tuple[int, str]] = []
    for _ in range(60):
        job = (await store.add(new_job(clock, input=b"x" * 300))).job
        commits.append(((tmp_path / "jobs.db-wal").stat().st_size, job.id))
    image, log = source.read_bytes(), (tmp_path / "jobs.db-wal").read_bytes()
    await store.close()
    dice = random.Random(7)
    for number in range(100):
        folder = tmp_path / f"torn{number}"
        folder.mkdir()
        cut = dice.randrange(len(log))
        torn = log[:cut]
        if number % 2:
            torn += dice.randbytes(min(512, len(log) - cut))
        (folder / "jobs.db").write_bytes(image)
        (folder / "jobs.db-wal").write_bytes(torn)
        store = await _open(folder / "jobs.db", clock)
        kept = {job.id for job in (await store.find(JobQuery(limit=1000))).jobs}
        assert kept >= {job_id for size, job_id in commits if size <= cut}
        await store.add(new_job(clock))
        await store.close()
        connection = sqlite3.connect(folder / "jobs.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        shutil.rmtree(folder)


async def test_a_damaged_file_is_503_and_stays_so(tmp_path: Path, clock: FakeClock) -> None:
    """Whatever is asked of it, the answer is one of ours; no driver's error gets out."""
    path = tmp_path / "jobs.db"
    store = await _open(path, clock)
    jobs = [(await store.add(new_job(clock, input=b"x" * 3000))).job for _ in range(200)]
    await store.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))
    try:
        store = await _open(path, clock)
    except Misconfigured:
        return
    answers = await asyncio.gather(
        *(store.get(job.id) for job in jobs), *(store.add(new_job(clock)) for _ in range(5)), store.stats(),
        return_exceptions=True,
    )  # fmt: skip
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert errors
    assert all(isinstance(error, StoreError) for error in errors)
    await store.close()


# --- one bad operation among good ones ----------------------------------------------------------


async def test_one_bad_value_spoils_no_batch(tmp_path: Path, clock: FakeClock) -> None:
    """What SQLite cannot hold is the caller's error; everybody else in the batch is served."""
    store = await _open(tmp_path / "jobs.db", clock)
    bad = [
        new_job(clock, owner="\ud800"), new_job(clock, attempt=1 << 70), new_job(clock, meta={"x": object()}),
        new_job(clock, rank=float("nan")), replace(new_job(clock), owner=None),  # type: ignore[arg-type]
    ]  # fmt: skip
    good = [new_job(clock) for _ in range(20)]
    mixed: list[Job] = []
    for number, job in enumerate(good):
        mixed += [job, bad[number % len(bad)]]
    answers = await asyncio.gather(*(store.add(job) for job in mixed), return_exceptions=True)
    for job, answer in zip(mixed, answers, strict=True):
        assert isinstance(answer, Exception) == (job in bad or job.owner == "\ud800" or job not in good)
    assert sorted(job.id for job in (await store.find(JobQuery(limit=100))).jobs) == sorted(
        job.id for job in good
    )
    await store.close()


async def test_a_failed_half_is_undone(tmp_path: Path, clock: FakeClock) -> None:
    """When the second write of an operation fails, its first is gone too, and only its own."""
    store = await _open(tmp_path / "jobs.db", clock)
    key = IdempotencyKey("scope", "\ud800", clock.now() + 60)
    lost, kept = new_job(clock), new_job(clock)
    answers = await asyncio.gather(store.add(lost, key=key), store.add(kept), return_exceptions=True)
    assert isinstance(answers[0], Exception)
    assert not isinstance(answers[1], BaseException)
    assert await store.get(lost.id) is None
    assert await store.get(kept.id) == kept
    await store.close()


async def test_a_move_cannot_write_what_guards_it(tmp_path: Path, clock: FakeClock) -> None:
    """A column that is not for moves is an error of the code that made the move, not of the store."""
    store = await _open(tmp_path / "jobs.db", clock)
    job = (await store.add(new_job(clock))).job
    for sets in ({"epoch": 7}, {"nonsense": 1}, {"id = ''; --": 1}):
        with pytest.raises(ValueError, match="cannot write"):
            await store.move(job.id, Move("odd", frozenset({State.QUEUED}), sets=sets))
    assert await store.get(job.id) == job
    await store.close()


async def test_closing_answers_everybody(tmp_path: Path, clock: FakeClock) -> None:
    """In the middle of traffic: each call ends, with its answer or as unavailable, and answers are true."""
    path = tmp_path / "jobs.db"
    store = await _open(path, clock)
    accepted: list[str] = []
    enough = asyncio.Event()

    async def submit() -> None:
        while True:
            try:
                accepted.append((await store.add(new_job(clock))).job.id)
                await claim_one(store)
                if len(accepted) >= 100:
                    enough.set()
            except StoreError:
                return

    tasks = [asyncio.create_task(submit()) for _ in range(20)]
    await enough.wait()
    await store.close()
    await asyncio.gather(*tasks)
    store = await _open(path, clock)
    for job_id in accepted:
        assert isinstance(await store.get(job_id), Job)
    await store.close()


async def test_an_unopened_store_says_so(tmp_path: Path, clock: FakeClock) -> None:
    """Rather than hang; and a closed one is not opened again."""
    store = SqliteJobStore(tmp_path / "jobs.db", clock)
    with pytest.raises(StoreError, match="not open"):
        await store.get("x" * 32)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.open()


async def test_the_log_stays_small(tmp_path: Path, clock: FakeClock) -> None:
    """Under a flood with readers the log does not grow without end (fault 36)."""
    store = await _open(tmp_path / "jobs.db", clock)
    job = (await store.add(new_job(clock))).job
    largest = 0
    for _ in range(40):
        await asyncio.gather(
            *(store.add(new_job(clock, input=os.urandom(20_000))) for _ in range(60)),
            *(store.get(job.id) for _ in range(20)),
        )
        largest = max(largest, (tmp_path / "jobs.db-wal").stat().st_size)
    assert largest < 64 * 1024 * 1024
    await store.close()


async def test_queue_depth_is_counted_anew_after_a_failure(tmp_path: Path, clock: FakeClock) -> None:
    """What is carried in memory is dropped when a transaction fails, and found again in the file."""
    store = await _open(tmp_path / "jobs.db", clock)
    for _ in range(3):
        await store.add(new_job(clock), queue_limit=4)
    writer = store._writer
    connection = writer._connection
    assert connection is not None
    connection.close()  # as when the disk has failed under it
    with pytest.raises(StoreError):
        await store.add(new_job(clock), queue_limit=4)
    await store.add(new_job(clock), queue_limit=4)
    with pytest.raises(QueueFull):
        await store.add(new_job(clock), queue_limit=4)
    job = await claim_one(store)
    assert job is not None
    end = moves.succeed(job.fence, now=clock.now(), retention=RETENTION, attempts=b"")
    assert (await store.move(job.id, end)).applied
    await store.close()


async def test_the_page_caches_stay_small(tmp_path: Path, clock: FakeClock) -> None:
    """They fill as the file grows: what they may take is what a server grows by over days."""
    path = tmp_path / "jobs.db"
    await (await _open(path, clock)).close()
    allowed = 0
    for connection in (connect_writer(path), connect_reader(path)):
        allowed -= connection.execute("PRAGMA cache_size").fetchone()[0]
        connection.close()
    assert 0 < allowed <= 16 * 1024
