"""Files of leased jobs: inputs go out to the worker, results come in, in pieces.

A piece is kept as a blob that begins with the lease it was sent under. So the lease that sent it can use it
for its result, and no other, without a record or a secret that says so; and a lease cannot pass off somebody
else's blob as its result. The result itself is put together and written anew by the coordinator.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from router_core.errors import NotFound, PayloadTooLarge, StoreError, ValidationFailed
from router_core.http.message import Request, Response
from router_core.jobs.blobs import Blob, BlobStore
from router_core.jobs.inputs import blob_keys
from router_core.jobs.job import Fence, Job
from router_core.jobs.remote_wire import PIECE, SHA256_HEADER, SIZE_HEADER, Upload, lease_mark
from router_core.jobs.settle import MAX_RESULT

__all__ = ["LeasedBlobs"]

_TYPE: Final = "application/x-router-core-piece"
_MARK: Final = b"router-core piece "
_MOST: Final = 2 * MAX_RESULT
"""Bytes that one lease may send: a result, and once more what answers that were lost made it repeat."""
_REMEMBERED: Final = 10_000


class LeasedBlobs:
    """What a lease may read and write of the blobs."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._sent: OrderedDict[str, int] = OrderedDict()
        """Bytes by lease, in this process: enough to keep a worker from filling the disk."""

    async def keep(self, fence: Fence, request: Request) -> str:
        """Keep a piece of a result; returns its key. Raises PayloadTooLarge, ValidationFailed, StoreError."""
        data = request.body
        if len(data) > PIECE:
            raise PayloadTooLarge(f"a piece has at most {PIECE} bytes")
        said = request.headers.get(SHA256_HEADER, "")
        if not hmac.compare_digest(hashlib.sha256(data).hexdigest().encode(), said.encode()):
            raise ValidationFailed(f"the bytes are not those that {SHA256_HEADER} tells of")
        self._count(fence, len(data))
        blob = await self._blobs.put(_MARK + lease_mark(fence).encode() + b"\n" + data, content_type=_TYPE)
        return blob.key

    def _count(self, fence: Fence, size: int) -> None:
        mark = lease_mark(fence)
        total = self._sent.pop(mark, 0) + size
        self._sent[mark] = total
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        if total > _MOST:
            raise PayloadTooLarge(f"one attempt may send {_MOST} bytes")

    async def assemble(self, fence: Fence, upload: Upload) -> Blob:
        """Write the pieces as one blob. Raises ValidationFailed unless they are this lease's and complete."""
        blob = await self._blobs.put(self._pieces(fence, upload), content_type=upload.content_type)
        if (blob.sha256, blob.size) != (upload.sha256, upload.size):
            await self.forget([blob.key])
            raise ValidationFailed(
                "the pieces do not make up what size and sha256 tell of", code="bad_pieces"
            )
        return blob

    async def _pieces(self, fence: Fence, upload: Upload) -> AsyncIterator[bytes]:
        head = _MARK + lease_mark(fence).encode() + b"\n"
        left = upload.size
        for key in upload.pieces:
            piece = await self._piece(key)
            if not hmac.compare_digest(piece[: len(head)], head) or len(piece) - len(head) > left:
                raise ValidationFailed("a piece is not one of this attempt", code="bad_pieces")
            left -= len(piece) - len(head)
            if len(piece) > len(head):
                yield piece[len(head) :]

    async def _piece(self, key: str) -> bytes:
        try:
            return await self._blobs.get(key)
        except NotFound:
            raise ValidationFailed("a piece is not one of this attempt", code="bad_pieces") from None

    async def forget(self, keys: list[str]) -> None:
        """Delete blobs; what cannot be deleted is an orphan that the sweeper finds."""
        for key in keys:
            with suppress(StoreError):
                await self._blobs.delete(key)

    async def read(self, job: Job, key: str, start: int, length: int) -> Response:
        """Answer with bytes of an input of the job, or with where they can be fetched.

        ``length`` 0 asks for all. Raises NotFound for a key that is not one of the job's inputs.
        """
        if key not in blob_keys(replace(job, result_ref=b"")):
            raise NotFound("the job has no such input")
        if getattr(self._blobs, "presigns", False):
            return Response(303, (("location", await self._presigned(key)), ("cache-control", "no-store")))
        data = await self._blobs.get(key)
        part = data[start : start + length] if length else data[start:]
        headers = (("content-type", "application/octet-stream"), (SIZE_HEADER, str(len(data))))
        return Response(200, headers, part)

    async def _presigned(self, key: str) -> str:
        store: Any = self._blobs
        url = store.presign(key)
        return str(await url if inspect.isawaitable(url) else url)
