"""Shared state whose values are encrypted. Keys and counts are not: stores look for them, and add to them."""

from __future__ import annotations

from dataclasses import replace

from router_core.security.encryption import Cipher
from router_core.state import Entry, StatePage, StateStore, check_key

__all__ = ["EncryptedStateStore"]


class EncryptedStateStore:
    """A store in front of another one; values that were written before it are read as they are."""

    def __init__(self, store: StateStore, cipher: Cipher) -> None:
        self._store = store
        self._cipher = cipher

    @property
    def multi_process(self) -> bool:
        """Whether other processes see what is written."""
        return bool(getattr(self._store, "multi_process", True))

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        found = await self._store.get(key)
        return None if found is None else self._readable(found)

    async def put(
        self, key: str, value: bytes, *, if_version: str | None = None, if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:  # fmt: skip
        """Write a value, which may be a little smaller than the store's largest."""
        sealed = self._cipher.seal(value, f"state/{check_key(key)}")
        return await self._store.put(key, sealed, if_version=if_version, if_absent=if_absent, ttl=ttl)

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove what stands under a key."""
        return await self._store.delete(key, if_version=if_version)

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count."""
        return await self._store.increment(key, by, ttl=ttl, limit=limit)

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List what stands under keys."""
        page = await self._store.entries(prefix, cursor=cursor, limit=limit)
        return replace(page, entries=tuple(self._readable(entry) for entry in page.entries))

    async def ping(self) -> None:
        """Raise StoreError unless a write would succeed now."""
        await self._store.ping()

    async def open(self) -> None:
        """Get ready."""
        await self._store.open()

    async def close(self) -> None:
        """Let go."""
        await self._store.close()

    def _readable(self, entry: Entry) -> Entry:
        value = self._cipher.unseal(entry.value, f"state/{entry.key}")
        return entry if value is entry.value else replace(entry, value=value)
