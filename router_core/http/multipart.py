"""Read forms: ``multipart/form-data`` (RFC 7578) and ``application/x-www-form-urlencoded``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from router_core.errors import BadRequest, PayloadTooLarge
from router_core.http.media import DEFAULT_CONTENT_TYPE, File
from router_core.http.percent import unquote_bytes
from router_core.records import dataclass

__all__ = ["FORM_TYPE", "MULTIPART_TYPE", "FormLimits", "parse_multipart", "parse_urlencoded"]

FORM_TYPE: Final = "application/x-www-form-urlencoded"
MULTIPART_TYPE: Final = "multipart/form-data"

_CHUNK: Final = 256 * 1024
_MAX_BOUNDARY: Final = 70  # RFC 2046 section 5.1.1


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Bounds of a form; what is beyond them is answered with 413."""

    fields: int = 1000
    """Fields and files together."""
    files: int = 100
    field_bytes: int = 1024 * 1024
    """Size of one field that is not a file."""
    part_headers: int = 16
    part_header_bytes: int = 8 * 1024
    """All headers of one part."""


DEFAULT_LIMITS: Final = FormLimits()

FormItem = tuple[str, "str | File"]


def parse_urlencoded(body: bytes, limits: FormLimits = DEFAULT_LIMITS) -> list[tuple[str, str]]:
    """Return the pairs of a form, in order. Raises BadRequest, PayloadTooLarge."""
    if body.count(b"&") >= limits.fields:
        raise PayloadTooLarge(f"a form has at most {limits.fields} fields")
    try:
        pairs = [field.replace(b"+", b" ").partition(b"=") for field in body.split(b"&") if field]
        return [(unquote_bytes(name).decode(), unquote_bytes(value).decode()) for name, _, value in pairs]
    except UnicodeDecodeError:
        raise BadRequest("the form is not UTF-8", code="invalid_form") from None
    except ValueError as exc:
        raise BadRequest(f"the form holds {exc}", code="invalid_form") from None


def parse_multipart(body: bytes, content_type: str, limits: FormLimits = DEFAULT_LIMITS) -> list[FormItem]:
    """Return the parts of a multipart form, in order: text for a field, a File where a file name was given.

    Raises BadRequest for anything malformed, an early end included; PayloadTooLarge beyond the limits.
    """
    from python_multipart.exceptions import FormParserError  # only forms pay for the import
    from python_multipart.multipart import MultipartParser

    boundary = _boundary(content_type)
    parts = _Parts(limits)
    parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # its TypedDict lists the same names
    view = memoryview(body)
    try:
        for start in range(0, len(body), _CHUNK):
            parser.write(bytes(view[start : start + _CHUNK]))
        parser.finalize()
    except FormParserError as exc:
        raise _malformed(str(exc)) from None
    if not parts.ended:
        raise _malformed("it ends before its last boundary")
    return parts.items


def _boundary(content_type: str) -> bytes:
    from python_multipart.multipart import parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY or not boundary.isascii() or boundary != boundary.strip():
        raise _malformed("its Content-Type names no usable boundary")
    return boundary


def _malformed(reason: str) -> BadRequest:
    return BadRequest(f"the multipart body cannot be read: {reason}", code="invalid_multipart")


class _Parts:
    """Collects what the parser reports."""

    def __init__(self, limits: FormLimits) -> None:
        self.items: list[FormItem] = []
        self.ended = False
        self._limits = limits
        self._count = 0
        self._files = 0

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > self._limits.fields:
            raise PayloadTooLarge(f"a form has at most {self._limits.fields} fields")
        self._headers: dict[bytes, bytes] = {}
        self._header_count = 0
        self._header_bytes = 0
        self._data = bytearray()
        self._name = ""
        self._filename: str | None = None

    def _header_begin(self) -> None:
        self._field = b""
        self._value = b""
        self._header_count += 1
        if self._header_count > self._limits.part_headers:
            raise _malformed(f"a part has more than {self._limits.part_headers} headers")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._value += data[start:end]

    def _grow(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.part_header_bytes:
            raise _malformed(f"the headers of a part are longer than {self._limits.part_header_bytes} bytes")

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value

    def _headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part has no `Content-Disposition: form-data` with a name")
        self._name = _text(options[b"name"], "the name of a part")
        filename = options.get(b"filename")
        if filename is None:
            return
        self._filename = filename.decode("utf-8", "replace")
        self._files += 1
        if self._files > self._limits.files:
            raise PayloadTooLarge(f"a form has at most {self._limits.files} files")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if self._filename is None and len(self._data) > self._limits.field_bytes:
            raise PayloadTooLarge(
                f"the form field {self._name!r} is larger than {self._limits.field_bytes} bytes"
            )

    def _end(self) -> None:
        data = bytes(self._data)
        self._data = bytearray()
        if self._filename is None:
            self.items.append((self._name, _text(data, f"the form field {self._name!r}")))
            return
        if not self._filename and not data:
            return  # what a browser sends for a file input that was left empty
        kind = self._headers.get(b"content-type", b"").decode("latin-1")
        content_type = "" if kind == DEFAULT_CONTENT_TYPE else kind  # then the name may tell more
        self.items.append((self._name, File(data, filename=self._filename, content_type=content_type)))

    def _finish(self) -> None:
        self.ended = True


def _text(data: Any, what: str) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"{what} is not UTF-8", code="invalid_multipart") from None
