"""Which writes are on the disk before they are answered."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from router_core.jobs import moves
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.stores.sqlite import SqliteJobStore
from router_core.types import new_id


def _job() -> Job:
    now = time.time()
    return Job(new_id(), "ann", "/work", State.QUEUED, now, rank=now)


class Watched:
    """A store whose transactions are written down as the setting they were committed under."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteJobStore(path)
        self.commits: list[str] = []
        self._sync = "FULL"

    async def open(self) -> None:
        """Open it and begin to watch."""
        await self.store.open()
        connection = self.store._writer._connection
        assert connection is not None
        connection.set_trace_callback(self._trace)

    def _trace(self, statement: str) -> None:
        if statement.startswith("PRAGMA synchronous = "):
            self._sync = statement.rpartition(" ")[2]
        elif statement == "COMMIT":
            self.commits.append(self._sync)


async def test_acceptance_and_outcome_are_synced_and_a_claim_is_not(tmp_path: Path) -> None:
    """What a caller was told is durable; what a worker was told may be forgotten with the machine."""
    watched = Watched(tmp_path / "jobs.db")
    await watched.open()
    store = watched.store
    await store.add(_job())
    (job,) = await store.claim(Claim("w", 30.0, {"/work": 1}))
    await store.renew([job.fence], 30.0)
    await store.move(job.id, moves.progress(job.fence, fraction=0.5, message=""))
    await store.move(job.id, moves.step(job.fence, steps=b"{}"))
    await store.move(
        job.id, moves.succeed(job.fence, now=time.time(), retention=60, attempts=b"", result=b"1")
    )
    assert watched.commits == ["FULL", "NORMAL", "NORMAL", "NORMAL", "FULL", "FULL"]
    await store.close()


async def test_a_mixed_batch_is_answered_in_two_groups(tmp_path: Path) -> None:
    """A claim does not wait for the sync of a submission that came with it; both happen."""
    watched = Watched(tmp_path / "jobs.db")
    await watched.open()
    store = watched.store
    await store.add(_job())
    watched.commits.clear()
    claim = asyncio.ensure_future(store.claim(Claim("w", 30.0, {"/work": 1})))
    await asyncio.gather(*(store.add(_job()) for _ in range(20)))
    assert len(await claim) == 1
    assert "NORMAL" in watched.commits
    assert "FULL" in watched.commits
    assert (await store.stats()).by_route == {
        ("/work", State.QUEUED): 20, ("/work", State.RUNNING): 1,
    }  # fmt: skip
    await store.close()


async def test_who_has_the_file_alone_ends_the_leases_of_the_dead(tmp_path: Path) -> None:
    """After a kill -9 the next process finds the jobs overdue at once, not after their lease."""
    path = tmp_path / "jobs.db"
    first = SqliteJobStore(path)
    await first.open()
    await first.add(_job())
    (job,) = await first.claim(Claim("w", 3600.0, {"/work": 1}))
    await first.close()  # as good as dead: nothing was released
    second = SqliteJobStore(path)
    await second.open()
    assert [one.id for one in await second.overdue()] == [job.id]
    await second.close()


async def test_the_leases_of_workers_elsewhere_outlive_the_process(tmp_path: Path) -> None:
    """They run on while the file is closed, and settle when it is open again."""
    path = tmp_path / "jobs.db"
    first = SqliteJobStore(path)
    await first.open()
    await first.add(_job())
    (job,) = await first.claim(Claim("box/w", 3600.0, {"/work": 1}))
    await first.close()
    second = SqliteJobStore(path)
    await second.open()
    assert await second.overdue() == []
    assert (await second.renew([job.fence], 30.0))[0].held
    await second.close()
