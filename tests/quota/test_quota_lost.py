"""A store that forgets in the middle: what a process still knows to be spent it tells again."""

from __future__ import annotations

import pytest

from router_core.quota.cap import Cap
from router_core.quota.document import Document, decode, encode
from router_core.quota.quota import Quota
from router_core.testing.clock import FakeClock
from tests.quota.quota_parts import Quick, Shared, tried

TEN = (Cap("daily", 10, "budget", "day"),)


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return Quick()


@pytest.fixture
def store(clock: FakeClock) -> Shared:
    """A shared store."""
    return Shared(clock)


async def emptied(store: Shared) -> None:
    """Forget everything, as a store does whose memory was flushed."""
    page = await store.entries("quota/")
    for each in page.entries:
        await store.delete(each.key)


async def spent(quota: Quota) -> int:
    """Return what a process says was spent."""
    return (await quota.standing("s", TEN))[0].spent


async def written(quota: Quota) -> None:
    """Have everything written that a process has to write."""
    await quota.tick()
    await quota.idle()


async def test_a_budget_is_not_given_again_when_the_store_forgets_it(clock: FakeClock, store: Shared) -> None:
    """Ten were paid for, in two processes; none of them, nor a new one, gives more than ten in all."""
    one, other = Quota(store, clock=clock), Quota(store, clock=clock)
    assert [await tried(one, TEN, 4), await tried(other, TEN, 4), await tried(one, TEN, 1)] == [1, 1, 1]
    await written(one)
    await emptied(store)
    assert await spent(one) == 9
    assert [await tried(one, TEN) for _ in range(5)] == [1, 0, 0, 0, 0]
    fresh = Quota(store, clock=clock)
    assert [await tried(each, TEN) for each in (other, fresh)] == [0, 0]


async def test_the_most_that_anybody_knows_counts(clock: FakeClock, store: Shared) -> None:
    """Whoever comes first may know less than another, who tells what is missing."""
    less, more = Quota(store, clock=clock), Quota(store, clock=clock)
    assert await tried(less, TEN, 2) == 1
    assert await tried(more, TEN, 6) == 1
    await written(more)
    await emptied(store)
    assert await tried(less, TEN, 1) == 1
    await written(less)
    assert await tried(more, TEN, 3) == 0
    assert await spent(more) >= 8


async def test_a_reset_is_no_loss(clock: FakeClock, store: Shared) -> None:
    """What was forgotten by order is told again by nobody."""
    one, other = Quota(store, clock=clock), Quota(store, clock=clock)
    assert [await tried(one, TEN, 5), await tried(other, TEN, 5)] == [1, 1]
    await written(other)
    await written(one)
    await one.reset("s", TEN)
    assert [await tried(other, TEN, 5), await tried(one, TEN, 5)] == [1, 1]


async def test_what_was_spent_yesterday_is_not_told_again(clock: FakeClock, store: Shared) -> None:
    """Another window is another budget, whatever was lost."""
    quota = Quota(store, clock=clock)
    assert await tried(quota, TEN, 10) == 1
    await written(quota)
    await emptied(store)
    clock.advance(86_400)
    assert await tried(quota, TEN, 10) == 1


def test_documents_of_before_are_read() -> None:
    """One that says nothing about when it came to be is read all the same."""
    assert decode(encode(Document(born="x"))).born == "x"
    assert decode(b'{"v":1,"s":{},"h":{},"p":0}') == Document()
