"""Blobs as a remote worker sees them: inputs and result of the job that it runs, through its coordinator."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final
from urllib.parse import urlencode

import pydantic_core

from router_core.errors import Misconfigured, NotFound, StoreError
from router_core.jobs.blobs import Blob
from router_core.jobs.job import Fence
from router_core.jobs.remote_wire import PIECE, SHA256_HEADER, SIZE_HEADER
from router_core.stores.coordinator_link import CoordinatorLink, Refused
from router_core.stores.coordinator_wire import PIECES

__all__ = ["CoordinatorBlobs"]

_SMALLEST: Final = 256 * 1024


class CoordinatorBlobs:
    """A ``BlobStore`` for what runs under ``leased``; there is nothing to see outside of a lease."""

    presigns = False

    def __init__(self, link: CoordinatorLink) -> None:
        self._link = link
        self._lease: ContextVar[Fence | None] = ContextVar("lease", default=None)
        self.piece = PIECE
        """Largest piece that is sent at once; what is in front of the coordinator may want less."""
        self.download = 0
        """Largest piece that is asked for at once; 0: all."""

    @contextmanager
    def leased(self, fence: Fence) -> Iterator[None]:
        """Say for which job blobs are read and written until the block ends."""
        before = self._lease.set(fence)
        try:
            yield
        finally:
            self._lease.reset(before)

    def _path(self) -> tuple[str, Fence]:
        fence = self._lease.get()
        if fence is None:
            raise Misconfigured("a remote worker reads and writes blobs for the job that it runs only")
        return f"/worker/jobs/{fence.job_id}/blob", fence

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Send the bytes in pieces; the coordinator makes one blob of them when the job succeeds."""
        whole = data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
        keys: list[str] = []
        at = 0
        while at < len(whole) or not keys:
            size = self.piece
            try:
                keys.append(await self._send(whole[at : at + size]))
            except Refused as refused:
                if refused.status != 413 or size <= _SMALLEST:
                    raise
                self.piece = max(_SMALLEST, size // 2)  # a front door takes less than the coordinator would
                continue
            at += size
        return Blob(PIECES.join(keys), hashlib.sha256(whole).hexdigest(), len(whole), content_type)

    async def _send(self, piece: bytes) -> str:
        path, fence = self._path()
        headers = {
            "content-type": "application/octet-stream",
            SHA256_HEADER: hashlib.sha256(piece).hexdigest(),
        }
        answer = await self._link.send("PUT", path, piece, lease=fence, headers=headers)
        try:
            return str(pydantic_core.from_json(answer.body)["piece"])
        except (ValueError, KeyError, TypeError):
            raise StoreError("the coordinator's answer to a piece cannot be read") from None

    async def get(self, key: str) -> bytes:
        """Return an input of the job."""
        path, fence = self._path()
        chunks: list[bytes] = []
        at = 0
        while True:
            query = urlencode({"key": key, "start": at, "length": self.download})
            try:
                answer = await self._link.send("GET", f"{path}?{query}", lease=fence)
            except Refused as refused:
                if refused.status == 404:
                    raise NotFound("the input of the job is gone") from None
                raise
            if answer.status == 303:
                return await self._link.fetch(answer.headers.get("location", ""))
            chunks.append(answer.body)
            at += len(answer.body)
            if at >= _size(answer.headers.get(SIZE_HEADER, "")) or not answer.body:
                return b"".join(chunks)

    async def delete(self, key: str) -> None:
        """Leave it: pieces that nobody names are cleared up by the coordinator."""

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return none: orphans are the coordinator's business."""
        return []

    async def ping(self) -> None:
        """Nothing to ask outside of a lease."""


def _size(text: str) -> int:
    if not text.isdecimal():
        raise StoreError("the coordinator does not say how long an input is")
    return int(text)
