"""Reading a query whose mistakes are answered with 400 and the name of the parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from router_core.errors import BadRequest
from router_core.http.message import Request

__all__ = ["MOMENT", "number", "parameter", "query_of", "responses", "wrong"]

MOMENT: Final = (
    r"^(|[0-9]{1,10}(\.[0-9]{1,6})?"
    r"|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?)$"
)
"""What a moment looks like, for the OpenAPI document; a parameter that is empty is none."""


def wrong(name: str, message: str) -> BadRequest:
    """Return the error for a parameter that cannot be used."""
    said = {"loc": ["query", name], "msg": message, "type": "invalid"}
    return BadRequest(f"{name}: {message}", code="invalid_parameter", extra={"errors": [said]})


def query_of(request: Request, known: Iterable[str]) -> dict[str, str]:
    """Return the parameters of a query; those that are empty are left out. Raises BadRequest."""
    try:
        pairs = request.query_items()
    except (ValueError, UnicodeError):
        raise wrong("query", "is not UTF-8") from None
    allowed, found = tuple(known), dict[str, str]()
    for name, value in pairs:
        if name not in allowed:
            raise wrong(name[:80], f"there is no such parameter; there are {', '.join(allowed)}")
        if name in found:
            raise wrong(name, "is given twice")
        found[name] = value.strip()
    return {name: value for name, value in found.items() if value}


def number(given: dict[str, str], name: str, default: int, most: int) -> int:
    """Return a whole number from 1 to ``most``. Raises BadRequest."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise wrong(name, f"must be a whole number from 1 to {most}")
    return int(text)


def parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Describe a parameter of a query for the OpenAPI document."""
    return {
        "name": name, "in": "query", "required": False, "description": description,
        "schema": {"type": "string", **schema},
    }  # fmt: skip


def responses(description: str, *, missing: bool = False) -> dict[str, Any]:
    """Describe the answers of a route for the OpenAPI document."""
    problem = {"$ref": "#/components/responses/Problem"}
    content = {"application/json": {"schema": {"type": "object"}}}
    told = {"200": {"description": description, "content": content}, "400": problem}
    if missing:
        told["404"] = problem
    return {**told, "4XX": problem, "5XX": problem}
