"""Files as values: what a function takes and returns, whatever way the bytes travelled."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Awaitable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import unquote_to_bytes

from pydantic_core import PydanticCustomError, core_schema

from router_core.http.percent import unquote_bytes

__all__ = ["CONTENT_KEYS", "DEFAULT_CONTENT_TYPE", "NAME_KEYS", "Fetch", "File", "is_url", "safe_filename"]

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
NAME_KEYS: Final = ("file_name", "filename")
CONTENT_KEYS: Final = ("content", "data")
"""The keys of the base64 object; either spelling is read, the first is written."""

_CONTENT_TYPE = re.compile(
    r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:\s*;\s*[\w!#$&^.+-]+=(?:[\w!#$&^.+/-]+|\"[^\"\\\r\n]*\"))*", re.A
)
_MAX_FILENAME: Final = 255
_MAX_HEAD: Final = 4096
"""What stands before the comma of a data URI, and how much of a name is looked at."""
_NO_FILE: Final = "not a file: the text is no URL, no data URI and no base64"
_BASE64_PATTERN: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class Fetch(Protocol):
    """Download a URL that a caller named.

    Whoever implements it guards against private addresses, size and time; it raises a RouterError
    (BadRequest, PayloadTooLarge, UpstreamError ...) with a text for the caller.
    """

    def __call__(self, url: str, /) -> Awaitable[File]:
        """Return the file behind the URL."""


class File:
    """Bytes with a name and a content type.

    Give either ``data`` or ``path``. A file with a path is read when it is asked for, not before. Neither
    the name nor the content type, which came from a caller, has been checked against the content.
    """

    __slots__ = ("_data", "_path", "content_type", "filename")

    def __init__(
        self,
        data: bytes | bytearray | memoryview | BinaryIO | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        filename: str = "",
        content_type: str = "",
    ) -> None:
        if (data is None) == (path is None):
            raise TypeError("a File has either data or a path")
        self._path = None if path is None else Path(path)
        self._data = None if data is None else _to_bytes(data)
        self.filename = safe_filename(filename) or (self._path.name if self._path is not None else "")
        self.content_type = _content_type(content_type) or _guess(self.filename)

    @classmethod
    def from_bytes(cls, data: bytes, filename: str = "", content_type: str = "") -> File:
        """Wrap bytes."""
        return cls(data, filename=filename, content_type=content_type)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], content_type: str = "") -> File:
        """Refer to a file on disk; its name and content type follow from the path."""
        return cls(path=path, content_type=content_type)

    @classmethod
    def from_base64(cls, text: str, filename: str = "", content_type: str = "") -> File:
        """Decode base64 (standard or URL alphabet, line breaks and missing padding allowed).

        Raises ValueError.
        """
        return cls(_decode_base64(text), filename=filename, content_type=content_type)

    @classmethod
    def from_data_uri(cls, uri: str, filename: str = "") -> File:
        """Decode ``data:image/png;base64,...`` (RFC 2397). Raises ValueError."""
        head, comma, payload = uri.partition(",")
        if not comma or head[:5].lower() != "data:" or len(head) > _MAX_HEAD:
            raise ValueError("not a data URI")
        media, *parameters = head[5:].split(";")
        is_base64 = bool(parameters) and parameters[-1].strip().lower() == "base64"
        data = _decode_base64(payload) if is_base64 else unquote_bytes(payload.encode())
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() in ("name", "filename") and not filename:
                filename = unquote_to_bytes(value).decode("utf-8", "replace")
        return cls(data, filename=filename, content_type=media.strip())

    @classmethod
    def parse(cls, value: Any) -> File:
        """Return the file that a JSON value stands for: a base64 object, a data URI or base64 text.

        Raises ValueError with a text for the caller; a URL is one of those (fetching is not done here).
        """
        if isinstance(value, File):
            return value
        if isinstance(value, bytes):
            return cls(value)
        if isinstance(value, Mapping):
            return cls._parse_object(value)
        if not isinstance(value, str):
            raise ValueError(
                "a file is an upload, a URL, a data URI, base64 text or an object with `content`"
            )
        if is_url(value):
            raise ValueError("this URL was not fetched: URLs are not read here")
        if value[:5].lower() == "data:":
            return cls.from_data_uri(value)
        return cls._parse_text(value)

    @classmethod
    def _parse_text(cls, value: str) -> File:
        # Bare text may be anything, so it is taken for base64 only where it is exactly that: a path or a word
        # that was meant otherwise should not become three bytes of noise.
        if len(value) % 4 or "-" in value or "_" in value:
            raise ValueError(_NO_FILE)
        return cls.from_base64(value)

    @classmethod
    def _parse_object(cls, value: Mapping[Any, Any]) -> File:
        name = next((value[key] for key in NAME_KEYS if value.get(key) is not None), "")
        content = next((value[key] for key in CONTENT_KEYS if value.get(key) is not None), None)
        content_type = "" if value.get("content_type") is None else value["content_type"]
        if not isinstance(content, str) or not isinstance(name, str) or not isinstance(content_type, str):
            raise ValueError("a file object holds `content` (base64 text), `file_name` and `content_type`")
        if content[:5].lower() == "data:":
            file = cls.from_data_uri(content, filename=name)
            return cls(file._data, filename=name, content_type=content_type or file.content_type)
        return cls.from_base64(content, filename=name, content_type=content_type)

    @property
    def size(self) -> int:
        """Number of bytes."""
        if self._data is not None:
            return len(self._data)
        return self._on_disk().stat().st_size

    @property
    def path(self) -> Path | None:
        """Where the bytes are on disk, or None when they are in memory."""
        return self._path

    def read(self) -> bytes:
        """Return all bytes; may be called any number of times."""
        return self._data if self._data is not None else self._on_disk().read_bytes()

    def open(self) -> BinaryIO:
        """Return a new readable binary stream, positioned at the start; the caller closes it."""
        return BytesIO(self._data) if self._data is not None else self._on_disk().open("rb")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bytes to ``path`` and return it; into a folder, under the file's own name."""
        target = Path(path)
        if target.is_dir():
            target = target / (self.filename or "file")
        target.write_bytes(self.read())
        return target

    def to_object(self) -> dict[str, str]:
        """Return the base64 object that stands for this file in JSON."""
        content = base64.b64encode(self.read()).decode("ascii")
        return {"file_name": self.filename, "content_type": self.content_type, "content": content}

    def to_data_uri(self) -> str:
        """Return ``data:<type>;base64,...``."""
        return f"data:{self.content_type};base64,{base64.b64encode(self.read()).decode('ascii')}"

    def _on_disk(self) -> Path:
        if self._path is None:
            raise ValueError("this file has neither data nor a path")
        return self._path

    def __repr__(self) -> str:
        where = f"{len(self._data)} bytes" if self._data is not None else str(self._path)
        return f"File({self.filename!r}, {self.content_type!r}, {where})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        return (self.filename, self.content_type) == (
            other.filename,
            other.content_type,
        ) and self.read() == other.read()

    __hash__ = None  # type: ignore[assignment]  # files are compared by content, which is too much to hash

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Let pydantic read and write files wherever they stand in a model."""
        return core_schema.no_info_plain_validator_function(
            _validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize, when_used="json"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe the JSON forms of a file."""
        text = "A file: base64 text, or a data URI, or the http(s) URL of it."
        encoded = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64_PATTERN}
        return {
            "description": text,
            "anyOf": [
                encoded,
                {
                    "type": "object",
                    "properties": {
                        "file_name": {"type": ["string", "null"]},
                        "content_type": {"type": ["string", "null"]},
                        "content": encoded,
                    },
                    "required": ["content"],
                },
            ],
        }


def _validate(value: Any) -> File:
    try:
        return File.parse(value)
    except ValueError as exc:
        raise PydanticCustomError("file_invalid", "{reason}", {"reason": str(exc)}) from None


def _serialize(value: Any) -> Any:
    return value.to_object() if isinstance(value, File) else value


def is_url(value: str) -> bool:
    """Return whether the text names something to fetch."""
    return value[:8].lower().startswith(("http://", "https://"))


def safe_filename(name: str) -> str:
    """Return the last component of a name a caller gave, without control characters, at most 255 bytes.

    Browsers and scripts send whole paths; nothing that is a path may survive, or ``save`` would follow it.
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1][:_MAX_HEAD]
    name = "".join(ch for ch in name if ch.isprintable() and not 0xD800 <= ord(ch) <= 0xDFFF).strip()
    if name in ("", ".", ".."):
        return ""
    return name.encode()[:_MAX_FILENAME].decode("utf-8", "ignore")


def _content_type(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MAX_FILENAME and _CONTENT_TYPE.fullmatch(text) else ""


def _guess(filename: str) -> str:
    if "." not in filename:
        return DEFAULT_CONTENT_TYPE
    import mimetypes

    return mimetypes.guess_type(filename)[0] or DEFAULT_CONTENT_TYPE


def _to_bytes(data: bytes | bytearray | memoryview | BinaryIO) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    if hasattr(data, "read"):
        content = data.read()
        if isinstance(content, bytes):
            return content
    raise TypeError(f"the data of a File is bytes or a binary stream, not {type(data).__name__}")


_SPACES = str.maketrans("", "", "\r\n\t ")


def _decode_base64(text: str) -> bytes:
    compact = text.translate(_SPACES) if any(ch in text for ch in "\r\n\t ") else text
    if "-" in compact or "_" in compact:
        compact = compact.replace("-", "+").replace("_", "/")
    try:
        if "%" in compact:
            compact = unquote_bytes(compact.encode()).decode("ascii", "replace")
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(_NO_FILE) from None
