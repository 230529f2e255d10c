"""Operations of the DynamoDB store, each on a fresh job, and a process that dies in the middle of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from router_core.blobs.memory import MemoryBlobStore
from router_core.jobs import moves
from router_core.jobs.dispatch import Abilities, tell
from router_core.jobs.job import Job, State
from router_core.jobs.reaper import Reaper
from router_core.jobs.store import Claim, IdempotencyKey, NewEvent
from router_core.jobs.sweeper import Sweeper
from router_core.settings import Settings
from router_core.stores.dynamodb import DynamoJobStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, ended, new_job, running

__all__ = ["LARGE", "OPERATIONS", "Begun", "Killed", "Mortal", "Queue", "Site", "upkeep"]

_READS = ("get_item", "batch_get_item", "query")
LARGE = b'"' + b"x" * 20_000 + b'"'
_HOOK = '{"url":"https://example.com/hook"}'
_FILE = '{"f":{"$file":{"key":"%s"}}}'
_REF = '{"key":"%s","sha256":"","size":1,"content_type":"application/json"}'
_number = count()


class Killed(BaseException):
    """Stands for the end of the process: nothing that runs after it reaches the table."""


class Mortal:
    """The client of DynamoDB of a process that dies before its n-th write."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._left: int | None = None

    def dies_after(self, writes: int | None) -> None:
        """Let so many writes through, and nothing after them; None: live for ever."""
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if self._left is None or not callable(found):
            return found

        def called(**parameters: Any) -> Any:
            if self._left is not None and (self._left < 0 or name not in _READS):
                self._left -= 1
                if self._left < 0:
                    raise Killed
            return found(**parameters)

        return called


@dataclass
class Site:
    """A table, its time, a store of the process that dies, and what the queue was told."""

    table: str
    clock: FakeClock
    mortal: Mortal
    store: DynamoJobStore
    queue: Queue

    def another(self) -> DynamoJobStore:
        """Return a store of another process."""
        return DynamoJobStore(self.table, self.clock, patience=60)


@dataclass
class Queue:
    """An external queue that forgets nothing."""

    abilities: Abilities
    told: list[str] = field(default_factory=list)

    async def dispatch(self, job: Job) -> None:
        """Take the id of a job."""
        self.told.append(job.id)

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Do nothing."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""


def upkeep(site: Site, store: DynamoJobStore) -> tuple[Sweeper, Reaper]:
    """Return the sweeper and the reaper of a process."""
    settings, events = Settings(), Events()
    sweeper = Sweeper(
        store=store, blobs=MemoryBlobStore(), dispatcher=site.queue, routes={}, clock=site.clock,
        settings=settings, events=events,
    )  # fmt: skip
    reaper = Reaper(
        store=store, routes={}, clock=site.clock, settings=settings, events=events, dispatcher=site.queue,
        draw=lambda: 0.5,
    )  # fmt: skip
    return sweeper, reaper


@dataclass
class Begun:
    """An operation that is ready to run, and what it concerns."""

    operation: Callable[[], Awaitable[Any]]
    jobs: tuple[str, ...]
    accepted: bool = True
    """Whether the job is known to its caller, so that it must not get lost."""
    blobs: tuple[str, ...] = ()
    resubmit: Callable[[DynamoJobStore], Awaitable[Any]] | None = None


async def _add(site: Site) -> Begun:
    job = new_job(site.clock, dispatch_pending=True, input=LARGE)
    return Begun(lambda: site.store.add(job, queue_limit=50), (job.id,), accepted=False)


async def _add_with_key(site: Site) -> Begun:
    blob = f"blob{next(_number)}"
    job = new_job(site.clock, dispatch_pending=True, input=(_FILE % blob).encode() + b" " * 9000)
    key = IdempotencyKey(f"scope{job.id}", "body", site.clock.now() + 1e6)

    async def resubmit(store: DynamoJobStore) -> None:
        again = await store.add(new_job(site.clock, id=job.id, dispatch_pending=True), key=key)
        assert again.job.id == job.id

    begun = Begun(lambda: site.store.add(job, queue_limit=50, key=key), (job.id,), blobs=(blob,))
    begun.accepted, begun.resubmit = False, resubmit
    return begun


async def _claim(site: Site) -> Begun:
    ids = []
    for _ in range(2):
        ids.append((await site.store.add(new_job(site.clock, input=LARGE, dispatch_pending=True))).job.id)
    return Begun(lambda: site.store.claim(Claim("w1", LEASE, {ROUTE: 2})), tuple(ids))


async def _claim_by_id(site: Site) -> Begun:
    job = (await site.store.add(new_job(site.clock, dispatch_pending=True))).job
    return Begun(lambda: site.store.claim(Claim("w1", LEASE, job_id=job.id)), (job.id,))


async def _tell(site: Site) -> Begun:
    job = (await site.store.add(new_job(site.clock, dispatch_pending=True))).job
    return Begun(lambda: tell(site.queue, site.store, job), (job.id,))


async def _succeed(site: Site) -> Begun:
    blob = f"blob{next(_number)}"
    job = await running(site.store, site.clock, webhook=_HOOK, input=LARGE)
    move = moves.succeed(
        job.fence, now=site.clock.now(), retention=RETENTION, attempts=b"[]",
        result_ref=(_REF % blob).encode() + b" " * 9000,
    )  # fmt: skip
    return Begun(lambda: site.store.move(job.id, move), (job.id,), blobs=(blob,))


async def _retry(site: Site) -> Begun:
    job = await running(site.store, site.clock, dispatch_pending=True)
    now = site.clock.now()
    move = moves.retry(job.fence, now=now, not_before=now + 5, rank=now, attempts=b"[]", error=LARGE)
    return Begun(lambda: site.store.move(job.id, move), (job.id,))


async def _release(site: Site) -> Begun:
    job = await running(site.store, site.clock, dispatch_pending=True)
    return Begun(lambda: site.store.move(job.id, moves.release(job.fence, attempts=b"[]")), (job.id,))


async def _cancel_waiting(site: Site) -> Begun:
    job = (await site.store.add(new_job(site.clock, webhook=_HOOK, dispatch_pending=True))).job
    move = moves.cancel_waiting(now=site.clock.now(), retention=RETENTION)
    return Begun(lambda: site.store.move(job.id, move), (job.id,))


async def _cancel_running(site: Site) -> Begun:
    job = await running(site.store, site.clock)

    async def operation() -> None:
        await site.store.move(job.id, moves.cancel_running(now=site.clock.now()))
        done = moves.cancelled(job.fence, now=site.clock.now(), retention=RETENTION, attempts=b"")
        await site.store.move(job.id, done)

    return Begun(operation, (job.id,))


async def _work(site: Site) -> Begun:
    job = await running(site.store, site.clock, dispatch_pending=True)
    await site.store.append(job.fence, [NewEvent("log", b"1")])

    async def operation() -> None:
        await site.store.renew([job.fence], LEASE)
        await site.store.append(job.fence, [NewEvent("output", b"x" * 700_000)])
        await site.store.append(job.fence, [NewEvent("output", b"y" * 700_000)])
        await site.store.move(job.id, moves.step(job.fence, steps=LARGE))
        await site.store.move(job.id, moves.progress(job.fence, fraction=0.5, message="half"))

    return Begun(operation, (job.id,))


async def _scheduled(site: Site) -> Begun:
    later = site.clock.now() + 60
    job = new_job(site.clock, state=State.SCHEDULED, not_before=later, dispatch_pending=True)
    await site.store.add(job, queue_limit=50)
    site.clock.advance(61)
    sweeper, _ = upkeep(site, site.store)
    return Begun(sweeper.due, (job.id,))


async def _rescue(site: Site) -> Begun:
    job = await running(site.store, site.clock, dispatch_pending=True, webhook=_HOOK)
    site.clock.advance(LEASE + 1)
    _, reaper = upkeep(site, site.store)
    return Begun(reaper.tick, (job.id,))


async def _delivered(site: Site) -> Begun:
    job = await ended(site.store, site.clock, webhook=_HOOK)

    async def operation() -> None:
        for row in await site.store.deliveries():
            await site.store.postpone(row.id, attempt=1, next_at=site.clock.now())
            await site.store.delivered(row.id)

    return Begun(operation, (job.id,))


async def _full(site: Site, **values: Any) -> tuple[Job, tuple[str, str]]:
    """Return an ended job with everything that may belong to one."""
    blobs = f"blob{next(_number)}", f"blob{next(_number)}"
    text = (_FILE % blobs[0]).encode() + b" " * 9000
    job = await running(site.store, site.clock, input=text, **values)
    await site.store.append(job.fence, [NewEvent("output", b"x" * 500_000)])
    await site.store.move(job.id, moves.step(job.fence, steps=LARGE))
    move = moves.succeed(
        job.fence, now=site.clock.now(), retention=RETENTION, attempts=b"[]",
        result_ref=(_REF % blobs[1]).encode(),
    )  # fmt: skip
    assert (await site.store.move(job.id, move)).applied
    return job, blobs


async def _purge(site: Site) -> Begun:
    job, blobs = await _full(site, webhook=_HOOK)
    site.clock.advance(RETENTION)
    return Begun(site.store.purge, (job.id,), blobs=blobs)


async def _delete(site: Site) -> Begun:
    job, blobs = await _full(site)
    return Begun(lambda: site.store.delete(job.id), (job.id,), blobs=blobs)


OPERATIONS: Mapping[str, Callable[[Site], Awaitable[Begun]]] = {
    "add": _add, "add_with_key": _add_with_key, "claim": _claim, "claim_by_id": _claim_by_id,
    "tell": _tell,
    "succeed": _succeed, "retry": _retry, "release": _release, "cancel_waiting": _cancel_waiting,
    "cancel_running": _cancel_running, "work": _work, "scheduled": _scheduled, "rescue": _rescue,
    "delivered": _delivered, "purge": _purge, "delete": _delete,
}  # fmt: skip
