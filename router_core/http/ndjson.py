"""Newline-delimited JSON: one value a line."""

from __future__ import annotations

from typing import Any, Final

import pydantic_core

__all__ = ["NDJSON_TYPE", "NDJSON_TYPES", "NdjsonParser", "encode_line"]

NDJSON_TYPE: Final = "application/x-ndjson"
NDJSON_TYPES: Final = (NDJSON_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""What callers call it; the first is what we call it unless another was asked for."""

_MAX_LINE: Final = 1024 * 1024


def encode_line(value: bytes) -> bytes:
    """Return one line; ``value`` is JSON without a raw line break, as every JSON encoder writes it."""
    return value + b"\n"


class NdjsonParser:
    """Split bytes, in whatever pieces they come, into values. Memory is bounded by ``max_line``."""

    __slots__ = ("_max_line", "_rest")

    def __init__(self, max_line: int = _MAX_LINE) -> None:
        self._rest = bytearray()
        self._max_line = max_line

    def feed(self, data: bytes) -> list[Any]:
        """Return the values that are complete now. Raises ValueError for a line too long or no JSON."""
        self._rest += data
        if b"\n" not in data:
            self._check(len(self._rest))
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._check(max(map(len, lines)), len(rest))
        self._rest = bytearray(rest)
        return [pydantic_core.from_json(line) for line in lines if line.strip()]

    def close(self) -> list[Any]:
        """Return the value of a last line that has no line break."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [pydantic_core.from_json(rest)] if rest.strip() else []

    def _check(self, *lengths: int) -> None:
        if max(lengths) > self._max_line:
            raise ValueError(f"a line is longer than {self._max_line} bytes")
