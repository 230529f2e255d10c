"""Find the raw values of a call in a request, or in the ``input`` object of a queue's message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pydantic_core

from router_core.binding.inputs import Inputs, Intake, Loc, Problems, is_link, note_link, to_files
from router_core.binding.shapes import Shape
from router_core.binding.signature import Param
from router_core.binding.strict_json import check_value, loads
from router_core.errors import BadRequest, PayloadTooLarge, RouterError, UnsupportedMedia
from router_core.http.media import File
from router_core.http.message import Request
from router_core.http.multipart import FORM_TYPE, MULTIPART_TYPE, parse_multipart, parse_urlencoded

if TYPE_CHECKING:
    from router_core.binding.plan import Plan

__all__ = ["PLAIN_JSON", "collect_input", "collect_request"]

_MISSING: Final[Any] = object()


def collect_request(plan: Plan, request: Request, intake: Intake) -> Inputs:
    """Return the raw values of a request; files behind URLs are noted, not yet fetched."""
    inputs, problems = Inputs(), Problems()
    for param in plan.params:
        if param.source == "path":
            _put(inputs, param, request.path_params[param.alias], ("path", param.alias), problems)
    if plan.reads_headers:
        _headers(plan, request, inputs, problems)
    if request.query and plan.reads_query:
        _query(plan, request, intake, inputs, problems)
    if request.body and plan.body_params:
        _body(plan, request, intake, inputs, problems)
    problems.raise_any()
    return inputs


def collect_input(plan: Plan, values: Mapping[str, Any], intake: Intake) -> Inputs:
    """Return the raw values from a mapping of names to JSON values."""
    check_value(values, intake.max_json_depth)
    inputs, problems = Inputs(), Problems()
    rest = dict(values)
    for param in plan.params:
        if param is plan.lone:
            continue
        for name in (param.alias, param.name):
            value = rest.pop(name, _MISSING)
            if value is not _MISSING:
                _put(inputs, param, value, ("input", param.alias), problems)
                break
    if plan.lone is not None and rest:
        _whole(plan.lone, rest, "input", inputs, problems)
    problems.raise_any()
    return inputs


PLAIN_JSON: Final = frozenset(
    ("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8")
)
"""How nearly every client writes it; any other spelling is looked at closely."""


def _is_json(content_type: str) -> bool:
    """Return whether a content type is JSON: ``application/json`` or anything ``+json``."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def _put(inputs: Inputs, param: Param, value: Any, loc: Loc, problems: Problems) -> None:
    if param.name in inputs:
        both = f"{inputs.locs[param.name][0]} and {loc[0]}"
        problems.add(loc, "duplicate", f"given more than once: in the {both}; give it in one place")
        return
    if is_link(param.shape, value):
        note_link(inputs, param.name, value, loc)
    elif param.shape.has_files:
        inputs[param.name] = to_files(param.shape, value, loc, inputs, problems)
    else:
        inputs[param.name] = value
    inputs.locs[param.name] = loc


# --- texts: query, headers, cookies, form fields ------------------------------------------------


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def _query(plan: Plan, request: Request, intake: Intake, inputs: Inputs, problems: Problems) -> None:
    if request.query.count("&") >= intake.max_query_fields:
        raise PayloadTooLarge(f"a query has at most {intake.max_query_fields} fields")
    try:
        groups = _grouped(request.query_items())
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8", code="invalid_query") from None
    for param in plan.params:
        if (param.source == "query" or param.fallback) and param.alias in groups:
            _texts(inputs, param, groups[param.alias], ("query", param.alias), problems)


def _headers(plan: Plan, request: Request, inputs: Inputs, problems: Problems) -> None:
    cookies: dict[str, list[str]] | None = None
    for param in plan.params:
        if param.source == "header":
            values = request.headers.getlist(param.alias)
        elif param.source == "cookie":
            cookies = _cookies(request) if cookies is None else cookies
            values = cookies.get(param.alias, [])[:1]  # browsers send the most specific cookie first
        else:
            continue
        if values:
            _texts(inputs, param, values, (param.source, param.alias), problems)


def _cookies(request: Request) -> dict[str, list[str]]:
    pairs = [
        part.strip().partition("=") for line in request.headers.getlist("cookie") for part in line.split(";")
    ]
    return _grouped((name.strip(), value.strip().strip('"')) for name, _, value in pairs if name.strip())


def _texts(inputs: Inputs, param: Param, texts: list[Any], loc: Loc, problems: Problems) -> None:
    value = _from_texts(param.shape, texts, loc, problems)
    if value is not _MISSING:
        _put(inputs, param, value, loc, problems)


def _from_texts(shape: Shape, texts: list[Any], loc: Loc, problems: Problems) -> Any:
    if shape.many:
        item = shape.item or Shape(scalar=True)
        return [_from_text(item, text, (*loc, at), problems) for at, text in enumerate(texts)]
    if len(texts) > 1:
        problems.add(loc, "duplicate", "given more than once; it takes one value")
        return _MISSING
    return _from_text(shape, texts[0], loc, problems)


def _from_text(shape: Shape, text: Any, loc: Loc, problems: Problems) -> Any:
    if isinstance(text, File):
        if shape.has_files or not shape.scalar:
            return text
        problems.add(loc, "file_unexpected", "a file was sent where a text belongs")
        return None
    if shape.scalar or shape.file:
        return shape.texts.get(text, text)
    try:
        return loads(text.encode())
    except RouterError as exc:
        problems.add(loc, "json_invalid", exc.detail)
        return None


# --- bodies -------------------------------------------------------------------------------------


def _body(plan: Plan, request: Request, intake: Intake, inputs: Inputs, problems: Problems) -> None:
    content_type = request.headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    if _is_json(content_type) and not plan.form_only:
        _check_charset(content_type)
        _json(plan, loads(request.body, intake.max_json_depth), inputs, problems)
    elif media == FORM_TYPE:
        _refuse_json(plan, request.body)
        _form(plan, parse_urlencoded(request.body, intake.form), inputs, problems)
    elif media == MULTIPART_TYPE:
        _form(plan, parse_multipart(request.body, content_type, intake.form), inputs, problems)
    elif plan.file_param is not None and media and not _is_json(content_type):
        file = File(request.body, content_type=content_type)
        _put(inputs, plan.file_param, [file] if plan.file_param.multiple else file,
             ("body", plan.file_param.alias), problems)  # fmt: skip
    else:
        readable = _readable(plan)
        raise UnsupportedMedia(
            f"the Content-Type is {media[:100] or 'missing'}; send one of {', '.join(readable)}",
            headers={"Accept-Post": ", ".join(readable)},
        )


def _refuse_json(plan: Plan, body: bytes) -> None:
    """Refuse JSON that is called a form, as ``curl -d`` does: read as one it would have no field of ours, and
    the function would run with its defaults."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return
    try:
        pydantic_core.from_json(body)
    except ValueError:
        return
    wanted = "the fields of a form" if plan.form_only else "Content-Type: application/json"
    raise UnsupportedMedia(
        f"the body is JSON and its Content-Type is {FORM_TYPE}; send {wanted}",
        headers={"Accept-Post": ", ".join(_readable(plan))},
    )


def _readable(plan: Plan) -> list[str]:
    forms = [FORM_TYPE, MULTIPART_TYPE]
    return forms if plan.form_only else ["application/json", *forms]


def _check_charset(content_type: str) -> None:
    _, _, charset = content_type.lower().partition("charset=")
    charset = charset.partition(";")[0].strip().strip('"')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia(f"JSON is read as UTF-8, not as {charset[:40]!r}")


def _json(plan: Plan, value: Any, inputs: Inputs, problems: Problems) -> None:
    if plan.lone is not None:
        _whole(plan.lone, value, "body", inputs, problems)
        return
    only = plan.body_params[0]
    if isinstance(value, list) and len(plan.body_params) == 1 and only.shape.many and only.embed is not True:
        _put(inputs, only, value, ("body",), problems)
        return
    if not isinstance(value, dict):
        problems.add(("body",), "object_type", "the body should be a JSON object with the parameters by name")
        return
    for param in plan.body_params:
        if param.alias in value:
            _put(inputs, param, value[param.alias], ("body", param.alias), problems)


def _whole(param: Param, value: Any, source: str, inputs: Inputs, problems: Problems) -> None:
    """Take the body as the value of the only parameter, or what it holds under the parameter's name."""
    if (
        isinstance(value, dict)
        and len(value) == 1
        and param.alias in value
        and param.embed is None
        and param.alias not in param.shape.fields
        and isinstance(value[param.alias], dict)
    ):
        _put(inputs, param, value[param.alias], (source, param.alias), problems)
    else:
        _put(inputs, param, value, (source,), problems)


def _form(plan: Plan, pairs: Iterable[tuple[str, Any]], inputs: Inputs, problems: Problems) -> None:
    groups = _grouped(pairs)
    if plan.lone is not None:
        _form_model(plan.lone, groups, inputs, problems)
        return
    for param in plan.body_params:
        texts = groups.get(param.alias, [])
        if texts == [""] and not param.required and not param.shape.text:
            continue  # how an HTML form sends a field that was left empty
        if texts:
            _texts(inputs, param, texts, ("body", param.alias), problems)


def _form_model(param: Param, groups: dict[str, list[Any]], inputs: Inputs, problems: Problems) -> None:
    fields = param.shape.fields
    if list(groups) == [param.alias] and param.alias not in fields:
        _texts(inputs, param, groups[param.alias], ("body", param.alias), problems)
        return
    value: dict[str, Any] = {}
    for name, texts in groups.items():
        shape = fields.get(name) or Shape(scalar=True, many=len(texts) > 1, has_files=True)
        item = _from_texts(shape, texts, ("body", name), problems)
        if item is not _MISSING:
            value[name] = item
    _put(inputs, param, value, ("body",), problems)
