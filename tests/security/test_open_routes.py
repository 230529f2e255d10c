"""What a whole service shows to callers without a key, and to keys without a scope: every route is asked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from handlers.local.provider import local_routes
from router_core import App, Router, Settings, build_app
from router_core.http.message import Headers, Request

READER = "0123456789abcdef-reader"
OPEN = {"/health", "/health/ready", "/docs", "/openapi.json", "/hello"}
"""The files of the page at /docs are open as well."""

router = Router()


@router.get("/hello", public=True)
def hello() -> str:
    """Be there for everybody."""
    return "hello"


@router.get("/items/{item_id}")
def item(item_id: str) -> str:
    """Answer at once."""
    return item_id


@router.route("/paint", scopes=["paint"])
def paint(prompt: str = "") -> str:
    """Be a job for few."""
    return prompt


@router.put("/items/{item_id}", scopes=["write"])
def change(item_id: str) -> str:
    """Answer few at once."""
    return item_id


@router.get("/words", scopes=["read", "words"])
async def words() -> AsyncIterator[str]:
    """Stream to few."""
    yield "word"


def service() -> App:
    """Return a service as the local provider assembles it."""
    settings = Settings(jobs="memory://", blobs="memory://", api_keys=f"reader:{READER}:words")
    return build_app(router, settings, extra_routes=local_routes)


async def statuses(app: App, *, scoped: bool = False, key: str = "") -> dict[tuple[str, str], int]:
    """Ask every route by every method that it has."""
    headers = Headers([("authorization", f"Bearer {key}")] if key else [])
    found = {}
    for route in app.routes:
        if not scoped or route.scopes:
            for method in route.methods:
                request = Request(method, re.sub(r"\{[^}]*\}", "x", route.path), headers=headers)
                found[method, route.path] = (await app.handle(request)).status
    return found


def is_open(path: str) -> bool:
    """Return whether a path is meant to be open to everybody."""
    return path in OPEN or path.startswith("/docs/")


async def test_what_is_open_to_everybody() -> None:
    """Probes, the documentation and what the author says; all else asks for a key."""
    app = service()
    await app.start()
    try:
        found = await statuses(app)
    finally:
        await app.stop(0)
    assert {path for _, path in found if path in OPEN} == OPEN
    assert {("GET", "/metrics"), ("GET", "/health/detailed"), ("GET", "/jobs"), ("POST", "/paint")} <= {
        *found
    }
    wrong = {call: status for call, status in found.items() if status != (200 if is_open(call[1]) else 401)}
    assert not wrong


async def test_a_key_without_the_scope_is_refused_on_every_scoped_route() -> None:
    """Some of the scopes are not enough."""
    app = service()
    await app.start()
    try:
        found = await statuses(app, scoped=True, key=READER)
    finally:
        await app.stop(0)
    assert {("POST", "/paint"), ("PUT", "/items/{item_id}"), ("GET", "/words")} <= set(found)
    assert set(found.values()) == {403}, found
