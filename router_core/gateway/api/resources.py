"""What the routes of all configured things share: bodies, tags, pages, and how errors are told."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from router_core.binding.strict_json import loads
from router_core.clock import rfc3339
from router_core.errors import (
    BadRequest,
    Conflict,
    HTTPError,
    NotFound,
    StoreError,
    UnsupportedMedia,
)
from router_core.gateway.api.queries import number, parameter, wrong
from router_core.gateway.control.build import by_file
from router_core.gateway.control.control import Change, Control, Edit
from router_core.gateway.control.kinds import AGENTS, KINDS, MODELS
from router_core.gateway.control.model_value import told_of
from router_core.gateway.control.resource import Draft, Resource
from router_core.gateway.control.secrets import refuse_keys
from router_core.http.message import Request, Response
from router_core.routing.permission import check_every_workspace

__all__ = [
    "MANAGE", "PAGING", "READ", "Item", "Resources", "body_of", "described", "entitled", "invalid",
    "items_of", "merged", "page_of", "stamp", "telling",
]  # fmt: skip

READ: Final = "read"
MANAGE: Final = "config:manage"
_TOLD: Final = frozenset({"createdAt", "updatedAt", "managedBy", "warnings"})
"""What answers say beside the resource; it may come back with it, and means nothing then."""
_MOST: Final = 1000
_USUAL: Final = 100
PAGING: Final = (
    parameter("limit", "How many at most", type="integer", minimum=1, maximum=_MOST, default=_USUAL),
    parameter("offset", "How many to leave out before", type="integer", minimum=0, default=0),
    parameter("cursor", "Go on where an answer ended: its nextCursor"),
)

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def entitled(request: Request) -> None:
    """Raise Forbidden for callers who may not enter every workspace, where it is about all at once."""
    check_every_workspace(request.principal)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is configured, by the API or by the file."""

    kind: str
    id: str
    body: Mapping[str, Any]
    managed_by: str
    resource: Resource | None
    """None: it is not the API's."""

    @property
    def etag(self) -> str:
        """Return its entity tag."""
        if self.resource is not None:
            return self.resource.etag
        told = _encode([self.kind, self.id, dict(self.body)])
        return f'"{hashlib.sha256(told).hexdigest()[:20]}"'


# --- requests ---------------------------------------------------------------------------------------


def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request. Raises 400 and 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json") and not kind.endswith("+json"):
        raise UnsupportedMedia("this takes application/json")
    body = loads(request.body) if request.body else None
    if not isinstance(body, dict):
        raise invalid(ValueError("body: has to be a JSON object"))
    return body


def invalid(error: ValueError) -> BadRequest:
    """Return the 400 for a value that cannot be, by a text that begins with the field."""
    field, colon, told = str(error).partition(": ")
    field, told = (field, told) if colon else ("body", str(error))
    path: list[str | int] = []
    for word in field.replace("]", "").replace("[", ".").split("."):
        path.append(int(word) if word.isdigit() and len(word) < 7 else word)
    kind = "unknown_field" if told.startswith("there is no such field") else "invalid"
    kind = "missing" if told == "is missing" else kind
    said = {"loc": ["body", *path], "field": field, "msg": told, "type": kind}
    return BadRequest(f"{field}: {told}", code="validation_failed", extra={"errors": [said]})


@contextmanager
def telling() -> Iterator[None]:
    """Answer values that cannot be with 400."""
    try:
        yield
    except ValueError as error:
        raise invalid(error) from None


def merged(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with what a JSON Merge Patch (RFC 7396) changes of it: null takes a member away."""
    made = dict(old)
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        elif isinstance(value, Mapping):
            held = made.get(name)
            made[name] = merged(held if isinstance(held, Mapping) else {}, value)
        else:
            made[name] = value
    return made


def stamp(at: float) -> str:
    """Return a moment as it is written in answers."""
    return rfc3339(at, "milliseconds")


def described(
    description: str, *, created: bool = False, empty: bool = False, body: str = "", example: Any = None,
    schema: Mapping[str, Any] | None = None, parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Describe a route for the OpenAPI document; ``empty``: it answers 204."""
    problem = {"$ref": "#/components/responses/Problem"}
    content = {"application/json": {"schema": {"type": "object", "additionalProperties": True}}}
    answers: dict[str, Any] = {"200": {"description": description, "content": content}}
    if empty:
        answers = {"204": {"description": description}}
    elif not body:
        answers["304"] = {"description": "The caller has it (If-None-Match)"}
    if created:
        answers["201"] = {"description": "It was created", "content": content}
    told: dict[str, Any] = {"responses": {**answers, "400": problem, "4XX": problem, "5XX": problem}}
    if parameters:
        told["parameters"] = list(parameters)
    if body:
        media: dict[str, Any] = {"schema": schema or {"type": "object", "additionalProperties": True}}
        if example is not None:
            media["example"] = example
        told["requestBody"] = {
            "required": True, "description": body, "content": {"application/json": media},
        }  # fmt: skip
    return {"openapi": told}


# --- what there is ----------------------------------------------------------------------------------


def items_of(control: Control, kind: str) -> Iterator[Item]:
    """Go through all that is configured of a kind, the file's first."""
    word = _source(control)
    for value in getattr(control.base, KINDS[kind].values):
        yield Item(kind, KINDS[kind].id_of(value), _LazyBody(kind, value), word, None)
    for resource in control.document.of(kind):
        yield Item(kind, resource.id, resource.body, "api", resource)


class _LazyBody(Mapping[str, Any]):
    """The JSON of a value of the file, made when somebody looks at it: a list shows a page of thousands."""

    __slots__ = ("_kind", "_made", "_value")

    def __init__(self, kind: str, value: Any) -> None:
        self._kind = kind
        self._value = value
        self._made: dict[str, Any] | None = None

    def _body(self) -> dict[str, Any]:
        if self._made is None:
            told = told_of if self._kind == MODELS else KINDS[self._kind].to_json
            self._made = told(self._value)
        return self._made

    def __getitem__(self, name: str) -> Any:
        return self._body()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._body())

    def __len__(self) -> int:
        return len(self._body())


def _source(control: Control) -> str:
    return "environment" if control.base.source == "the environment" else "file"


def page_of(
    items: Iterable[Item], given: dict[str, str], order: Callable[[Item], list[Any]]
) -> tuple[list[Item], dict[str, Any]]:
    """Return a page of things in an order, and what tells of the others. Raises 400."""
    limit = number(given, "limit", _USUAL, _MOST)
    everything = sorted(items, key=order)
    told: dict[str, Any] = {"total": len(everything), "limit": limit}
    start = 0
    if "cursor" in given:
        if "offset" in given:
            raise wrong("cursor", "and offset say the same; leave one of them out")
        after = _cursor(given["cursor"])
        try:
            start = next((at for at, one in enumerate(everything) if order(one) > after), len(everything))
        except TypeError:
            raise wrong("cursor", "is none of this list") from None
    elif given.get("offset", "0") != "0":
        start = number(given, "offset", 0, 10**9)
    told["offset"] = start
    shown = everything[start : start + limit]
    if start + limit < len(everything):
        last = json.dumps(order(shown[-1])).encode()
        told["nextCursor"] = base64.urlsafe_b64encode(last).decode().rstrip("=")
    return shown, told


def _cursor(text: str) -> list[Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, UnicodeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise wrong("cursor", "is none of ours")
    return found


# --- one of them ------------------------------------------------------------------------------------


class Resources:
    """Reads and writes the resources of one kind for requests."""

    def __init__(self, control: Control, kind: str, name: str = "id") -> None:
        """``name`` is what the id is called in answers."""
        self.control = control
        self.kind = kind
        self._name = name

    async def fresh(self) -> None:
        """See what other processes have written; without the store what is known here is shown."""
        try:
            await self.control.look()
        except StoreError:
            return

    def find(self, key: str) -> Item:
        """Return one of them. Raises NotFound."""
        resource = self.control.document.get(self.kind, key)
        if resource is not None and not self.control.by_file(self.kind, key):
            return Item(self.kind, key, resource.body, "api", resource)
        found = next((one for one in items_of(self.control, self.kind) if one.id == key), None)
        if found is None:
            raise self.missing(key)
        return found

    def missing(self, key: str) -> NotFound:
        """Return the error for one that there is not."""
        return NotFound(f"there is no {KINDS[self.kind].word} {key[:128]!a}")

    def shown(self, item: Item) -> dict[str, Any]:
        """Return what answers say of one."""
        told: dict[str, Any] = {self._name: item.id, **item.body, "managedBy": item.managed_by}
        if item.resource is not None:
            told["createdAt"] = stamp(item.resource.created_at)
            told["updatedAt"] = stamp(item.resource.updated_at)
        warnings = self.control.remarks(self.kind, item.id)
        return told | ({"warnings": list(warnings)} if warnings else {})

    def answer(
        self, item: Item, request: Request | None = None, *, status: int = 200, location: str = ""
    ) -> Response:
        """Return the answer that holds one; 304 where the caller has it."""
        etag = item.etag
        headers = [("etag", etag), ("cache-control", "no-cache")]
        if request is not None and etag in _tags(request, "if-none-match"):
            return Response(304, tuple(headers))
        if location:
            headers.append(("location", location))
        return Response.json(self.shown(item), status, headers)

    def given(self, request: Request, key: str = "") -> dict[str, Any]:
        """Return the body of a request without what only answers say. Raises 400."""
        body = body_of(request)
        with telling():
            refuse_keys(body)
        if key and self._name in body and body.pop(self._name) != key:
            raise invalid(ValueError(f"{self._name}: is another one in the path, and cannot be changed"))
        return {name: value for name, value in body.items() if name not in _TOLD}

    async def changed(self, edit: Edit, request: Request, why: str) -> Change:
        """Make a change in the name of a caller. Raises 400, 403, 404, 409, 412, 503."""
        if self.kind in (MODELS, AGENTS):
            entitled(request)  # the calls of all workspaces go by them
        with telling():
            return await self.control.change(edit, who=request.principal.id, why=why)

    def own(self, draft: Draft, key: str, request: Request, *, leaving: bool = False) -> Resource:
        """Return one that the API may change, if the caller has seen the newest. Raises 404, 409, 412.

        ``leaving``: it is to go, which it may also where the file has its name by now.
        """
        found = draft.get(self.kind, key)
        if self.control.by_file(self.kind, key) and not (leaving and found is not None):
            raise by_file(self.kind, key)
        if found is None:
            if request.headers.get("if-match") is not None:
                raise _changed(None)
            raise self.missing(key)
        check_match(found, request)
        return found

    def absent(self, draft: Draft, key: str) -> None:
        """Raise Conflict where there is such a one already."""
        if self.control.by_file(self.kind, key):
            raise by_file(self.kind, key)
        held = draft.get(self.kind, key)
        if held is not None:
            raise Conflict(
                f"there is a {KINDS[self.kind].word} {key} already", code="already_exists",
                headers={"ETag": held.etag},
            )  # fmt: skip

    def item(self, change: Change, key: str) -> Item:
        """Return one as a change has left it."""
        resource = change.document.get(self.kind, key)
        if resource is None:
            raise self.missing(key)
        return Item(self.kind, key, resource.body, "api", resource)

    async def put(self, key: str, body: Mapping[str, Any], request: Request, path: str) -> Response:
        """Write one, whether there was one or not, and answer with it."""
        parse, to_json = KINDS[self.kind].parse, KINDS[self.kind].to_json
        if parse is None:
            raise TypeError("models are written by their own routes")
        with telling():
            kept = to_json(parse(key, body))
        now = self.control.clock.now()

        def edit(draft: Draft) -> bool:
            if self.control.by_file(self.kind, key):
                raise by_file(self.kind, key)
            held = draft.get(self.kind, key)
            check_match(held, request)
            draft.put(self.kind, key, kept, now)
            return held is None

        change = await self.changed(edit, request, f"{KINDS[self.kind].word} {key}")
        created = bool(change.result)
        item = self.item(change, key)
        return self.answer(item, status=201 if created else 200, location=path if created else "")

    async def drop(self, key: str, request: Request) -> Response:
        """Take one away."""

        def edit(draft: Draft) -> None:
            self.own(draft, key, request, leaving=True)
            draft.drop(self.kind, key)

        await self.changed(edit, request, f"{KINDS[self.kind].word} {key} taken away")
        return Response(204)


def check_match(held: Resource | None, request: Request) -> None:
    """Raise 412 unless the caller has seen what there is now, where he says what he has seen."""
    wanted = _tags(request, "if-match")
    if wanted and (held is None or ("*" not in wanted and held.etag not in wanted)):
        raise _changed(held)
    if held is not None and "*" in _tags(request, "if-none-match"):
        raise _changed(held)


def _changed(held: Resource | None) -> HTTPError:
    text = "there is none any more" if held is None else "it has changed since it was read; read it again"
    headers = {"ETag": held.etag} if held is not None else {}
    return HTTPError(412, text, code="precondition_failed", headers=headers)


def _tags(request: Request, name: str) -> set[str]:
    """Return the entity tags of a header; strong and weak ones count alike, for ours are all strong."""
    value = request.headers.get(name)
    if value is None:
        return set()
    return {part.strip().removeprefix("W/") for part in value.split(",")[:50] if part.strip()}
