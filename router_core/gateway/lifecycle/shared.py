"""What the processes of one gateway tell each other about endpoints: when, and who does it.

The store is small, slow and may be down. Nothing here is asked for a call that is served, and without the
store each process goes on alone: then two of them may wake an endpoint, which wakes it once.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from router_core.errors import BadRequest, Conflict, StoreError
from router_core.state import StateStore
from router_core.telemetry.events import Events, Note

__all__ = ["ALONE", "Record", "Shared"]

T = TypeVar("T")

ALONE: Final = "alone"
"""The lease of a process that cannot ask."""
_ROOM: Final = "endpoints"
_PATIENCE: Final = 2.0
_TRIES: Final = 3
_KEPT: Final = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Record:
    """When what happened to an endpoint, in seconds since the epoch; 0: never."""

    last_activity: float = 0.0
    wake_time: float = 0.0
    sleep_time: float = 0.0
    since: float = 0.0
    """Since when it runs; 0 when it does not."""
    url: str = ""

    def joined(self, newer: Record) -> Record:
        """Return the later of each time, but of ``since`` the earlier one after the last sleep."""
        slept = max(self.sleep_time, newer.sleep_time)
        since = min((at for at in (self.since, newer.since) if at > slept), default=0.0)
        return Record(
            max(self.last_activity, newer.last_activity), max(self.wake_time, newer.wake_time), slept, since,
            newer.url or self.url,
        )  # fmt: skip


class Shared:
    """Records and leases in a StateStore. Nothing here raises."""

    def __init__(self, store: StateStore, events: Events) -> None:
        self._store = store
        self._events = events
        self.down = False
        """Whether the store did not answer when it was last asked."""

    def use(self, store: StateStore) -> None:
        """Take another store, which was not there yet when this was made."""
        self._store = store

    async def read(self, name: str) -> Record | None:
        """Return the record of an endpoint; None where there is none, or no store."""
        entry = await self._try(self._store.get(_key("record", name)))
        return None if entry is None else _decode(entry.value)

    async def join(self, name: str, record: Record) -> Record | None:
        """Write what is newer in ``record`` and return what holds then; None without a store."""
        key = _key("record", name)
        for _ in range(_TRIES):
            entry = await self._try(self._store.get(key))
            if self.down:
                return None
            held = Record() if entry is None else _decode(entry.value)
            joined = held.joined(record)
            if joined == held:
                return held
            data = json.dumps(asdict(joined)).encode()
            version = None if entry is None else entry.version
            put = self._store.put(key, data, if_version=version, if_absent=entry is None, ttl=_KEPT)
            if await self._try(put) is not None:
                return joined
        return None

    async def lease(self, what: str, name: str, ttl: float) -> str | None:
        """Take the right to do something for ``ttl`` seconds; None when another process has it."""
        owner = secrets.token_hex(8).encode()
        taken = await self._try(self._store.put(_key(what, name), owner, if_absent=True, ttl=ttl))
        return ALONE if self.down else taken

    async def release(self, what: str, name: str, lease: str) -> None:
        """Give a right back."""
        if lease != ALONE:
            await self._try(self._store.delete(_key(what, name), if_version=lease))

    async def cancel(self, what: str, name: str) -> None:
        """Take a right from whoever has it, because there is nothing left that it is for."""
        await self._try(self._store.delete(_key(what, name)))

    async def claim(self, what: str, name: str, value: str) -> str | None:
        """Write a value that nobody has written before it; None when it stands there, or without a store."""
        key = _key(what, name)
        entry = await self._try(self._store.get(key))
        if self.down or (entry is not None and entry.value == value.encode()):
            return None
        version = None if entry is None else entry.version
        return await self._try(
            self._store.put(key, value.encode(), if_version=version, if_absent=entry is None)
        )

    async def _try(self, work: Awaitable[T]) -> T | None:
        """Return None for a condition that does not hold, and where the store does not answer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await work
        except Conflict:
            found = None
        except (StoreError, TimeoutError, BadRequest) as error:
            self._told(down=True, error=error)
            return None
        self._told(down=False)
        return found

    def _told(self, *, down: bool, error: BaseException | None = None) -> None:
        if down is self.down:
            return
        self.down = down
        if down:
            text = "endpoints: the state store does not answer; each process acts alone"
            self._events.emit(Note("endpoint_store_down", "warning", text, {"error": str(error)}))
        else:
            self._events.emit(Note("endpoint_store_up", "info", "endpoints: the state store is back"))


def _key(what: str, name: str) -> str:
    return f"{_ROOM}/{what}:{name}"


def _decode(data: bytes) -> Record:
    """Read a record; what is no record counts as none."""
    try:
        found = json.loads(data)
    except ValueError:
        return Record()
    if not isinstance(found, dict):
        return Record()
    values: dict[str, Any] = {}
    for field in fields(Record):
        value = found.get(field.name)
        if field.name == "url" and isinstance(value, str):
            values["url"] = value
        elif field.name != "url" and isinstance(value, int | float) and value >= 0:
            values[field.name] = float(value)
    return Record(**values)
