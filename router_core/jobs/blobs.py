"""What a blob store has to be able to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Blob", "BlobStore", "SignsUrls"]


@dataclass(frozen=True, slots=True)
class Blob:
    """Where the bytes are and how to tell that they are the right ones."""

    key: str
    sha256: str
    size: int
    content_type: str = "application/octet-stream"


class BlobStore(Protocol):
    """Bytes by key. A key is made by the store; nothing that a caller sent becomes part of a path."""

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Keep the bytes durably before returning. Raises StoreError."""

    async def get(self, key: str) -> bytes:
        """Return the bytes. Raises NotFound, StoreError."""

    async def delete(self, key: str) -> None:
        """Forget the bytes; unknown keys are no error."""

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return keys of blobs that were written before the given time, in order, from behind ``after`` on.

        For collecting orphans: only keys that this record store's service has made may be among them, as
        another one's blobs are named by records that this one cannot see.
        """

    async def ping(self) -> None:
        """Raise StoreError unless a put would succeed now."""


@runtime_checkable
class SignsUrls(Protocol):
    """A blob store that callers can be sent to."""

    presigns: bool

    def presign(
        self, key: str, *, seconds: int = 300, content_type: str | None = None, filename: str | None = None
    ) -> str:
        """Return an address under which anybody can read the blob for a while, with the type and name given.

        Blocks for a moment (it may have to load the technology); raises StoreError, NotFound for an odd key.
        """
