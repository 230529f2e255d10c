"""Write ``application/vnd.amazon.eventstream``, as Bedrock does."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = ["event", "exception", "message"]


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one message."""
    written = b"".join(
        struct.pack(">B", len(name))
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(written) + len(payload), len(written))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + written + payload
    return data + struct.pack(">I", zlib.crc32(data))


def event(kind: str, **members: Any) -> bytes:
    """Return one event, padded as Bedrock pads them."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, json.dumps({**members, "p": "abcdefgh"}).encode())


def exception(kind: str, text: str) -> bytes:
    """Return an exception inside a stream."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, json.dumps({"message": text}).encode())
