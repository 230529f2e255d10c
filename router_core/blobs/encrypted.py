"""Blobs that are encrypted, piece by piece, so that none has to be in memory while it is written.

A piece is bound to its number and to being the last one, so that pieces cannot be left out, put in another
order or cut off (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar, 2015). A blob is bound to
its record by the hash in there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from router_core.errors import StoreError
from router_core.jobs.blobs import Blob, BlobStore
from router_core.security.encryption import OVERHEAD, Cipher

__all__ = ["EncryptedBlobStore"]

_MARK: Final = b"\x00rcb\x01"
_PIECE: Final = 256 * 1024
_SALT: Final = 16


class EncryptedBlobStore:
    """A store in front of another one; blobs that were written before it are read as they are.

    Callers cannot be sent to what is behind it (``presigns``): they could not read it.
    """

    presigns = False

    def __init__(self, store: BlobStore, cipher: Cipher) -> None:
        self._store = store
        self._cipher = cipher

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Keep the bytes; size and hash are those of what was given."""
        seen = _Seen()
        blob = await self._store.put(self._pieces(data, seen), content_type=content_type)
        return Blob(blob.key, seen.digest.hexdigest(), seen.size, content_type)

    async def get(self, key: str) -> bytes:
        """Return the bytes. Raises NotFound, StoreError."""
        kept = await self._store.get(key)
        return self._read(kept) if kept.startswith(_MARK) else kept

    async def delete(self, key: str) -> None:
        """Forget the bytes."""
        await self._store.delete(key)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return keys of old blobs."""
        return await self._store.keys(older_than, limit, after)

    async def ping(self) -> None:
        """Raise StoreError unless a put would succeed now."""
        await self._store.ping()

    async def close(self) -> None:
        """Let go, where the store has something to let go of."""
        close: Any = getattr(self._store, "close", None)
        if close is not None:
            await close()

    async def _pieces(self, data: bytes | AsyncIterator[bytes], seen: _Seen) -> AsyncIterator[bytes]:
        salt = os.urandom(_SALT)
        yield _MARK + salt
        number, held = 0, b""
        async for part in _parts(data):
            seen.add(part)
            held += part
            while len(held) > _PIECE:  # the last piece is known by what follows it: nothing
                yield self._cipher.seal(held[:_PIECE], _place(salt, number, last=False))
                number, held = number + 1, held[_PIECE:]
        yield self._cipher.seal(held, _place(salt, number, last=True))

    def _read(self, kept: bytes) -> bytes:
        salt, rest = kept[len(_MARK) : len(_MARK) + _SALT], memoryview(kept)[len(_MARK) + _SALT :]
        read, number = bytearray(), 0
        while True:
            piece, rest = bytes(rest[: _PIECE + OVERHEAD]), rest[_PIECE + OVERHEAD :]
            if len(piece) < OVERHEAD:
                raise StoreError("a blob has been cut off")
            read += self._cipher.unseal(piece, _place(salt, number, last=not rest))
            number += 1
            if not rest:
                return bytes(read)


class _Seen:
    """Size and hash of what has gone through."""

    __slots__ = ("digest", "size")

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def add(self, part: bytes) -> None:
        self.digest.update(part)
        self.size += len(part)


def _place(salt: bytes, number: int, *, last: bool) -> str:
    return f"blob/{salt.hex()}/{number}/{'last' if last else 'more'}"


async def _parts(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]
        return
    async for part in data:
        yield part
