"""Just enough HTTP/1.1 to ask one question over a connection of our own and to distrust the answer.

Everything that a peer sends is bounded: lines, header count, body. What is not plain HTTP/1.1 raises
``MalformedAnswer`` instead of being repaired.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from router_core.http.message import Headers

__all__ = [
    "MAX_LINE",
    "AnswerTooLarge",
    "Head",
    "MalformedAnswer",
    "read_body",
    "read_head",
    "render_request",
]

MAX_LINE: Final = 16 * 1024
"""Longest line, in bytes; also the limit to give to the stream reader."""
_MAX_HEAD: Final = 64 * 1024
_MAX_HEADERS: Final = 200
_MAX_INTERIM: Final = 8
_PIECE: Final = 64 * 1024

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r\n\Z")
_HEADER_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n\Z")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:[ \t]*;[^\r\n\0]*)?\r\n\Z")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")
_FRAMING: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}
)


class MalformedAnswer(Exception):
    """The peer sent something that is not HTTP/1.1, or stopped in the middle of it."""


class AnswerTooLarge(Exception):
    """The body is larger than the caller takes."""


@dataclass(frozen=True, slots=True)
class Head:
    """The final status and its headers."""

    status: int
    headers: Headers


def render_request(method: str, path: str, authority: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the bytes of a request; raises ValueError for a header that would break out of its line."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}", "Connection: close"]
    for name, value in headers.items():
        if not _HEADER_NAME.match(name) or name.lower() in _FRAMING:
            raise ValueError(f"the header name {name!r} cannot be sent")
        if not _HEADER_VALUE.match(value):
            raise ValueError(f"the value of the header {name} cannot be sent")
        lines.append(f"{name}: {value}")
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read up to the end of the headers of the final answer, passing over 1xx answers."""
    for _ in range(_MAX_INTERIM):
        line = await _line(reader)
        match = _STATUS_LINE.match(line)
        if match is None:
            raise MalformedAnswer("no status line")
        head = Head(int(match[1]), await _headers(reader))
        if head.status >= 200:
            return head
        if head.status == 101:
            break
    raise MalformedAnswer("too many interim answers")


async def read_body(reader: asyncio.StreamReader, head: Head, max_bytes: int) -> bytes:
    """Read the whole body, never holding more than ``max_bytes`` and one piece. Raises AnswerTooLarge."""
    if head.status in (204, 304):
        return b""
    encodings = head.headers.getlist("transfer-encoding")
    lengths = set(head.headers.getlist("content-length"))
    if encodings:
        if lengths or [value.lower() for value in encodings] != ["chunked"]:
            raise MalformedAnswer("unclear where the body ends")
        return await _chunked(reader, max_bytes)
    if not lengths:
        return await _until_closed(reader, max_bytes)
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise MalformedAnswer("unclear where the body ends")
    if int(length) > max_bytes:
        raise AnswerTooLarge
    body = bytearray()
    await _exactly(reader, int(length), body)
    return bytes(body)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise MalformedAnswer("a line is too long") from None
    except asyncio.IncompleteReadError:
        raise MalformedAnswer("the answer was cut") from None


async def _headers(reader: asyncio.StreamReader) -> Headers:
    items: list[tuple[str, str]] = []
    size = 0
    while (line := await _line(reader)) != b"\r\n":
        match = _HEADER_LINE.match(line)
        size += len(line)
        if match is None or size > _MAX_HEAD or len(items) >= _MAX_HEADERS:
            raise MalformedAnswer("the headers are malformed or too many")
        items.append((match[1].decode("ascii"), match[2].decode("latin-1")))
    return Headers(items)


async def _exactly(reader: asyncio.StreamReader, length: int, into: bytearray) -> None:
    while length:
        piece = await reader.read(min(length, _PIECE))
        if not piece:
            raise MalformedAnswer("the answer was cut")
        into += piece
        length -= len(piece)


async def _until_closed(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    body = bytearray()
    while piece := await reader.read(_PIECE):
        body += piece
        if len(body) > max_bytes:
            raise AnswerTooLarge
    return bytes(body)


async def _chunked(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        match = _CHUNK_LINE.match(await _line(reader))
        if match is None:
            raise MalformedAnswer("a chunk is malformed")
        length = int(match[1], 16)
        if length == 0:
            await _headers(reader)  # trailers
            return bytes(body)
        if len(body) + length > max_bytes:
            raise AnswerTooLarge
        await _exactly(reader, length, body)
        if await _line(reader) != b"\r\n":
            raise MalformedAnswer("a chunk is malformed")
