"""Every route by every role, through the whole stack; made of the route table, so that none is forgotten."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from router_core import App, Router, Settings, build_app
from router_core.routing.path import parse_path
from router_core.routing.route import Route
from router_core.security.roles import ROLES
from tests.security.access_parts import KEYS, LADDER, ask, filled, methods_of, of_callers, refused, service

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = {"/health", "/health/ready", "/openapi.json", "/docs", "/open"}
DEVELOPERS = {"/api/route", "/api/routing/test", "/api/experiments/{experimentId}/scores"}
"""POSTs below /api that belong to calls of models."""
SECRETIVE = {
    "/api/keys",
    "/api/keys/{id}",
    "/api/audit",
    "/api/config/export",
    "/api/config/versions/{version}",
}
"""GETs below /api that are not for every reader."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[App]:
    """Run the service for all of these tests."""
    async with service() as running:
        yield running


def least(route: Route, method: str) -> str:
    """Return who may do this at least: what the design says, not what the route says of itself."""
    path = route.path
    if path in PUBLIC or path.startswith("/docs/"):
        return "public"
    if path in ("/special", "/paint/dear", "/managed/{name}") and method != "GET":
        return "admin"
    if path.startswith(("/jobs", "/status/", "/stream/", "/cancel/", "/v2/")) or path.startswith("/paint"):
        health = path.endswith("/health")
        submits = method == "POST" and path.startswith("/paint")
        return "developer" if submits else "viewer" if health else "nobody"
    if path.startswith("/v1/") or path == "/select_endpoint":
        return "viewer" if method == "GET" else "developer"
    if method == "GET":
        return "admin" if path in SECRETIVE else "viewer"
    if path in DEVELOPERS or path == "/items":
        return "developer"
    return "operator" if _operated(path, method) else "admin"


def _operated(path: str, method: str) -> bool:
    """Return whether it is among what operators change: how things stand, not how they are configured."""
    if path.startswith(("/api/endpoints/", "/api/rollouts/", "/api/experiments/")):
        return path.count("/") > 3 or path in ("/api/endpoints/wake", "/api/endpoints/sleep")
    return path.startswith("/api/models/") and path.endswith(("/status", "/health"))


# --- the table ---------------------------------------------------------------------------------------


def undecided(routes: tuple[Route, ...]) -> list[str]:
    """Return the routes that do not say who may come in."""
    return [
        route.key for route in routes
        if not (route.scopes or route.public or route.realm or route.any_caller)
    ]  # fmt: skip


async def test_every_route_says_what_it_asks_for(app: App) -> None:
    """Of core, jobs, workers, RunPod's shape, docs, keys, audit and gateway."""
    assert undecided(tuple(app.routes)) == []
    for path in (
        "/metrics", "/v2/{endpoint}/run", "/worker/claim", "/docs", "/api/keys", "/api/audit", "/api/route",
        "/v1/chat/completions", "/api/endpoints/wake", "/status/{job_id}",
    ):  # fmt: skip
        assert any(route.path == path for route in app.routes), path


@pytest.mark.parametrize("name", ["app", "batch", "gateway", "image", "text"])
async def test_every_route_of_the_examples_says_it(name: str) -> None:
    """They are what authors copy."""
    found = importlib.import_module(f"examples.{name}")
    router = found.router if hasattr(found, "router") else found.create_app()
    assert isinstance(router, Router)
    made = build_app(router, Settings(jobs="memory://", blobs="memory://", api_keys=f"a:{KEYS['ann']}"))
    assert undecided(tuple(made.routes)) == []


async def test_only_these_are_public(app: App) -> None:
    """And none of them does anything."""
    public = {route.path for route in app.routes if route.public}
    assert {path for path in public if not path.startswith("/docs/")} == PUBLIC
    assert all(route.methods == ("GET",) for route in app.routes if route.public)


# --- the matrix --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["", *LADDER])
async def test_each_role_may_do_what_it_is_for_and_nothing_more(app: App, who: str) -> None:
    """401 for strangers, 403 for those who are known; never a 500, whatever a body would have to say."""
    wrong = []
    rank = LADDER.index(who) if who else -1
    for route, method in of_callers(app):
        answer = await ask(app, method, filled(route), who)
        needed = least(route, method)
        may = needed == "public" or (bool(who) and rank >= LADDER.index(needed))
        expected = "" if may else "scope" if who else "stranger"
        if refused(answer) != expected or answer.status == 500:
            wrong.append((method, route.path, route.scopes, needed, answer.status, answer.code))
    assert wrong == []


async def test_worker_keys_open_the_routes_of_workers_alone(app: App) -> None:
    """And no other key opens those."""
    workers = [(route, method) for route in app.routes if route.realm for method in methods_of(route)]
    assert len(workers) >= 8
    for route, method in workers:
        for who in ("", *LADDER, "ann"):
            assert refused(await ask(app, method, filled(route), who)) == "stranger", route.path
        assert refused(await ask(app, method, filled(route), "box")) == "", route.path
    for route, method in of_callers(app):
        if not route.public:
            assert refused(await ask(app, method, filled(route), "box")) == "stranger", route.path


async def test_a_key_without_a_list_may_do_everything(app: App) -> None:
    """As ever; the jobs of others are another matter."""
    for route, method in of_callers(app):
        assert refused(await ask(app, method, filled(route), "ann")) == "", (method, route.path)


async def test_head_asks_for_what_get_does(app: App) -> None:
    """No way around by another method."""
    for route, method in of_callers(app):
        if method == "GET" and not route.public:
            assert refused(await ask(app, "HEAD", filled(route))) == "stranger", route.path


async def test_without_keys_nothing_changes() -> None:
    """Where nobody has to say who he is everything is open, on a loopback address."""
    async with service(api_keys="", keys="", worker_keys="") as app:
        for route, method in of_callers(app):
            assert refused(await ask(app, method, filled(route))) == "", (method, route.path)


@pytest.mark.parametrize("scope", sorted(frozenset().union(*ROLES.values()) - {"*"}))
async def test_each_scope_of_the_roles_opens_something(app: App, scope: str) -> None:
    """Or it would only look as if it were a right."""
    opened = [route.path for route in app.routes if any(scope in one.split("|") for one in route.scopes)]
    assert opened or scope in ("trials:manage", "jobs:manage"), scope


# --- the document ------------------------------------------------------------------------------------


async def test_the_document_is_the_route_table(app: App) -> None:
    """Row 23: neither more nor less, and each with the scopes that it asks for."""
    document = (await ask(app, "GET", "/openapi.json")).json()
    listed = {(path, method.upper()): item for path, each in document["paths"].items()
              for method, item in each.items()}  # fmt: skip
    shown = {
        (_template(route), method): route for route, method in of_callers(app) if route.include_in_schema
    }
    assert listed.keys() == shown.keys()
    for (path, method), route in shown.items():
        security = listed[path, method].get("security", [])
        named = {
            scheme: [one[scheme] for one in security if scheme in one] for scheme in ("bearer", "apiKey")
        }
        if route.public:
            assert security == [], path
            continue
        for choices in named.values():
            assert choices, path
            for scope in route.scopes:
                assert any(set(scope.split("|")) & set(choice) for choice in choices), (path, choices)
    assert [one["bearer"] for one in listed["/v1/models", "GET"]["security"] if "bearer" in one] == [
        ["models:call"], ["read"],
    ]  # fmt: skip


async def test_what_is_not_in_the_document(app: App) -> None:
    """Nothing but pages, files, the shapes of other platforms, and what workers use among themselves."""
    hidden = {route.path for route in app.routes if not route.include_in_schema}
    wrong = {path for path in hidden
             if not path.startswith(("/docs", "/v2/", "/worker/", "/paint")) }  # fmt: skip
    assert wrong == set()


def _template(route: Route) -> str:
    return parse_path(route.path).template
