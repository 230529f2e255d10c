"""Versions in the state store: whole or not at all, nothing lost, nothing left behind for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_core.errors import Conflict, NotFound, PayloadTooLarge, StoreError
from router_core.gateway.control import versions as module
from router_core.gateway.control.buckets import MAX_BUCKET, spread
from router_core.gateway.control.resource import EMPTY, Document
from router_core.gateway.control.versions import KEPT, Held, Versions
from router_core.state import MAX_VALUE, StateStore
from router_core.testing.clock import FakeClock
from tests.gateway.control_parts import STORES, Breaking, document, opened, rule


def names(found: Document) -> set[str]:
    """The ids of the rules of a document."""
    return set(found.kinds.get("routingRules", {}))


async def keys(state: StateStore, prefix: str) -> list[str]:
    """All keys that begin so."""
    found: list[str] = []
    cursor = ""
    while True:
        page = await state.entries(prefix, cursor=cursor)
        found += [entry.key for entry in page.entries]
        cursor = page.cursor
        if not cursor:
            return found


@pytest.mark.parametrize("kind", STORES)
async def test_what_was_published_is_read_by_others(kind: str, tmp_path: Path) -> None:
    """All of it, with who, why, when and in its order; what has not changed is not read again."""
    clock = FakeClock()
    async with opened(kind, tmp_path, clock) as state:
        versions = Versions(lambda: state, clock.now)
        held = await versions.publish(Held(), document("b", "a"), who="ann", why="first", changes=2)
        read = await Versions(lambda: state, clock.now).look(Held())
        assert [each.id for each in read.document.of("routingRules")] == ["b", "a"]
        assert read.document == held.document
        assert (read.version.number, read.version.who, read.version.why) == (1, "ann", "first")
        assert read.version.at == clock.now()
        draft = read.document.draft()
        draft.put("workspaceConfigs", "w", {}, 2.0)
        await versions.publish(held, draft.document(), who="bob", why="", changes=1)
        after = await versions.look(read)
        assert after.document.kinds["routingRules"] is read.document.kinds["routingRules"]
        assert [each.number for each in after.history] == [1]
        assert await versions.look(after) is after


@pytest.mark.parametrize("kind", STORES)
async def test_the_second_of_two_writers_is_told(kind: str, tmp_path: Path) -> None:
    """Its version is nowhere, and the first one's is whole."""
    async with opened(kind, tmp_path) as state:
        versions = Versions(lambda: state, FakeClock().now)
        await versions.publish(Held(), document("first"), who="ann", why="", changes=1)
        with pytest.raises(Conflict):
            await versions.publish(Held(), document("second"), who="bob", why="", changes=1)
        assert names((await versions.look(Held())).document) == {"first"}


async def test_who_dies_half_way_changes_nothing(tmp_path: Path) -> None:
    """Whatever was written by then: the version before stays readable, and the next writer can write."""
    async with opened("memory", tmp_path) as inner:
        state = Breaking(inner)
        versions = Versions(lambda: state, FakeClock().now)
        held = await versions.publish(Held(), document("a"), who="ann", why="", changes=1)
        wanted = document("a", *(f"r{number}" for number in range(20)))
        died = 0
        for writes in range(100):
            state.writes_left = writes
            try:
                held = await versions.publish(held, wanted, who="ann", why="", changes=20)
            except StoreError:
                died += 1
                state.writes_left = None
                found = await Versions(lambda: state, FakeClock().now).look(Held())
                assert names(found.document) == {"a"}
                continue
            break
        assert died > 3
        state.writes_left = None
        assert names((await Versions(lambda: state, FakeClock().now).look(Held())).document) == set(
            wanted.kinds["routingRules"]
        )


async def test_a_write_whose_answer_is_lost_is_found(tmp_path: Path) -> None:
    """The store did it, and said that it did not answer: it counts once, and it counts."""
    async with opened("memory", tmp_path) as inner:
        state = Breaking(inner)
        versions = Versions(lambda: state, FakeClock().now)
        state.lose_answer = True
        held = await versions.publish(Held(), document("a"), who="ann", why="", changes=1)
        assert held.version.number == 1
        assert await versions.look(held) is held


async def test_the_last_versions_are_kept_and_the_rest_is_collected(tmp_path: Path) -> None:
    """What nobody names goes after an hour; all that is kept stays whole; a second collector does nothing."""
    clock = FakeClock()
    async with opened("memory", tmp_path, clock) as state:
        versions = Versions(lambda: state, clock.now)
        held = Held()
        for number in range(KEPT + 10):
            held = await versions.publish(held, document(f"r{number}"), who="ann", why="", changes=1)
        with pytest.raises(Conflict):  # leaves a bucket and a manifest that nobody names
            await versions.publish(Held(), document("lost"), who="bob", why="", changes=1)
        assert await versions.collect(held) == 0  # all of it is young
        assert await versions.collect(held) == 0  # somebody does already
        clock.advance(4000.0)
        held = await versions.publish(held, document("last"), who="ann", why="", changes=1)
        assert await versions.collect(held) == 2 * 12
        assert len(await keys(state, "gwc/m/")) == KEPT
        assert len(await keys(state, "gwc/b/")) == KEPT
        for each in held.history:
            assert len(names((await versions.version(each.number, held)).document)) == 1
        with pytest.raises(NotFound):
            await versions.version(3, held)


async def test_what_is_written_again_meanwhile_is_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket of an old version that a new one is about to name."""
    clock = FakeClock()
    async with opened("memory", tmp_path, clock) as state:
        versions = Versions(lambda: state, clock.now)
        monkeypatch.setattr(module, "KEPT", 1)
        old = await versions.publish(Held(), document("a"), who="ann", why="", changes=1)
        held = await versions.publish(old, document("b"), who="ann", why="", changes=1)
        clock.advance(4000.0)
        died = Breaking(state)
        died.writes_left = 2  # its bucket and its manifest, and not the key
        with pytest.raises(StoreError):
            await Versions(lambda: died, clock.now).publish(held, document("a"), who="bob", why="", changes=1)
        await versions.collect(held)
        held = await versions.publish(held, document("a"), who="bob", why="", changes=1)
        assert names((await Versions(lambda: state, clock.now).look(Held())).document) == {"a"}


async def test_ten_thousand_rules_fit_and_one_change_is_one_bucket(tmp_path: Path) -> None:
    """In values that every store keeps."""
    async with opened("memory", tmp_path) as state:
        versions = Versions(lambda: state, FakeClock().now)
        draft = EMPTY.draft()
        for number in range(10_000):
            draft.put("routingRules", f"rule-{number}", rule(f"Rule {number}", "a-model" * 5), 1.0)
        held = await versions.publish(Held(), draft.document(), who="ann", why="", changes=10_000)
        before = set(await keys(state, "gwc/b/"))
        draft = held.document.draft()
        draft.put("routingRules", "rule-77", rule("Another name"), 2.0)
        await versions.publish(held, draft.document(), who="ann", why="", changes=1)
        assert len(set(await keys(state, "gwc/b/")) - before) == 1
        assert len(before) == 64


def test_buckets_that_get_too_large_become_more() -> None:
    """And what no number of buckets can hold is refused."""
    draft = EMPTY.draft()
    for number in range(600):
        draft.put("routingRules", f"r{number}", rule("x" * 50_000), 1.0)
    made: dict[str, tuple[bytes, tuple[object, ...]]] = {}
    found = spread("routingRules", draft.of("routingRules"), {}, made)  # type: ignore[arg-type]
    assert found.count > 64
    assert max(len(value) for value, _ in made.values()) <= MAX_BUCKET < MAX_VALUE
    draft.put("routingRules", "huge", rule("x" * MAX_BUCKET), 1.0)
    with pytest.raises(PayloadTooLarge):
        spread("routingRules", draft.of("routingRules"), {}, {})


async def test_a_store_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    """As a Redis without a disk does when it starts again: what is served goes on, and is written anew."""
    clock = FakeClock()
    async with opened("memory", tmp_path, clock) as state, opened("memory", tmp_path, clock) as empty:
        held = await Versions(lambda: state, clock.now).publish(
            Held(), document("a"), who="ann", why="", changes=1
        )
        versions = Versions(lambda: empty, clock.now)
        again = await versions.look(held)
        assert (again.version.number, names(again.document)) == (1, {"a"})
        assert names((await versions.look(Held())).document) == {"a"}


@pytest.mark.parametrize("prefix", ["gwc/current", "gwc/m/", "gwc/b/"])
async def test_what_is_damaged_is_not_served(prefix: str, tmp_path: Path) -> None:
    """The store is taken to be away, rather than half of a version to be one."""
    async with opened("memory", tmp_path) as state:
        versions = Versions(lambda: state, FakeClock().now)
        await versions.publish(Held(), document("a"), who="ann", why="", changes=1)
        for key in await keys(state, prefix):
            await state.put(key, b"1\n[[]]")
        with pytest.raises(StoreError):
            await versions.look(Held())


async def test_what_is_missing_is_not_served(tmp_path: Path) -> None:
    """A bucket that somebody has taken away."""
    async with opened("memory", tmp_path) as state:
        versions = Versions(lambda: state, FakeClock().now)
        await versions.publish(Held(), document("a"), who="ann", why="", changes=1)
        for key in await keys(state, "gwc/b/"):
            await state.delete(key)
        with pytest.raises(StoreError, match="is missing"):
            await versions.look(Held())
