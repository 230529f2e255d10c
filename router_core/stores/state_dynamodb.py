"""The state store on one DynamoDB table of its own; ``python -m router_core.stores.state_dynamodb TABLE``
creates it.

``pk`` is the room and ``sk`` the whole key, so that a listing is one query. What has expired is treated as
absent at once; DynamoDB deletes it up to two days later.
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from router_core.clock import Clock, SystemClock
from router_core.errors import Conflict, StoreError, Unavailable
from router_core.state import Entry, StatePage, check_key, check_value, room_of
from router_core.stores.dynamodb_calls import AV, PATIENCE, Item, Refused, Table
from router_core.stores.dynamodb_change import Change
from router_core.stores.dynamodb_items import number
from router_core.stores.dynamodb_table import check, create
from router_core.vendors import boto3

__all__ = ["DynamoStateStore", "create_state_table", "state_table_definition"]

_T = TypeVar("_T")
_CHAIN: Final = 8
"""Additions that a count remembers: by them one whose answer was lost is recognised (C3), as long as no more
than so many others came in between."""
_TRIES: Final = 50
_COMMAND: Final = "router_core.stores.state_dynamodb"
_LIVE: Final = "(attribute_not_exists(expires) OR expires > :now)"
_GONE: Final = "(attribute_not_exists(pk) OR expires <= :now)"


def state_table_definition(name: str) -> dict[str, Any]:
    """Return the parameters of CreateTable. Its TTL attribute is ``ttl``."""
    keys = (("pk", "HASH"), ("sk", "RANGE"))
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key, _ in keys],
        "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in keys],
    }


class DynamoStateStore:
    """Values in one table; every write is one conditional call."""

    multi_process = True

    def __init__(self, table: str, clock: Clock | None = None, *, patience: float = PATIENCE) -> None:
        self._now = (clock or SystemClock()).now
        self._table = Table(table)
        self._patience = patience
        self._closed = False

    async def _run(self, work: Callable[..., _T], *args: Any) -> _T:
        if self._closed:
            raise StoreError("the state store is closed")
        until = time.monotonic() + self._patience
        try:
            answer: _T = await boto3.call(partial(self._within, until, work, *args))
        except StoreError:
            raise
        except Unavailable as error:
            raise StoreError(error.detail, retry_after=error.retry_after) from error
        return answer

    def _within(self, until: float, work: Callable[..., _T], *args: Any) -> _T:
        with self._table.patience(until):
            return work(*args)

    # --- StateStore -------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        item = await self._run(self._live, check_key(key))
        return None if item is None else _entry(item)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:
        """Write a value if the condition holds."""
        check_key(key)
        check_value(value)
        return await self._run(self._put, key, bytes(value), if_version, if_absent, ttl)

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove a value if the condition holds."""
        return await self._run(self._delete, check_key(key), if_version)

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count unless that takes it above the limit."""
        return await self._run(self._increment, check_key(key), by, ttl, limit)

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List keys in their order."""
        return await self._run(self._entries, prefix, room_of(prefix), cursor, max(1, limit))

    async def ping(self) -> None:
        """Write something."""
        item = {"pk": {"S": "."}, "sk": {"S": "ping"}, "at": number(self._now())}
        await self._run(self._table.put, item)

    async def open(self) -> None:
        """Look at the table; raises Misconfigured when it is missing or has other keys."""
        self._closed = False
        await self._run(check, self._table, state_table_definition(self._table.name), _COMMAND)

    async def close(self) -> None:
        """Refuse what comes later."""
        self._closed = True

    # --- in a thread ------------------------------------------------------------------------

    def _live(self, key: str) -> Item | None:
        item = self._table.get(room_of(key), key)
        if item is None or ("expires" in item and float(item["expires"]["N"]) <= self._now()):
            return None
        return item

    def _put(self, key: str, value: bytes, if_version: str | None, if_absent: bool, ttl: float | None) -> str:
        version = secrets.token_hex(8)
        item: dict[str, AV] = {
            "pk": {"S": room_of(key)}, "sk": {"S": key}, "held": {"B": value}, "w0": {"S": version},
            **self._expiry(ttl),
        }  # fmt: skip
        for _ in range(_TRIES):
            # even a write without a condition is made over what was seen: sent again after an unclear answer,
            # or arriving late, it must not undo what somebody wrote in between
            seen = self._version(key) if if_version is None and not if_absent else if_version
            try:
                self._put_over(item, seen)
            except Refused as refused:
                if refused.item is not None and _version(refused.item) == version:
                    return version  # an earlier try of this write was taken, and its answer lost
                if if_version is not None:
                    raise Conflict(f"{key} has changed") from None
                if if_absent:
                    raise Conflict(f"something stands under {key} already") from None
                continue
            return version
        raise StoreError(f"{key} changes all the time")

    def _version(self, key: str) -> str | None:
        item = self._live(key)
        return None if item is None else _version(item)

    def _put_over(self, item: Item, seen: str | None) -> None:
        values: dict[str, AV] = {":now": number(self._now())}
        if seen is None:
            self._table.put(item, condition=_GONE, values=values)
            return
        values[":seen"] = {"S": seen}
        self._table.put(item, condition=f"w0 = :seen AND {_LIVE}", values=values)

    def _delete(self, key: str, if_version: str | None) -> bool:
        for _ in range(_TRIES):
            seen = self._version(key)
            if if_version is not None and seen != if_version:
                raise Conflict(f"{key} has changed")
            if seen is None:
                return False
            try:
                self._table.delete(
                    room_of(key), key, ConditionExpression="w0 = :seen",
                    ExpressionAttributeValues={":seen": {"S": seen}},
                )  # fmt: skip
            except Refused as refused:
                if refused.item is not None:
                    continue
            return True  # or gone since it was seen: taken before, and the answer lost
        raise StoreError(f"{key} changes all the time")

    def _increment(self, key: str, by: int, ttl: float | None, limit: int | None) -> int | None:
        write_id = secrets.token_hex(8)
        for _ in range(_TRIES):
            try:
                return int(self._add(key, by, limit, write_id)["n"]["N"])
            except Refused as refused:
                item = refused.item
            if item is not None and "held" not in item:
                made = _remembered(item, write_id, by)
                if made is not None:
                    return made
            gone = item is None or ("expires" in item and float(item["expires"]["N"]) <= self._now())
            if not gone and item is not None and "held" in item:
                raise Conflict(f"{key} holds a value, not a count")
            if by > 0 and limit is not None and by + (0 if gone or item is None else _count(item)) > limit:
                return None
            if gone and self._begin(key, by, ttl, write_id):
                return by
        raise StoreError(f"{key} changes all the time")

    def _add(self, key: str, by: int, limit: int | None, write_id: str) -> Item:
        """Add to a count that is there."""
        change = Change()
        change.require_text("attribute_exists(n)")
        name, now = change.name("expires"), change.value(number(self._now()))
        change.require_text(f"(attribute_not_exists({name}) OR {name} > {now})")
        if by > 0 and limit is not None:
            change.require("n", "<=", {"N": str(limit - by)})
        for place in range(_CHAIN):
            change.require(f"w{place}", "<>", {"S": write_id})
        for place in range(_CHAIN - 1, 0, -1):
            change.copy(f"w{place}", f"w{place - 1}")
            change.copy(f"n{place}", f"n{place - 1}")
        change.set("w0", {"S": write_id})
        change.copy("n0", "n")
        change.add("n", by)
        return self._table.update(room_of(key), key, **change.parameters())

    def _begin(self, key: str, by: int, ttl: float | None, write_id: str) -> bool:
        """Write a new count; False when somebody else has."""
        item: dict[str, AV] = {
            "pk": {"S": room_of(key)}, "sk": {"S": key}, "n": {"N": str(by)}, **self._expiry(ttl)
        }  # fmt: skip
        for place in range(_CHAIN):
            item[f"w{place}"], item[f"n{place}"] = {"S": "" if place else write_id}, {"N": "0"}
        try:
            self._table.put(item, condition=_GONE, values={":now": number(self._now())})
        except Refused as refused:
            return refused.item is not None and _version(refused.item) == write_id
        return True

    def _entries(self, prefix: str, room: str, cursor: str, limit: int) -> StatePage:
        values: dict[str, AV] = {":pk": {"S": room}, ":now": number(self._now())}
        more: dict[str, Any] = {"Limit": limit + 1, "FilterExpression": _LIVE}
        condition = "pk = :pk AND begins_with(sk, :prefix)"
        values[":prefix"] = {"S": prefix}
        if cursor > prefix:
            # the end of a prefix is no key that anybody may have: the highest character there is
            condition = "pk = :pk AND sk BETWEEN :after AND :last"
            del values[":prefix"]
            values[":after"], values[":last"] = {"S": cursor}, {"S": f"{prefix}\U0010ffff"}
            more["Limit"] = limit + 2
        if cursor > prefix and not cursor.startswith(prefix):
            return StatePage(())
        found: list[Entry] = []
        for item in self._table.query(condition, values, **more):
            if item["sk"]["S"] == cursor:
                continue
            if len(found) == limit:
                return StatePage(tuple(found), found[-1].key)
            found.append(_entry(item))
        return StatePage(tuple(found))

    def _expiry(self, ttl: float | None) -> Mapping[str, AV]:
        if ttl is None:
            return {}
        at = self._now() + ttl
        return {"expires": number(at), "ttl": {"N": str(math.ceil(at))}}


def _version(item: Item) -> str:
    return str(item["w0"]["S"])


def _count(item: Item) -> int:
    return int(item["n"]["N"])


def _remembered(item: Item, write_id: str, by: int) -> int | None:
    """Return what a count was after an addition of that id, if it remembers it."""
    for place in range(_CHAIN):
        if item[f"w{place}"]["S"] == write_id:
            return int(item[f"n{place}"]["N"]) + by
    return None


def _entry(item: Item) -> Entry:
    value = bytes(item["held"]["B"]) if "held" in item else str(_count(item)).encode()
    return Entry(str(item["sk"]["S"]), value, _version(item))


def create_state_table(name: str, *, expire: bool = True) -> None:
    """Create the table and wait until it can be used; does nothing where it exists. Blocks."""
    create(state_table_definition(name), expire=expire)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m router_core.stores.state_dynamodb TABLE")
    create_state_table(sys.argv[1])
