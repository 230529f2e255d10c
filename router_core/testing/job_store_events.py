"""Contract of a job's events: numbers without gaps, a bounded ring, a fence."""

from __future__ import annotations

import pytest

from router_core.errors import Fenced
from router_core.jobs import moves
from router_core.jobs.job import Fence, Job
from router_core.jobs.store import NewEvent, Store
from router_core.testing.clock import FakeClock
from router_core.testing.job_records import claim_one, running

__all__ = ["EventContract"]


class EventContract:
    """Tests of ``append`` and ``events``."""

    async def test_events_are_numbered_from_one(self, store: Store, clock: FakeClock) -> None:
        """They come back in order, with type, data, time and attempt."""
        job = await running(store, clock)
        assert await store.append(job.fence, [NewEvent("output", b'"a"'), NewEvent("log", b"\x00\xff")]) == 2
        clock.advance(1)
        assert await store.append(job.fence, [NewEvent("output", b'"c"')]) == 3
        page = await store.events(job.id)
        assert [event.seq for event in page.events] == [1, 2, 3]
        assert [event.data for event in page.events] == [b'"a"', b"\x00\xff", b'"c"']
        assert (page.first_seq, page.last_seq) == (1, 3)
        last = page.events[-1]
        assert (last.type, last.at, last.attempt) == ("output", clock.now(), 1)
        record = await store.get(job.id)
        assert isinstance(record, Job)
        assert record.event_seq == 3

    async def test_a_reader_resumes(self, store: Store, clock: FakeClock) -> None:
        """After any number, and in pages."""
        job = await running(store, clock)
        await store.append(job.fence, [NewEvent("output", str(n).encode()) for n in range(1, 11)])
        page = await store.events(job.id, after=3, limit=4)
        assert [event.seq for event in page.events] == [4, 5, 6, 7]
        assert page.last_seq == 10
        assert not (await store.events(job.id, after=10)).events
        assert not (await store.events(job.id, after=99)).events

    async def test_nothing_is_an_empty_page(self, store: Store, clock: FakeClock) -> None:
        """For a job without events and for no job at all; appending nothing numbers nothing."""
        job = await running(store, clock)
        assert await store.append(job.fence, []) == 0
        for job_id in (job.id, "unknown"):
            page = await store.events(job_id)
            assert (list(page.events), page.first_seq, page.last_seq) == ([], 0, 0)

    async def test_numbers_go_on_in_the_next_attempt(self, store: Store, clock: FakeClock) -> None:
        """The history is the job's, not the attempt's; the replaced worker adds nothing to it."""
        job = await running(store, clock)
        await store.append(job.fence, [NewEvent("output", b"1")])
        await store.move(job.id, moves.release(job.fence, attempts=b"[]"))
        with pytest.raises(Fenced):
            await store.append(job.fence, [NewEvent("output", b"x")])
        again = await claim_one(store)
        assert again is not None
        for fence in (job.fence, Fence(job.id, again.epoch, job.token), Fence("unknown", 1, again.token)):
            with pytest.raises(Fenced):
                await store.append(fence, [NewEvent("output", b"x")])
        assert await store.append(again.fence, [NewEvent("output", b"2")]) == 2
        assert [event.data for event in (await store.events(job.id)).events] == [b"1", b"2"]

    async def test_a_ring_keeps_a_thousand(self, store: Store, clock: FakeClock) -> None:
        """The oldest go first, one by one and in one large batch; what is left is told (I12)."""
        job = await running(store, clock)
        await store.append(job.fence, [NewEvent("output", b"%d" % n) for n in range(1, 1501)])
        page = await store.events(job.id, limit=5000)
        assert (len(page.events), page.first_seq, page.last_seq) == (1000, 501, 1500)
        await store.append(job.fence, [NewEvent("output", b"1501")])
        page = await store.events(job.id, limit=5000)
        assert (len(page.events), page.first_seq, page.last_seq) == (1000, 502, 1501)
        assert page.events[0].data == b"502"

    async def test_a_ring_keeps_a_megabyte(self, store: Store, clock: FakeClock) -> None:
        """Large events push out as many old ones as needed; one that is too large alone leaves nothing."""
        job = await running(store, clock)
        for n in range(12):
            await store.append(job.fence, [NewEvent("output", bytes([n]) * 100_000)])
        page = await store.events(job.id)
        assert (page.first_seq, page.last_seq, len(page.events)) == (3, 12, 10)
        await store.append(job.fence, [NewEvent("output", b"x" * 1_100_000)])
        page = await store.events(job.id)
        assert (page.first_seq, page.last_seq, len(page.events)) == (0, 13, 0)
        assert await store.append(job.fence, [NewEvent("output", b"y")]) == 14
        page = await store.events(job.id)
        assert (page.first_seq, page.last_seq, len(page.events)) == (14, 14, 1)
