"""Where the records of attempts go."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from router_core.gateway.accounting.records import AttemptRecord

__all__ = ["Callback", "JsonLinesFile", "Sink"]


class Sink(Protocol):
    """Takes records, a batch at a time and never two at once."""

    async def write(self, records: Sequence[AttemptRecord]) -> None:
        """Keep all of them, or raise: then they come again, together with later ones."""

    async def aclose(self) -> None:
        """Let go of what it holds. A write may follow all the same, and opens it again."""


class Callback:
    """Hands records to a function, which may be a coroutine function."""

    def __init__(self, function: Callable[[Sequence[AttemptRecord]], Awaitable[None] | None]) -> None:
        self._function = function

    async def write(self, records: Sequence[AttemptRecord]) -> None:
        """Call the function."""
        waits = self._function(records)
        if inspect.isawaitable(waits):
            await waits

    async def aclose(self) -> None:
        """Hold nothing."""


_encode: Final = msgspec.json.Encoder().encode


class JsonLinesFile:
    """Appends each record as a line of JSON, and begins a new file when this one is large.

    ``requests.jsonl`` becomes ``requests.jsonl.1``, that one ``.2``, and so on up to ``keep``. A line is in
    the hands of the operating system when ``write`` returns: it survives the end of this process, and
    usually not that of the machine. Processes may share a file. What one that was killed left of a line is
    cut off by the next write.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 64 * 1024 * 1024, keep: int = 5) -> None:
        self._path = Path(path)
        self._max_bytes = max(1, max_bytes)
        self._keep = max(0, keep)
        self._file = -1
        self._lock = threading.Lock()

    async def write(self, records: Sequence[AttemptRecord]) -> None:
        """Append them, in a thread: a disk may take its time."""
        await asyncio.to_thread(self._append, records)

    async def aclose(self) -> None:
        """Close the file; one that a disk holds up is left to the end of the process."""
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _append(self, records: Sequence[AttemptRecord]) -> None:
        data = b"".join([_line(record) for record in records])
        with self._lock:
            self._open()
            try:
                self._write_whole(data)
            finally:
                self._unlock()

    def _open(self) -> None:
        """Open and lock the file that bears the name now, which another process may just have replaced."""
        while True:
            if self._file < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._is_current() and not self._rotate():
                return
            self._close()

    def _is_current(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._file))

    def _rotate(self) -> bool:
        """Give the file another name if it is large; returns whether it was."""
        if os.fstat(self._file).st_size < self._max_bytes:
            return False
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n + 1}") for n in range(self._keep))]
        if self._keep == 0:
            self._path.unlink()
        for younger, older in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(older)
        return True

    def _write_whole(self, data: bytes) -> None:
        """Write all or nothing."""
        start = self._end_of_lines()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:  # a full disk, say; what was written of it would be written again
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, start)
            raise

    def _end_of_lines(self) -> int:
        """Return where the last whole line ends, having cut off what stands behind it."""
        size = end = os.fstat(self._file).st_size
        while end and (piece := os.pread(self._file, min(end, _PIECE), max(0, end - _PIECE))):
            found = piece.rfind(b"\n")
            end -= len(piece) - found - 1
            if found >= 0:
                break
        if end < size:
            os.ftruncate(self._file, end)
        return end

    def _unlock(self) -> None:
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


_PIECE: Final = 65_536


def _line(record: AttemptRecord) -> bytes:
    try:
        return _encode(record) + b"\n"
    except UnicodeEncodeError:  # half a character, from a header: no reason to lose the batch
        fields = msgspec.structs.asdict(record).items()
        clean = {name: _readable(value) if isinstance(value, str) else value for name, value in fields}
        return _encode(clean) + b"\n"


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
