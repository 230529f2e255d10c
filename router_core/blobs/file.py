"""Blobs as files below one directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from router_core.clock import Clock, SystemClock
from router_core.errors import NotFound, PayloadTooLarge, StoreError
from router_core.jobs.blobs import Blob

__all__ = ["FileBlobStore"]

_T = TypeVar("_T")
_MIB: Final = 1024 * 1024
_CHUNK: Final = _MIB
_KEY: Final = re.compile(r"[0-9a-f]{32}\Z")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}\Z")
_MARK: Final = 8
"""Digits at the end of a key that tell whose it is; the 96 random bits before them tell blobs apart."""
_UNFINISHED: Final = ".new-"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileBlobStore:
    """Each blob is a file named by 96 random bits and its owner's mark, in one of 256 folders.

    A blob appears whole or not at all: written beside its place, synced, renamed, and the folder synced.
    Nothing that a caller sent becomes part of a path, and no symbolic link is followed below ``root``.
    ``owner`` names the record store whose blobs these are. Services with record stores of their own may share
    a folder: each reads every blob by its key and looks for orphans among its own.
    """

    def __init__(
        self, root: str | Path, clock: Clock | None = None, *, owner: str = "", max_bytes: int = 100 * _MIB,
        threads: int = 4,
    ) -> None:  # fmt: skip
        self._mark = hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:_MARK]
        self._root = Path(root).expanduser()
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        # not the loop's own pool: functions of the service may fill that one and wait for a blob
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blobs")

    async def put(
        self, data: bytes | AsyncIterator[bytes], *, content_type: str = "application/octet-stream"
    ) -> Blob:
        """Keep the bytes durably. Raises PayloadTooLarge, StoreError."""
        if isinstance(data, bytes) and len(data) > self._max_bytes:
            raise self._too_large()
        drafts: list[_Draft] = []
        try:
            await self._to_its_end(lambda: drafts.append(self._begin()))
            draft = drafts[0]
            async for piece in _pieces(data):
                if draft.size + len(piece) > self._max_bytes:
                    raise self._too_large()
                await self._to_its_end(draft.write, piece)
            await self._to_its_end(draft.finish, self._clock.now())
        except BaseException:
            # shielded: a cancelled caller must not leave the draft behind
            for left in drafts:
                await asyncio.shield(self._in_thread(left.abandon))
            raise
        return Blob(draft.key, draft.digest.hexdigest(), draft.size, content_type)

    async def get(self, key: str) -> bytes:
        """Return the bytes. Raises NotFound, StoreError."""
        return await self._in_thread(self._read, key)

    async def delete(self, key: str) -> None:
        """Remove the file; unknown and odd keys are no error."""
        await self._in_thread(self._remove, key)

    async def keys(self, older_than: float, limit: int = 1000, after: str = "") -> list[str]:
        """Return the owner's keys behind ``after`` that were written before the given time; drafts of any
        owner that are as old are removed."""
        return await self._in_thread(self._old, older_than, limit, after)

    async def ping(self) -> None:
        """Write, sync and remove a small file; raises StoreError if that fails."""
        await self._in_thread(self._try_out)

    async def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)

    # --- in a thread ------------------------------------------------------------------------

    async def _to_its_end(self, work: Callable[..., _T], *args: Any) -> _T:
        """Run in a thread; a cancelled caller waits for it too, so that nothing goes on behind its back."""
        task = asyncio.ensure_future(self._in_thread(work, *args))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, work, *args)
        except OSError as error:
            raise _translate(error) from error

    def _begin(self) -> _Draft:
        key = secrets.token_hex(16 - _MARK // 2) + self._mark
        return _Draft(key, self._folder(key[:2], create=True))

    def _read(self, key: str) -> bytes:
        with self._place(key) as folder:
            try:
                descriptor = os.open(key, _READ, dir_fd=folder)
            except OSError as error:
                raise _missing(error) from error
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound("no such blob")
            return file.read()

    def _remove(self, key: str) -> None:
        with (
            contextlib.suppress(NotFound),
            self._place(key) as folder,
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(key, dir_fd=folder)

    def _old(self, older_than: float, limit: int, after: str) -> list[str]:
        found: list[str] = []
        for name in sorted(os.listdir(self._root)) if self._root.is_dir() else ():
            if _FOLDER.match(name) and name >= after[:2] and len(found) < limit:
                found += sorted(key for key in self._old_in(name, older_than) if key > after)
        return found[: max(0, limit)]

    def _old_in(self, name: str, older_than: float) -> list[str]:
        folder = self._folder(name, create=False)
        try:
            found = []
            for entry in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    facts = os.stat(entry, dir_fd=folder, follow_symlinks=False)
                    if not stat.S_ISREG(facts.st_mode) or facts.st_mtime >= older_than:
                        continue
                    if entry.startswith(_UNFINISHED):
                        os.unlink(entry, dir_fd=folder)
                    elif _KEY.match(entry) and entry.endswith(self._mark):
                        found.append(entry)
            return found
        finally:
            os.close(folder)

    def _try_out(self) -> None:
        draft = self._begin()
        try:
            draft.write(b"\0" * 4096)
            os.fsync(draft.descriptor)
        finally:
            draft.abandon()

    # --- places -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _place(self, key: str) -> Iterator[int]:
        if not _KEY.match(key):
            raise NotFound("no such blob")
        try:
            folder = self._folder(key[:2], create=False)
        except OSError as error:
            raise _missing(error) from error
        try:
            yield folder
        finally:
            os.close(folder)

    def _folder(self, name: str, *, create: bool) -> int:
        if create:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=root)
                    os.fsync(root)
            return os.open(name, _DIRECTORY, dir_fd=root)
        finally:
            os.close(root)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"a blob may have {self._max_bytes} bytes")


class _Draft:
    """A blob that is being written."""

    def __init__(self, key: str, folder: int) -> None:
        self.key = key
        self.size = 0
        self.digest = hashlib.sha256()
        self._folder = folder
        self._name = _UNFINISHED + key
        try:
            self.descriptor = os.open(self._name, _CREATE, 0o600, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise

    def write(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self.digest.update(data)
        self.size += len(data)

    def finish(self, now: float) -> None:
        """Make the bytes durable under their key."""
        os.utime(self.descriptor, (now, now))
        os.fsync(self.descriptor)
        os.rename(self._name, self.key, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
        self._close()

    def abandon(self) -> None:
        """Remove what was written; after ``finish`` or a second time it does nothing."""
        if self.descriptor >= 0:
            for name in (self._name, self.key):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._folder)
            self._close()

    def _close(self) -> None:
        os.close(self.descriptor)
        os.close(self._folder)
        self.descriptor = self._folder = -1


async def _pieces(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the data in pieces that are worth a change of thread."""
    if isinstance(data, bytes):
        yield data
        return
    held = bytearray()
    async for chunk in data:
        held += chunk
        if len(held) >= _CHUNK:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _missing(error: OSError) -> Exception:
    """Return NotFound for what is not there or not a plain file of ours, else the error itself."""
    gone = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR)
    return NotFound("no such blob") if error.errno in gone else error


def _translate(error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError("the disk of the blob store is full", retry_after=5.0)
    return StoreError(f"the blob store cannot answer: {os.strerror(error.errno or 0)}", retry_after=5.0)
