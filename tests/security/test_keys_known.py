"""Keys of the shared state: how long they are believed, and what happens when it is away or flooded."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from router_core.errors import StoreError, Unauthorized, Unavailable
from router_core.security.stored_keys import hash_of
from router_core.types import Allowance, limits_of
from tests.security.keys_parts import House, asking

SETTING = "ann:0123456789abcdef-ann:developer@ws-a|ws-b"


async def test_a_key_is_its_holder() -> None:
    """With what its roles mean, its workspaces, tier and limits."""
    house = House()
    limit = Allowance("requests", 60, "open", (80,))
    key_id, key = await house.make(
        scopes=("paint",), workspaces=("ws-a", "ws-b"), workspace="ws-b", tier="gold", limits=(limit,)
    )
    caller = await house.callers.authenticate(asking(key))
    assert (caller.id, caller.kind, caller.tier) == (f"key:{key_id}", "api_key", "gold")
    assert caller.roles == {"developer"}
    assert caller.may("models:call")
    assert caller.may("paint")
    assert not caller.may("models:manage")
    assert caller.workspace == "ws-b"
    assert caller.workspaces == {"ws-a", "ws-b"}
    assert limits_of(caller) == (limit,)


async def test_keys_of_the_setting_go_on() -> None:
    """For good, and without a look into the state."""
    house = House(SETTING)
    found = house.callers.recall(asking("0123456789abcdef-ann"))
    assert found is not None
    assert found[1] == inf
    assert (found[0].id, found[0].workspace) == ("ann", "ws-a")
    assert found[0].workspaces == {"ws-a", "ws-b"}
    assert house.state.gets == []


async def test_it_is_looked_up_once_and_believed() -> None:
    """However many ask at once, and without waiting while it is believed."""
    house = House()
    key_id, key = await house.make()
    house.state.slow = asyncio.Event()
    waiting = [asyncio.create_task(house.who(key)) for _ in range(100)]
    await house.settle()
    house.state.slow.set()
    assert set(await asyncio.gather(*waiting)) == {f"key:{key_id}"}
    assert house.state.gets == [f"keys/k/{key_id}"]
    assert house.callers.recall(asking(key)) is not None


async def test_a_caller_that_goes_away_takes_nobody_with_him() -> None:
    """The look-up is everybody's."""
    house = House()
    key_id, key = await house.make()
    house.state.slow = asyncio.Event()
    first, second = (asyncio.create_task(house.who(key)) for _ in range(2))
    await house.settle()
    first.cancel()
    await house.settle()
    house.state.slow.set()
    assert await second == f"key:{key_id}"


async def test_it_is_looked_up_beside_the_calls_before_belief_ends() -> None:
    """So that a key in use never makes anybody wait."""
    house = House()
    _, key = await house.make()
    await house.who(key)
    house.clock.advance(3)
    assert house.callers.recall(asking(key)) is not None
    await house.settle()
    assert len(house.state.gets) == 2
    house.clock.advance(4)  # more than 5 since the first look
    assert house.callers.recall(asking(key)) is not None


@pytest.mark.parametrize("end", ["revoked", "expired", "rotated"])
async def test_every_process_refuses_it_when_belief_ends(end: str) -> None:
    """Although nobody told that process."""
    house = House()
    key_id, key = await house.make()
    for process in (house.known, house.elsewhere):
        await process.identify(key_id, hash_of(key))
    if end == "revoked":
        await house.room.revoke(key_id, lambda _: None)
    elif end == "expired":
        await house.room.update(key_id, {"expires_at": house.clock.now()}, lambda *_: None)
    else:
        await house.room.rotate(key_id, 0, lambda _: None)
    house.clock.advance(5.01)
    for process in (house.known, house.elsewhere):
        assert process.recall(key_id, hash_of(key)) is None
        with pytest.raises(Unauthorized):
            await process.identify(key_id, hash_of(key))


async def test_it_ends_at_its_moment() -> None:
    """Not when belief ends: until then alone it is said to hold."""
    house = House()
    key_id, key = await house.make(expires_at=house.clock.now() + 2)
    await house.who(key)
    found = house.known.recall(key_id, hash_of(key))
    assert found is not None
    assert found[1] == house.clock.monotonic() + 2
    house.clock.advance(2)
    with pytest.raises(Unauthorized):
        await house.who(key)


async def test_the_old_secret_goes_on_for_the_overlap() -> None:
    """And the new one opens at once, also where the old one is still believed."""
    house = House()
    key_id, old = await house.make()
    await house.known.identify(key_id, hash_of(old))
    _, made = await house.room.rotate(key_id, 60, lambda _: None)
    house.clock.advance(1)  # a second look is taken once a second at most
    assert (await house.known.identify(key_id, hash_of(made.key))).id == f"key:{key_id}"
    assert (await house.known.identify(key_id, hash_of(old))).id == f"key:{key_id}"
    house.clock.advance(59.01)
    assert (await house.known.identify(key_id, hash_of(made.key))).id == f"key:{key_id}"
    with pytest.raises(Unauthorized):
        await house.known.identify(key_id, hash_of(old))


async def test_a_wrong_secret_costs_a_look_a_second() -> None:
    """Whoever knows an id can neither come in nor flood the state."""
    house = House()
    key_id, key = await house.make()
    await house.who(key)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await house.who(wrong)
    assert len(house.state.gets) == 1
    house.clock.advance(1.5)
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await house.who(wrong)
    assert len(house.state.gets) == 2
    assert await house.who(key) == f"key:{key_id}"


async def test_a_hundred_thousand_guesses_flood_neither_memory_nor_state() -> None:
    """The keys that are known go on meanwhile, and one that is not is taken a moment later."""
    house = House(most=1000)
    key_id, key = await house.make()
    await house.who(key)
    refused = 0
    for number in range(100_000):
        try:
            await house.who(f"rk_{number:012x}_{'A' * 43}")
        except Unavailable:
            refused += 1
        except Unauthorized:
            pass
        if number % 20_000 == 0:
            assert await house.who(key) == f"key:{key_id}"
    assert refused > 99_000
    assert len(house.state.gets) <= 502
    assert len(house.known._unknown) <= 1000
    assert not house.known._reads
    other_id, other = await house.make()
    house.clock.advance(1)
    assert await house.who(other) == f"key:{other_id}"


async def test_an_unknown_id_is_remembered() -> None:
    """For as long as a key is believed."""
    house = House()
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await house.who(f"rk_{'a' * 12}_{'A' * 43}")
    assert len(house.state.gets) == 1
    house.clock.advance(5)
    with pytest.raises(Unauthorized):
        await house.who(f"rk_{'a' * 12}_{'A' * 43}")
    assert len(house.state.gets) == 2


async def test_without_the_state_known_keys_go_on_for_a_while() -> None:
    """And an unknown one is not called wrong."""
    house = House()
    key_id, key = await house.make()
    _, other = await house.make()
    await house.who(key)
    house.state.down = True
    for _ in range(6):
        house.clock.advance(10)
        assert await house.who(key) == f"key:{key_id}"
    with pytest.raises(StoreError):
        await house.who(other)
    with pytest.raises(StoreError):  # it may have been rotated since
        await house.who(f"rk_{key_id}_{'A' * 43}")
    house.clock.advance(5)
    with pytest.raises(StoreError):
        await house.who(key)
    house.state.down = False
    assert await house.who(key) == f"key:{key_id}"


async def test_without_the_state_an_expired_key_is_refused() -> None:
    """That needs nobody to say."""
    house = House()
    _, key = await house.make(expires_at=house.clock.now() + 8)
    await house.who(key)
    house.state.down = True
    house.clock.advance(7)
    await house.who(key)
    house.clock.advance(1)
    with pytest.raises(Unauthorized):
        await house.who(key)


async def test_its_last_use_is_written_once_a_minute() -> None:
    """Beside the calls, and it is no change of the key."""
    house = House()
    key_id, key = await house.make()
    version = (await house.room.get(key_id)).version
    uses = f"keys/u/{key_id}"
    for _ in range(59):
        await house.who(key)
        await house.settle()
        house.clock.advance(1)
    assert house.state.puts.count(uses) == 1
    house.clock.advance(1)
    await house.who(key)
    await house.settle()
    assert house.state.puts.count(uses) == 2
    assert await house.room.last_used([key_id]) == [int(house.clock.now())]
    assert (await house.room.get(key_id)).version == version
    await house.known.close()


ODD = [
    "rk_", "rk__", "rk_abcdefghijkl_", f"rk_{'a' * 12}_{'A' * 42}'", f"RK_{'a' * 12}_{'A' * 43}",
    f"rk_{'a' * 40}_{'A' * 43}", f"rk_../../../x_{'A' * 43}", f"rk_{'a' * 12}_{'A' * 600}", "' OR '1'='1' --",
    "{$ne: null}", "\x00" * 20, "\u20ac" * 20, "k\u00e9" * 20, "\ud800" * 20, "A" * 9000, "*",
    "sha256=" + "0" * 64,
    f"rk_{'a' * 12}_{'A' * 43}\n",
]  # fmt: skip


@pytest.mark.parametrize("shown", ODD, ids=range(len(ODD)))
async def test_what_is_no_key_is_401(shown: str) -> None:
    """In both headers, without a look into the state for what cannot be one; never an error of ours."""
    house = House(SETTING)
    for request in (asking(shown), asking(x_api_key=shown)):
        with pytest.raises(Unauthorized) as caught:
            await house.callers.authenticate(request)
        assert caught.value.headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert len(house.state.gets) == 0


async def test_what_cannot_be_read_is_nobodys_fault() -> None:
    """A record of a later version is no reason to call the key wrong."""
    house = House()
    key_id, key = await house.make()
    await house.state.put(f"keys/k/{key_id}", b'{"v": 99}')
    with pytest.raises(StoreError):
        await house.who(key)
