"""Forms with files (``audio/transcriptions``): read the fields that matter, and replace the model's name.

The form is taken apart strictly: whatever two parsers might read differently is refused, because the model
that was judged here has to be the one that the upstream reads. All else goes on byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from router_core.errors import BadRequest
from router_core.gateway.json import invalid

__all__ = ["MULTIPART", "Part", "read_form", "replace_model", "scan"]

MULTIPART: Final = "multipart/form-data"
_MAX_PARTS: Final = 64
_MAX_HEAD: Final = 4096
_MAX_FIELD: Final = 64 * 1024
"""Bytes of a field that is not a file."""
_ONCE: Final = frozenset({"model", "response_format", "stream", "user"})
"""Fields that we judge by: of two of them, the upstream might read the other one."""
_BOUNDARY: Final = re.compile(
    r"multipart/form-data[ \t]*;[ \t]*(?:charset=[\w-]+[ \t]*;[ \t]*)?boundary="
    r"(?:\"([\w'()+,./:=? -]{0,69}[\w'()+,./:=?-])\"|([\w'+._-]{1,70}))"
    r"[ \t]*(?:;[ \t]*charset=[\w-]+[ \t]*)?",
    re.ASCII | re.IGNORECASE,
)
_LINE: Final = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([^\r\n\x00]*)")
_DISPOSITION: Final = re.compile(
    rb'form-data; ?name=(?:"([^"\\]*)"|([\w.\[\]-]+))(; ?filename=(?:"(?:[^"\\]|\\.)*"|[^\s;"]+))?'
    rb"(; ?filename\*=[^\s;\"]+)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """Where one part stands in the body."""

    name: bytes
    is_file: bool
    start: int
    """Of its content."""
    end: int


def read_form(body: bytes, content_type: str) -> dict[str, str]:
    """Return the fields of a form that are not files. Raises BadRequest."""
    fields: dict[str, str] = {}
    for part in scan(body, content_type):
        if part.is_file:
            continue
        if part.end - part.start > _MAX_FIELD:
            raise invalid(f"a field of the form is larger than {_MAX_FIELD} bytes")
        try:
            name, value = part.name.decode(), body[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise _malformed("a field is not UTF-8") from None
        if name in _ONCE and name in fields:
            raise _twice(name)
        fields[name] = value
    return fields


def replace_model(body: bytes, content_type: str, model: str) -> bytes:
    """Return the form with another name of the model. Raises BadRequest."""
    named = [part for part in scan(body, content_type) if part.name == b"model"]
    if not named:
        raise invalid("you must provide a model parameter", "model", "missing_model")
    if len(named) > 1:
        raise _twice("model")
    part = named[0]
    if part.is_file:
        raise invalid("model has to be a field, not a file", "model")
    return b"".join((memoryview(body)[: part.start], model.encode(), memoryview(body)[part.end :]))


def scan(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a form, in order. Raises BadRequest for all that is not plainly a form."""
    match = _BOUNDARY.fullmatch(content_type.strip())
    if match is None:
        raise _malformed("its Content-Type names no usable boundary")
    mark = b"--" + (match[1] or match[2]).encode("ascii")
    if not body.startswith(mark + b"\r\n"):
        raise _malformed("it does not begin with its boundary")
    parts: list[Part] = []
    at = len(mark) + 2
    while True:
        start = body.find(b"\r\n\r\n", at, at + _MAX_HEAD)
        if start < 0:
            raise _malformed("a part has no end of its headers")
        end = body.find(b"\r\n" + mark, start + 2)
        if end < 0:
            raise _malformed("it ends before its last boundary")
        parts.append(_part(body[at:start], start + 4, max(end, start + 4)))
        at = end + 2 + len(mark)
        if body.startswith(b"--", at):
            break
        if not body.startswith(b"\r\n", at) or len(parts) == _MAX_PARTS:
            raise _malformed("a part does not begin where it should, or there are too many")
        at += 2
    if body[at + 2 : at + 4] not in (b"", b"\r\n") or len(body) > at + 4:
        raise _malformed("something stands behind its last boundary")
    if body.count(mark) != len(parts) + 1:
        raise _malformed("its boundary stands inside a part")
    return parts


def _part(head: bytes, start: int, end: int) -> Part:
    """Read the headers of one part: exactly one disposition, no folded lines."""
    disposition: bytes | None = None
    for line in head.split(b"\r\n"):
        match = _LINE.fullmatch(line)
        if match is None or (match[1].lower() == b"content-disposition" and disposition is not None):
            raise _malformed("the headers of a part cannot be read")
        if match[1].lower() == b"content-disposition":
            disposition = match[2].strip()
    named = _DISPOSITION.fullmatch(disposition or b"")
    if named is None:
        raise _malformed("a part has no plain `Content-Disposition: form-data` with a name")
    name = named[1] if named[1] is not None else named[2]
    return Part(name, named[3] is not None or named[4] is not None, start, end)


def _malformed(reason: str) -> BadRequest:
    return invalid(f"the multipart body cannot be read: {reason}", code="invalid_multipart")


def _twice(name: str) -> BadRequest:
    return invalid(f"the form gives {name} twice", name)
