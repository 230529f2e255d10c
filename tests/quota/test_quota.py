"""Taking and settling, alone and with others: what is asked of the store, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router_core.errors import StoreError
from router_core.quota.cap import Cap
from router_core.quota.document import Document, decode
from router_core.quota.quota import Demand, Exceeded, Quota
from router_core.quota.sharing import Ask, Need, share
from router_core.quota.standing import Standing
from router_core.testing.clock import FakeClock
from tests.quota.quota_parts import Quick, Shared, take, taken, tried

PLENTY = (Cap("daily", 10**9, "budget", "day"), Cap("requests", 10**6, "rate", 60_000),
          Cap("concurrency", 10**4, "concurrency"))  # fmt: skip
TEN = (Cap("daily", 10, "budget", "day"),)
AT_ONCE = (Cap("concurrency", 2, "concurrency"),)


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return Quick()


@pytest.fixture
def store(clock: FakeClock) -> Shared:
    """A shared store."""
    return Shared(clock)


@asynccontextmanager
async def running(*quotas: Quota) -> AsyncIterator[None]:
    """Run the loops beside the calls."""
    tasks = [asyncio.create_task(quota.run()) for quota in quotas]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def standing(quota: Quota, caps: tuple[Cap, ...]) -> Standing:
    """Return how the first limit stands."""
    return (await quota.standing("s", caps))[0]


# --- alone --------------------------------------------------------------------------------------------


async def test_alone_nothing_waits(clock: FakeClock) -> None:
    """Without a store, or with one that nobody else sees, an answer is there at once."""
    quota = Quota(clock=clock)
    for _ in range(10):
        taken(quota, TEN).settle()
    with pytest.raises(Exceeded):
        quota.take("s", TEN)
    with pytest.raises(Exceeded, match="budget") as caught:
        quota.take("s", TEN)
    assert (caught.value.code, caught.value.remaining, caught.value.status) == ("budget_exceeded", 0, 429)
    seconds_left = 86_400 - clock.now() % 86_400
    assert caught.value.retry_after == seconds_left
    clock.advance(seconds_left)
    taken(quota, TEN).settle()
    assert (await standing(quota, TEN)).spent == 1


async def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_booked(clock: FakeClock) -> None:
    """A reservation is an estimate; the limit goes by what things have cost."""
    quota = Quota(clock=clock)
    held = taken(quota, TEN, 9)
    with pytest.raises(Exceeded):
        quota.take("s", TEN, 2)
    held.settle((3,))
    held.settle((3,))
    taken(quota, TEN, 7).settle((12,))
    assert (await standing(quota, TEN)).spent == 15
    with pytest.raises(Exceeded):
        quota.take("s", TEN, 1)
    taken(quota, TEN, 0).release()


async def test_a_rate_is_corrected_where_it_was_booked(clock: FakeClock) -> None:
    """Tokens that were not used are free at once; those of a minute ago are free already."""
    caps = (Cap("tokens", 100, "rate", 60_000),)
    quota = Quota(clock=clock)
    first = taken(quota, caps, 80)
    first.settle((20,))
    slow = taken(quota, caps, 80)
    with pytest.raises(Exceeded) as caught:
        quota.take("s", caps, 1)
    assert 60 < caught.value.retry_after <= 62
    clock.advance(63)
    other = taken(quota, caps, 100)
    slow.settle((10,))
    with pytest.raises(Exceeded):
        quota.take("s", caps, 1)
    other.release()
    taken(quota, caps, 100)


async def test_all_or_nothing_over_several_subjects(clock: FakeClock) -> None:
    """A subject that is short takes nothing off the others."""
    quota = Quota(clock=clock)
    taken(quota, AT_ONCE, 2)
    demands = [Demand("other", TEN, (4,)), Demand("s", AT_ONCE, (1,))]
    with pytest.raises(Exceeded) as caught:
        quota.take_all(demands)
    assert (caught.value.subject, caught.value.code) == ("s", "concurrency_exceeded")
    assert [each.reserved for each in await quota.standing("other", TEN)] == [0]


async def test_marks_are_told_once_in_a_window(clock: FakeClock) -> None:
    """As soon as so much was spent, by whatever call."""
    told: list[tuple[int, int]] = []
    caps = (Cap("daily", 10, "budget", "day", marks=(5, 8)),)
    quota = Quota(clock=clock, on_mark=lambda subject, cap, mark, spent, slot: told.append((mark, spent)))
    for _ in range(2):
        for cost in (4, 1, 4, 1):
            taken(quota, caps, 1 if cost == 1 else 0).settle((cost,))
        assert told == [(5, 5), (8, 9)]
        told.clear()
        clock.advance(86_400)


async def test_subjects_nobody_asks_about_are_forgotten(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by those that count; a budget is never forgotten in its window."""
    monkeypatch.setattr("router_core.quota.quota.MAX_ACCOUNTS", 100)
    quota = Quota(clock=clock)
    rate = (Cap("requests", 5, "rate", 60_000),)
    taken(quota, TEN, 10).settle()
    for number in range(1000):
        quota.take(f"caller-{number}", rate)
    assert len(quota._accounts) <= 100
    with pytest.raises(Exceeded):
        quota.take("s", TEN)


# --- with others --------------------------------------------------------------------------------------


async def test_with_plenty_left_the_store_is_not_asked(clock: FakeClock, store: Shared) -> None:
    """The first calls wait; after that what is held here is enough, and is fetched before it is used up."""
    quota = Quota(store, clock=clock)
    async with running(quota):
        for _ in range(20):
            for _ in range(50):
                (await take(quota, PLENTY, (100, 1, 1))).settle((60, 1, 1))
            await quota.idle()
            clock.advance(0.5)
            await asyncio.sleep(0)
            await quota.idle()
        asked = store.asked
        for _ in range(40):
            taken(quota, PLENTY, (100, 1, 1)).settle((60, 1, 1))
        assert store.asked == asked
        assert asked < 100
        assert (await standing(quota, PLENTY)).spent == 1040 * 60
    entry = await store.get("quota/s")
    assert entry is not None
    document = decode(entry.value)
    assert sum(document.slots["daily"].values()) == 1040 * 60
    assert [each.held for each in document.holders.values()] == [{}]


async def test_idle_headroom_is_given_back_within_a_second(clock: FakeClock, store: Shared) -> None:
    """Twice the loop comes by; the second time nothing was used since."""
    quota = Quota(store, clock=clock)
    async with running(quota):
        (await take(quota, PLENTY, (100, 1, 1))).settle()
        assert [line.spare > 0 for line in quota._accounts["s"].lines] == [True, True, True]
        for _ in range(2):
            await quota.tick()
            await quota.idle()
        entry = await store.get("quota/s")
        assert entry is not None
        assert [each.held for each in decode(entry.value).holders.values()] == [{}]
        await quota.tick()
        assert not quota._dirty


async def test_the_last_of_a_budget_is_not_kept_from_others(clock: FakeClock, store: Shared) -> None:
    """Who is short of nothing but the headroom of others gets it, as soon as they have looked."""
    caps = (Cap("daily", 1000, "budget", "day"),)
    one, other = Quota(store, clock=clock), Quota(store, clock=clock)
    async with running(one, other):
        (await take(one, caps)).settle()
        held = one._accounts["s"].lines[0].spare
        assert held > 0
        waiting = asyncio.create_task(take(other, caps, 999))
        for _ in range(10):
            await asyncio.sleep(0)
        assert decode(store._held["quota/s"].value).pressed
        one.take("s", caps, 0)
        await one.tick()
        for _ in range(100):
            await asyncio.sleep(0)
            clock.advance(0.1)
        (await waiting).settle()
        assert (await standing(other, caps)).spent == 1000


async def test_who_leaves_while_waiting_holds_nothing(clock: FakeClock, store: Shared) -> None:
    """A thousand who are cancelled before, while and after the store has answered."""
    quota = Quota(store, clock=clock)
    caps = (Cap("daily", 10**6, "budget", "day"), Cap("concurrency", 2000, "concurrency"))
    store.hold = asyncio.Event()
    tasks = [asyncio.create_task(take(quota, caps, (5, 1))) for _ in range(1000)]
    for at, task in enumerate(tasks):
        if at % 3 == 0:
            task.cancel()
        if at == 500:
            await asyncio.sleep(0)
    store.hold.set()
    for at, task in enumerate(tasks):
        await asyncio.sleep(0)
        if at % 3 == 1:
            task.cancel()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(answer, BaseException):
            answer.release()
    await quota.idle()
    assert [(each.spent, each.reserved) for each in await quota.standing("s", caps)] == [(0, 0), (0, 0)]


async def test_what_one_subject_gave_goes_back_when_another_has_not_enough(
    clock: FakeClock, store: Shared
) -> None:
    """Whether it was held here or had to be asked for."""
    quota = Quota(store, clock=clock)
    async with running(quota):
        (await take(quota, PLENTY, (100, 1, 1), "rich")).release()
        await take(quota, AT_ONCE, 2, "poor")
        for subject in ("rich", "new"):
            waits = quota.take_all([Demand(subject, PLENTY, (100, 0, 1)), Demand("poor", AT_ONCE, (1,))])
            assert not isinstance(waits, list)
            with pytest.raises(Exceeded):
                await waits
            assert {each.reserved for each in await quota.standing(subject, PLENTY)} == {0}


async def test_what_was_never_awaited_holds_nothing(clock: FakeClock, store: Shared) -> None:
    """Nor does it complain."""
    quota = Quota(store, clock=clock)
    assert not isinstance(quota.take_all([Demand("s", TEN, (1,))]), list)
    assert store.asked == 0


async def test_what_a_dead_process_held_is_free_when_its_lease_has_ended(
    clock: FakeClock, store: Shared
) -> None:
    """Not before, and nobody has to do anything for it."""
    dead, other = Quota(store, clock=clock), Quota(store, clock=clock)
    await take(dead, AT_ONCE, 2)
    with pytest.raises(Exceeded):
        await take(other, AT_ONCE)
    clock.advance(19)
    with pytest.raises(Exceeded):
        await take(other, AT_ONCE)
    clock.advance(2)
    (await take(other, AT_ONCE, 2)).release()
    await other.idle()


async def test_a_frozen_process_is_believed_for_as_long_as_its_call(clock: FakeClock, store: Shared) -> None:
    """Where no loop runs nobody renews what is held: it lasts to the end of the call and a little longer."""
    frozen, other = Quota(store, clock=clock), Quota(store, clock=clock)
    held = frozen.take_all([Demand("s", AT_ONCE, (2,))], within=120.0)
    assert not isinstance(held, list)
    await held
    clock.advance(119)
    with pytest.raises(Exceeded):
        await take(other, AT_ONCE)
    clock.advance(7)
    await take(other, AT_ONCE)


async def test_a_long_call_renews_what_it_holds(clock: FakeClock, store: Shared) -> None:
    """As long as its process lives."""
    quota, other = Quota(store, clock=clock), Quota(store, clock=clock)
    async with running(quota):
        held = await take(quota, AT_ONCE, 2)
        for _ in range(60):
            clock.advance(1.0)
            await quota.tick()
            await quota.idle()
        with pytest.raises(Exceeded):
            await take(other, AT_ONCE)
        held.release()
        await quota.tick()
        await quota.idle()
        await take(other, AT_ONCE)


async def test_a_write_whose_answer_was_lost_is_counted_once(clock: FakeClock, store: Shared) -> None:
    """The next look at the account tells whether it happened."""
    quota = Quota(store, clock=clock)
    caps = (Cap("daily", 1000, "budget", "day"),)
    async with running(quota):
        for cost in range(1, 9):
            held = await take(quota, caps, 10)
            held.settle((cost,))
            store.lose = cost % 2
            await quota.tick()
            await quota.idle()
            await quota.tick()
            await quota.idle()
        assert (await standing(quota, caps)).spent == 36


async def test_what_a_frozen_process_could_not_write_is_written_when_somebody_tends_it(
    clock: FakeClock, store: Shared
) -> None:
    """Where no loop runs there is a schedule."""
    quota = Quota(store, clock=clock)
    held = await take(quota, TEN, 5)
    store.away = True
    held.settle((3,))
    await quota.idle()
    store.away = False
    await quota.tick()
    await quota.idle()
    entry = await store.get("quota/s")
    assert entry is not None
    assert sum(decode(entry.value).slots["daily"].values()) == 3
    await quota.tick()
    assert not quota._dirty


async def test_what_a_lost_answer_had_granted_is_given_back(clock: FakeClock, store: Shared) -> None:
    """The call was refused, for nobody knew; the account says that it holds something until it is told."""
    quota, other = Quota(store, clock=clock), Quota(store, clock=clock)
    async with running(quota):
        store.lose = 1
        with pytest.raises(StoreError):
            await take(quota, AT_ONCE, 2)
        await quota.tick()
        await quota.idle()
        (await take(other, AT_ONCE, 2)).release()
        await other.idle()


@pytest.mark.parametrize("word", ["open", "closed"])
async def test_a_store_that_is_away(clock: FakeClock, store: Shared, word: str) -> None:
    """Closed: what is held here is given, and what would need the store is 503. Open: this process goes by
    its own count, and tells the store later."""
    caps = (Cap("daily", 1000, "budget", "day", "open" if word == "open" else "closed"),)
    quota = Quota(store, clock=clock)
    async with running(quota):
        (await take(quota, caps, 5)).settle()
        here = quota._accounts["s"].lines[0].free
        assert here > 0
        store.away = True
        taken(quota, caps, here).settle()
        await quota.idle()
        if word == "closed":
            with pytest.raises(StoreError) as caught:
                await take(quota, caps)
            assert caught.value.retry_after == 3
        else:
            (await take(quota, caps, 995 - here)).settle()
            with pytest.raises(Exceeded):
                await take(quota, caps)
        store.away = False
        await quota.tick()
        await quota.idle()
        entry = await store.get("quota/s")
        assert entry is not None
        assert sum(decode(entry.value).slots["daily"].values()) == (1000 if word == "open" else 5 + here)


async def test_what_cannot_be_read_is_no_empty_account(clock: FakeClock, store: Shared) -> None:
    """To begin anew would give away what was spent."""
    await store.put("quota/s", b"not ours")
    with pytest.raises(StoreError, match="cannot be read"):
        await take(Quota(store, clock=clock), TEN)


async def test_limits_that_change_while_a_call_waits(clock: FakeClock, store: Shared) -> None:
    """The call goes by the new ones or by its own, and is never lost."""
    quota = Quota(store, clock=clock)
    store.hold = asyncio.Event()
    waiting = [asyncio.create_task(tried(quota, TEN, 4))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    other = (Cap("daily", 12, "budget", "day"), Cap("concurrency", 5, "concurrency"))
    waiting.append(asyncio.create_task(tried(quota, other, 1)))
    waiting.append(asyncio.create_task(tried(quota, TEN, 4)))
    await asyncio.sleep(0)
    store.hold.set()
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    await quota.idle()
    assert (await standing(quota, TEN)).spent == 9


async def test_a_reset_forgets_what_was_spent_everywhere(clock: FakeClock, store: Shared) -> None:
    """Also what was not written yet; what calls hold stays."""
    one, other = Quota(store, clock=clock), Quota(store, clock=clock)
    assert [await tried(one, TEN, 4), await tried(other, TEN, 4)] == [1, 1]
    held = await take(other, TEN, 1)
    await one.reset("s", TEN)
    found = await standing(other, TEN)
    assert (found.spent, found.reserved) == (0, 1)
    assert await tried(one, TEN, 9) == 1
    held.release()
    await other.idle()


async def test_names_of_any_length_have_an_account(clock: FakeClock, store: Shared) -> None:
    """And no two share one."""
    quota = Quota(store, clock=clock)
    names = ["x" * 600, "x" * 599 + "y", "é" * 300, "a/b c", "a\nb", "\ud800"]
    for name in names:
        (await take(quota, TEN, 10, name)).settle()
    await quota.idle()
    assert len((await store.entries("quota/")).entries) == 6


async def test_a_copy_of_a_process_is_another_one(clock: FakeClock, store: Shared) -> None:
    """What both hold counts twice: platforms start many from one snapshot."""
    quota, copy = Quota(store, clock=clock), Quota(store, clock=clock)
    copy._name = quota._holder()
    copy.restored()
    await take(quota, AT_ONCE)
    await take(copy, AT_ONCE)
    with pytest.raises(Exceeded):
        await take(copy, AT_ONCE)


async def test_a_process_may_go_on_in_another_loop(clock: FakeClock, store: Shared) -> None:
    """What was begun in the one before holds nobody up."""
    quota = Quota(store, clock=clock)
    store.hold = asyncio.Event()

    def other_loop() -> int:
        async def leave() -> None:
            task = asyncio.create_task(take(quota, TEN))
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
            assert quota._keeper is not None
            for each in quota._keeper._busy.values():
                each.cancel()

        asyncio.run(leave())
        store.hold = None
        return asyncio.run(tried(quota, TEN, 9))

    assert await asyncio.to_thread(other_loop) == 1


def test_thousands_of_processes_do_not_fill_an_account() -> None:
    """Those that hold nothing are forgotten when there are many."""
    document = Document()
    for number in range(3000):
        ask = Ask(f"p{number}", 1, 20_000, [Need(used=1 if number % 10 == 0 else 0)])
        document = share(document, AT_ONCE, ask, 0).document
    assert len([each for each in document.holders.values() if each.held]) == 300
    assert len(document.holders) < 900
