"""Managers of keys who try more than their own rights, and what one of them could do to everybody."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router_core.errors import BadRequest, Forbidden, Unauthorized
from router_core.security.key_grants import Grants
from router_core.security.key_records import KeyRecord
from router_core.security.key_wishes import read_wishes
from router_core.security.roles import ROLES
from router_core.state import Entry
from router_core.types import Allowance, Principal
from tests.security.keys_parts import House

DAILY = Allowance("daily", 5_000_000, "closed", ())
RECORD = KeyRecord("abcdefghijkl", "victim", b"", scopes=("read",), workspaces=("ws-a",), limits=(DAILY,))
MANAGER = Principal(
    "key:manager", frozenset({"read", "keys:manage"}), "api_key", frozenset(), frozenset({"ws-a"}), "ws-a",
    "", (DAILY,),
)  # fmt: skip


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+14:00", "0001-01-01", "1970-01-01", "9999-12-31T23:59:59-14:00"]
)
def test_no_key_ends_outside_of_every_calendar(at: str) -> None:
    """Whose end could not be written as a time: it is refused by its field."""
    with pytest.raises(BadRequest) as raised:
        read_wishes(b'{"expiresAt": "%b"}' % at.encode(), 0.0)
    assert raised.value.extra["errors"][0]["loc"] == ["body", "expiresAt"]


@pytest.mark.parametrize(("said", "usual"), [("", ""), ("ws-b", "ws-b")], ids=["none", "said"])
def test_a_key_for_several_workspaces_has_the_usual_one_that_is_said(said: str, usual: str) -> None:
    """Else calls name theirs: the order of a list is no choice."""
    record = replace(RECORD, workspaces=("ws-a", "ws-b"), workspace=said)
    assert record.principal().workspace == usual
    assert RECORD.principal().workspace == "ws-a"


def test_a_key_with_an_impossible_end_is_shown() -> None:
    """One such record in the store would else keep everybody from listing any key."""
    shown = replace(RECORD, expires_at=-62135647200.0).shown(1_700_000_000.0)
    assert (shown["status"], shown["expiresAt"]) == ("expired", "1970-01-01T00:00:00Z")


@pytest.mark.parametrize("word", ["open", "closed"])
def test_a_limit_that_opens_without_the_store_is_a_looser_one(word: str) -> None:
    """Who is refused while the store is away makes no key that is not."""
    record = replace(RECORD, limits=(replace(DAILY, on_store_failure=word),))
    grants = Grants(MANAGER, ROLES)
    if word == "closed":
        grants.check_grant(record)
        return
    for check in (grants.check_grant, grants.check_holds):
        with pytest.raises(Forbidden, match="closed"):
            check(record)
    Grants(replace(MANAGER, limits=record.limits), ROLES).check_grant(record)


async def test_a_look_that_began_before_a_change_is_not_believed() -> None:
    """The process that has revoked a key knows it at once, whatever it was reading meanwhile."""
    house = House()
    key_id, key = await house.make()
    assert await house.who(key) == f"key:{key_id}"
    house.clock.advance(3)  # half of the belief: it is looked up beside the call
    held, stale = asyncio.Event(), house.state.get

    async def slow(key: str) -> Entry | None:
        entry = await stale(key)
        await held.wait()
        return entry

    house.state.get = slow  # type: ignore[method-assign]
    assert await house.who(key) == f"key:{key_id}"
    await house.settle()
    house.state.get = stale  # type: ignore[method-assign]
    await house.room.revoke(key_id, lambda record: None)
    house.known.forget(key_id)
    held.set()
    await house.settle()
    with pytest.raises(Unauthorized):
        await house.who(key)
