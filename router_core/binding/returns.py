"""What a function returns, as JSON: compiled from its return annotation."""

from __future__ import annotations

import collections.abc as abc
import inspect
import typing
from typing import Any, Final

import pydantic_core
from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from router_core.binding.shapes import strip_annotated
from router_core.errors import Misconfigured, RouterError
from router_core.http.media import File
from router_core.http.message import Response
from router_core.http.sse import ServerEvent

__all__ = ["InvalidResult", "Returns", "compile_returns", "encode_json"]

_STREAMS: Final = (
    abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable, abc.Iterator, abc.Generator, abc.Iterable,
)  # fmt: skip
_CONFIG: Final = ConfigDict(ser_json_bytes="base64", ser_json_inf_nan="null")
_FREE: Final = (inspect.Parameter.empty, Any, None, type(None), object, Response, File, bytes, ServerEvent)
"""Nothing to check: sent by what the value is."""


class InvalidResult(RouterError):
    """A function returned what its annotation does not allow, or what JSON cannot hold.

    The text names neither the value nor a part of it; the cause, for the log, does.
    """

    code = "invalid_result"


class Returns:
    """Checks results against the return annotation and encodes them."""

    __slots__ = ("_serializer", "_validator", "adapter", "kind", "where")

    def __init__(self, adapter: TypeAdapter[Any] | None, where: str, kind: Any = None) -> None:
        self.adapter = adapter
        self.kind: type | None = kind if _is_object(kind) else None
        """A model: what is exactly of this class is sent as JSON, without asking what else it could be."""
        self.where = where
        self._validator = None if adapter is None else adapter.validator
        self._serializer = None if adapter is None else adapter.serializer

    def encode(self, value: Any) -> bytes:
        """Return the JSON of a result; raises InvalidResult."""
        try:
            if self._validator is None or self._serializer is None:
                return encode_json(value)
            checked = self._validator.validate_python(value, from_attributes=True)
            return self._serializer.to_json(checked, by_alias=True, fallback=_fallback)
        except ValidationError as exc:
            raise InvalidResult("the result of this route is not what it promises") from exc
        except (ValueError, TypeError, UnicodeError, RecursionError) as exc:
            raise InvalidResult("the result of this route cannot be written as JSON") from exc


def encode_json(value: Any) -> bytes:
    """Return any value as JSON: models, dataclasses, enums, dates, files, arrays with ``tolist``.

    Not-a-number and infinity, which JSON lacks, become null. Raises ValueError.
    """
    return pydantic_core.to_json(
        value, by_alias=True, bytes_mode="base64", inf_nan_mode="null", fallback=_fallback
    )


def compile_returns(annotation: Any, *, streams: bool, where: str) -> Returns:
    """Prepare a return annotation, of each item if the function is a generator; raises Misconfigured."""
    kind = strip_annotated(annotation)
    if streams and typing.get_origin(kind) in _STREAMS:
        annotation = typing.get_args(kind)[0]
        kind = strip_annotated(annotation)
    elif streams or typing.get_origin(kind) in _STREAMS:
        return Returns(None, where)
    if kind in _FREE or kind in _STREAMS or (isinstance(kind, type) and issubclass(kind, Response)):
        return Returns(None, where)
    try:
        return Returns(_adapter(annotation), where, kind)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, TypeError) as exc:
        name = getattr(kind, "__name__", kind)
        raise Misconfigured(
            f"{where}: the return annotation {name} cannot be written as JSON; return a model, a File, "
            f"a Response, or leave the annotation out ({str(exc).partition(chr(10))[0]})"
        ) from exc


def _is_object(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, abc.AsyncIterator)


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=_CONFIG)
    except PydanticUserError:
        return TypeAdapter(annotation)  # a model brings its own configuration


def _fallback(value: Any) -> Any:
    if isinstance(value, File):
        return value.to_object()
    if isinstance(value, (memoryview, bytearray)):
        return bytes(value)
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()  # numpy and torch
    raise TypeError(f"{type(value).__name__} has no JSON form")
