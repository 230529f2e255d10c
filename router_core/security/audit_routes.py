"""``GET /api/audit``: read the audit log, newest first."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import pydantic_core

from router_core.errors import BadRequest
from router_core.http.message import Request, Response
from router_core.routing.permission import check_every_workspace
from router_core.routing.product import product_route
from router_core.routing.route import Route
from router_core.security.audit import ROOM, AuditTrail

__all__ = ["audit_routes"]

_MAX_PAGE: Final = 200
_PAGES: Final = 10
"""Pages that one request looks through for entries of one principal."""
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,1000}\Z")
_LIMIT: Final = re.compile(r"[0-9]{1,3}\Z")
_PARAMETERS: Final = [
    {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
    for name, text, schema in (
        ("since", "No entries before this moment: RFC 3339, or seconds since 1970.", {"type": "string"}),
        ("principal", "Only what this caller did.", {"type": "string"}),
        ("limit", "Entries of a page.", {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE}),
        ("cursor", "From the page before.", {"type": "string"}),
    )
]


def audit_routes(trail: AuditTrail) -> list[Route]:
    """Return the route; it is for administrators."""

    async def audit(request: Request) -> Response:
        """Tell who changed what, newest first.

        A page may hold fewer entries than there are and still have a cursor. Entries of one process are a
        chain of hashes (`previous`, `hash`). It is for callers who may enter every workspace.
        """
        check_every_workspace(request.principal)
        asked = _query(request)
        since, who = _moment(asked.get("since", "")), asked.get("principal", "")
        entries, cursor = await _page(trail, since, who, _limit(asked), _cursor(asked.get("cursor", "")))
        body: dict[str, Any] = {"entries": entries}
        if cursor:
            body["cursor"] = base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")
        return Response.json(body, headers=(("cache-control", "no-store"),))

    return [
        product_route(
            "GET", "/api/audit", audit, "Read the audit log", scopes=("audit:read",), tags=("audit",),
            meta={"openapi": {"parameters": _PARAMETERS, "responses": _RESPONSES}},
        )
    ]  # fmt: skip


_RESPONSES: Final[dict[str, Any]] = {
    "200": {
        "description": "Entries",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["entries"],
                    "properties": {
                        "entries": {"type": "array", "items": {"type": "object"}},
                        "cursor": {"type": "string"},
                    },
                }
            }
        },
    },
    "4XX": {"$ref": "#/components/responses/Problem"},
    "5XX": {"$ref": "#/components/responses/Problem"},
}


async def _page(
    trail: AuditTrail, since: float, who: str, limit: int, cursor: str
) -> tuple[list[Mapping[str, Any]], str]:
    """Look through pages until one has something, or the log ends."""
    found: list[Mapping[str, Any]] = []
    for _ in range(_PAGES):
        page = await trail.state().entries(ROOM, cursor=cursor, limit=limit)
        cursor = page.cursor
        for entry in page.entries:
            value = pydantic_core.from_json(entry.value)
            if value.get("time", 0) < since:
                return found, ""
            if not who or value.get("principal") == who:
                found.append(value)
        if found or not cursor:
            break
    return found, cursor


def _query(request: Request) -> dict[str, str]:
    try:
        asked = dict(request.query_items())
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    unknown = sorted(set(asked) - {"since", "principal", "limit", "cursor"})
    if unknown:
        raise BadRequest(f"there is no parameter {unknown[0][:80]!r}: since, principal, limit, cursor")
    return asked


def _limit(asked: Mapping[str, str]) -> int:
    text = asked.get("limit", "50")
    if not _LIMIT.match(text) or not 1 <= int(text) <= _MAX_PAGE:
        raise BadRequest(f"limit must be between 1 and {_MAX_PAGE}")
    return int(text)


def _moment(text: str) -> float:
    if not text:
        return 0.0
    try:
        if re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", text):
            return float(text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise BadRequest("since must be a moment: 2026-01-31T12:00:00Z, or seconds since 1970") from None


def _cursor(text: str) -> str:
    if not text:
        return ""
    try:
        if _CURSOR.match(text):
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        pass
    raise BadRequest("cursor must come from the page before")
