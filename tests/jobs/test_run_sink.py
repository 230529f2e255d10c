"""Events of a job, through a store whose answers are lost: each is kept once, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from router_core.clock import SystemClock
from router_core.errors import StoreError
from router_core.jobs.execution import Run
from router_core.jobs.job import Fence, Job, State, Tombstone
from router_core.jobs.journal import Journal
from router_core.jobs.settle import StoreSink
from router_core.jobs.store import Claim, NewEvent
from router_core.stores.memory import MemoryJobStore
from router_core.types import new_id
from tests.jobs.running import eventually

Fate = str
"""Of a call: ``kept``, ``lost`` (written, but the answer never came), ``half`` of it so, or ``away``."""


class Lossy(MemoryJobStore):
    """A store whose next calls end as they are told to."""

    def __init__(self, fates: Sequence[Fate]) -> None:
        super().__init__(SystemClock())
        self.fates = list(fates)

    def _fate(self) -> Fate:
        return self.fates.pop(0) if self.fates else "kept"

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> int:
        """Keep events, or some of them, or none."""
        fate = self._fate()
        if fate == "away":
            raise StoreError("not written")
        last = await super().append(fence, events[: len(events) // 2] if fate == "half" else events)
        if fate != "kept":
            raise StoreError("written, but the answer was lost")
        return last

    async def get(self, job_id: str) -> Job | Tombstone | None:
        """Look, unless the store is away."""
        if self._fate() == "away":
            raise StoreError("no answer")
        return await super().get(job_id)


async def claimed(store: MemoryJobStore) -> Run:
    """Return an attempt of a new job."""
    await store.open()
    now = SystemClock().now()
    job = Job(id=new_id(), owner="o", route="/r", state=State.QUEUED, created_at=now, rank=now, input=b"{}")
    await store.add(job)
    (job,) = await store.claim(Claim("w", 60.0, job_id=job.id))
    return Run(replace(job, route="/r"), None, asyncio.get_running_loop(), lease_ends=now + 60.0, grace=1.0)


async def kept(store: MemoryJobStore, run: Run) -> list[bytes]:
    """Return the data of all events that were kept, in order."""
    page = await store.events(run.job.id, 0, 1000)
    return [event.data for event in page.events]


async def test_whatever_becomes_of_answers_each_event_is_kept_once() -> None:
    """Calls that fail hand the same events in again, and those that have come since: all ways to fail, four
    calls in a row."""
    for fates in product(("kept", "lost", "half", "away"), repeat=4):
        store = Lossy(fates)
        run = await claimed(store)
        sink = StoreSink(store, run, {})
        waiting: list[NewEvent] = []
        for number in range(8):
            waiting.append(NewEvent("output", b"%d" % number))
            try:
                await sink.events(list(waiting))
            except StoreError:
                continue
            waiting.clear()
        assert await kept(store, run) == [b"%d" % number for number in range(8)], fates
        assert run.stopped is None


async def test_events_that_were_dropped_while_nobody_answered_are_not_mistaken_for_others() -> None:
    """A journal that is full lets the oldest go, which may be one that was written already."""
    store = Lossy(["lost"])
    run = await claimed(store)
    sink = StoreSink(store, run, {})
    events = [NewEvent("output", b"%d" % number) for number in range(5)]
    with pytest.raises(StoreError):
        await sink.events(events[:3])
    await sink.events(events[2:])
    assert await kept(store, run) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_last_outputs_of_a_job_are_not_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker writes them: an answer was lost, and the next one, too, after it had looked."""
    store = Lossy(["lost", "kept", "lost"])
    run = await claimed(store)
    journal = Journal(run.loop, StoreSink(store, run, {}), progress_every=0.01, events_every=0.001)
    seen: list[Any] = []
    append = store.append

    async def noted(fence: Fence, events: Sequence[NewEvent]) -> int:
        seen.append([event.data for event in events])
        return await append(fence, events)

    monkeypatch.setattr(store, "append", noted)
    journal.emit(NewEvent("output", b"1"))
    await eventually(lambda: seen)
    journal.emit(NewEvent("output", b"2"))
    await eventually(lambda: not store.fates)
    await journal.flush()
    assert await kept(store, run) == [b"1", b"2"]
    assert seen == [[b"1"], [b"2"]]
