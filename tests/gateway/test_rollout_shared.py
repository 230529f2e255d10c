"""Rollouts of several processes: what one has seen all decide on, with the store and without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router_core.errors import StoreError
from router_core.gateway.trials.tally import Tally
from router_core.stores.state_memory import MemoryStateStore
from router_core.stores.state_sqlite import SqliteStateStore
from tests.gateway.trial_parts import FAILING, GOOD, Breakable, Moved, Place, config, gone, rollout


async def test_replicas_decide_on_what_all_have_seen() -> None:
    """Two processes share a store: neither has seen enough, the sum has; one decides, both go by it."""
    store, made = MemoryStateStore(Moved()), config(GOOD, rollout(stages=[50, 100], minRequests=60))
    one, two = Place(made, store), Place(made, store)
    for each in (one, two):
        await each.trials.tick()
    await one.calls(70)
    await two.calls(70)
    for each in (one, two):
        await each.trials.tick()
        each.clock.at += 61
        live = each.trials.get("r", "rollout")
        assert each.arms["r/canary"] < 60
        assert live.stage()["canary"].n >= each.arms["r/canary"]
    await one.trials.tick()
    await two.trials.tick()
    await one.trials.tick()
    states = [each.trials.get("r", "rollout").state for each in (one, two)]
    assert states[0] == states[1]
    assert states[0] is not None
    assert states[0].stage == 1
    assert sorted(one.notes() + two.notes()) == ["rollout_advanced", "rollout_started"]
    total = one.trials.get("r", "rollout").seen
    assert total["canary"].n + total["baseline"].n == 140


async def test_what_one_replica_finds_out_all_go_by() -> None:
    """A regression that one process saw stops the canary in the other at its next look."""
    store, made = MemoryStateStore(Moved()), config(FAILING, rollout(startShare=30))
    one, two = Place(made, store), Place(made, store)
    for each in (one, two):
        await each.trials.tick()
    await one.calls(400)
    await one.trials.tick()
    await two.trials.tick()
    assert one.status() == two.status() == "rolled_back"
    await two.calls(50)
    assert two.arms == {"": 50}


async def test_without_the_store_all_stays_as_it_was_known() -> None:
    """Calls go on to their arms, nothing advances, and a regression is still taken back here at once."""
    store = Breakable(MemoryStateStore(Moved()))
    place = Place(config(FAILING, rollout(startShare=30)), store)
    await place.trials.tick()
    with gone(store):
        await place.call()
        assert place.last.trial
        place.clock.at += 1000
        await place.trials.tick()
        assert place.notes("trials_") == ["trials_store_down"]
        assert place.status() == "running"
        await place.calls(400)
        assert place.last.trial == "", "it is certain, so nobody is sent there any more"
        with pytest.raises(StoreError):
            await place.trials.order(place.trials.get("r", "rollout"), "promote", "ann")
    await place.trials.tick()
    assert place.status() == "rolled_back"
    assert place.notes("trials_") == ["trials_store_down", "trials_store_up"]


async def test_a_process_that_never_saw_the_store_sends_nobody() -> None:
    """What nobody knows is no reason to try something: all calls go to the baseline."""
    store = Breakable(MemoryStateStore(Moved()))
    place = Place(config(GOOD, rollout(startShare=100)), store)
    with gone(store):
        await place.trials.tick()
        await place.calls(5)
    assert place.arms == {"": 5}


async def test_a_store_that_has_forgotten_is_told_again() -> None:
    """A rollback outlives a store that was emptied, as long as one process knows of it."""
    store = MemoryStateStore(Moved())
    place = Place(config(GOOD, rollout()), store)
    await place.trials.tick()
    live = place.trials.get("r", "rollout")
    await place.trials.order(live, "rollback", "ann")
    await store.delete("gwx/state:r")
    await place.trials.tick()
    assert place.status() == "rolled_back"
    other = Place(config(GOOD, rollout()), store)
    await other.trials.tick()
    assert other.status() == "rolled_back"


async def test_where_nothing_runs_beside_calls_they_carry_the_counts() -> None:
    """A process that is frozen between calls exchanges with them, and at once when it has found something."""
    store = Breakable(MemoryStateStore(Moved()))
    place = Place(config(FAILING, rollout(startShare=30)), store)
    place.trials._time = lambda: 1000.0  # however long the calls take here
    await place.trials.begin()
    writes = store.writes
    await place.calls(5)
    await place.trials.idle()
    assert store.writes == writes, "not with every call"
    await place.calls(300)
    await place.trials.idle()
    assert place.status() == "rolled_back"
    other = Place(config(FAILING, rollout(startShare=30)), store)
    await other.trials.begin()
    assert other.status() == "rolled_back"


async def test_what_was_counted_last_is_told_at_the_end() -> None:
    """A process that stops leaves its counts to the others."""
    store = MemoryStateStore(Moved())
    one = Place(config(GOOD, rollout()), store)
    await one.trials.tick()
    await one.calls(7)
    await one.trials.aclose()
    other = Place(config(GOOD, rollout()), store)
    await other.trials.tick()
    assert sum(each.n for each in other.trials.get("r", "rollout").seen.values()) == 7


async def test_a_replica_with_an_older_configuration_takes_no_part() -> None:
    """While processes are being replaced, those that know another canary neither send calls to theirs nor
    begin the rollout anew, time after time."""
    models = GOOD | {"newer": "seed: 3"}
    store = MemoryStateStore(Moved())
    old = Place(config(models, rollout(startShare=100)), store)
    await old.trials.tick()
    new = Place(config(models, rollout(startShare=100, canary="newer")), store)
    await new.trials.tick()
    for _ in range(3):
        await old.trials.tick()
        await new.trials.tick()
    await old.call()
    await new.call()
    assert old.last.trial == ""
    assert new.last.trial == "r/canary"
    assert old.notes() + new.notes() == ["rollout_started", "rollout_started"]


@pytest.mark.parametrize(
    "rubbish", [b"", b"{}", b"[]", b"null", b'{"status": "running"}', b"\xff\x00"], ids=range(6)
)
async def test_a_state_that_cannot_be_read_is_begun_anew(rubbish: bytes) -> None:
    """Whatever stands in the store, the process goes on; counts of others that are none are left out."""
    store = MemoryStateStore(Moved())
    await store.put("gwx/state:r", rubbish)
    await store.put("gwx/counts:r:other", rubbish)
    place = Place(config(GOOD, rollout(startShare=100)), store)
    await place.trials.tick()
    await place.call()
    await place.trials.tick()
    assert place.status() == "running"
    assert place.last.trial == "r/canary"


async def test_of_many_replicas_one_decides() -> None:
    """When a stage is due for all of them at once, it advances by one; orders that come at once all count."""
    store = Breakable(MemoryStateStore(Moved()))
    made = config(GOOD, rollout(stages=list(range(1, 31)), minRequests=1))
    places = [Place(made, store) for _ in range(4)]
    for each in places:
        await each.trials.tick()
    lives = [each.trials.get("r", "rollout") for each in places]
    lives[0].count(1, Tally.answered, 0.1, 1, 1)
    lives[0].count(0, Tally.answered, 0.1, 1, 1)
    await places[0].trials.tick()
    for each in places:
        each.clock.at += 61
    await asyncio.gather(*(each.trials.tick() for each in places))
    await asyncio.gather(*(each.trials.tick() for each in places))
    assert {live.state.stage for live in lives if live.state} == {1}
    orders = [each.trials.order(live, "advance", "ann") for each, live in zip(places, lives, strict=True)]
    await asyncio.gather(*orders)
    await asyncio.gather(*(each.trials.tick() for each in places))
    assert {live.state.stage for live in lives if live.state} == {5}
    assert sum(each.notes().count("rollout_advanced") for each in places) == 5


async def test_processes_of_one_machine_share_a_file(tmp_path: Path) -> None:
    """The same over SQLite, each process with its own connection."""
    stores = [SqliteStateStore(str(tmp_path / "state.db")) for _ in range(2)]
    one, two = (Place(config(FAILING, rollout(startShare=30)), store) for store in stores)
    for each in (one, two):
        await each.store.open()
        await each.trials.tick()
    await one.calls(300)
    await one.trials.tick()
    await two.trials.tick()
    assert one.status() == two.status() == "rolled_back"
    assert two.trials.get("r", "rollout").state == one.trials.get("r", "rollout").state
    for store in stores:
        await store.close()
