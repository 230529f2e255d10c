"""Markers that say where a parameter comes from.

Both spellings work: ``page: Annotated[int, Query(ge=1)] = 1`` and ``page: int = Query(1, ge=1)``.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from router_core.records import dataclass

__all__ = ["BARE", "UNSET", "Body", "Cookie", "Form", "Header", "Path", "Query", "Source", "SourceName"]

SourceName = Literal["path", "query", "header", "cookie", "body", "form"]

UNSET: Final[Any] = ...
"""No default: the value is required."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a marker holds."""

    name: SourceName
    default: Any
    alias: str
    """Name on the wire; empty: the parameter's own (a header's with ``-`` for ``_``)."""
    embed: bool | None
    """Body only. True: under its name; False: the whole body; None: the rule of the plan decides."""
    field: FieldInfo
    """Constraints and documentation, in pydantic's words."""


def _source(
    name: SourceName, default: Any, alias: str, constraints: dict[str, Any], embed: bool | None = None
) -> Source:
    return Source(name, default, alias, embed, Field(**constraints))


def Query(default: Any = UNSET, *, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from the query string; a list collects every occurrence."""
    return _source("query", default, alias, constraints)


def Path(default: Any = UNSET, *, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from the path."""
    return _source("path", default, alias, constraints)


def Header(default: Any = UNSET, *, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from a header: ``user_agent`` is ``user-agent`` unless ``alias`` says otherwise."""
    return _source("header", default, alias, constraints)


def Cookie(default: Any = UNSET, *, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from a cookie."""
    return _source("cookie", default, alias, constraints)


def Body(default: Any = UNSET, *, embed: bool | None = None, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from the body only, never from the query."""
    return _source("body", default, alias, constraints, embed)


def Form(default: Any = UNSET, *, alias: str = "", **constraints: Any) -> Any:
    """Take the parameter from a form field (urlencoded or multipart); JSON is answered with 415."""
    return _source("form", default, alias, constraints)


BARE: Final = {Query: "query", Path: "path", Header: "header", Cookie: "cookie", Body: "body", Form: "form"}
"""A marker written without its parentheses: ``Annotated[str, Header]``."""
