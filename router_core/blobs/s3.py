"""Blobs in an S3 bucket.

    ROUTER_BLOBS=s3://bucket/prefix

A key is the owner's mark, the time it was made and 80 random bits; the object lies at
``prefix/mark/time-and-random``. So a listing of one owner's objects is in the order of their age, and the
search for old ones ends where the young ones begin. Encryption and the life of objects are the bucket's
business; unfinished uploads of killed processes are too (a lifecycle rule for incomplete multipart uploads).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

from router_core.binding.result import disposition
from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured, NotFound, PayloadTooLarge, RouterError, StoreError
from router_core.http.media import DEFAULT_CONTENT_TYPE
from router_core.jobs.blobs import Blob
from router_core.vendors import boto3 as aws

__all__ = ["PART", "S3BlobStore"]

_MIB: Final = 1024 * 1024
PART: Final = 8 * _MIB
"""Bytes that are held in memory and sent at once; more than that goes up in parts."""
_MARK: Final = 8
_TIME: Final = 12
_RANDOM: Final = 20
_KEY: Final = re.compile(rf"[0-9a-f]{{{_MARK + _TIME + _RANDOM}}}\Z")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}\Z")
_PAGE: Final = 1000
_LONGEST_URL: Final = 7 * 24 * 3600
_READ_TRIES: Final = 3


class S3BlobStore:
    """Each blob is an object of its own; it appears whole or not at all.

    ``owner`` names the record store whose blobs these are. Services with record stores of their own may share
    a prefix: each reads every blob by its key and looks for orphans among its own.
    """

    presigns = True

    def __init__(
        self, bucket: str, prefix: str = "", clock: Clock | None = None, *, owner: str = "",
        max_bytes: int = 100 * _MIB,
    ) -> None:  # fmt: skip
        if not _BUCKET.match(bucket):
            raise Misconfigured(f"ROUTER_BLOBS names the bucket {bucket!r}; that is no name of a bucket")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._mark = hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:_MARK]
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> Blob:
        """Keep the bytes. Raises PayloadTooLarge, StoreError; a stream is never held in memory as a whole."""
        if isinstance(data, bytes) and len(data) > self._max_bytes:
            raise self._too_large()
        key = self._new_key()
        upload = _Upload(self._bucket, self._name(key), content_type)
        size = 0
        try:
            async with aclosing(_pieces(data)) as pieces:
                first = await anext(pieces)
                size = self._counted(size, first)
                async for piece in pieces:
                    size = self._counted(size, piece)
                    if not upload.begun:
                        await self._to_its_end(upload.begin)
                        await self._to_its_end(upload.send, piece=first)
                    await self._to_its_end(upload.send, piece=piece)
            if upload.begun:
                await self._to_its_end(upload.finish)
            else:
                await self._to_its_end(upload.whole, data=first)
        except BaseException as error:
            # shielded: a caller that has gone must not leave half a blob behind
            await asyncio.shield(self._undo(upload, error))
            raise
        return Blob(key, upload.digest.hexdigest(), size, content_type)

    async def get(self, key: str) -> bytes:
        """Return the bytes. Raises NotFound, StoreError."""
        name = self._known(key)
        found: bytes = await self._ask(_read, bucket=self._bucket, name=name)
        return found

    async def delete(self, key: str) -> None:
        """Remove the object; unknown and odd keys are no error."""
        if _KEY.match(key):
            await self._ask(_delete, bucket=self._bucket, name=self._name(key))

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return the owner's keys behind ``after`` that were made before the given time."""
        place = f"{self._prefix}{self._mark}/"
        last = f"{self._mark}{max(0, int(older_than * 1000)):0{_TIME}x}"
        found: list[str] = []
        start = f"{place}{after[_MARK:]}" if after.startswith(self._mark) else place
        while len(found) < limit:
            page = await self._ask(_list, bucket=self._bucket, prefix=place, after=start, limit=limit)
            names = [item["Key"] for item in page.get("Contents", ())]
            keys = [self._mark + name.removeprefix(place) for name in names]
            found += [key for key in keys if _KEY.match(key) and after < key < last]
            if not page.get("IsTruncated") or not names or keys[-1] >= last:
                break
            start = names[-1]
        return found[: max(0, limit)]

    async def ping(self) -> None:
        """Write an object that is no blob; raises StoreError if that fails."""
        await self._ask(_write, bucket=self._bucket, name=f"{self._prefix}{self._mark}.ping", data=b"")

    def presign(
        self, key: str, *, seconds: int = 300, content_type: str | None = None, filename: str | None = None
    ) -> str:
        """Return an address under which anybody can read the blob for so many seconds (at most a week, and
        no longer than the credentials of this process live)."""
        kind = _header(content_type) if content_type else DEFAULT_CONTENT_TYPE
        parameters = {
            "Bucket": self._bucket, "Key": self._known(key), "ResponseContentType": kind,
            "ResponseContentDisposition": disposition(kind, filename or ""),
            "ResponseCacheControl": "private, no-store",
        }  # fmt: skip
        try:
            url: str = aws.client("s3").generate_presigned_url(
                "get_object", Params=parameters, ExpiresIn=max(1, min(_LONGEST_URL, seconds))
            )
        except Exception as error:
            raise _translate(error, self._bucket) from error
        return url

    # --- inside -----------------------------------------------------------------------------

    def _new_key(self) -> str:
        return f"{self._mark}{int(self._clock.now() * 1000):0{_TIME}x}{secrets.token_hex(_RANDOM // 2)}"

    def _name(self, key: str) -> str:
        return f"{self._prefix}{key[:_MARK]}/{key[_MARK:]}"

    def _known(self, key: str) -> str:
        if not _KEY.match(key):
            raise NotFound("no such blob")
        return self._name(key)

    def _counted(self, size: int, piece: bytes) -> int:
        if size + len(piece) > self._max_bytes:
            raise self._too_large()
        return size + len(piece)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"a blob may have {self._max_bytes} bytes")

    async def _ask(self, work: Any, /, **parameters: Any) -> Any:
        try:
            return await aws.call(work, **parameters)
        except RouterError:
            raise
        except Exception as error:
            raise _translate(error, self._bucket) from error

    async def _to_its_end(self, work: Callable[..., None], /, **parameters: Any) -> None:
        """Ask; a cancelled caller waits for the end too, so that nothing goes on behind its back."""
        task = asyncio.ensure_future(self._ask(work, **parameters))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _undo(self, upload: _Upload, error: BaseException) -> None:
        """Remove what a put has left that did not end; what cannot be removed now is found as an orphan."""
        if not upload.touched or (not upload.begun and isinstance(error, Exception)):
            return
        try:
            await self._ask(upload.undo)
        except RouterError:
            return


class _Upload:
    """One object on its way up; the methods block and run in threads, one after the other."""

    def __init__(self, bucket: str, name: str, content_type: str) -> None:
        self.digest = hashlib.sha256()
        self.touched = False
        """S3 may have heard of it."""
        self.begun = False
        """It comes in parts."""
        self._object = {"Bucket": bucket, "Key": name}
        self._type = _header(content_type)
        self._id = ""
        self._parts: list[dict[str, Any]] = []

    def whole(self, data: bytes) -> None:
        """Send everything at once."""
        self.touched = True
        self.digest.update(data)
        aws.client("s3").put_object(**self._object, Body=data, ContentType=self._type)

    def begin(self) -> None:
        """Announce parts."""
        self.touched = True
        answer = aws.client("s3").create_multipart_upload(**self._object, ContentType=self._type)
        self._id = answer["UploadId"]
        self.begun = True

    def send(self, piece: bytes) -> None:
        """Send the next part."""
        self.digest.update(piece)
        number = len(self._parts) + 1
        answer = aws.client("s3").upload_part(
            **self._object, UploadId=self._id, PartNumber=number, Body=piece
        )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def finish(self) -> None:
        """Make the parts one object."""
        aws.client("s3").complete_multipart_upload(
            **self._object, UploadId=self._id, MultipartUpload={"Parts": self._parts}
        )

    def undo(self) -> None:
        """Remove whatever there is."""
        client = aws.client("s3")
        if self._id:
            try:
                client.abort_multipart_upload(**self._object, UploadId=self._id)
                return
            except Exception as error:
                if aws.error_code(error) != "NoSuchUpload":  # that one was finished after all
                    raise
        client.delete_object(**self._object)


async def _pieces(data: bytes | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the data in parts of one size, the last one smaller; at least one."""
    if isinstance(data, bytes):
        for start in range(0, max(1, len(data)), PART):
            yield data[start : start + PART]
        return
    held = bytearray()
    sent = False
    async for chunk in data:
        held += chunk
        while len(held) > PART:
            yield bytes(held[:PART])
            del held[:PART]
            sent = True
    if held or not sent:
        yield bytes(held)


def _read(bucket: str, name: str) -> bytes:
    """Read an object; a connection that breaks on the way is no end of it."""
    for left in reversed(range(_READ_TRIES)):
        try:
            found: bytes = aws.client("s3").get_object(Bucket=bucket, Key=name)["Body"].read()
            return found
        except Exception as error:
            if not left or not aws.is_unclear(error):
                raise
    raise AssertionError("the last try returns or raises")


def _write(bucket: str, name: str, data: bytes) -> None:
    aws.client("s3").put_object(Bucket=bucket, Key=name, Body=data)


def _delete(bucket: str, name: str) -> None:
    aws.client("s3").delete_object(Bucket=bucket, Key=name)


def _list(bucket: str, prefix: str, after: str, limit: int) -> Any:
    return aws.client("s3").list_objects_v2(
        Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=max(1, min(_PAGE, limit))
    )


def _header(content_type: str) -> str:
    """Return a content type that a header can carry; the record has it as it was given."""
    return content_type if _TYPE.match(content_type) else DEFAULT_CONTENT_TYPE


def _translate(error: Exception, bucket: str) -> RouterError:
    """Return what an error of S3 means."""
    code = aws.error_code(error) or type(error).__name__
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFound("no such blob")
    if code == "EntityTooLarge":
        return PayloadTooLarge("the blob is too large for its bucket")
    if code == "NoSuchBucket" or aws.is_misconfigured(error):
        text = f"the bucket {bucket} cannot be used; somebody has to look at its name or permissions ({code})"
        return StoreError(text, retry_after=30.0)
    return StoreError(f"the bucket {bucket} does not answer ({code})", retry_after=5.0)
