"""A thousand deliveries, many of them twice, late or out of order: every job ends once, none is lost."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers.aws.sqs import run_batch
from router_core import App, Router
from router_core.errors import Conflict
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.jobs.submission import SubmitOptions
from router_core.stores.memory import MemoryJobStore
from router_core.testing.clock import FakeClock
from router_core.types import ANONYMOUS, new_id
from tests.aws.batches import Context, FakeQueue, Site, event_of, record

DELIVERIES = 1000
ROUTES = ("/quick", "/flaky", "/slow")
router = Router()


@router.route("/quick")
async def quick(n: int) -> int:
    """Return at once."""
    return n


@router.route("/flaky", max_attempts=5, backoff=2.0)
async def flaky(n: int) -> int:
    """Fail twice of three times."""
    if random.random() < 0.66:
        raise ConnectionError("again")
    return n


@router.route("/slow", concurrency=5)
async def slow(n: int) -> int:
    """Take its time, so that a repeated message finds it running."""
    for _ in range(20):
        await asyncio.sleep(0)
    return n


@dataclass
class Letter:
    """One message in the queue."""

    job_id: str
    visible_at: float
    receives: int = 0
    id: str = field(default_factory=new_id)


class SimQueue(FakeQueue):
    """A queue that hides, shows again and delivers at least once, by a clock of its own."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.letters: dict[str, Letter] = {}

    async def dispatch(self, job: Job) -> None:
        """Take a message."""
        await super().dispatch(job)
        letter = Letter(job.id, max(self.clock.now(), job.not_before))
        self.letters[letter.id] = letter

    def visible(self) -> list[Letter]:
        """Return what may be delivered."""
        return [letter for letter in self.letters.values() if letter.visible_at <= self.clock.now()]

    def take(self, letter: Letter) -> Any:
        """Deliver a message: hidden for the queue's own time, as one that nobody touches."""
        letter.visible_at = self.clock.now() + 360
        letter.receives += 1
        found = record({"job_id": letter.job_id}, receives=letter.receives, sent_at=self.clock.now())
        return {**found, "messageId": letter.id, "receiptHandle": letter.id}

    async def hide(self, url: str, receipt: str, seconds: float) -> None:
        """Change when a message comes back."""
        if receipt in self.letters:
            self.letters[receipt].visible_at = self.clock.now() + seconds


class Storm:
    """Delivers messages to several processes at once, as badly as SQS may."""

    def __init__(self, site: Site, queue: SimQueue, seed: int, twice: int) -> None:
        self.site = site
        self.twice = twice
        self.queue = queue
        self.draw = random.Random(seed)
        self.apps: list[App] = []
        self.deliveries = 0
        self.ended: dict[str, Job] = {}

    async def submit(self, count: int) -> list[str]:
        """Add jobs, some of them for later."""
        ids = []
        for n in range(count):
            options = SubmitOptions(delay=self.draw.choice((0, 0, 0, 0, 5, 2000)))
            ids.append(await self.site.submit(self.draw.choice(ROUTES), options, n=n))
        return ids

    async def round(self, ids: list[str]) -> None:
        """Deliver some batches at once, with repetitions; lose some answers; let a worker die."""
        await self._die_with(self.draw.choice(ids))
        batches = [self._batch(ids) for _ in self.apps]
        answers = await asyncio.gather(
            *(
                run_batch(app, event_of(*batch), Context(60, self.site.clock), draw=self.draw.random)
                for app, batch in zip(self.apps, batches, strict=True)
                if batch
            )
        )
        for batch, answer in zip([batch for batch in batches if batch], answers, strict=True):
            self._delete(batch, answer)
        await self._check(ids)
        self.site.clock.advance(self.draw.choice((0.0, 1.0, 5.0, 30.0, 300.0)))

    def _batch(self, ids: list[str]) -> list[Any]:
        visible = self.queue.visible()
        self.draw.shuffle(visible)
        batch = [self.queue.take(letter) for letter in visible[:10]]
        # at least once: what another receiver has just got, what was deleted long ago
        for _ in range(self.draw.randrange(self.twice)):
            again = record({"job_id": self.draw.choice(ids)})
            batch.append({**again, "receiptHandle": again["messageId"]})
        self.draw.shuffle(batch)
        return batch

    def _delete(self, batch: list[Any], answer: dict[str, Any]) -> None:
        kept = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        self.deliveries += len(batch)
        for one in batch:
            if one["messageId"] not in kept and self.draw.random() > 0.1:  # some deletions get lost
                self.queue.letters.pop(one["messageId"], None)

    async def _die_with(self, job_id: str) -> None:
        if self.draw.random() < 0.4:
            await self.site.store.claim(Claim("dead", 65, job_id=job_id))
        if self.draw.random() < 0.05:
            try:
                await self.site.app.service.cancel(self.draw.choice([job_id]), ANONYMOUS)
            except Conflict:
                return

    async def _check(self, ids: list[str]) -> None:
        """What has not ended is known to the queue, or will be."""
        waiting = {letter.job_id for letter in self.queue.letters.values()}
        open_ids = [job_id for job_id in ids if job_id not in self.ended]
        for job in await asyncio.gather(*(self.site.job(job_id) for job_id in open_ids)):
            if job.terminal:
                self.ended[job.id] = job
            else:
                known = job.id in waiting or job.dispatch_pending or job.state is State.SCHEDULED
                assert known, (job, "is lost")


async def storm(
    store: Any, clock: FakeClock, jobs: int, seed: int, patch: pytest.MonkeyPatch, twice: int = 12
) -> None:
    """Let it blow over until all that was submitted has ended."""
    queue = SimQueue(clock)
    patch.setattr("handlers.aws.messages.hide", queue.hide)

    async def url_of(arn: str) -> str:
        return arn

    patch.setattr("handlers.aws.messages.url_of", url_of)
    site = Site(router, clock=clock, store=store, queue=queue)
    what = Storm(site, queue, seed, twice)
    what.apps = [site.another() for _ in range(3)]
    for app in (site.app, *what.apps):
        await app.start(background=False)
    random.seed(seed)
    ids = await what.submit(jobs)
    rounds = 0
    while what.deliveries < DELIVERIES or len(what.ended) < jobs:
        await what.round(ids)
        rounds += 1
        if rounds % 10 == 0:
            clock.advance(60)
            await site.app.tend()
        assert rounds < 3000, [await site.job(one) for one in set(ids) - set(what.ended)]
    assert {site.ends[job_id] for job_id in ids} == {1}
    for job in what.ended.values():
        assert await site.job(job.id) == job
        if job.state is State.SUCCEEDED:
            assert int(job.result) == ids.index(job.id)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_job_ends_once_and_none_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records in memory; three processes; messages repeated, reordered, redelivered, workers that die."""
    clock = FakeClock()
    await storm(MemoryJobStore(clock), clock, 150, seed, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 200))
async def test_every_job_ends_once_in_many_storms(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, for other draws of the dice."""
    clock = FakeClock()
    await storm(MemoryJobStore(clock), clock, 60, seed, monkeypatch)


@pytest.fixture
async def dynamo(aws: str) -> AsyncIterator[tuple[Any, FakeClock]]:
    """Return a store on a table of its own."""
    from router_core.stores.dynamodb import DynamoJobStore, create_table

    clock = FakeClock()
    name = f"storm-{secrets.token_hex(6)}"
    await asyncio.to_thread(create_table, name, expire=False)
    store = DynamoJobStore(name, clock)
    await store.open()
    yield store, clock
    await store.close()


async def test_every_job_ends_once_on_dynamodb(
    dynamo: tuple[Any, FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with conditional writes and a lagging index."""
    store, clock = dynamo
    await storm(store, clock, 20, 4, monkeypatch, 30)
