"""The REST API of keys: ``/api/keys``. A secret is in the answer that makes it, and in no other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import BadRequest, HTTPError, NotFound
from router_core.http.message import Request, Response
from router_core.routing.product import Handler, product_route
from router_core.routing.route import Route
from router_core.security.audit import audited
from router_core.security.key_grants import Grants
from router_core.security.key_openapi import describe
from router_core.security.key_records import KeyRecord
from router_core.security.key_wishes import read_overlap, read_wishes, wrong
from router_core.security.known_keys import KnownKeys
from router_core.security.roles import ROLES
from router_core.security.stored_keys import Kept, KeyRoom

__all__ = ["SCOPE", "key_routes"]

SCOPE: Final = "keys:manage"
_ID: Final = re.compile(r"[a-z0-9]{8,32}\Z")
_PRIVATE: Final = (("cache-control", "no-store"),)
_USUAL_PAGE: Final = 50
_LARGEST_PAGE: Final = 100
_LARGEST_BODY: Final = 64 * 1024


def key_routes(
    room: KeyRoom, known: KnownKeys, clock: Clock, roles: Mapping[str, frozenset[str]] = ROLES
) -> list[Route]:
    """Return the routes; each needs the scope ``keys:manage``."""
    api = _Api(room, known, clock, roles)
    table: tuple[tuple[str, str, Handler, str], ...] = (
        ("POST", "/api/keys", api.create, "Make an API key"),
        ("GET", "/api/keys", api.listing, "List API keys"),
        ("GET", "/api/keys/{id}", api.show, "Describe an API key"),
        ("PATCH", "/api/keys/{id}", api.update, "Change an API key"),
        ("DELETE", "/api/keys/{id}", api.revoke, "Revoke an API key"),
        ("POST", "/api/keys/{id}/rotate", api.rotate, "Give an API key another secret"),
    )
    return [
        product_route(
            method,
            path,
            handler,
            summary,
            scopes=(SCOPE,),
            tags=("keys",),
            max_body_bytes=_LARGEST_BODY,
            meta={"openapi": describe(method, path)},
        )
        for method, path, handler, summary in table
    ]


class _Api:
    """The handlers."""

    def __init__(
        self, room: KeyRoom, known: KnownKeys, clock: Clock, roles: Mapping[str, frozenset[str]]
    ) -> None:
        self._room = room
        self._known = known
        self._clock = clock
        self._roles = roles

    async def create(self, request: Request) -> Response:
        """Make a key. Its secret is in this answer alone: nothing can show it again."""
        wishes = read_wishes(request.body, self._clock.now())
        grants = await self._grants(request)
        if not wishes.get("roles") and not wishes.get("scopes"):
            raise wrong("body", "roles", "or scopes have to say what the key may do")
        wishes.setdefault("name", "")
        wishes.setdefault("workspaces", tuple(sorted(request.principal.workspaces)))
        grants.check_grant(KeyRecord("", digest=b"", **wishes))
        kept, made = await self._room.create(wishes, request.principal.id)
        self._known.forget(made.id)
        audited(after=kept.version, id=made.id)
        body = {**kept.record.shown(self._clock.now()), "key": made.key}
        place = f"{request.root}/api/keys/{made.id}"
        return Response.json(body, 201, (*_PRIVATE, ("location", place), _tag(kept)))

    async def listing(self, request: Request) -> Response:
        """List the keys that the caller may see, by id; ``cursor`` of the answer leads to the next page."""
        cursor, limit = _paging(request)
        grants = await self._grants(request)
        page, following = await self._room.page(cursor, limit)
        seen = [kept.record for kept in page if grants.sees(kept.record)]
        used = await self._room.last_used([record.id for record in seen])
        now = self._clock.now()
        body: dict[str, Any] = {"keys": [r.shown(now, at) for r, at in zip(seen, used, strict=True)]}
        if following:
            body["cursor"] = following
        return Response.json(body, headers=_PRIVATE)

    async def show(self, request: Request) -> Response:
        """Describe a key: everything but its secret."""
        kept, _ = await self._kept(request)
        (used,) = await self._room.last_used([kept.record.id])
        return Response.json(kept.record.shown(self._clock.now(), used), headers=(*_PRIVATE, _tag(kept)))

    async def update(self, request: Request) -> Response:
        """Change what a key may do, its name, limits or end. What is not named stays as it is."""
        wishes = read_wishes(request.body, self._clock.now())
        kept, grants = await self._kept(request)

        def allowed(before: KeyRecord, after: KeyRecord) -> None:
            grants.check_holds(before)
            grants.check_grant(after)

        changed = await self._room.update(kept.record.id, wishes, allowed, _version(request, kept))
        self._known.forget(kept.record.id)
        audited(before=kept.version, after=changed.version)
        return Response.json(changed.record.shown(self._clock.now()), headers=(*_PRIVATE, _tag(changed)))

    async def rotate(self, request: Request) -> Response:
        """Give a key another secret; the one before opens for ``overlapSeconds`` (a day) longer."""
        overlap = read_overlap(request.body)
        kept, grants = await self._kept(request)
        changed, made = await self._room.rotate(
            kept.record.id, overlap, grants.check_holds, _version(request, kept)
        )
        self._known.forget(kept.record.id)
        audited(before=kept.version, after=changed.version)
        body = {**changed.record.shown(self._clock.now()), "key": made.key}
        return Response.json(body, headers=(*_PRIVATE, _tag(changed)))

    async def revoke(self, request: Request) -> Response:
        """Let a key open nothing any more. It stays to be seen for 30 days."""
        kept, grants = await self._kept(request)
        changed = await self._room.revoke(kept.record.id, grants.check_holds, _version(request, kept))
        self._known.forget(kept.record.id)
        audited(before=kept.version, after=changed.version)
        return Response(204)

    async def _grants(self, request: Request) -> Grants:
        """Return what the caller may do with keys."""
        caller = request.principal
        own = await self._room.find(caller.id[4:]) if caller.id.startswith("key:") else None
        return Grants(caller, self._roles, own.record.expires_at if own is not None else None)

    async def _kept(self, request: Request) -> tuple[Kept, Grants]:
        """Return the key that the path names; raises NotFound for one that is not the caller's to see."""
        key_id = request.path_params["id"]
        grants = await self._grants(request)
        kept = await self._room.find(key_id) if _ID.match(key_id) else None
        if kept is None or not grants.sees(kept.record):
            raise NotFound("there is no such key")
        return kept, grants


def _tag(kept: Kept) -> tuple[str, str]:
    return "etag", f'"{kept.version}"'


def _version(request: Request, kept: Kept) -> str | None:
    """Return the version that If-Match asks for; raises 412 where it is another one."""
    value = request.headers.get("if-match", "").strip()
    if value in ("", "*"):
        return None
    if f'"{kept.version}"' not in [part.strip() for part in value.split(",")]:
        raise HTTPError(412, "the key has been changed meanwhile", code="precondition_failed")
    return kept.version


def _paging(request: Request) -> tuple[str, int]:
    try:
        query = dict(request.query_items())
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    text = query.get("limit", str(_USUAL_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise wrong("query", "limit", "must be a number from 1 on")
    cursor = query.get("cursor", "")
    if len(cursor) > 512 or not cursor.isascii() or not cursor.isprintable():
        raise wrong("query", "cursor", "is none of ours")
    return cursor, min(int(text), _LARGEST_PAGE)
