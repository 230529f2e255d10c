"""The DynamoDB store when its process dies between two calls of one operation (fault matrix 1).

Each operation is begun again and again on fresh jobs; its process dies before the first write of it, before
the second, and so on. Then another process does upkeep, and every invariant has to hold. Between two reads a
process may die as well: that looks like a death before the next write.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest

from router_core.errors import StoreError
from router_core.jobs import moves
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import MAX_CRASHES, Job, State, Tombstone
from router_core.jobs.store import Claim
from router_core.stores.dynamodb import DynamoJobStore, create_table
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import LEASE, RETENTION, ROUTE, new_job, running, worker_moves
from router_core.vendors import boto3
from tests.stores.dynamo_dying import LARGE, OPERATIONS, Begun, Killed, Mortal, Queue, Site, upkeep

_number = count()


@pytest.fixture
async def site(aws: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A fresh table, and a process that can die."""
    table = f"kills{next(_number)}"
    await asyncio.to_thread(create_table, table, expire=False)
    boto3.forget()
    mortal = Mortal(boto3.client("dynamodb"))
    monkeypatch.setattr(boto3, "client", lambda service: mortal)
    clock = FakeClock()
    queue = Queue(Abilities(delay=True, priority=False, cancel=True, stream=True, external=True))
    return Site(table, clock, mortal, DynamoJobStore(table, clock, patience=60), queue)


# --- what comes after -----------------------------------------------------------------------------------


async def seen(store: DynamoJobStore, begun: Begun) -> dict[str, Job]:
    """Return the records of an operation that are not forgotten yet."""
    found = {job_id: await store.get(job_id) for job_id in begun.jobs}
    return {job_id: job for job_id, job in found.items() if isinstance(job, Job)}


def risen(before: Mapping[str, Job], after: Mapping[str, Job]) -> None:
    """Check what may never go back or change (I2, I3, I6, I7)."""
    for job_id, old in before.items():
        new = after[job_id]
        assert (new.version, new.epoch) >= (old.version, old.epoch)
        if old.terminal:
            assert new == old
        if old.state is State.CANCELLING:
            assert new.state in (State.CANCELLING, State.CANCELLED)
        assert new.attempt <= new.max_attempts
        assert new.crash_count <= MAX_CRASHES


async def worked_off(site: Site, store: DynamoJobStore, begun: Begun) -> dict[str, Job]:
    """Do upkeep and run what the queue was told of, until all jobs have ended."""
    sweeper, reaper = upkeep(site, store)
    now = await seen(store, begun)
    for _ in range(8):
        before = now
        fences = [job.fence for job in before.values() if job.token]
        site.clock.advance(LEASE + 1)
        for step in (reaper.tick, sweeper.due, sweeper.resend):
            await step()
        for job_id in site.queue.told[:]:
            for job in await store.claim(Claim("w2", LEASE, job_id=job_id)):
                end = moves.succeed(job.fence, now=site.clock.now(), retention=RETENTION, attempts=b"[]")
                assert (await store.move(job.id, end)).applied
        now = await seen(store, begun)
        risen(before, now)
        for fence in fences:  # who was replaced writes nothing any more (I4)
            for move in worker_moves(fence, site.clock.now()):
                assert not (await store.move(fence.job_id, move)).applied
        if all(job.terminal for job in now.values()):
            return now
    raise AssertionError(f"not ended: {[(job.state, job.reason) for job in now.values()]}")


async def items_of(partition: str, table: str) -> list[Any]:
    """Return what stands in a partition."""
    answer = await boto3.request(
        "dynamodb", "query", TableName=table, KeyConditionExpression="pk = :pk", ConsistentRead=True,
        ExpressionAttributeValues={":pk": {"S": partition}},
    )  # fmt: skip
    found: list[Any] = answer["Items"]
    return found


async def counted(site: Site, begun: Begun) -> tuple[int, int]:
    """Return how many jobs of the route the counter says wait, and how many of ours do."""
    items = await items_of(f"Q#{ROUTE}", site.table)
    jobs = await seen(site.another(), begun)
    waiting = sum(job.state in (State.QUEUED, State.SCHEDULED) for job in jobs.values())
    return int(items[0]["waits"]["N"]) if items else 0, waiting


async def forgotten(site: Site, store: DynamoJobStore, begun: Begun, ends: Mapping[str, Job]) -> None:
    """Send the webhooks, let the retention end, and check that nothing is left (I9)."""
    hooked = any(job.webhook for job in ends.values())
    rows = await store.deliveries() if hooked else ()
    assert len({row.job_id for row in rows}) == len(rows)
    for row in rows:
        assert row.job_id not in ends or row.id == f"{row.job_id}.{ends[row.job_id].state}"
        await store.delivered(row.id)
    site.clock.advance(RETENTION + 1 + 24 * 3600)
    await store.purge()
    for job_id in begun.jobs:
        assert not isinstance(await store.get(job_id), Job)
        assert [item for item in await items_of(f"J#{job_id}", site.table) if "grave" not in item] == []
    assert list(await store.unreferenced(begun.blobs)) == list(begun.blobs)


async def healed(site: Site, store: DynamoJobStore) -> None:
    """Check that the counter comes to the truth once the queue is quiet."""
    await store.purge()
    site.clock.advance(31)
    await store.purge()
    for item in await items_of(f"Q#{ROUTE}", site.table):
        assert item["waits"]["N"] == "0"


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_process_may_die_between_any_two_writes(site: Site, name: str) -> None:
    """What was accepted ends, once; what has ended stays; nothing is left behind or counted for ever."""
    for writes in count():
        begun = await OPERATIONS[name](site)
        before = await seen(site.store, begun)
        site.queue.told.clear()
        site.mortal.dies_after(writes)
        died = True
        with contextlib.suppress(Killed):
            await begun.operation()
            died = False
        site.mortal.dies_after(None)
        after = site.another()
        told, waiting = await counted(site, begun)
        assert told >= waiting, f"after {writes} writes the queue counts too few"
        now = await seen(after, begun)
        gone = [await after.get(job_id) for job_id in begun.jobs if job_id not in now]
        assert not begun.accepted or all(isinstance(job, Tombstone) for job in gone)
        if begun.resubmit is not None:
            await begun.resubmit(after)
        ends = await worked_off(site, after, begun)
        risen({job_id: job for job_id, job in before.items() if job_id in ends}, ends)
        await forgotten(site, after, begun, ends)
        site.store = site.another()
        if not died:
            await healed(site, after)
            return


async def test_a_record_that_has_lost_a_part_ends_and_hinders_none(site: Site) -> None:
    """Nobody can run it any more: it is given up as one that kills its workers, and other jobs go on."""
    broken = (await site.store.add(new_job(site.clock, input=LARGE))).job
    for item in await items_of(f"J#{broken.id}", site.table):
        if item["sk"]["S"] != "R":
            key = {"pk": item["pk"], "sk": item["sk"]}
            await boto3.request("dynamodb", "delete_item", TableName=site.table, Key=key)
    store = site.another()
    _, reaper = upkeep(site, store)
    for _ in range(MAX_CRASHES):
        with pytest.raises(StoreError, match="is missing"):
            await store.claim(Claim("w", LEASE, job_id=broken.id))
        good = await running(store, site.clock)
        site.clock.advance(LEASE + 1)
        await reaper.tick()
        assert isinstance(rescued := await store.get(good.id), Job)
        assert rescued.state is State.RETRYING
        site.clock.advance(LEASE)
    (item,) = await items_of(f"J#{broken.id}", site.table)
    assert (item["state"]["S"], item["reason"]["S"]) == ("failed", "lost")
    site.clock.advance(2 * 24 * 3600)
    assert isinstance(await store.get(broken.id), Tombstone)
    assert (await store.purge()).jobs == 1
