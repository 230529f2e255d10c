"""What a type looks like from outside: one text, several texts, an object, a file.

A query or a form carries texts only, and a file may stand anywhere in a body; the shape of a parameter,
found once at registration, says how to read both.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

import typing_extensions
from pydantic import BaseModel, BeforeValidator, RootModel

from router_core.http.media import File
from router_core.records import dataclass

__all__ = ["OPAQUE", "Shape", "describe", "float_fields", "is_simple", "read_files", "strip_annotated",
           "tells_keys", "unusable"]  # fmt: skip

_LISTS: Final = (
    list,
    tuple,
    set,
    frozenset,
    abc.Sequence,
    abc.Set,
    abc.MutableSequence,
    abc.Collection,
    abc.Iterable,
)
_MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
_UNIONS: Final = (typing.Union, types.UnionType)
_NOT_JSON: Final = (
    abc.Callable, type, abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator, abc.Awaitable,
    abc.Coroutine,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """How values of a type are written."""

    scalar: bool = False
    """One text stands for a value."""
    many: bool = False
    """Repeated texts stand for one value."""
    model: bool = False
    """An object with known fields: a pydantic model, dataclass or TypedDict."""
    file: bool = False
    """A file, or bytes, which travel as one."""
    text: bool = False
    """A plain string is a value too, so that no string may be taken for a file."""
    item: Shape | None = None
    """Shape of each element or of each mapping value."""
    fields: Mapping[str, Shape] = field(default_factory=dict)
    """Of a model, by the names that are read."""
    texts: Mapping[str, Any] = field(default_factory=dict)
    """Texts that stand for a ``Literal`` that is not a string."""
    has_files: bool = False
    """A file may be somewhere inside."""


OPAQUE: Final = Shape(scalar=True)


def describe(annotation: Any, _open: tuple[Any, ...] = ()) -> Shape:
    """Return the shape of a type. A model inside itself is taken as opaque there."""
    kind = strip_annotated(annotation)
    if kind is File or (kind is bytes and not _open):
        # bytes as a field of a model are pydantic's business: a text, in UTF-8
        return Shape(file=True, has_files=True)
    origin = typing.get_origin(kind)
    if origin in _UNIONS:
        return _union([describe(arg, _open) for arg in typing.get_args(kind) if arg is not types.NoneType])
    if origin is typing.Literal:
        return Shape(scalar=True, text=True, texts=_literals(typing.get_args(kind)))
    if (origin or kind) in _LISTS:
        args = [arg for arg in typing.get_args(kind) if arg is not Ellipsis]
        item = _union([describe(arg, _open) for arg in args]) if args else OPAQUE
        return Shape(many=True, item=item, has_files=item.has_files)
    if (origin or kind) in _MAPPINGS:
        args = list(typing.get_args(kind))
        item = describe(args[1], _open) if len(args) == 2 else OPAQUE
        return Shape(item=item, has_files=item.has_files)
    return _named(kind, origin, _open)


def _named(kind: Any, origin: Any, _open: tuple[Any, ...]) -> Shape:
    cls = origin if isinstance(origin, type) else kind
    if not isinstance(cls, type):
        return OPAQUE
    if cls in _open:
        return Shape(model=True)
    hints = _model_hints(cls)
    if hints is None:
        return Shape(scalar=True, text=issubclass(cls, (str, enum.Enum)))
    fields = {name: describe(hint, (*_open, cls)) for name, hint in hints.items()}
    return Shape(model=True, fields=fields, has_files=any(shape.has_files for shape in fields.values()))


def _model_hints(cls: type) -> dict[str, Any] | None:
    """Return the fields of a model by the names that its validator reads, or None if it is no model."""
    if issubclass(cls, BaseModel):
        hints: dict[str, Any] = {}
        by_name = bool(cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name"))
        for name, info in cls.model_fields.items():
            alias = info.validation_alias if info.validation_alias is not None else info.alias
            if isinstance(alias, str):
                hints[alias] = info.annotation
            if not isinstance(alias, str) or by_name:
                hints[name] = info.annotation
        return hints
    if dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls):
        return typing_extensions.get_type_hints(cls, include_extras=True)
    return None


def _union(shapes: list[Shape]) -> Shape:
    if len(shapes) == 1:
        return shapes[0]
    fields: dict[str, Shape] = {}
    texts: dict[str, Any] = {}
    for shape in shapes:
        fields.update(shape.fields)
        texts.update(shape.texts)
    return Shape(
        scalar=any(shape.scalar for shape in shapes),
        many=any(shape.many for shape in shapes),
        model=any(shape.model for shape in shapes),
        file=any(shape.file for shape in shapes),
        text=any(shape.text for shape in shapes),
        item=next((shape.item for shape in shapes if shape.item is not None), None),
        fields=fields,
        texts=texts,
        has_files=any(shape.has_files for shape in shapes),
    )


def _literals(values: tuple[Any, ...]) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for value in values:
        if isinstance(value, bool):
            texts[str(value).lower()] = value
        elif isinstance(value, int) and not isinstance(value, enum.Enum):
            texts[str(value)] = value
    return texts


def strip_annotated(annotation: Any) -> Any:
    """Return the type inside ``Annotated``, ``NewType``, ``Required`` and type aliases."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired):
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing_extensions.TypeAliasType):
            annotation = annotation.__value__
        else:
            return annotation


def is_simple(annotation: Any) -> bool:
    """Return whether the type's own validator judges every value inside: texts, numbers, lists of them.

    ``Any`` is not simple, nor is a model, whose configuration may let more through than strict JSON does.
    """
    kind = strip_annotated(annotation)
    if kind in (str, int, float, bool, types.NoneType):
        return True
    origin = typing.get_origin(kind)
    if origin not in (list, set, frozenset, tuple, *_UNIONS):
        return origin is typing.Literal
    return all(is_simple(arg) for arg in typing.get_args(kind) if arg is not Ellipsis)


def tells_keys(annotation: Any) -> bool:
    """Return whether the type is a model whose set of given fields is that of the keys in the JSON.

    Not so where code of the author's may add to it.
    """
    if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
        return False
    own_schema = any("__get_pydantic_core_schema__" in vars(kind) for kind in _until(annotation, BaseModel))
    return not (
        own_schema
        or issubclass(annotation, RootModel)
        or annotation.__pydantic_decorators__.model_validators
        or annotation.__pydantic_custom_init__
        or annotation.__pydantic_post_init__
    )


def float_fields(model: type[BaseModel]) -> tuple[str, ...] | None:
    """Return the fields that can hold what is no finite number, where these are all that could.

    None where it takes a look at the JSON: code or configuration of the author's may take a NaN for a text.
    """
    names: list[str] = []
    code = model.__pydantic_decorators__
    if model.model_config or code.validators or code.field_validators or code.root_validators:
        return None
    for name, info in model.model_fields.items():
        if any(type(one).__module__ != "annotated_types" for one in info.metadata):
            return None
        if info.annotation is float:
            names.append(name)
        elif not _takes_no_nan(info.annotation):
            return None
    return tuple(names)


def _takes_no_nan(kind: Any) -> bool:
    if kind in (str, int, bool, types.NoneType):
        return True
    origin = typing.get_origin(kind)  # what is annotated has code of somebody's in it
    if origin not in (list, set, frozenset, tuple, *_UNIONS):
        return origin is typing.Literal
    return all(_takes_no_nan(arg) for arg in typing.get_args(kind) if arg is not Ellipsis)


def _until(kind: type, end: type) -> list[type]:
    return [one for one in kind.__mro__ if one not in end.__mro__]


def unusable(annotation: Any) -> str:
    """Return why a value of this type cannot come from a request, or an empty text.

    pydantic itself refuses most such types; these it would take, to fail at the first call.
    """
    kind = strip_annotated(annotation)
    origin = typing.get_origin(kind) or kind
    if origin in _NOT_JSON:
        return f"no JSON value is a {getattr(origin, '__name__', origin)}"
    if origin is typing.Literal:
        return ""
    return next((reason for arg in typing.get_args(kind) if (reason := unusable(arg))), "")


def read_files(annotation: Any) -> Any:
    """Return the annotation with every ``bytes`` outside of models reading the content of a File."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bytes:
        return typing.Annotated[bytes, BeforeValidator(_content)]
    if origin is typing.Annotated:
        return typing.Annotated[(read_files(args[0]), *args[1:])]
    if origin in _UNIONS:
        return typing.Union[tuple(read_files(arg) for arg in args)]  # noqa: UP007 - the members are not known here
    if origin in (list, set, frozenset, tuple, dict):
        return origin[tuple(read_files(arg) for arg in args)]
    return annotation


def _content(value: Any) -> Any:
    return value.read() if isinstance(value, File) else value
