"""Files on their way out (uploads, base64 objects) and back (``File``)."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable
from urllib.parse import unquote

from router_core.http.media import DEFAULT_CONTENT_TYPE, File, safe_filename

__all__ = ["Upload", "as_upload", "file_from_answer", "is_file", "revive", "to_object"]

_CHUNK: Final = 256 * 1024


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int = -1, /) -> Any: ...


class Upload:
    """A file that can be sent more than once: each time it is opened, or wound back, anew."""

    def __init__(self, source: bytes | Path | File | BinaryIO, filename: str, content_type: str) -> None:
        self.filename = filename
        self.content_type = content_type
        self._source = source
        self._start = 0
        if isinstance(source, bytes):
            self.size: int | None = len(source)
        elif isinstance(source, Path):
            # a missing file should fail here, before anything is sent
            self.size = source.stat().st_size
        elif isinstance(source, File):
            self.size = source.size
        else:
            self._start = source.tell()
            self.size = source.seek(0, os.SEEK_END) - self._start
            source.seek(self._start)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the content from its beginning; reads happen in a thread."""
        source = self._source
        if isinstance(source, bytes):
            yield source
            return
        stream = await asyncio.to_thread(self._open, source)
        try:
            while chunk := await asyncio.to_thread(stream.read, _CHUNK):
                yield chunk
        finally:
            if stream is not source:
                stream.close()

    def read(self) -> bytes:
        """Return the whole content."""
        source = self._source
        if isinstance(source, bytes):
            return source
        stream = self._open(source)
        try:
            return stream.read()
        finally:
            if stream is not source:
                stream.close()

    def _open(self, source: Path | File | BinaryIO) -> BinaryIO:
        if isinstance(source, Path):
            return source.open("rb")
        if isinstance(source, File):
            return source.open()
        source.seek(self._start)
        return source


def is_file(value: object) -> bool:
    """Return whether an argument is sent as a file."""
    return isinstance(value, (bytes, bytearray, memoryview, Path, File, _Readable))


def as_upload(value: Any) -> Upload:
    """Make an argument sendable. A stream that cannot be wound back is read wholly: it may be sent twice."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Upload(bytes(value), "file", DEFAULT_CONTENT_TYPE)
    if isinstance(value, Path):
        return Upload(value, value.name, _guess(value.name))
    if isinstance(value, File):
        return Upload(value, value.filename or "file", value.content_type or _guess(value.filename or ""))
    name = getattr(value, "name", "")
    filename = Path(name).name if isinstance(name, str) and name else "file"
    if _rewinds(value):
        return Upload(value, filename, _guess(filename))
    content = value.read()
    data = content.encode() if isinstance(content, str) else bytes(content)
    return Upload(data, filename, _guess(filename))


def to_object(value: Any) -> dict[str, str]:
    """Return the base64 object that stands for a file inside JSON."""
    upload = as_upload(value)
    return File.from_bytes(upload.read(), upload.filename, upload.content_type).to_object()


def revive(value: Any) -> Any:
    """Turn the base64 objects inside a decoded result back into ``File``."""
    if isinstance(value, list):
        return [revive(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == _OBJECT:
        try:
            return File.parse(value)
        except ValueError:
            pass  # somebody's own object that happens to have these members
    return {key: revive(item) for key, item in value.items()}


def file_from_answer(body: bytes, headers: Mapping[str, str]) -> File:
    """Return the body of an answer as a file, under the name that the service proposes."""
    content_type = headers.get("content-type", DEFAULT_CONTENT_TYPE).partition(";")[0].strip().lower()
    name = _proposed(headers.get("content-disposition", ""))
    if not name:
        name = f"result{mimetypes.guess_extension(content_type) or ''}"
    return File.from_bytes(body, filename=name, content_type=content_type)


def _proposed(disposition: str) -> str:
    """Read ``filename*`` (RFC 8187) or else ``filename``; whatever it is, it becomes no path."""
    extended = re.search(r"filename\*\s*=\s*UTF-8'[^']*'([^\s;]+)", disposition, re.IGNORECASE)
    if extended:
        return safe_filename(unquote(extended[1]))
    match = re.search(r'filename="((?:[^"\\]|\\.)*)"|filename=([^\s;"]+)', disposition)
    return safe_filename(re.sub(r"\\(.)", r"\1", match[1] or match[2] or "")) if match else ""


def _guess(name: str) -> str:
    return mimetypes.guess_type(name)[0] or DEFAULT_CONTENT_TYPE


def _rewinds(stream: Any) -> bool:
    try:
        return bool(stream.seekable()) and isinstance(stream.read(0), bytes)
    except (AttributeError, OSError, ValueError):
        return False


_OBJECT: Final = frozenset({"file_name", "content_type", "content"})
