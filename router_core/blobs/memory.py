"""Blobs in this process's memory: for tests and trials."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import AsyncIterator

from router_core.clock import Clock, SystemClock
from router_core.errors import NotFound, PayloadTooLarge, StoreError
from router_core.jobs.blobs import Blob

__all__ = ["MemoryBlobStore"]

_MIB = 1024 * 1024


class MemoryBlobStore:
    """Bytes in a dictionary; refuses what would take it over ``max_total_bytes``."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        max_bytes: int = 100 * _MIB,
        max_total_bytes: int = 1024 * _MIB,
    ) -> None:
        self._clock = clock or SystemClock()
        self._max_bytes, self._max_total = max_bytes, max_total_bytes
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[bytes, float]] = {}
        self._total = 0

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Keep the bytes. Raises PayloadTooLarge, and StoreError when the store is full."""
        content = data if isinstance(data, bytes) else await self._gather(data)
        if len(content) > self._max_bytes:
            raise PayloadTooLarge(f"a blob may have {self._max_bytes} bytes")
        key = secrets.token_hex(16)
        with self._lock:
            if self._total + len(content) > self._max_total:
                raise StoreError("the blob store is full")
            self._blobs[key] = (content, self._clock.now())
            self._total += len(content)
        return Blob(key, hashlib.sha256(content).hexdigest(), len(content), content_type)

    async def get(self, key: str) -> bytes:
        """Return the bytes."""
        with self._lock:
            found = self._blobs.get(key)
        if found is None:
            raise NotFound("no such blob")
        return found[0]

    async def delete(self, key: str) -> None:
        """Forget the bytes."""
        with self._lock:
            content, _ = self._blobs.pop(key, (b"", 0.0))
            self._total -= len(content)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return keys behind ``after`` of blobs that were written before the given time."""
        with self._lock:
            old = [key for key, (_, at) in self._blobs.items() if at < older_than and key > after]
        return sorted(old)[: max(0, limit)]

    async def ping(self) -> None:
        """Raise StoreError when the store is full."""
        with self._lock:
            if self._total >= self._max_total:
                raise StoreError("the blob store is full")

    async def _gather(self, chunks: AsyncIterator[bytes]) -> bytes:
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if len(content) > self._max_bytes:
                break
        return bytes(content)
