"""The raw values of one call, before they are validated: what a job record keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from router_core.binding.shapes import Shape
from router_core.binding.strict_json import DEFAULT_DEPTH
from router_core.errors import PayloadTooLarge, RouterError, ValidationFailed
from router_core.http.media import CONTENT_KEYS, Fetch, File, is_url
from router_core.http.multipart import DEFAULT_LIMITS, FormLimits
from router_core.records import dataclass

__all__ = ["Inputs", "Intake", "Loc", "fetch_links", "to_files"]

Loc = tuple[str | int, ...]

_PARALLEL: Final = 4
"""Downloads at once for one call."""
_MAX_PROBLEMS: Final = 100
_MAX_FILES: Final = 1000
"""Items of a list that holds files: each becomes an object before the list can be validated."""


@dataclass(frozen=True, slots=True)
class Intake:
    """How much of a request is read, and how links to files are followed."""

    max_json_depth: int = DEFAULT_DEPTH
    max_query_fields: int = 1000
    form: FormLimits = DEFAULT_LIMITS
    max_links: int = 20
    """URLs that one call may have fetched."""
    fetch: Fetch | None = None
    """None: a URL given for a file is refused."""


@dataclass(slots=True)
class _Link:
    """A URL in the place of a file."""

    holder: Any
    key: Any
    url: str
    loc: Loc


class Inputs(dict[str, Any]):
    """Argument name -> JSON value or File. A name that the caller did not give is absent.

    ``locs`` says where each value came from, for error messages; a job read back from its record has none,
    and is not in need of it, because it was validated when it was submitted.
    """

    __slots__ = ("links", "locs")

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self.locs: dict[str, Loc] = {}
        self.links: list[_Link] = []


@dataclass(slots=True)
class Problems:
    """Collects what is wrong with a call, so that a caller learns all of it at once."""

    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, loc: Loc, kind: str, message: str) -> None:
        if len(self.errors) >= _MAX_PROBLEMS:
            self.raise_any()  # enough to mend for now
        self.errors.append({"loc": list(loc), "type": kind, "msg": message})

    def raise_any(self) -> None:
        if self.errors:
            raise ValidationFailed(errors=self.errors)


def to_files(shape: Shape, value: Any, loc: Loc, inputs: Inputs, problems: Problems) -> Any:
    """Return ``value`` with a File wherever the shape has one; URLs stay, noted in ``inputs.links``."""
    if not shape.has_files or value is None:
        return value
    if shape.file and not (shape.many and isinstance(value, list)) and _looks_like_file(shape, value):
        return _to_file(value, loc, problems)
    if isinstance(value, list) and shape.many and shape.item is not None:
        if shape.item.file and len(value) > _MAX_FILES:
            problems.add(loc, "too_long", f"a list holds at most {_MAX_FILES} files")
            return value
        return _each(shape.item, list(value), list(enumerate(value)), loc, inputs, problems)
    if isinstance(value, dict):
        children = {key: shape.fields.get(key, shape.item) for key in value}
        result = dict(value)
        for key, child in children.items():
            if child is not None:
                _each(child, result, [(key, value[key])], loc, inputs, problems)
        return result
    return value


def _each(
    shape: Shape, holder: Any, items: list[tuple[Any, Any]], loc: Loc, inputs: Inputs, problems: Problems
) -> Any:
    for key, item in items:
        place = (*loc, key)
        if is_link(shape, item):
            inputs.links.append(_Link(holder, key, item, place))
        else:
            holder[key] = to_files(shape, item, place, inputs, problems)
    return holder


def is_link(shape: Shape, value: Any) -> bool:
    """Return whether the value is a URL that stands for a file."""
    return shape.file and not shape.text and isinstance(value, str) and is_url(value)


def note_link(inputs: Inputs, name: str, url: str, loc: Loc) -> None:
    """Remember that the argument itself is a URL to be fetched."""
    inputs[name] = url
    inputs.links.append(_Link(inputs, name, url, loc))


def _looks_like_file(shape: Shape, value: Any) -> bool:
    if isinstance(value, dict) and (shape.model or shape.item is not None):
        return any(isinstance(value.get(key), str) for key in CONTENT_KEYS)  # a union: File | Model
    return not (isinstance(value, str) and shape.text) and not isinstance(value, list)


def _to_file(value: Any, loc: Loc, problems: Problems) -> Any:
    try:
        return File.parse(value)
    except ValueError as exc:
        problems.add(loc, "file_invalid", str(exc))
        return None


async def fetch_links(inputs: Inputs, intake: Intake) -> None:
    """Replace every noted URL by the file behind it.

    A job keeps the file, not the link: a signed link is dead by the time a queued job runs. Raises
    ValidationFailed naming the values whose URL could not be read, so that a caller's bad link is a 422;
    an error of ours (no network, a full disk) passes as it is.
    """
    links, inputs.links = inputs.links, []
    if not links:
        return
    if intake.fetch is None:
        raise ValidationFailed(
            errors=[_link_error(link, "URLs are not read here; send the file") for link in links]
        )
    if len(links) > intake.max_links:
        raise PayloadTooLarge(f"a call may name at most {intake.max_links} URLs")
    gate = asyncio.Semaphore(_PARALLEL)
    outcomes = await asyncio.gather(*(_fetch(link, intake.fetch, gate) for link in links))
    errors = [error for error in outcomes if error is not None]
    if errors:
        raise ValidationFailed(errors=errors)


async def _fetch(link: _Link, fetch: Fetch, gate: asyncio.Semaphore) -> dict[str, Any] | None:
    async with gate:
        try:
            file = await fetch(link.url)
        except RouterError as exc:
            if exc.status >= 500 and exc.status not in (502, 504):
                raise
            return _link_error(link, exc.detail)
    link.holder[link.key] = file
    return None


def _link_error(link: _Link, message: str) -> dict[str, Any]:
    return {"loc": list(link.loc), "type": "file_url", "msg": message}
