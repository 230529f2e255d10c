"""What the tests of access share: a service with every kind of route, and keys for every role."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from handlers.local.provider import local_routes
from router_core import App, JobProgress, Router, Settings, build_app
from router_core.gateway.config.load import parse_config
from router_core.gateway.gateway import Gateway
from router_core.http.message import Headers, Request, Response
from router_core.routing.route import Route
from tests.gateway.serving import models_yaml

__all__ = ["KEYS", "LADDER", "Answer", "ask", "filled", "make_router", "methods_of", "nothing", "of_callers",
           "refused", "service"]  # fmt: skip

LADDER: Final = ("nobody", "viewer", "developer", "operator", "admin")
"""Callers with a key, each of whom may do what those before him may."""
KEYS: Final = {name: f"0123456789abcdef-{name}" for name in (*LADDER, "ann", "ben", "box", "mine")}
_ENTRIES: Final = ",".join(
    [
        f"nobody:{KEYS['nobody']}:nothing:at-all",
        *(f"{role}:{KEYS[role]}:{role}" for role in LADDER[1:]),
        f"ann:{KEYS['ann']}", f"ben:{KEYS['ben']}",
        f"mine:{KEYS['mine']}:operator|config:manage|audit:read@ws-mine",
    ]
)  # fmt: skip
_CONFIG: Final = models_yaml(
    "http://127.0.0.1:9", more="endpoints:\n  - {name: e1, driver: none, url: 'http://127.0.0.1:9'}"
)


async def nothing(request: Request) -> Response:
    """Answer with nothing."""
    return Response(204)


def make_router() -> Router:
    """Return routes of every kind that an author writes."""
    router = Router()

    @router.get("/open", public=True)
    async def open_() -> str:
        return "open"

    @router.get("/items/{item_id}")
    async def read(item_id: str) -> str:
        return item_id

    @router.post("/items")
    async def make() -> str:
        return "made"

    @router.get("/words")
    async def words() -> AsyncIterator[str]:
        yield "word"

    @router.put("/special", scopes=["special"])
    async def special() -> str:
        return "special"

    @router.patch("/managed/{name}", scopes=["things:manage"])
    async def managed(name: str) -> str:
        return name

    @router.route("/paint")
    async def paint(job_progress: JobProgress, prompt: str = "") -> str:
        return prompt

    @router.route("/paint/dear", scopes=["dear"])
    async def paint_dear(prompt: str = "") -> str:
        return prompt

    return router


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[App]:
    """Run the core with all that it can serve, the gateway, and the pages of the local server."""
    router = make_router()
    router.include_router(Gateway(parse_config(_CONFIG, "gateway.yaml", {})).router)
    given = {
        "jobs": "memory://", "blobs": "memory://", "api_keys": _ENTRIES, "keys": "state",
        "worker_keys": f"box:{KEYS['box']}", **settings,
    }  # fmt: skip
    app = build_app(router, Settings(**given), extra_routes=local_routes)
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0)


class Answer:
    """An answer, read to its end."""

    def __init__(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
        self.status = status
        self.body = body
        self.headers = {name.lower(): value for name, value in headers}

    @property
    def code(self) -> str:
        """The word that says why it was refused."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return ""
        return str(value.get("code", "")) if isinstance(value, dict) else ""

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


async def ask(app: App, method: str, path: str, who: str = "", body: bytes = b"", **headers: str) -> Answer:
    """Send one request with somebody's key; of a stream only the beginning is read."""
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if who:
        fields.append(("authorization", f"Bearer {KEYS[who]}"))
    if body:
        fields.append(("content-type", "application/json"))
    path, _, query = path.partition("?")
    answer = await app.handle(Request(method, path, query, Headers(fields), body))
    found = answer.body
    if not isinstance(found, bytes):
        stream, found = found, b""
        async for chunk in stream:
            found = chunk
            break
        await stream.aclose()  # type: ignore[attr-defined]
    return Answer(answer.status, found, answer.headers)


def refused(answer: Answer) -> str:
    """Return how a caller was kept out: stranger, scope, or nothing if he was let in."""
    if answer.status == 401:
        return "stranger"
    return "scope" if answer.status == 403 and answer.code == "scope_missing" else ""


def methods_of(route: Route) -> Iterator[str]:
    """Return the methods that a route can be asked by."""
    yield from (method for method in route.methods if method not in ("HEAD", "OPTIONS"))


def filled(route: Route, **values: str) -> str:
    """Return a path of the route."""
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values.get(found[1], "unknown-0"), route.path)


def of_callers(app: App) -> Iterator[tuple[Route, str]]:
    """Return every route that callers open, with each of its methods."""
    for route in app.routes:
        if not route.realm:
            yield from ((route, method) for method in methods_of(route))
