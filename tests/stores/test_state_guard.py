"""The guard before a shared state store: in time, or not at all; over stores that hang, fail and recover."""

from __future__ import annotations

import asyncio

import pytest

from router_core.clock import Clock
from router_core.errors import BadRequest, Conflict, Misconfigured, PayloadTooLarge, StoreError
from router_core.state import MAX_VALUE, Entry, StateStore
from router_core.stores.state_guard import GuardedStateStore
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock
from router_core.testing.state_store_contract import StateStoreContract

SHORT = 0.01


class Moody(MemoryStateStore):
    """A store that a test lets hang or fail."""

    multi_process = True

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.mood: BaseException | str = ""
        self.asked = self.opened = 0
        self.deaf = False
        """It does not even notice that nobody waits any more."""
        self.opens: BaseException | str = ""

    async def get(self, key: str) -> Entry | None:
        self.asked += 1
        await self._feel(self.mood)
        return await super().get(key)

    async def open(self) -> None:
        self.opened += 1
        await self._feel(self.opens)
        await super().open()

    async def _feel(self, mood: BaseException | str) -> None:
        if isinstance(mood, BaseException):
            raise mood
        while mood == "hangs":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
                mood = ""
                await asyncio.sleep(SHORT)


class Guarded:
    """A guard over a moody store, and what it has said."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Moody(self.clock)
        self.notes: list[Note] = []
        events = Events(lambda event: self.notes.append(event) if isinstance(event, Note) else None)
        self.guard = GuardedStateStore(self.store, self.clock, events, patience=SHORT)

    @property
    def said(self) -> list[str]:
        """The names of the notes."""
        return [note.name for note in self.notes]

    async def fail(self, times: int) -> None:
        """Ask in vain."""
        for _ in range(times):
            with pytest.raises(StoreError):
                await self.guard.get("room/key")


@pytest.fixture
def it() -> Guarded:
    """A guard that has not been asked yet."""
    return Guarded()


class TestContract(StateStoreContract):
    """The contract through the guard."""

    @pytest.fixture
    async def store(self, clock: FakeClock) -> StateStore:
        """A guard over memory."""
        return GuardedStateStore(MemoryStateStore(clock), clock, Events(), patience=30)


async def test_it_opens_itself_once(it: Guarded) -> None:
    """When it is first asked, however many do."""
    assert it.store.opened == 0
    await asyncio.gather(*(it.guard.put(f"room/{number}", b"") for number in range(20)))
    assert it.store.opened == 1
    assert it.notes == []


@pytest.mark.parametrize("deaf", [False, True], ids=["cancels", "deaf"])
async def test_a_store_that_hangs_holds_nobody_up(it: Guarded, deaf: bool) -> None:
    """Each call ends in time, and after the fifth the next ones at once, without being asked."""
    it.store.mood, it.store.deaf = "hangs", deaf
    answers = await asyncio.gather(*(it.guard.get("room/key") for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreError}
    assert "within 0.01 s" in str(answers[0])
    assert it.said == ["state_store_down"]
    asked = it.store.asked
    with pytest.raises(StoreError, match="does not answer") as caught:
        await it.guard.get("room/key")
    assert it.store.asked == asked
    assert caught.value.retry_after is not None
    await asyncio.sleep(3 * SHORT)


async def test_four_failures_are_no_reason(it: Guarded) -> None:
    """Nor are more of them with an answer in between."""
    await it.guard.put("room/key", b"1")
    for _ in range(3):
        it.store.mood = StoreError("no")
        await it.fail(4)
        it.store.mood = ""
        assert await it.guard.get("room/key") is not None
    assert it.notes == []


async def test_it_is_probed_by_one_call_and_comes_back(it: Guarded) -> None:
    """After its rest one call finds out, the others do not wait for it; an answer lets all through again."""
    it.store.mood = StoreError("no")
    await it.fail(5)
    it.clock.advance(2.0)
    it.store.mood = "hangs"
    probe = asyncio.ensure_future(it.guard.get("room/key"))
    while it.store.asked == 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await it.fail(3)
    assert it.store.asked == 6
    with pytest.raises(StoreError):
        await probe
    it.store.mood = ""
    it.clock.advance(2.0)
    await it.fail(1)  # in vain, and so it rests for twice as long
    it.clock.advance(2.0)
    assert await it.guard.get("room/key") is None
    assert await it.guard.increment("room/n") == 1
    assert it.said == ["state_store_down", "state_store_up"]
    assert it.notes[1].fields["seconds"] == 6.0


async def test_a_probe_that_is_given_up_leaves_its_place(it: Guarded) -> None:
    """The next call finds out instead."""
    it.store.mood = StoreError("no")
    await it.fail(5)
    it.clock.advance(2.0)
    it.store.mood = "hangs"
    probe = asyncio.ensure_future(it.guard.get("room/key"))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    it.store.mood = ""
    assert await it.guard.get("room/key") is None
    assert it.said == ["state_store_down", "state_store_up"]


async def test_a_refusal_is_an_answer(it: Guarded) -> None:
    """Conflict shows that the store is there; what was never asked shows nothing."""
    await it.guard.put("room/key", b"1")
    it.store.mood = StoreError("no")
    for _ in range(2):
        await it.fail(4)
        with pytest.raises(Conflict):
            await it.guard.put("room/key", b"2", if_absent=True)
    await it.fail(4)
    with pytest.raises(BadRequest):
        await it.guard.delete("nowhere")
    with pytest.raises(PayloadTooLarge):
        await it.guard.put("room/key", b"x" * (MAX_VALUE + 1))
    assert it.notes == []
    await it.fail(1)
    assert it.said == ["state_store_down"]


async def test_a_driver_that_fails_otherwise_is_a_store_that_fails(it: Guarded) -> None:
    """No error of a driver reaches a caller, nor does what it says."""
    it.store.mood = RuntimeError("secret address")
    with pytest.raises(StoreError, match="RuntimeError") as caught:
        await it.guard.get("room/key")
    assert "secret" not in str(caught.value)


async def test_what_is_set_up_wrongly_is_told_at_the_start(it: Guarded) -> None:
    """By ``open``; a call that opens it gets StoreError, and one note says why."""
    it.store.opens = Misconfigured("there is no such table")
    with pytest.raises(Misconfigured):
        await it.guard.open()
    await it.fail(3)
    assert it.said == ["state_store_down"]
    assert "no such table" in it.notes[0].message
    it.store.opens = ""
    it.clock.advance(2.0)
    assert await it.guard.get("room/key") is None
    assert it.said == ["state_store_down", "state_store_up"]


async def test_a_slow_opening_goes_on(it: Guarded) -> None:
    """Callers do not wait for it longer than for anything else, and it is no failure."""
    it.store.opens = "hangs"
    await it.fail(8)
    assert (it.store.opened, it.notes) == (1, [])
    await it.guard.close()
    with pytest.raises(StoreError, match="closed"):
        await it.guard.get("room/key")


async def test_it_may_be_opened_again(it: Guarded) -> None:
    """As an app may be started again after it was stopped."""
    await it.guard.put("room/key", b"1")
    await it.guard.close()
    await it.guard.close()
    await it.guard.open()
    assert await it.guard.get("room/key") is not None
