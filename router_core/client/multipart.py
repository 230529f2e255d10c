"""A multipart/form-data body that is made while it is sent."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from router_core.client.files import Upload

__all__ = ["Multipart", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """One field: text, or a file."""

    name: str
    value: bytes | Upload
    content_type: str = ""
    """Of a text value; empty means plain text."""


@dataclass(frozen=True, slots=True)
class Multipart:
    """A form. Its boundary is drawn once, so that a retry sends the very same bytes."""

    parts: Sequence[Part]
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_type(self) -> str:
        """The header that belongs to it."""
        return f"multipart/form-data; boundary={self.boundary}"

    @property
    def size(self) -> int | None:
        """Length in bytes, or None when a part does not know its own."""
        total = len(self._end())
        for part in self.parts:
            size = len(part.value) if isinstance(part.value, bytes) else part.value.size
            if size is None:
                return None
            total += len(self._head(part)) + size + 2
        return total

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the body from its beginning."""
        for part in self.parts:
            yield self._head(part)
            if isinstance(part.value, bytes):
                yield part.value
            else:
                async for chunk in part.value.chunks():
                    yield chunk
            yield b"\r\n"
        yield self._end()

    def _head(self, part: Part) -> bytes:
        lines = [f"--{self.boundary}", f'Content-Disposition: form-data; name="{_quoted(part.name)}"']
        if isinstance(part.value, Upload):
            lines[1] += f'; filename="{_quoted(part.value.filename)}"'
            lines.append(f"Content-Type: {_one_line(part.value.content_type)}")
        elif part.content_type:
            lines.append(f"Content-Type: {part.content_type}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode()


def _quoted(text: str) -> str:
    """Escape as the HTML standard's form encoding does; CR and LF would end the header."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _one_line(text: str) -> str:
    return "".join(char for char in text if char.isprintable()) or "application/octet-stream"
