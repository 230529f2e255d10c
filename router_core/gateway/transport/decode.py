"""Bodies that come compressed although nobody asked for it: taken apart within hard bounds."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Final

__all__ = ["BadCoding", "Bomb", "Decoder", "decoder_of"]

_SLICE: Final = 16 * 1024
"""Compressed bytes given to zlib at once: what it does not take of them is copied at every step."""
_RATIO: Final = 100
_HARMLESS: Final = 4 * 1024 * 1024
"""Bytes out below which the ratio says nothing."""
_MEMBERS: Final = 4096
"""Parts that one gzip body may have: each costs more to begin than it may hold."""


class BadCoding(ValueError):
    """The body is not what its content-encoding says."""


class Bomb(Exception):
    """The body becomes larger than any that is meant to be read."""


class Decoder:
    """Decompresses step by step, so that no more is ever held than was asked for."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._unpack: zlib._Decompress | None = None
        self._waiting: deque[memoryview] = deque()
        self._withheld = False
        """Whether zlib may hold output that found no room."""
        self._taken = 0
        self._given = 0
        self._members = 0

    def feed(self, data: bytes) -> None:
        """Take compressed bytes; nothing is decompressed yet."""
        view = memoryview(data)
        self._waiting.extend(view[at : at + _SLICE] for at in range(0, len(view), _SLICE))

    def read(self, size: int) -> bytes:
        """Return at most so many bytes of the body, and none when it needs more to go on."""
        while self._waiting or self._withheld:
            piece = self._step(size)
            if piece:
                self._given += len(piece)
                if self._given > max(self._taken * _RATIO, _HARMLESS):
                    raise Bomb(f"more than {_RATIO} times its compressed size")
                return piece
        return b""

    @property
    def ended(self) -> bool:
        """Whether the bytes so far are a complete body."""
        return self._unpack is None or self._unpack.eof

    def _step(self, size: int) -> bytes:
        """Let zlib take one slice; what it leaves is put back."""
        data = self._waiting.popleft() if self._waiting else memoryview(b"")
        if self._unpack is None or self._unpack.eof:
            data = self._begin(data)
        unpack = self._unpack
        if unpack is None or not (data or self._withheld):
            return b""
        try:
            piece = unpack.decompress(data, size)
        except zlib.error as error:
            raise BadCoding("the body is not what its content-encoding says") from error
        self._withheld = len(piece) == size and not unpack.eof
        rest = unpack.unused_data or unpack.unconsumed_tail
        self._taken += len(data) - len(rest)
        if rest:
            self._waiting.appendleft(memoryview(rest))
        return piece

    def _begin(self, data: memoryview) -> memoryview:
        """Begin with the first bytes, or with those after an end: gzip allows for members in a row."""
        self._withheld = False
        if self._unpack is not None:
            if not self._gzip:
                raise BadCoding("bytes after the end of the compressed body")
            # Padding with zeros is common, and harmless.
            stripped = bytes(data).lstrip(b"\0")
            data = memoryview(stripped)
            if not data:
                return data
        if not data:
            return data
        # "deflate" means zlib's format, but some send it bare; the first four bits tell.
        bare = not self._gzip and data[0] & 0x0F != 8
        self._members += 1
        if self._members > _MEMBERS:
            raise Bomb(f"more than {_MEMBERS} gzip members")
        self._unpack = zlib.decompressobj(31 if self._gzip else -15 if bare else 15)
        return data


def decoder_of(coding: str) -> Decoder | None:
    """Return what undoes a content-encoding, None for none; raises BadCoding for those unknown."""
    match coding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return Decoder(gzip=True)
        case "deflate":
            return Decoder(gzip=False)
        case _:
            raise BadCoding("a content-encoding that was not asked for")
