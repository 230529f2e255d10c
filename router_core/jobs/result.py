"""What a job has made, read back: a JSON value, or a file that is kept as its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core

from router_core.http.media import File

__all__ = ["JSON_TYPE", "Result"]

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job that has succeeded."""

    data: bytes
    """JSON; the bytes themselves when it is a file."""
    file: File | None = None
    """The file that the result is, where it is kept as one: it was too large for the record."""
    inline: bool = True
    """It stands in the record, where a file has to be JSON too."""

    @classmethod
    def stored(cls, data: bytes, ref: Mapping[str, Any]) -> Result:
        """Read what lies in the blob store: a file if the reference has its name, or a type of its own."""
        content_type = str(ref.get("content_type") or "")
        name = ref.get("filename")
        if name is None and content_type == JSON_TYPE:
            return cls(data, None, inline=False)
        file = File.from_bytes(data, filename=str(name or ""), content_type=content_type)
        return cls(data, file, inline=False)

    def as_json(self) -> bytes:
        """Return the result as a JSON value; a file becomes the object with its content in base64."""
        return self.data if self.file is None else pydantic_core.to_json(self.file.to_object())
