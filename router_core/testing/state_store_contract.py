"""What every state store has to do, as tests that a stranger's store can run.

Subclass ``StateStoreContract`` in a test module and give it a fixture ``store`` over ``clock``, a
``FakeClock`` that the suite moves. The suite needs pytest and pytest-asyncio.
"""

from __future__ import annotations

import asyncio

import pytest

from router_core.errors import BadRequest, Conflict, PayloadTooLarge, StoreError
from router_core.state import MAX_KEY, MAX_VALUE, Entry, StateStore
from router_core.testing.clock import FakeClock

__all__ = ["StateStoreContract"]


async def _all(store: StateStore, prefix: str, limit: int = 100) -> list[str]:
    keys: list[str] = []
    cursor = ""
    for _ in range(50):
        page = await store.entries(prefix, cursor=cursor, limit=limit)
        assert len(page.entries) <= limit
        keys += [entry.key for entry in page.entries]
        cursor = page.cursor
        if not cursor:
            return keys
    raise AssertionError("the listing does not end")


class StateStoreContract:
    """The whole suite; needs a fixture ``store``."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The time that the store lives by."""
        return FakeClock()

    # --- values -----------------------------------------------------------------------------

    @pytest.mark.parametrize("value", [b"", b"\x00\xff", "\u4e2d".encode(), b"x" * MAX_VALUE])
    async def test_a_value_comes_back(self, store: StateStore, value: bytes) -> None:
        """Whatever its bytes, up to the largest."""
        version = await store.put("room/key", value)
        assert await store.get("room/key") == Entry("room/key", value, version)

    async def test_nothing_is_none(self, store: StateStore) -> None:
        """An unknown key holds nothing and deletes nothing."""
        assert await store.get("room/none") is None
        assert await store.delete("room/none") is False
        assert (await store.entries("room/")).entries == ()

    async def test_every_write_has_a_version_of_its_own(self, store: StateStore) -> None:
        """Also one that writes the same again, or writes after a delete: a version never comes back."""
        versions = [await store.put("room/key", b"1") for _ in range(3)]
        assert await store.delete("room/key") is True
        versions.append(await store.put("room/key", b"1"))
        assert len(set(versions)) == 4

    async def test_compare_and_set(self, store: StateStore) -> None:
        """Only the version that stands there can be written over, and what was refused changes nothing."""
        first = await store.put("room/key", b"1")
        second = await store.put("room/key", b"2", if_version=first)
        with pytest.raises(Conflict):
            await store.put("room/key", b"3", if_version=first)
        with pytest.raises(Conflict):
            await store.put("room/none", b"3", if_version=first)
        assert await store.get("room/key") == Entry("room/key", b"2", second)
        assert await store.get("room/none") is None

    async def test_only_where_nothing_stands(self, store: StateStore) -> None:
        """The second of two founders is told."""
        version = await store.put("room/key", b"1", if_absent=True)
        with pytest.raises(Conflict):
            await store.put("room/key", b"2", if_absent=True)
        assert await store.get("room/key") == Entry("room/key", b"1", version)
        await store.delete("room/key")
        await store.put("room/key", b"2", if_absent=True)

    async def test_delete_compares_too(self, store: StateStore) -> None:
        """A lock is given back by who holds it."""
        first = await store.put("room/key", b"1")
        second = await store.put("room/key", b"2")
        with pytest.raises(Conflict):
            await store.delete("room/key", if_version=first)
        assert await store.delete("room/key", if_version=second) is True
        with pytest.raises(Conflict):
            await store.delete("room/key", if_version=second)

    async def test_a_value_expires(self, store: StateStore, clock: FakeClock) -> None:
        """At once for every reader and writer; another put says anew whether it does."""
        version = await store.put("room/key", b"1", ttl=10)
        clock.advance(9.5)
        assert await store.get("room/key") is not None
        clock.advance(0.5)
        assert await store.get("room/key") is None
        assert (await store.entries("room/")).entries == ()
        assert await store.delete("room/key") is False
        with pytest.raises(Conflict):
            await store.put("room/key", b"2", if_version=version)
        await store.put("room/key", b"2", if_absent=True, ttl=10)
        await store.put("room/key", b"3")
        clock.advance(1e6)
        found = await store.get("room/key")
        assert found is not None
        assert found.value == b"3"

    # --- counts -----------------------------------------------------------------------------

    async def test_a_count_counts(self, store: StateStore) -> None:
        """From nought, up and down; it reads as its digits."""
        assert await store.increment("room/n") == 1
        assert await store.increment("room/n", 41) == 42
        assert await store.increment("room/n", -50) == -8
        found = await store.get("room/n")
        assert found is not None
        assert found.value == b"-8"
        assert await store.increment("room/zero", 0) == 0

    async def test_a_limit_is_not_passed(self, store: StateStore) -> None:
        """What would pass it changes nothing; going down is always allowed."""
        assert await store.increment("room/n", 11, limit=10) is None
        assert await store.get("room/n") is None
        assert await store.increment("room/n", 8, limit=10) == 8
        assert await store.increment("room/n", 3, limit=10) is None
        assert await store.increment("room/n", 2, limit=10) == 10
        assert await store.increment("room/n", -1, limit=5) == 9
        assert await store.increment("room/n", limit=5) is None

    async def test_a_count_has_a_window(self, store: StateStore, clock: FakeClock) -> None:
        """Whoever begins it says how long; nobody prolongs it, and then it begins again."""
        assert await store.increment("room/n", 5, ttl=60, limit=5) == 5
        clock.advance(50)
        assert await store.increment("room/n", ttl=60, limit=5) is None
        assert await store.increment("room/n", -1, ttl=60) == 4
        clock.advance(10)
        assert await store.get("room/n") is None
        assert await store.increment("room/n", 2, ttl=60, limit=5) == 2

    async def test_a_value_is_no_count(self, store: StateStore) -> None:
        """Digits do not make one, and a count may be replaced by a value."""
        await store.put("room/key", b"5")
        with pytest.raises(Conflict):
            await store.increment("room/key")
        await store.increment("room/n", 5)
        await store.put("room/n", b"word")
        with pytest.raises(Conflict):
            await store.increment("room/n")
        await store.delete("room/n")
        assert await store.increment("room/n") == 1

    # --- listing ----------------------------------------------------------------------------

    async def test_a_listing_pages_in_order(self, store: StateStore) -> None:
        """Every key with the prefix once, no others, however large the pages."""
        keys = sorted(f"room/{kind}/{number:02}" for kind in "ab" for number in range(7))
        for key in [*keys, "room/b", "rooms/a/1", "other/a/1", "room/\U0001f600"]:
            await store.put(key, key.encode())
        for limit in (1, 3, 7, 100):
            assert await _all(store, "room/a/", limit) == keys[:7]
        assert await _all(store, "room/") == sorted([*keys, "room/b", "room/\U0001f600"])
        page = await store.entries("room/a/", limit=2)
        assert [entry.value for entry in page.entries] == [b"room/a/00", b"room/a/01"]
        assert (await store.entries("room/a/", cursor="zzz")).entries == ()
        assert len((await store.entries("room/a/", cursor="a")).entries) == 7

    async def test_a_listing_passes_over_what_has_expired(self, store: StateStore, clock: FakeClock) -> None:
        """Also when that is a whole page."""
        for number in range(10):
            await store.put(f"room/{number}", b"", ttl=None if number in (0, 9) else 5)
        await store.increment("room/n")
        clock.advance(5)
        assert await _all(store, "room/", 2) == ["room/0", "room/9", "room/n"]

    # --- what cannot be kept ----------------------------------------------------------------

    @pytest.mark.parametrize("key", ["", "room", "room/", "/key", "room/" + "x" * MAX_KEY, "room/\ud800"])
    async def test_a_bad_key_is_refused(self, store: StateStore, key: str) -> None:
        """By every method, before anything is written."""
        for work in (store.get(key), store.put(key, b""), store.delete(key), store.increment(key)):
            with pytest.raises(BadRequest):
                await work

    async def test_a_listing_needs_a_room(self, store: StateStore) -> None:
        """Nothing lists everything."""
        for prefix in ("", "room", "/"):
            with pytest.raises(BadRequest):
                await store.entries(prefix)

    async def test_a_value_that_is_too_large_is_refused(self, store: StateStore) -> None:
        """And leaves what was there."""
        await store.put("room/key", b"1")
        with pytest.raises(PayloadTooLarge):
            await store.put("room/key", b"x" * (MAX_VALUE + 1))
        found = await store.get("room/key")
        assert found is not None
        assert found.value == b"1"

    # --- at once ----------------------------------------------------------------------------

    async def test_additions_at_once_are_all_counted(self, store: StateStore) -> None:
        """Each gets a number of its own."""
        numbers = await asyncio.gather(*(store.increment("room/n") for _ in range(60)))
        assert sorted(number for number in numbers if number is not None) == list(range(1, 61))

    async def test_a_limit_holds_among_many(self, store: StateStore) -> None:
        """Exactly as many get through as there is room for."""
        answers = await asyncio.gather(*(store.increment("room/n", 3, limit=30) for _ in range(40)))
        assert sorted(answer for answer in answers if answer is not None) == list(range(3, 31, 3))

    async def test_one_founder_among_many(self, store: StateStore) -> None:
        """The others are told."""
        puts = (store.put("room/key", str(n).encode(), if_absent=True) for n in range(30))
        answers = await asyncio.gather(*puts, return_exceptions=True)
        won = [n for n, answer in enumerate(answers) if isinstance(answer, str)]
        assert len(won) == 1
        assert all(isinstance(answer, (str, Conflict)) for answer in answers)
        found = await store.get("room/key")
        assert found is not None
        assert found.value == str(won[0]).encode()

    async def test_nothing_is_lost_by_compare_and_set(self, store: StateStore) -> None:
        """Readers that write back what they read plus one, again and again until they may."""
        await store.put("room/key", b"0")

        async def add() -> None:
            while True:
                found = await store.get("room/key")
                assert found is not None
                try:
                    await store.put("room/key", str(int(found.value) + 1).encode(), if_version=found.version)
                except Conflict:
                    continue
                return

        await asyncio.gather(*(add() for _ in range(12)))
        found = await store.get("room/key")
        assert found is not None
        assert found.value == b"12"

    # --- life -------------------------------------------------------------------------------

    async def test_the_second_close_does_nothing(self, store: StateStore) -> None:
        """And what comes after it is refused as unavailable."""
        await store.ping()
        await store.close()
        await store.close()
        for work in (store.get("room/key"), store.put("room/key", b""), store.ping()):
            with pytest.raises(StoreError):
                await work
