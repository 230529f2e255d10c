"""The DynamoDB store over indexes that are seconds behind, as those of DynamoDB may be."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from router_core.blobs.memory import MemoryBlobStore
from router_core.errors import QueueFull
from router_core.jobs import moves
from router_core.jobs.job import MAX_CRASHES, Job, State, Tombstone
from router_core.jobs.reaper import Reaper
from router_core.jobs.store import Claim
from router_core.jobs.sweeper import Sweeper
from router_core.queues.pull import PullDispatcher
from router_core.settings import Settings
from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, new_job
from router_core.vendors import boto3

_number = count()
LAG = 2.0
LIMIT = 6
_WAITING = (State.QUEUED, State.SCHEDULED)


class Lagging:
    """The client of a DynamoDB whose indexes show the table as it was some seconds ago.

    Every change is repeated on a second table when its time has come, and that is where indexes are read.
    """

    def __init__(self, client: Any, table: str, old: str, clock: FakeClock) -> None:
        self._client = client
        self._table = table
        self._old = old
        self._clock = clock
        self._guard = threading.Lock()
        self._changes: deque[tuple[float, dict[str, Any], Any]] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _noted(self, name: str, keys: list[dict[str, Any]], parameters: dict[str, Any]) -> Any:
        with self._guard:
            answer = getattr(self._client, name)(**parameters)
            for key in keys:
                found = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
                self._changes.append((self._clock.now(), key, found.get("Item")))
            return answer

    def put_item(self, **parameters: Any) -> Any:
        """Write, and note it."""
        return self._noted("put_item", [_key(parameters["Item"])], parameters)

    def update_item(self, **parameters: Any) -> Any:
        """Write, and note it."""
        return self._noted("update_item", [_key(parameters["Key"])], parameters)

    def batch_write_item(self, **parameters: Any) -> Any:
        """Write, and note it."""
        keys = [
            _key(row["PutRequest"]["Item"] if "PutRequest" in row else row["DeleteRequest"]["Key"])
            for row in parameters["RequestItems"][self._table]
        ]
        return self._noted("batch_write_item", keys, parameters)

    def transact_write_items(self, **parameters: Any) -> Any:
        """Write, and note it."""
        bodies = [body for part in parameters["TransactItems"] for body in part.values()]
        keys = [_key(body["Item"] if "Item" in body else body["Key"]) for body in bodies]
        return self._noted("transact_write_items", keys, parameters)

    def query(self, **parameters: Any) -> Any:
        """Read an index as it was, and the table as it is."""
        if "IndexName" not in parameters:
            return self._client.query(**parameters)
        with self._guard:
            while self._changes and self._changes[0][0] <= self._clock.now() - LAG:
                _, key, item = self._changes.popleft()
                if item is None:
                    self._client.delete_item(TableName=self._old, Key=key)
                else:
                    self._client.put_item(TableName=self._old, Item=item)
        return self._client.query(**{**parameters, "TableName": self._old})


def _key(item: dict[str, Any]) -> dict[str, Any]:
    return {"pk": item["pk"], "sk": item["sk"]}


class Site:
    """A table whose indexes lag, its upkeep, and what has become of its jobs."""

    def __init__(self, table: str, clock: FakeClock, seed: int) -> None:
        self.clock = clock
        self.stores = [DynamoJobStore(table, clock, patience=60) for _ in range(3)]
        self.dice = random.Random(seed)
        self.accepted: list[str] = []
        self.held: dict[str, Job] = {}
        self.ended: dict[str, State] = {}
        self.refused = 0
        settings, events, store = Settings(), Events(), self.stores[0]
        self.sweeper = Sweeper(
            store=store, blobs=MemoryBlobStore(), dispatcher=PullDispatcher(), routes={}, clock=clock,
            settings=settings, events=events,
        )  # fmt: skip
        self.reaper = Reaper(
            store=store, routes={}, clock=clock, settings=settings, events=events, draw=self.dice.random
        )

    @property
    def store(self) -> DynamoJobStore:
        """The store of one process or another."""
        return self.dice.choice(self.stores)

    async def submit(self, **values: Any) -> None:
        """Submit a job, for now or for later, unless the queue is full."""
        if self.dice.random() < 0.3:
            later = self.clock.now() + self.dice.choice((1, 3, 8))
            values |= {"state": State.SCHEDULED, "not_before": later, "rank": later}
        try:
            added = await self.store.add(new_job(self.clock, max_attempts=9, **values), queue_limit=LIMIT)
        except QueueFull:
            self.refused += 1
            return
        self.accepted.append(added.job.id)

    async def work(self) -> None:
        """Claim, and end, give back, fail or forget what was claimed."""
        for job in await self.store.claim(Claim("w", LEASE, {ROUTE: self.dice.choice((1, 2))})):
            before = self.held.get(job.id)
            assert before is None or before.lease_until < self.clock.now(), "two workers at once"
            assert job.not_before <= self.clock.now()
            assert job.id not in self.ended
            self.held[job.id] = job
        for job in list(self.held.values()):
            if self.dice.random() < 0.6:
                await self.let_go(job)

    async def let_go(self, job: Job) -> None:
        """End an attempt in one way or another."""
        now, kind = self.clock.now(), self.dice.random()
        if kind < 0.1 and job.crash_count + 1 < MAX_CRASHES:
            return  # its worker is gone; the lease runs out
        if kind < 0.25 and job.attempt < job.max_attempts:
            at = now + self.dice.choice((0, 2))
            move = moves.retry(job.fence, now=now, not_before=at, rank=at, attempts=b"", error=b"{}")
        elif kind < 0.4:
            move = moves.release(job.fence, attempts=b"")
        else:
            move = moves.succeed(job.fence, now=now, retention=RETENTION, attempts=b"[]")
        moved = await self.store.move(job.id, move)
        assert moved.applied == (moved.job is not None and moved.job.epoch == job.epoch)
        if moved.applied and move.to is State.SUCCEEDED:
            self.ended[job.id] = State.SUCCEEDED
        self.held.pop(job.id, None)

    async def upkeep(self) -> None:
        """Do what the loops of a process would."""
        await self.sweeper.due()
        await self.reaper.tick()

    async def records(self) -> list[Job]:
        """Return all records, as they are."""
        found = [await self.stores[1].get(job_id) for job_id in self.accepted]
        return [job for job in found if isinstance(job, Job)]


@pytest.fixture
def clock() -> FakeClock:
    """The stores' time."""
    return FakeClock()


@pytest.fixture
async def table(aws: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh table whose indexes lag."""
    name, old = f"lag{next(_number)}", f"lagold{next(_number)}"
    for each in (name, old):
        await asyncio.to_thread(create_table, each, expire=False)
    lagging = Lagging(boto3.client("dynamodb"), name, old, clock)
    monkeypatch.setattr(boto3, "client", lambda service: lagging)
    return name


def _steps(seconds: float) -> Iterator[None]:
    return iter([None] * int(seconds / 0.5))


@pytest.mark.parametrize("seed", [1, 2])
async def test_indexes_that_lag_lose_double_and_block_nothing(
    table: str, clock: FakeClock, seed: int
) -> None:
    """Submitters, workers that die or give back, retries and schedules, over indexes two seconds behind."""
    site = Site(table, clock, seed)
    for _ in _steps(12):
        for _ in range(site.dice.choice((0, 1, 3))):
            await site.submit()
        await site.work()
        await site.upkeep()
        waiting = [job for job in await site.records() if job.state in _WAITING]
        assert len(waiting) <= LIMIT + sum(job.releases > 0 for job in waiting)
        clock.advance(0.5)
    assert site.refused > 0
    # nobody submits any more: everything ends in bounded time, also what died workers held
    for _ in range(60):
        if len(site.ended) == len(site.accepted):
            break
        await site.work()
        await site.upkeep()
        clock.advance(2)
    assert sorted(site.ended) == sorted(site.accepted)
    assert {job.state for job in await site.records()} == {State.SUCCEEDED}
    await _quiet(site, clock)


async def _quiet(site: Site, clock: FakeClock) -> None:
    """Check the counter of the queue, and that all is forgotten in the end."""
    store = site.stores[0]
    await store.purge()
    clock.advance(31)
    await store.purge()
    for _ in range(LIMIT):
        await store.add(new_job(clock), queue_limit=LIMIT)
    with pytest.raises(QueueFull):
        await store.add(new_job(clock), queue_limit=LIMIT)
    clock.advance(RETENTION)
    assert (await store.purge()).jobs == len(site.accepted)
    for job_id in site.accepted:
        assert isinstance(await store.get(job_id), Tombstone)
    assert (await store.purge()).jobs == 0


async def test_a_job_that_came_a_moment_ago_is_claimed_by_its_id(table: str, clock: FakeClock) -> None:
    """A message may be faster than the indexes: who names the job needs none of them."""
    store = DynamoJobStore(table, clock, patience=60)
    job = (await store.add(new_job(clock))).job
    assert not await store.claim(Claim("w", LEASE, {ROUTE: 1}))
    (claimed,) = await store.claim(Claim("w", LEASE, job_id=job.id))
    await store.move(job.id, moves.release(claimed.fence, attempts=b""))
    clock.advance(LAG)
    assert [found.id for found in await store.claim(Claim("w", LEASE, {ROUTE: 1}))] == [job.id]


async def test_a_lease_that_was_renewed_behind_the_index_is_left_alone(table: str, clock: FakeClock) -> None:
    """The index says that it has run out; the record says that its worker came back in time."""
    store = DynamoJobStore(table, clock, patience=60)
    job = (await store.add(new_job(clock))).job
    (claimed,) = await store.claim(Claim("w", LEASE, job_id=job.id))
    clock.advance(LEASE - 0.5)
    await store.renew([claimed.fence], LEASE)
    clock.advance(1)
    assert not await store.overdue()
    clock.advance(LEASE)
    assert [found.id for found in await store.overdue()] == [job.id]
