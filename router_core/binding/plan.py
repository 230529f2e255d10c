"""The plan of a call: compiled from the signature once, then only followed."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final, NotRequired, Required

import pydantic_core
from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
)
from pydantic_core import ValidationError
from typing_extensions import TypedDict

from router_core.binding.collect import PLAIN_JSON, collect_input, collect_request
from router_core.binding.depends import DependencyScope
from router_core.binding.fail_fast import LARGE, fail_fast
from router_core.binding.inputs import Inputs, Intake, fetch_links
from router_core.binding.returns import compile_returns
from router_core.binding.shapes import float_fields, is_simple, read_files, tells_keys
from router_core.binding.signature import BODY_METHODS, Param, Signature, location, read_signature, target_of
from router_core.binding.stream import iterate_in_threads
from router_core.binding.strict_json import is_finite, loads
from router_core.errors import Misconfigured, RouterError, ValidationFailed
from router_core.http.message import Request
from router_core.routing.path import parse_path

__all__ = ["Inputs", "Intake", "Param", "Plan", "compile_plan"]

_DEFAULT_INTAKE: Final = Intake()
_MAX_ERRORS: Final = 100
_MUTABLE: Final = (list, dict, set)


def _takes_by_name(func: Callable[..., Any]) -> bool:
    """Return whether the only parameter of a function cannot be given by its place."""
    parameters = inspect.signature(func).parameters.values()
    return any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)


def compile_plan(
    func: Callable[..., Any], *, path: str = "/", methods: Iterable[str] = ("GET",), job: bool = False
) -> Plan:
    """Read the signature of ``func`` and prepare everything that a call needs.

    Raises Misconfigured, naming parameter, function and file, for what no caller could ever get right.
    """
    names = frozenset(parse_path(path).names)
    has_body = bool(BODY_METHODS & set(methods)) or job
    signature = read_signature(func, path_names=names, has_body=has_body, job=job)
    where = location(func)
    plan = Plan(func, signature, where)
    missing = names - {param.alias for param in plan.params if param.source == "path"}
    if missing and "request" not in plan.slots:
        raise Misconfigured(
            f"{where}: the path {path!r} has {{{min(missing)}}}, which is no parameter of the function"
        )
    if plan.body_params and not has_body and "DELETE" not in methods:
        raise Misconfigured(
            f"{where}: the parameter {plan.body_params[0].name!r} comes from the body, which "
            f"{'/'.join(methods)} does not have; serve the route with POST"
        )
    return plan


class Plan:
    """How to call one function from a request or from a job's input."""

    __slots__ = (
        "_adapter", "_copied", "_fast", "_floats", "_lone_key", "_simple", "_stopping", "_validator",
        "_whole", "body_params", "call_whole", "depends", "direct", "file_param", "form_only", "func",
        "has_files", "injected", "is_async", "is_generator", "lone", "own", "params", "reads_headers",
        "reads_query", "request_only", "result", "returns", "slots", "where",
    )  # fmt: skip

    def __init__(self, func: Callable[..., Any], signature: Signature, where: str) -> None:
        self.func = func
        self.where = where
        self.params: tuple[Param, ...] = tuple(signature.params.values())
        self.injected: Mapping[str, str] = signature.injected
        """Argument -> slot: request, principal, job_progress, job."""
        self.depends = signature.depends
        self.own = frozenset(name for name, param in signature.params.items() if not param.inherited)
        """The values that go to the function itself; the others go to its dependencies."""
        self.slots = frozenset(signature.injected.values()) | _dependency_slots(signature)
        """Everything that ``call`` has to be given in ``injected``."""
        self.returns = signature.returns
        inner = target_of(func)
        async_generator = inspect.isasyncgenfunction(inner)
        self.is_generator = async_generator or inspect.isgeneratorfunction(inner)
        self.is_async = async_generator or inspect.iscoroutinefunction(inner)
        self.direct = not self.is_generator and not self.injected and not self.depends
        """The function can be called with the validated values as they are; ``call`` does nothing more."""
        self.request_only = (
            self.is_async and not self.is_generator and not self.params and not self.depends
            and list(self.injected.values()) == ["request"]
        )  # fmt: skip
        """The function takes the request as it is, and nothing else."""
        self.call_whole: Callable[[Request], Awaitable[Any]] = func
        """Calls it with the request, where that is so."""
        if self.request_only and _takes_by_name(func):
            name = next(iter(self.injected))
            self.call_whole = lambda request: func(**{name: request})
        self.result = compile_returns(signature.returns, streams=self.is_generator, where=where)
        """Encodes what the function returns, or each item that it yields."""
        self.body_params = tuple(param for param in self.params if param.source in ("body", "form"))
        self.form_only = bool(self.body_params) and any(param.source == "form" for param in self.body_params)
        self.reads_headers = any(param.source in ("header", "cookie") for param in self.params)
        self.reads_query = any(param.source == "query" or param.fallback for param in self.params)
        self.has_files = any(param.shape.has_files for param in self.params)
        files = [param for param in self.body_params if param.is_file]
        self.file_param = files[0] if len(files) == 1 else None
        """Takes a body that is neither JSON nor a form."""
        self.lone = _lone(self.body_params, where)
        """Is given the whole body."""
        self._copied = tuple(
            param for param in self.params if not param.required and isinstance(param.default, _MUTABLE)
        ) + tuple(param for param in self.params if not param.required and _marked_default(func, param))
        self._compile()

    def _compile(self) -> None:
        self._adapter = _arguments(self.params, self.where) if self.params else None
        self._validator: Any = None if self._adapter is None else self._adapter.validator
        self._stopping: Any = None
        """The same for large bodies, made when the first one comes."""
        self._fast = (
            bool(self.params)
            and len(self.body_params) == len(self.params)
            and not self.has_files
            and not self.form_only
            and (self.lone is not None or all(param.source == "body" for param in self.params))
        )
        self._whole: Any = None
        self._lone_key = b""
        self._simple = False
        self._floats: tuple[str, ...] | None = None
        if not self._fast:
            return
        if self.lone is not None:
            self._whole = TypeAdapter(self.lone.annotation).validator
            self._lone_key = b'"' + self.lone.alias.encode() + b'"'
            self._simple = tells_keys(self.lone.annotation)
            self._floats = float_fields(self.lone.annotation) if self._simple else None
        elif any(param.alias != param.name for param in self.params):
            self._fast = False
        else:
            self._simple = all(is_simple(param.annotation) for param in self.params)

    # --- reading ---

    async def collect(self, request: Request, intake: Intake = _DEFAULT_INTAKE) -> Inputs:
        """Return the raw values of a request, by argument name; files behind URLs are fetched.

        Raises BadRequest, UnsupportedMedia, PayloadTooLarge or ValidationFailed.
        """
        inputs = collect_request(self, request, intake)
        if inputs.links:
            await fetch_links(inputs, intake)
        return inputs

    def collect_input(self, values: Mapping[str, Any], intake: Intake = _DEFAULT_INTAKE) -> Inputs:
        """Return the raw values of a RunPod ``input`` object (without ``path`` and ``method``).

        A URL given for a file stays noted until ``fetch`` is awaited.
        """
        return collect_input(self, values, intake)

    async def fetch(self, inputs: Inputs, intake: Intake) -> None:
        """Replace the URLs that ``collect_input`` noted by the files behind them."""
        await fetch_links(inputs, intake)

    def validate(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the coerced arguments; raises ValidationFailed. Defaults are left to the function."""
        if self._adapter is None:
            return {}
        try:
            if self.has_files:
                values = self._validator.validate_python(dict(inputs))
            else:
                # as JSON, so that a strict model reads a date alike from a body, a query and a job record
                text = pydantic_core.to_json(inputs, inf_nan_mode="constants")
                values = self._for_size(len(text)).validate_json(text)
        except ValidationError as exc:
            raise self._failed(exc, getattr(inputs, "locs", {})) from None
        except (ValueError, UnicodeError) as exc:
            raise ValidationFailed(
                errors=[{"loc": ["body"], "type": "unicode", "msg": str(exc)[:200]}]
            ) from None
        return self._filled(values)

    def _for_size(self, size: int) -> Any:
        if size < LARGE:
            return self._validator
        if self._stopping is None:
            self._stopping = fail_fast(self._adapter) if self._adapter is not None else None
        return self._stopping

    def bind(
        self, request: Request, intake: Intake = _DEFAULT_INTAKE
    ) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Collect and validate in one go: at once where the body alone is enough, else awaitable."""
        if not self.params:
            return {}
        if self._fast and not request.query and request.headers.get("content-type") in PLAIN_JSON:
            values = self._from_body(request.body, intake.max_json_depth)
            if values is not None:
                return values
        return self._bind(request, intake)

    async def _bind(self, request: Request, intake: Intake) -> dict[str, Any]:
        return self.validate(await self.collect(request, intake))

    def _from_body(self, body: bytes, max_depth: int) -> dict[str, Any] | None:
        """Validate the bytes themselves. None: the long way has to look, be it only for the right error."""
        if body.count(b"{") + body.count(b"[") > max_depth:
            return None
        try:
            # As many colons as fields were read: then nothing was given twice, and nothing else was there.
            # A text may hold a colon, too, and values may be objects: then a slower parser looks.
            lone = self.lone
            countable = self._simple and len(body) < LARGE
            if not countable:
                loads(body, max_depth)  # before there are values: a large body should not be there twice
            if self._whole is None or lone is None:
                values: dict[str, Any] = self._for_size(len(body)).validate_json(body)
                if countable and body.count(b":") != len(values):
                    loads(body, max_depth)
                return self._filled(values) if self._copied else values
            if len(body) >= LARGE or self._lone_key in body:
                return None
            model = self._whole.validate_json(body)
            if countable and not self._tells_all(model, body):
                loads(body, max_depth)
            return {lone.name: model}
        except (ValidationError, RouterError):
            return None

    def _tells_all(self, model: Any, body: bytes) -> bool:
        """Return whether the model shows that its JSON gave no key twice and no number that is none."""
        if body.count(b":") != len(model.__pydantic_fields_set__):
            return False
        if self._floats is None:
            return is_finite(body)
        values = model.__dict__
        for name in self._floats:
            if not isfinite(values[name]):
                return False
        return True

    def _filled(self, values: dict[str, Any]) -> dict[str, Any]:
        for param in self._copied:
            if param.name not in values:
                values[param.name] = copy.deepcopy(param.default)
        return values

    def _failed(self, exc: ValidationError, locs: Mapping[str, Any]) -> ValidationFailed:
        count = exc.error_count()
        if count > _MAX_ERRORS:
            message = f"{count} values are wrong"
            return ValidationFailed(
                message, errors=[{"loc": ["body"], "type": "too_many_errors", "msg": message}]
            )
        prefixes = {param.name: locs.get(param.name) or self._place(param) for param in self.params}
        errors = []
        for error in exc.errors(include_url=False, include_context=False, include_input=False):
            name, *rest = error["loc"] or ("",)
            loc = [*prefixes.get(str(name), ("body", name)), *rest]
            message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            errors.append({"loc": loc, "type": error["type"], "msg": message})
        return ValidationFailed(errors=errors)

    def _place(self, param: Param) -> tuple[str, ...]:
        source = "body" if param.source == "form" else param.source
        return (source,) if param is self.lone else (source, param.alias)

    # --- calling ---

    async def call(self, values: dict[str, Any], injected: Mapping[str, Any], scope: DependencyScope) -> Any:
        """Call the function; ``injected`` gives a value for each slot that the plan names.

        Sync functions run where ``scope.run_sync`` puts them. A generator comes back unstarted, as an async
        iterator whatever its kind.
        """
        arguments = values if len(self.own) == len(self.params) else {
            name: value for name, value in values.items() if name in self.own
        }  # fmt: skip
        if self.injected or self.depends:
            arguments = dict(arguments)
            for name, slot in self.injected.items():
                arguments[name] = injected[slot]
            for name, dependency in self.depends.items():
                arguments[name] = await scope.solve(dependency, values, injected)
        if self.is_generator:
            items = self.func(**arguments)
            return items if self.is_async else iterate_in_threads(items, scope.run_sync)
        if self.is_async:
            return await self.func(**arguments)
        return await scope.run_sync(functools.partial(self.func, **arguments))


def _dependency_slots(signature: Signature) -> frozenset[str]:
    slots: set[str] = set()
    waiting = list(signature.depends.values())
    while waiting:
        dependency = waiting.pop()
        slots.update(slot for _, slot in dependency.injected)
        waiting.extend(inner for _, inner in dependency.depends)
    return frozenset(slots)


def _lone(body_params: tuple[Param, ...], where: str) -> Param | None:
    whole = [param for param in body_params if param.embed is False]
    if whole and len(body_params) > 1:
        other = next(param for param in body_params if param is not whole[0])
        raise Misconfigured(
            f"{where}: the parameter {whole[0].name!r} takes the whole body, "
            f"which leaves nothing for {other.name!r}"
        )
    if len(body_params) != 1:
        return None
    only = body_params[0]
    if only.embed is False:
        return only
    return only if only.shape.model and not only.shape.many and only.embed is None else None


def _marked_default(func: Callable[..., Any], param: Param) -> bool:
    """Return whether the default stands in a marker, where the function itself does not see it."""
    parameter = inspect.signature(func).parameters.get(param.name)
    return (
        parameter is None
        or parameter.default is inspect.Parameter.empty
        or parameter.default is not param.default
    )


def _arguments(params: tuple[Param, ...], where: str) -> TypeAdapter[Any]:
    fields: dict[str, Any] = {}
    for param in params:
        annotation = read_files(param.annotation) if param.shape.has_files else param.annotation
        fields[param.name] = Required[annotation] if param.required else NotRequired[annotation]
        try:
            TypeAdapter(annotation)
        except (
            PydanticSchemaGenerationError,
            PydanticUndefinedAnnotation,
            PydanticUserError,
            TypeError,
        ) as exc:
            kind = getattr(param.annotation, "__name__", param.annotation)
            reason = str(exc).partition("\n")[0]
            raise Misconfigured(
                f"{where}: the parameter {param.name!r} cannot be read from a request as {kind}: {reason}"
            ) from exc
    make: Any = TypedDict  # its fields are known at run time only, which no type checker follows
    arguments = make("Arguments", fields)
    arguments.__pydantic_config__ = ConfigDict(extra="ignore", allow_inf_nan=False)
    return TypeAdapter(arguments)
