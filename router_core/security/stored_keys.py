"""API keys in the shared state: made, listed, changed, rotated and revoked in the room ``keys``.

    keys/k/<id>   the record, with hashes where the secrets would be
    keys/u/<id>   when it was last used: apart, so that no use is a change of the key

A change is one compare-and-set; who has seen an older version than the one that stands is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Conflict, HTTPError, NotFound
from router_core.security.api_keys import NewKey, generate_key
from router_core.security.key_records import KeyRecord, record_of
from router_core.state import StateStore

__all__ = ["Kept", "KeyRoom", "hash_of"]

_RECORDS: Final = "keys/k/"
_USES: Final = "keys/u/"
_TRIES: Final = 5
_AFTER_REVOCATION: Final = 30 * 86400.0
"""Seconds for which it can still be seen that there was such a key, and who had it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record, and the version under which it stands."""

    record: KeyRecord
    version: str


class KeyRoom:
    """The keys of one state store."""

    __slots__ = ("_clock", "_state")

    def __init__(self, state: StateStore, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def create(self, wishes: Mapping[str, Any], by: str) -> tuple[Kept, NewKey]:
        """Make a key and return it with its secret, which is kept nowhere."""
        while True:
            made = generate_key()
            record = KeyRecord(
                made.id, wishes.get("name") or f"key-{made.id}", hash_of(made.key),
                created_at=self._clock.now(), created_by=by,
            )  # fmt: skip
            record = replace(record, **{name: value for name, value in wishes.items() if name != "name"})
            try:
                version = await self._state.put(_RECORDS + made.id, record.stored(), if_absent=True)
            except Conflict:
                continue  # the id is another's: its secret will not be
            return Kept(record, version), made

    async def get(self, key_id: str) -> Kept:
        """Return a key; raises NotFound."""
        found = await self.find(key_id)
        if found is None:
            raise NotFound("there is no such key")
        return found

    async def find(self, key_id: str) -> Kept | None:
        """Return a key, where there is one."""
        entry = await self._state.get(_RECORDS + key_id)
        return None if entry is None else Kept(record_of(entry.value), entry.version)

    async def page(self, cursor: str, limit: int) -> tuple[Sequence[Kept], str]:
        """Return some keys in the order of their ids, and where the next ones begin."""
        found = await self._state.entries(_RECORDS, cursor=cursor, limit=limit)
        return [Kept(record_of(entry.value), entry.version) for entry in found.entries], found.cursor

    async def empty(self) -> bool:
        """Return whether there is no key at all."""
        cursor = ""
        while True:
            kept, cursor = await self.page(cursor, 10)
            if kept or not cursor:
                return not kept

    async def change(
        self, key_id: str, step: Callable[[KeyRecord], KeyRecord], version: str | None = None,
        ttl: float | None = None,
    ) -> Kept:  # fmt: skip
        """Change a key from what it is now; of ``version``, if one is given, else 412."""
        for _ in range(_TRIES):
            kept = await self.get(key_id)
            if version is not None and kept.version != version:
                raise HTTPError(412, "the key has been changed meanwhile", code="precondition_failed")
            record = step(kept.record)
            try:
                new = await self._state.put(
                    _RECORDS + key_id, record.stored(), if_version=kept.version, ttl=ttl
                )
            except Conflict:
                continue
            return Kept(record, new)
        raise Conflict("the key is being changed by others; try again")

    async def update(
        self, key_id: str, wishes: Mapping[str, Any], allowed: Callable[[KeyRecord, KeyRecord], None],
        version: str | None = None,
    ) -> Kept:  # fmt: skip
        """Set fields of a key; ``allowed`` raises for a change that may not be made."""

        def step(record: KeyRecord) -> KeyRecord:
            _check_alive(record)
            changed = replace(record, **wishes)
            allowed(record, changed)
            return changed

        return await self.change(key_id, step, version)

    async def rotate(
        self, key_id: str, overlap: float, allowed: Callable[[KeyRecord], None], version: str | None = None
    ) -> tuple[Kept, NewKey]:
        """Give a key another secret, and return that; the one before goes on for ``overlap`` seconds."""
        made = generate_key()
        secret = made.key.split("_", 2)[2]
        made = NewKey(f"rk_{key_id}_{secret}", key_id)

        def step(record: KeyRecord) -> KeyRecord:
            _check_alive(record)
            allowed(record)
            return record.rotated(hash_of(made.key), self._clock.now(), overlap)

        return await self.change(key_id, step, version), made

    async def revoke(
        self, key_id: str, allowed: Callable[[KeyRecord], None], version: str | None = None
    ) -> Kept:
        """Let a key open nothing any more; it can be seen for another month."""

        def step(record: KeyRecord) -> KeyRecord:
            allowed(record)
            return record if record.revoked_at is not None else record.revoked(self._clock.now())

        return await self.change(key_id, step, version, ttl=_AFTER_REVOCATION)

    async def used(self, key_id: str, at: float) -> None:
        """Note that a key is being used."""
        await self._state.put(_USES + key_id, json.dumps({"at": int(at)}).encode(), ttl=400 * 86400.0)

    async def last_used(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return when keys were last used, to the minute."""
        entries = await asyncio.gather(*(self._state.get(_USES + key_id) for key_id in key_ids))
        return [None if entry is None else float(json.loads(entry.value)["at"]) for entry in entries]


def hash_of(key: str) -> bytes:
    """Return what is kept in the place of a key."""
    return hashlib.sha256(key.encode()).digest()


def _check_alive(record: KeyRecord) -> None:
    if record.revoked_at is not None:
        raise Conflict("the key was revoked; make another", code="key_revoked")
