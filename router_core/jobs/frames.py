"""Messages between a worker and its child processes: a JSON head, then raw bytes; nothing is unpickled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core

from router_core.http.media import File

__all__ = ["Frame", "pack", "read", "unpack", "write"]

_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    op: str
    """What is asked or told."""
    data: Mapping[str, Any]
    blobs: Sequence[bytes] = ()


def write(op: str, data: Mapping[str, Any] | None = None, blobs: Sequence[bytes] = ()) -> list[bytes]:
    """Return the pieces of a message, in order."""
    head = pydantic_core.to_json([op, data or {}, [len(blob) for blob in blobs]])
    return [len(head).to_bytes(_LENGTH, "big"), head, *blobs]


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """Read one message; None when the other side is gone, also in the middle of one."""
    try:
        size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        op, data, sizes = pydantic_core.from_json(await reader.readexactly(size))
        blobs = [await reader.readexactly(length) for length in sizes]
    except (asyncio.IncompleteReadError, ConnectionError, OSError):
        return None
    return Frame(op, data, blobs)


def pack(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Take the files out of arguments: what is left is JSON, with a list of where each file belongs."""
    files: list[dict[str, Any]] = []
    blobs: list[bytes] = []

    def walk(value: Any, at: list[str | int]) -> Any:
        if isinstance(value, File):
            files.append({"at": at, "filename": value.filename, "content_type": value.content_type})
            blobs.append(value.read())
            return None
        if isinstance(value, Mapping):
            return {str(key): walk(item, [*at, str(key)]) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item, [*at, index]) for index, item in enumerate(value)]
        return value

    return {"values": walk(values, []), "files": files}, blobs


def unpack(data: Mapping[str, Any], blobs: Sequence[bytes]) -> dict[str, Any]:
    """Put the files back."""
    values: dict[str, Any] = data["values"]
    for file, blob in zip(data["files"], blobs, strict=True):
        *way, last = file["at"]
        place: Any = values
        for step in way:
            place = place[step]
        place[last] = File.from_bytes(blob, filename=file["filename"], content_type=file["content_type"])
    return values
