"""The state store in this process's memory: for tests and trials, gone when the process ends."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

from router_core.clock import Clock, SystemClock
from router_core.errors import Conflict, StoreError
from router_core.state import Entry, StatePage, check_key, check_value, room_of
from router_core.stores.agenda import Agenda

__all__ = ["MemoryStateStore"]


@dataclass(frozen=True, slots=True)
class _Held:
    version: str
    value: bytes = b""
    count: int | None = None
    expires_at: float = 0.0
    """0: never."""


class MemoryStateStore:
    """Values in a dictionary behind one lock."""

    multi_process = False

    def __init__(self, clock: Clock | None = None) -> None:
        self._now = (clock or SystemClock()).now
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._keys: list[str] = []
        self._expiry = Agenda()
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        check_key(key)
        with self._open_lock():
            held = self._live(key)
            return None if held is None else _entry(key, held)

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
        with self._open_lock():
            held = self._live(key)
            _compare(key, held, if_version)
            if if_absent and held is not None:
                raise Conflict(f"something stands under {key} already")
            made = _Held(secrets.token_hex(8), bytes(value), expires_at=self._until(ttl))
            self._set(key, made)
            return made.version

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove a value if the condition holds."""
        check_key(key)
        with self._open_lock():
            held = self._live(key)
            _compare(key, held, if_version)
            if held is not None:
                self._drop(key)
            return held is not None

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count unless that takes it above the limit."""
        check_key(key)
        with self._open_lock():
            held = self._live(key)
            if held is not None and held.count is None:
                raise Conflict(f"{key} holds a value, not a count")
            count = by + (held.count or 0 if held is not None else 0)
            if by > 0 and limit is not None and count > limit:
                return None
            expires_at = self._until(ttl) if held is None else held.expires_at
            self._set(key, _Held(secrets.token_hex(8), count=count, expires_at=expires_at))
            return count

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List keys in their order."""
        room_of(prefix)
        limit = max(1, limit)
        with self._open_lock():
            self._forget()
            found: list[Entry] = []
            place = bisect_right(self._keys, cursor) if cursor > prefix else bisect_left(self._keys, prefix)
            for key in self._keys[place:]:
                if not key.startswith(prefix):
                    break
                if len(found) == limit:
                    return StatePage(tuple(found), found[-1].key)
                found.append(_entry(key, self._held[key]))
            return StatePage(tuple(found))

    async def ping(self) -> None:
        """Raise StoreError when closed."""
        with self._open_lock():
            return

    async def open(self) -> None:
        """Take what comes, again after a close."""
        self._closed = False

    async def close(self) -> None:
        """Refuse what comes later."""
        self._closed = True

    # --- inside the lock --------------------------------------------------------------------

    def _open_lock(self) -> threading.Lock:
        if self._closed:
            raise StoreError("the state store is closed")
        return self._lock

    def _until(self, ttl: float | None) -> float:
        return 0.0 if ttl is None else self._now() + ttl

    def _live(self, key: str) -> _Held | None:
        self._forget()
        return self._held.get(key)

    def _forget(self) -> None:
        """Drop what has expired."""
        now = self._now()
        while (first := self._expiry.first()) is not None and first[0] <= now:
            self._drop(first[1])

    def _set(self, key: str, held: _Held) -> None:
        if key not in self._held:
            insort(self._keys, key)
        self._held[key] = held
        if held.expires_at:
            self._expiry.put(key, held.expires_at)
        else:
            self._expiry.discard(key)

    def _drop(self, key: str) -> None:
        del self._held[key]
        del self._keys[bisect_left(self._keys, key)]
        self._expiry.discard(key)


def _compare(key: str, held: _Held | None, if_version: str | None) -> None:
    if if_version is not None and (held is None or held.version != if_version):
        raise Conflict(f"{key} has changed")


def _entry(key: str, held: _Held) -> Entry:
    return Entry(key, held.value if held.count is None else str(held.count).encode(), held.version)
