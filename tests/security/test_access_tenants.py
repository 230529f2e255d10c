"""Two tenants and every id: what belongs to one does not exist for the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from router_core import App
from router_core.routing.path import parse_path
from router_core.routing.route import Route
from tests.security.access_parts import Answer, ask, filled, of_callers, refused, service

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "0123456789abcdef0123456789abcdef"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[App]:
    """Run the service for all of these tests."""
    async with service() as running:
        yield running


async def paint(app: App, who: str, prompt: str = "canary") -> str:
    """Have a job run to its end; returns its id."""
    made = await ask(app, "POST", "/paint", who, json.dumps({"prompt": prompt}).encode(), prefer="wait=20")
    found = await ask(app, "GET", "/jobs?limit=1", who)
    assert made.status == 200, made.body
    return str(found.json()["jobs"][0]["job_id"])


def told(answer: Answer, job_id: str) -> Any:
    """Return an answer without what differs between any two requests."""
    text = answer.body.decode().replace(job_id, "ID")
    value = json.loads(text) if text else None
    if isinstance(value, dict):
        value.pop("request_id", None)
    headers = {k: v.replace(job_id, "ID") for k, v in answer.headers.items() if k != "x-request-id"}
    return answer.status, value, headers


def jobs_of(app: App) -> list[tuple[Route, str]]:
    """Return the routes that name a job, each with each method."""
    return [each for each in of_callers(app) if "{job_id}" in each[0].path]


async def test_a_foreign_job_is_like_one_that_does_not_exist(app: App) -> None:
    """Poll, result, events, stream, cancel, retry, delete, in our words and in RunPod's: the same answer."""
    job_id = await paint(app, "ann")
    routes = jobs_of(app)
    assert len(routes) >= 14
    for route, method in routes:
        for who in ("ben", "developer", "viewer", "nobody"):
            foreign = told(await ask(app, method, filled(route, job_id=job_id), who), job_id)
            unknown = told(await ask(app, method, filled(route, job_id=UNKNOWN), who), UNKNOWN)
            assert foreign == unknown, (method, route.path, who)
            assert foreign[0] == 404, (method, route.path, who)
    foreign = told(await ask(app, "GET", f"/paint?job_id={job_id}", "ben"), job_id)
    assert foreign == told(await ask(app, "GET", f"/paint?job_id={UNKNOWN}", "ben"), UNKNOWN)
    mine = await ask(app, "GET", f"/jobs/{job_id}/result", "ann")
    assert (mine.status, mine.json()) == (200, "canary")


async def test_lists_and_purges_are_of_ones_own(app: App) -> None:
    """Nobody asks for those of another, and nobody cancels them by the way."""
    job_id = await paint(app, "ann")
    for who in ("ben", "developer", "viewer", "nobody"):
        assert job_id not in (await ask(app, "GET", "/jobs?limit=200", who)).body.decode()
        for owner in ("ann", "*"):
            answer = await ask(app, "GET", f"/jobs?owner={owner}", who)
            assert (refused(answer), answer.json()["scope"]) == ("scope", "jobs:manage")
    waiting = await ask(app, "POST", "/paint", "ann", b"{}", x_job_delay="1h")
    waiting_id = waiting.json()["job_id"]
    purged = await ask(app, "POST", "/v2/x/purge-queue", "ben")
    assert purged.json()["removed"] == 0
    assert (await ask(app, "GET", f"/jobs/{waiting_id}", "ann")).json()["status"] == "scheduled"
    assert (await ask(app, "POST", f"/cancel/{waiting_id}", "ann")).status == 200


async def test_a_key_of_an_idempotent_call_is_ones_own(app: App) -> None:
    """The same key of another caller is another job."""
    same = {"idempotency_key": "the-same", "x_job_delay": "1h"}
    ids = {(await ask(app, "POST", "/paint", who, b"{}", **same)).json()["job_id"] for who in ("ann", "ben")}
    assert len(ids) == 2


@pytest.mark.parametrize("who", ["operator", "admin"])
async def test_operators_see_the_jobs_of_all(app: App, who: str) -> None:
    """``jobs:manage``: read, result, events, list with owners, cancel."""
    job_id = await paint(app, "ann", f"for {who}")
    assert (await ask(app, "GET", f"/jobs/{job_id}", who)).json()["job_id"] == job_id
    assert (await ask(app, "GET", f"/jobs/{job_id}/result", who)).json() == f"for {who}"
    assert (await ask(app, "GET", f"/v2/x/status/{job_id}", who)).json()["status"] == "COMPLETED"
    assert (await ask(app, "GET", f"/jobs/{job_id}/events", who)).status == 200
    assert job_id not in (await ask(app, "GET", "/jobs", who)).body.decode()
    assert job_id in (await ask(app, "GET", "/jobs?owner=ann", who)).body.decode()
    listed = (await ask(app, "GET", "/jobs?owner=*&limit=200", who)).json()["jobs"]
    assert {one["owner"] for one in listed if one["job_id"] == job_id} == {"ann"}
    waiting = (await ask(app, "POST", "/paint", "ann", b"{}", x_job_delay="1h")).json()["job_id"]
    assert (await ask(app, "POST", f"/jobs/{waiting}/cancel", who)).json()["status"] == "cancelled"


async def test_a_retry_belongs_to_the_owner_and_is_held_to_the_scopes_of_its_route(app: App) -> None:
    """An operator may run it again for him; who may not call the route, may not by a retry."""
    waiting = (await ask(app, "POST", "/paint", "ann", b"{}", x_job_delay="1h")).json()["job_id"]
    await ask(app, "POST", f"/jobs/{waiting}/cancel", "ann")
    again = await ask(app, "POST", f"/jobs/{waiting}/retry", "operator", x_job_delay="1h")
    assert again.status == 202
    assert (await ask(app, "GET", f"/jobs/{again.json()['job_id']}", "ann")).status == 200
    dear = (await ask(app, "POST", "/paint/dear", "ann", b"{}", x_job_delay="1h")).json()["job_id"]
    await ask(app, "POST", f"/jobs/{dear}/cancel", "ann")
    for path in (f"/jobs/{dear}/retry", f"/v2/x/retry/{dear}"):
        answer = await ask(app, "POST", path, "operator")
        assert (refused(answer), answer.json()["scope"]) == ("scope", "dear")


async def test_a_route_that_an_input_names_is_judged_too(app: App) -> None:
    """RunPod's address is no way around the scopes of what it leads to."""
    for path, who, missing in (
        ("/paint/dear", "operator", "dear"), ("/paint", "viewer", "call|jobs"), ("/items", "viewer", "call"),
        ("/special", "operator", "special"),
    ):  # fmt: skip
        wanted = json.dumps({"input": {"path": path}}).encode()
        for verb in ("run", "runsync"):
            answer = await ask(app, "POST", f"/v2/x/{verb}", who, wanted)
            assert (refused(answer), answer.json()["scope"]) == ("scope", missing), (path, verb)


# --- workspaces --------------------------------------------------------------------------------------


def workspaces_of(app: App) -> list[tuple[Route, str, str]]:
    """Return the routes that name a workspace, with method and the parameter's name."""
    found = []
    for route, method in of_callers(app):
        names = [name for name in parse_path(route.path).names if "workspace" in name.lower()]
        found += [(route, method, name) for name in names]
    return found


async def test_a_foreign_workspace_is_like_one_that_does_not_exist(app: App) -> None:
    """For a caller who may act in one of them alone, whatever else he may do."""
    made = await ask(app, "POST", "/api/workspaces/ws-other/config", "admin", b'{"budgetLimits":{"daily":5}}')
    assert made.status in (200, 201), made.body
    routes = workspaces_of(app)
    assert len(routes) >= 2
    for route, method, name in routes:
        foreign = told(await ask(app, method, filled(route, **{name: "ws-other"}), "mine", b"{}"), "ws-other")
        unknown = told(
            await ask(app, method, filled(route, **{name: "ws-nowhere"}), "mine", b"{}"), "ws-nowhere"
        )
        assert foreign == unknown, (method, route.path)
        assert foreign[0] == 404, (method, route.path)
    found = await ask(app, "GET", "/api/workspaces/ws-other/config", "admin")
    assert found.json()["budgetLimits"]["daily"] == 5
    assert "ws-other" not in (await ask(app, "GET", "/api/workspaces", "mine")).body.decode()


async def test_what_is_about_all_workspaces_is_for_those_who_may_enter_all(app: App) -> None:
    """The audit log names the workspaces and keys of others, as do exports and metrics of budgets."""
    for path in ("/metrics", "/api/audit", "/api/config/export", "/api/config/versions"):
        assert (await ask(app, "GET", path, "admin")).status == 200, path
        answer = await ask(app, "GET", path, "mine")
        assert (answer.status, answer.code) == (403, "every_workspace"), path


async def test_changes_of_keys_and_configuration_are_in_the_audit_log(app: App) -> None:
    """With what they changed, and from which version to which; what was sent is not in it."""
    for path, body in (
        ("/api/workspaces/ws-audited/config", b'{"budgetLimits":{"daily":7777}}'),
        ("/api/keys", b'{"roles":["viewer"],"name":"canary-name"}'),
    ):
        made = await ask(app, "POST", path, "admin", body)
        assert made.status in (200, 201), made.body
    await next(each for each in app.parts.upkeep if each.name == "audit").tick()
    answer = await ask(app, "GET", "/api/audit?principal=admin&limit=200", "admin")
    found = {entry["route"]: entry for entry in reversed(answer.json()["entries"])}
    key, config = found["/api/keys"], found["/api/workspaces/{workspaceId}/config"]
    assert (config["outcome"], config["targets"]["workspaceId"]) == ("done", "ws-audited")
    assert int(config["after"]) == int(config["before"]) + 1
    assert "ws-audited" in config["targets"]["changed"]
    assert key["outcome"] == "done"
    assert len(key["targets"]) == 1
    for secret in (b"canary", b"7777", b"rk_"):
        assert secret not in answer.body
