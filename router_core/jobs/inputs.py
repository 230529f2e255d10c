"""Arguments of a job as bytes in its record, and back; files go to the blob store.

A file stands in the JSON as ``{"$file": {..., "size", "content_type", "filename"}}``, with its bytes under
``data`` (base64, when it is small), in the blob ``key``, or at the offset ``at`` of the blob that holds the
whole input. A member of a caller's own object that is called ``$file`` is written as ``$$file`` (and
``$$file`` as ``$$$file``), so that nobody can name a blob by writing its reference into a request.

A blob belongs to one job, and every key of it stands in that job's record: deleting a job deletes its blobs
and never takes a file from under another.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import pydantic_core

from router_core.binding.inputs import Inputs
from router_core.errors import StoreError
from router_core.http.media import File
from router_core.jobs.blobs import BlobStore
from router_core.jobs.job import Job

__all__ = [
    "INLINE_FILE",
    "INLINE_INPUT",
    "Dumped",
    "blob_keys",
    "copy_input",
    "dump",
    "fingerprint",
    "load",
    "pack",
]

INLINE_INPUT: Final = 32 * 1024
"""Larger inputs go to a blob as a whole: the record is read on every poll."""
INLINE_FILE: Final = 4 * 1024
"""Smaller files stand in the record, which saves a durable write of their own."""

_MARK: Final = "$file"
_MARK_BYTES: Final = b"$file"
_ESCAPED: Final = re.compile(r"\$+file\Z")
_BUNDLE_TYPE: Final = "application/x-router-core-input"
_HEAD: Final = 8
"""Bytes before the JSON of a bundle: its length, big-endian."""


class Dumped:
    """Arguments ready for a record: ``data`` for ``Job.input``, ``ref`` for ``Job.input_ref``."""

    __slots__ = ("data", "keys", "ref")

    def __init__(self, data: bytes, ref: str = "", keys: list[str] | None = None) -> None:
        self.data = data
        self.ref = ref
        self.keys = keys if keys is not None else []
        """Every blob that was written. Without a record that names them they are to be deleted."""

    async def discard(self, blobs: BlobStore) -> None:
        """Delete what was written, as no record came of it; a failure leaves an orphan to the sweeper."""
        for key in self.keys:
            with suppress(StoreError):
                await blobs.delete(key)


async def dump(values: Mapping[str, Any], blobs: BlobStore) -> Dumped:
    """Return the arguments as JSON, after writing large files (or a large whole) to blobs.

    Raises StoreError when the blob store does not take them; what was written until then is deleted again.
    """
    return await (await pack(values)).write(blobs)


class Packed:
    """Arguments as JSON, of which nothing is written yet."""

    __slots__ = ("_data", "_writer")

    def __init__(self, data: bytes, writer: _Writer) -> None:
        self._data = data
        self._writer = writer

    @property
    def large(self) -> bool:
        """Whether ``write`` has to write a blob."""
        return len(self._data) > INLINE_INPUT or bool(self._writer.files)

    async def write(self, blobs: BlobStore) -> Dumped:
        """Write what does not belong into the record. Raises StoreError and leaves nothing then."""
        dumped = Dumped(self._data)
        try:
            if len(self._data) > INLINE_INPUT:
                blob = await blobs.put(self._writer.bundle(self._data), content_type=_BUNDLE_TYPE)
                dumped.keys.append(blob.key)
                dumped.data, dumped.ref = b"", blob.key
            elif self._writer.files:
                dumped.data = await self._writer.apart(blobs, dumped.keys)
        except BaseException:
            await dumped.discard(blobs)
            raise
        return dumped


async def pack(values: Mapping[str, Any]) -> Packed:
    """Return the arguments as JSON with their files beside it."""
    writer = _Writer()
    data = _plain(values)
    return Packed(await writer.encode(values) if data is None else data, writer)


def _plain(values: Mapping[str, Any]) -> bytes | None:
    """Encode in one go; None when a file or a look-alike is among the values, which takes a walk."""
    try:
        data = pydantic_core.to_json(dict(values))
    except pydantic_core.PydanticSerializationError:
        return None
    return None if _MARK_BYTES in data else data


class _Writer:
    """Puts references in the place of files, and the files where they belong."""

    def __init__(self) -> None:
        self.files: list[tuple[dict[str, Any], bytes]] = []
        """The reference of each large file, still without its place, and the bytes."""
        self._value: Any = None

    async def encode(self, values: Mapping[str, Any]) -> bytes:
        self._value = await self._walk(values)
        return pydantic_core.to_json(self._value)

    async def _walk(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {_escape(key): await self._walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [await self._walk(item) for item in value]
        return await self._file(value) if isinstance(value, File) else value

    async def _file(self, file: File) -> dict[str, Any]:
        data = file.read() if file.path is None else await asyncio.to_thread(file.read)
        ref: dict[str, Any] = {"size": len(data)}
        ref |= {"content_type": file.content_type, "filename": file.filename}
        if len(data) <= INLINE_FILE:
            ref["data"] = base64.b64encode(data).decode()
        else:
            self.files.append((ref, data))
        return {_MARK: ref}

    async def apart(self, blobs: BlobStore, keys: list[str]) -> bytes:
        """Write each file to a blob of its own; return the JSON that names them."""
        for ref, data in self.files:
            blob = await blobs.put(data, content_type=ref["content_type"])
            keys.append(blob.key)
            ref |= {"key": blob.key, "sha256": blob.sha256}
        return pydantic_core.to_json(self._value)

    def bundle(self, data: bytes) -> bytes:
        """Return JSON and files as one: a record can then name everything by a single key."""
        at = 0
        for ref, content in self.files:
            ref["at"] = at
            at += len(content)
        if self.files:
            data = pydantic_core.to_json(self._value)
        return b"".join((len(data).to_bytes(_HEAD, "big"), data, *(content for _, content in self.files)))


async def load(job: Job, blobs: BlobStore) -> Inputs:
    """Return the arguments as they were given. Raises NotFound when a blob is gone, StoreError."""
    data, files = job.input, b""
    if job.input_ref:
        whole = await blobs.get(job.input_ref)
        end = _HEAD + int.from_bytes(whole[:_HEAD], "big")
        if len(whole) < end:
            raise StoreError("the stored input of a job is cut short")
        data, files = whole[_HEAD:end], whole[end:]
    values: dict[str, Any] = pydantic_core.from_json(data or b"{}")
    if _MARK_BYTES not in data:
        return Inputs(values)
    reader = _Reader(blobs, files)
    return Inputs({_unescape(key): await reader.walk(item) for key, item in values.items()})


class _Reader:
    """Puts files in the place of references."""

    def __init__(self, blobs: BlobStore, files: bytes) -> None:
        self._blobs = blobs
        self._files = files

    async def walk(self, value: Any) -> Any:
        if isinstance(value, list):
            return [await self.walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and _MARK in value:
            return await self._file(value[_MARK])
        return {_unescape(key): await self.walk(item) for key, item in value.items()}

    async def _file(self, ref: Mapping[str, Any]) -> File:
        if "data" in ref:
            data = base64.b64decode(ref["data"])
        elif "at" in ref:
            data = self._files[ref["at"] : ref["at"] + ref["size"]]
        else:
            data = await self._blobs.get(ref["key"])
        if len(data) != ref["size"]:
            raise StoreError("a stored file of a job is cut short")
        return File.from_bytes(data, filename=ref["filename"], content_type=ref["content_type"])


def _escape(key: Any) -> Any:
    return f"${key}" if isinstance(key, str) and _ESCAPED.match(key) else key


def _unescape(key: str) -> str:
    return key[1:] if key.startswith("$$") and _ESCAPED.match(key) else key


def fingerprint(values: Mapping[str, Any], content_type: str = "") -> str:
    """Return SHA-256 of the arguments in canonical form and the media type they came in.

    Canonical: members sorted, files by their content. So a multipart body has the same fingerprint each time
    although its boundary changes.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"), default=_content)
    return hashlib.sha256(f"{len(media_type)}:{media_type}{text}".encode()).hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, File):
        return {_MARK: [hashlib.sha256(value.read()).hexdigest(), value.filename, value.content_type]}
    if isinstance(value, Mapping):
        return dict(value)
    return pydantic_core.to_jsonable_python(value)


def blob_keys(job: Job) -> list[str]:
    """Return every blob of a job: its input, the files of its input, its result."""
    keys = [job.input_ref] if job.input_ref else []
    if _MARK_BYTES in job.input:
        keys += _named(pydantic_core.from_json(job.input))
    if job.result_ref:
        keys.append(pydantic_core.from_json(job.result_ref)["key"])
    return keys


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif isinstance(value, dict):
        if len(value) == 1 and _MARK in value:
            key = value[_MARK].get("key")
            yield from (key,) if key else ()
            return
        for item in value.values():
            yield from _named(item)


async def copy_input(job: Job, blobs: BlobStore) -> Dumped:
    """Return the input of a job for another job, with blobs of its own. Raises NotFound, StoreError."""
    if job.input_ref or _MARK_BYTES in job.input:
        return await dump(await load(job, blobs), blobs)
    return Dumped(job.input)
