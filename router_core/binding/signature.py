"""Read the signature of a function, once, and say at once what is wrong with it."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import PurePath
from typing import Annotated, Any, Final

from pydantic.fields import FieldInfo

from router_core.binding.depends import Dependency, DependsMarker
from router_core.binding.params import BARE, UNSET, Source, SourceName
from router_core.binding.shapes import Shape, describe, strip_annotated, unusable
from router_core.errors import Misconfigured
from router_core.http.message import Request
from router_core.records import dataclass
from router_core.types import Principal

__all__ = ["Param", "Signature", "compile_dependency", "location", "read_signature", "target_of"]

BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_EMPTY: Final = inspect.Parameter.empty
_KINDS: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only; callers give values by name, so drop the '/'",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values; declare a list instead",
    inspect.Parameter.VAR_KEYWORD: "takes any names; declare a dict or a model instead",
}


@dataclass(frozen=True, slots=True)
class Param:
    """One value that a caller gives."""

    name: str
    """Of the argument."""
    alias: str
    """On the wire."""
    source: SourceName
    annotation: Any
    """With its constraints, without our markers."""
    required: bool
    default: Any
    """Meaningless when required."""
    shape: Shape
    embed: bool | None = None
    """See ``Body``."""
    fallback: bool = False
    """Also read from the query: an unmarked body value that texts can carry."""
    field: FieldInfo | None = None
    inherited: bool = False
    """Belongs to a dependency."""

    @property
    def is_file(self) -> bool:
        """Whether the value is a file or a list of files."""
        item = self.shape.item
        return self.shape.file or (self.shape.many and item is not None and item.file)

    @property
    def multiple(self) -> bool:
        """Whether repeated values make a list."""
        return self.shape.many


@dataclass(slots=True)
class Signature:
    """What a function wants."""

    params: dict[str, Param] = field(default_factory=dict)
    injected: dict[str, str] = field(default_factory=dict)
    depends: dict[str, Dependency] = field(default_factory=dict)
    returns: Any = _EMPTY


@dataclass(frozen=True, slots=True)
class _Rules:
    """How unmarked parameters are read."""

    path_names: frozenset[str] = frozenset()
    has_body: bool = False
    job: bool = False
    inherited: bool = False
    stack: tuple[Callable[..., Any], ...] = ()


def location(func: Callable[..., Any]) -> str:
    """Return ``name (file:line)``."""
    inner = target_of(func)
    code = getattr(inner, "__code__", None)
    name = getattr(inner, "__qualname__", repr(inner))
    return f"{name}()" if code is None else f"{name}() ({PurePath(code.co_filename)}:{code.co_firstlineno})"


def target_of(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function or class that a call ends up in: behind wrappers, partials and ``__call__``."""
    inner = inspect.unwrap(func)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    return inner if inspect.isroutine(inner) or inspect.isclass(inner) else type(inner).__call__


def read_signature(
    func: Callable[..., Any],
    *,
    path_names: frozenset[str] = frozenset(),
    has_body: bool = False,
    job: bool = False,
) -> Signature:
    """Return what the function wants, with what its dependencies want; raises Misconfigured."""
    return _read(func, _Rules(path_names, has_body, job, stack=(func,)))


def compile_dependency(
    marker: DependsMarker, rules: _Rules | None = None
) -> tuple[Dependency, dict[str, Param]]:
    """Return the compiled dependency and the values it wants from the caller; raises Misconfigured."""
    func = marker.func
    if func is None:
        raise Misconfigured("Depends() without a function needs a class as annotation")
    rules = replace(rules or _Rules(), inherited=True)
    if marker.scope not in ("request", "app"):
        raise Misconfigured(
            f"Depends({func!r}): the scope is {marker.scope!r}; it must be 'request' or 'app'"
        )
    signature = _read(func, replace(rules, stack=(*rules.stack, func)))
    if marker.scope == "app":
        _check_app_scope(func, signature)
    dependency = Dependency(
        func, marker.scope, marker.cached, _kind(func), tuple(signature.params),
        tuple(signature.injected.items()), tuple(signature.depends.items()),
    )  # fmt: skip
    wanted = dict(signature.params)
    return dependency, wanted


def _check_app_scope(func: Callable[..., Any], signature: Signature) -> None:
    wanted = [*signature.injected, *(name for name, param in signature.params.items() if param.required)]
    wanted += [name for name, inner in signature.depends.items() if inner.scope != "app"]
    if wanted:
        raise Misconfigured(
            f"{location(func)}: the dependency lives as long as the app, so it cannot have the parameter "
            f"{wanted[0]!r}, which belongs to one request"
        )
    signature.params.clear()


def _kind(func: Callable[..., Any]) -> Any:
    call = target_of(func)
    if inspect.isasyncgenfunction(call):
        return "async_generator"
    if inspect.isgeneratorfunction(call):
        return "generator"
    return "async" if inspect.iscoroutinefunction(call) else "sync"


def _read(func: Callable[..., Any], rules: _Rules) -> Signature:
    where = location(func)
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError) as exc:
        raise Misconfigured(f"{where}: its signature cannot be read: {exc}") from exc
    hints = _hints(func, where)
    signature = Signature(returns=hints.get("return", _EMPTY))
    for parameter in parameters.values():
        _add(signature, parameter, hints.get(parameter.name, _EMPTY), rules, where)
    return signature


def _add(signature: Signature, parameter: inspect.Parameter, hint: Any, rules: _Rules, where: str) -> None:
    name = parameter.name
    if parameter.kind in _KINDS:
        raise Misconfigured(f"{where}: the parameter {name!r} {_KINDS[parameter.kind]}")
    slot = _slot(name, hint)
    if slot:
        if slot == "request" and rules.job:
            raise Misconfigured(
                f"{where}: the parameter {name!r} wants the request, but a job runs when its request is long "
                "gone; declare the values it needs, or pass job=False"
            )
        signature.injected[name] = slot
        return
    annotation, marker, depends = _markers(hint, parameter.default, name, where)
    if depends is not None:
        _depend(signature, name, annotation, depends, rules, where)
        return
    _merge(signature, _param(name, annotation, parameter.default, marker, rules, where), where)


def _merge(signature: Signature, param: Param, where: str) -> None:
    other = signature.params.get(param.name)
    if other is not None and (other.annotation, other.source, other.alias) != (
        param.annotation, param.source, param.alias,
    ):  # fmt: skip
        raise Misconfigured(
            f"{where}: the parameter {param.name!r} is declared in two ways, here and in a dependency; "
            "give them one type and one source, or two names"
        )
    if other is None or other.inherited:
        signature.params[param.name] = param


def _depend(
    signature: Signature, name: str, annotation: Any, marker: DependsMarker, rules: _Rules, where: str
) -> None:
    if marker.func is None:
        target = strip_annotated(annotation)
        if not isinstance(target, type):
            raise Misconfigured(
                f"{where}: the parameter {name!r} has Depends() without a function or a class"
            )
        marker = replace(marker, func=target)
    if marker.func in rules.stack:
        chain = " -> ".join(getattr(func, "__qualname__", repr(func)) for func in (*rules.stack, marker.func))
        raise Misconfigured(f"{where}: the parameter {name!r} closes a circle of dependencies: {chain}")
    dependency, wanted = compile_dependency(marker, rules)
    signature.depends[name] = dependency
    for param in wanted.values():
        if param.name not in signature.params:
            signature.params[param.name] = param
        else:
            _merge(signature, param, where)


def _slot(name: str, hint: Any) -> str:
    if hint is _EMPTY:
        return "job_progress" if name == "job_progress" else ""
    kind = strip_annotated(hint)
    args = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    if len(args) == 1 and len(typing.get_args(kind)) == 2:
        kind = args[0]  # Optional[JobProgress]
    if kind is Request:
        return "request"
    if kind is Principal:
        return "principal"
    slot = getattr(kind, "__router_inject__", "") if isinstance(kind, type) else ""
    return slot if isinstance(slot, str) else ""


def _markers(
    hint: Any, default: Any, name: str, where: str
) -> tuple[Any, Source | None, DependsMarker | None]:
    """Take our markers out of the annotation and the default."""
    annotation = Any if hint is _EMPTY else hint
    found = [default] if isinstance(default, (Source, DependsMarker)) else []
    if typing.get_origin(annotation) is Annotated:
        base, *metadata = typing.get_args(annotation)
        ours = [marker for item in metadata if (marker := _bare(item)) is not None]
        rest = [item for item in metadata if _bare(item) is None]
        found = [*found, *ours]
        annotation = Annotated[(base, *rest)] if rest else base
    if len(found) > 1:
        raise Misconfigured(
            f"{where}: the parameter {name!r} has more than one marker for where it comes from"
        )
    marker = found[0] if found else None
    if isinstance(marker, DependsMarker):
        return annotation, None, marker
    return annotation, marker, None


def _bare(item: Any) -> Source | DependsMarker | None:
    if isinstance(item, (Source, DependsMarker)):
        return item
    if callable(item) and item in BARE:
        marker = item()
        return marker if isinstance(marker, Source) else None
    return None


def _param(
    name: str, annotation: Any, default: Any, marker: Source | None, rules: _Rules, where: str
) -> Param:
    reason = unusable(annotation)
    if reason:
        raise Misconfigured(f"{where}: the parameter {name!r} cannot come from a caller: {reason}")
    shape = describe(annotation)
    source = marker.name if marker is not None else _default_source(name, shape, rules)
    if isinstance(default, Source):
        default = default.default
    elif default is _EMPTY:
        default = marker.default if marker is not None else UNSET
    default = _field_default(annotation, default)
    alias = (marker.alias if marker else "") or (name.replace("_", "-") if source == "header" else name)
    if marker is not None:
        annotation = Annotated[annotation, marker.field]
    param = Param(
        name, alias, source, annotation, default is UNSET, default, shape,
        embed=marker.embed if marker else None,
        fallback=marker is None and source == "body" and (shape.scalar or _many_texts(shape)),
        field=marker.field if marker else None, inherited=rules.inherited,
    )  # fmt: skip
    _check_source(param, rules, where)
    return param


def _field_default(annotation: Any, default: Any) -> Any:
    """Let ``Annotated[int, Field(default=3)]`` give the default, as pydantic does."""
    if default is not UNSET or typing.get_origin(annotation) is not Annotated:
        return default
    for item in typing.get_args(annotation)[1:]:
        if isinstance(item, FieldInfo) and not item.is_required():
            return item.get_default(call_default_factory=True, validated_data={})
    return default


def _default_source(name: str, shape: Shape, rules: _Rules) -> SourceName:
    if name in rules.path_names:
        return "path"
    if rules.inherited and (shape.scalar or _many_texts(shape)):
        return "query"
    return "body" if rules.has_body else "query"


def _many_texts(shape: Shape) -> bool:
    return shape.many and (shape.item is None or shape.item.scalar)


def _check_source(param: Param, rules: _Rules, where: str) -> None:
    problem = ""
    if param.name in rules.path_names and param.source != "path":
        problem = f"is in the path as well as in the {param.source}"
    elif param.source == "path":
        problem = _path_problem(param, rules)
    elif param.source in ("query", "header", "cookie"):
        if param.shape.has_files:
            problem = f"is a file, which a {param.source} cannot carry; serve the route with POST"
        elif not (param.shape.scalar or _many_texts(param.shape)):
            problem = (
                f"is an object, which the {param.source} cannot carry; serve the route with POST, PUT or "
                "PATCH, or mark it with Body()"
            )
    if problem:
        raise Misconfigured(f"{where}: the parameter {param.name!r} {problem}")


def _path_problem(param: Param, rules: _Rules) -> str:
    if param.alias not in rules.path_names:
        return f"is marked as part of the path, but the path has no {{{param.alias}}}"
    if not param.required:
        return "is part of the path, so it always has a value; drop its default"
    if param.shape.has_files or not param.shape.scalar:
        return "is part of the path, which carries one text; use str, int, float, UUID, an enum ..."
    return ""


def _hints(func: Callable[..., Any], where: str) -> Mapping[str, Any]:
    target: Any = target_of(func)
    if inspect.isclass(target):
        target = target.__init__
    try:
        try:
            return typing.get_type_hints(target, include_extras=True)
        except NameError:
            return typing.get_type_hints(target, localns=_local_names(target), include_extras=True)
    except NameError as exc:
        raise Misconfigured(
            f"{where}: an annotation names {exc.name!r}, which is not known when the function is registered; "
            "import it outside of `if TYPE_CHECKING`, and define it before the function"
        ) from exc
    except Exception as exc:
        raise Misconfigured(f"{where}: its annotations cannot be read: {exc}") from exc


def _local_names(func: Any) -> dict[str, Any]:
    """Return what the function can see besides its module: the running functions around it, its closure."""
    names: dict[str, Any] = {}
    code = getattr(func, "__code__", None)
    frame = sys._getframe().f_back
    while frame is not None and code is not None:
        around = f"{frame.f_code.co_qualname}.<locals>."
        if frame.f_code.co_filename == code.co_filename and code.co_qualname.startswith(around):
            names = {**frame.f_locals, **names}  # the nearest comes first
        frame = frame.f_back
    closure = getattr(func, "__closure__", None) or ()
    for name, cell in zip(getattr(code, "co_freevars", ()), closure, strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue  # defined after the function
    return names
