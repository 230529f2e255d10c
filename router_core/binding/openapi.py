"""The OpenAPI 3.1 document of a list of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final

import pydantic_core
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from router_core.binding.openapi_parts import (
    BUILTIN_PARAMETERS,
    COMPONENTS,
    FILE_SCHEMA,
    JOB_RESPONSE,
    PROBLEM_RESPONSES,
    Json,
)
from router_core.binding.params import SourceName
from router_core.binding.shapes import Shape
from router_core.binding.signature import Param
from router_core.http.media import File
from router_core.http.multipart import FORM_TYPE, MULTIPART_TYPE
from router_core.http.ndjson import NDJSON_TYPE
from router_core.http.sse import SSE_TYPE
from router_core.routing.path import parse_path
from router_core.routing.permission import alternatives
from router_core.routing.route import Route

__all__ = ["openapi_document"]

_REF: Final = "#/components/schemas/{model}"
_LOCATIONS: Final[tuple[SourceName, ...]] = ("path", "query", "header", "cookie")
_BODY_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
_RETURN: Final = "return"  # a keyword, so no parameter is called like it

Key = tuple[int, str]
"""Route, and the name of a parameter or ``_RETURN``."""


def openapi_document(
    routes: Iterable[Route],
    *,
    title: str = "",
    version: str = "",
    description: str = "",
    servers: Iterable[str] = (),
    security_schemes: Mapping[str, Mapping[str, Any]] | None = None,
    info_extra: Mapping[str, Any] | None = None,
    job_parameters: Iterable[Mapping[str, Any]] = (),
) -> Json:
    """Describe the routes, those of the product included, but none with ``include_in_schema=False``.

    ``x-parameter-order`` holds the names of a function's parameters as they stand in its signature, so that a
    client can map positional arguments; ``x-body-parameter`` names the one that is the whole body;
    ``x-router-kind`` is call, stream or job. ``route.meta["openapi"]`` overrides members of an operation;
    ``job_parameters`` are what every job route takes besides ``sync``.
    """
    builtin = [*BUILTIN_PARAMETERS, *({**parameter, "x-builtin": True} for parameter in job_parameters)]
    shown = [route for route in routes if route.include_in_schema]
    schemas, components = _schemas(shown)
    paths: dict[str, Json] = {}
    ids: set[str] = set()
    for index, route in enumerate(shown):
        item = paths.setdefault(parse_path(route.path).template, {})
        for method in route.methods:
            if method in ("HEAD", "OPTIONS"):
                continue
            operation = _Operation(route, method, index, schemas, builtin).build()
            operation["operationId"] = _unique(route, method, ids)
            if security_schemes and not route.public:
                operation["security"] = _security(route, security_schemes)
            item[method.lower()] = operation
    info: Json = {"title": title or "router-core service", "version": version or "0"}
    if description:
        info["description"] = description
    document: Json = {"openapi": "3.1.0", "info": {**info, **(info_extra or {})}, "paths": paths}
    urls = [{"url": url} for url in servers if url]
    if urls:
        document["servers"] = urls
    document["components"] = {**COMPONENTS, "schemas": {**components, **COMPONENTS["schemas"]}}
    if security_schemes:
        document["components"]["securitySchemes"] = {k: dict(v) for k, v in security_schemes.items()}
    return document


def _security(route: Route, schemes: Iterable[str]) -> list[Json]:
    """Return every way in: each scheme with each choice among the scopes of which one will do."""
    choices = product(*(alternatives(scope) for scope in route.scopes))
    needed = list(dict.fromkeys(tuple(dict.fromkeys(choice)) for choice in choices))
    return [{name: list(scopes)} for name in schemes for scopes in needed]


def _schemas(routes: list[Route]) -> tuple[dict[Key, Json], dict[str, Json]]:
    """Make all schemas together, so that two models of one name get two names."""
    wanted: list[tuple[Key, JsonSchemaMode, TypeAdapter[Any]]] = []
    for index, route in enumerate(routes):
        for param in route.plan.params:
            # bytes are read from the same texts and uploads as a File
            annotation = File if param.shape.file and param.annotation is bytes else param.annotation
            wanted.append(((index, param.name), "validation", TypeAdapter(annotation)))
        adapter = route.plan.result.adapter
        if adapter is not None:
            wanted.append(((index, _RETURN), "serialization", adapter))
    if not wanted:
        return {}, {}
    found, definitions = TypeAdapter.json_schemas(wanted, ref_template=_REF)
    components = {**definitions.get("$defs", {})}
    reserved = {name: _free(name, components) for name in COMPONENTS["schemas"] if name in components}
    schemas: dict[Key, Json] = {key: dict(schema) for (key, _mode), schema in found.items()}
    if reserved:
        renamed = _rename({"found": list(schemas.values()), "defs": components}, reserved)
        schemas = dict(zip(schemas, renamed["found"], strict=True))
        components = {reserved.get(name, name): schema for name, schema in renamed["defs"].items()}
    return schemas, components


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    while f"{name}{number}" in taken:
        number += 1
    return f"{name}{number}"


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    """Follow the new names of components in every reference."""
    if isinstance(value, dict):
        return {
            key: _rename_ref(item, names) if key == "$ref" else _rename(item, names)
            for key, item in value.items()
        }
    return [_rename(item, names) for item in value] if isinstance(value, list) else value


def _rename_ref(ref: Any, names: Mapping[str, str]) -> Any:
    head, _, name = str(ref).rpartition("/")
    return f"{head}/{names.get(name, name)}"


def _unique(route: Route, method: str, taken: set[str]) -> str:
    name = route.name or route.func.__name__
    words = re.sub(r"[^A-Za-z0-9]+", "_", route.path).strip("_") or "root"
    for candidate in (name, f"{name}_{method.lower()}", f"{method.lower()}_{words}"):
        if candidate not in taken and not (candidate == name and len(route.methods) > 1):
            taken.add(candidate)
            return candidate
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"


class _Operation:
    """Describes one method of one route."""

    def __init__(
        self, route: Route, method: str, index: int, schemas: Mapping[Key, Json], builtin: Iterable[Json]
    ) -> None:
        self.route = route
        self.method = method
        self.plan = route.plan
        self._index = index
        self._schemas = schemas
        self._builtin = builtin

    def build(self) -> Json:
        route = self.route
        operation: Json = {
            "summary": route.summary or (route.name or route.key).replace("_", " ").capitalize()
        }
        if route.description:
            operation["description"] = route.description
        if route.tags:
            operation["tags"] = list(route.tags)
        if route.deprecated:
            operation["deprecated"] = True
        parameters = [self._parameter(param) for param in self._outside_body()]
        if route.kind == "job":
            parameters += [dict(parameter) for parameter in self._builtin]
        if parameters:
            operation["parameters"] = parameters
        body = self._body()
        if body:
            operation["requestBody"] = body
        operation["responses"] = self._responses()
        operation["x-router-kind"] = route.kind
        operation["x-parameter-order"] = [param.alias for param in self.plan.params if not param.inherited]
        if self.plan.lone is not None:
            operation["x-body-parameter"] = self.plan.lone.alias
        operation.update(route.meta.get("openapi", {}))
        return operation

    def _outside_body(self) -> list[Param]:
        in_query = [] if self.method in _BODY_METHODS else [p for p in self.plan.body_params if p.fallback]
        return [param for param in self.plan.params if param.source in _LOCATIONS] + in_query

    def _schema(self, param: Param) -> Json:
        schema = dict(self._schemas[(self._index, param.name)])
        if not param.required and "default" not in schema:
            try:
                schema["default"] = pydantic_core.to_jsonable_python(param.default)
            except ValueError:
                pass  # a default that only Python can write
        return schema

    def _parameter(self, param: Param) -> Json:
        schema = self._schema(param)
        parameter: Json = {
            "name": param.alias,
            "in": "query" if param.source == "body" else param.source,
            "required": param.required,
            "schema": schema,
        }
        description = schema.get("description")
        if description:
            parameter["description"] = description
        return parameter

    def _body(self) -> Json:
        params = self.plan.body_params
        if not params or self.method not in _BODY_METHODS:
            return {}
        schema = (
            self._schemas[(self._index, params[0].name)]
            if self.plan.lone
            else self._object(params, files=False)
        )
        has_files = any(param.is_file for param in params)
        # fastsdk sends JSON, in which a file on disk has no place, where exactly "application/json" is listed
        json_type = "application/json; charset=utf-8" if has_files else "application/json"
        content: Json = {} if self.plan.form_only else {json_type: {"schema": schema}}
        if has_files:
            content[MULTIPART_TYPE] = {"schema": self._object(params, files=True)}
        elif self.plan.form_only or (
            self.plan.lone is None and all(_is_flat(param.shape) for param in params)
        ):
            content[FORM_TYPE] = {"schema": schema if self.plan.lone else _without_null(schema)}
        return {"required": any(param.required for param in params), "content": content}

    def _object(self, params: Iterable[Param], *, files: bool) -> Json:
        properties: Json = {}
        for param in params:
            properties[param.alias] = self._upload(param) if files and param.is_file else self._schema(param)
        schema: Json = {"type": "object", "properties": properties}
        required = [param.alias for param in params if param.required]
        if required:
            schema["required"] = required
        return schema

    def _upload(self, param: Param) -> Json:
        if not param.shape.many:
            return dict(FILE_SCHEMA)
        schema: Json = {"type": "array", "items": dict(FILE_SCHEMA)}
        if param.required:
            schema["minItems"] = 1  # a form cannot hold a list of nothing
        own = self._schemas[(self._index, param.name)]
        schema.update((name, own[name]) for name in ("minItems", "maxItems") if name in own)
        return schema

    def _responses(self) -> Json:
        route = self.route
        responses: Json = {}
        if route.kind == "job":
            responses["202"] = JOB_RESPONSE
            responses["200"] = {"description": "The result, if it was waited for", **self._content()}
        elif route.internal and not self._content():
            responses["2XX"] = {"description": "The answer"}  # the product's own handlers choose the status
            responses["3XX"] = {"description": "Nothing has changed, or it is elsewhere"}
        else:
            responses[str(route.status)] = {"description": "The result", **self._content()}
        if self.plan.params:
            responses["422"] = {"$ref": "#/components/responses/ValidationProblem"}
        return {**responses, **PROBLEM_RESPONSES}

    def _content(self) -> Json:
        route, returns = self.route, self.plan.returns
        schema = self._schemas.get((self._index, _RETURN), {})
        if route.status in (204, 304) or (route.internal and not schema):
            return {}
        if route.kind == "stream":
            return {
                "content": {
                    NDJSON_TYPE: {"schema": schema},
                    SSE_TYPE: {"schema": {"description": "Events, the data of each is JSON"}},
                }
            }
        if returns is File or returns is bytes:
            return {"content": {"*/*": {"schema": dict(FILE_SCHEMA)}}}
        return {"content": {"application/json": {"schema": schema}}} if schema or route.kind == "job" else {}


def _is_flat(shape: Shape) -> bool:
    """Return whether a form carries values of the shape without doubt: one text each."""
    return shape.scalar and not shape.many and not shape.model and shape.item is None


def _without_null(schema: Json) -> Json:
    """Leave null out of the alternatives of each property: a form has no way to write it."""
    properties: Json = {}
    for name, item in schema["properties"].items():
        choices = [choice for choice in item.get("anyOf", ()) if choice != {"type": "null"}]
        rest = {key: value for key, value in item.items() if key != "anyOf" and value is not None}
        properties[name] = item if not choices else {**rest, "anyOf": choices}
    return {**schema, "properties": properties}
