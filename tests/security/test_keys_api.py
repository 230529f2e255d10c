"""``/api/keys``: made, shown once, listed, changed, rotated, revoked, and nobody gives more than he has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router_core import App, Router, Settings, build_app
from router_core.errors import Misconfigured
from router_core.telemetry.events import Events, Note
from router_core.testing.client import AsyncTestClient, TestClient, TestResponse
from router_core.testing.clock import FakeClock

ADMIN = "0123456789abcdef-root"
KEYS = f"root:{ADMIN}"
LIMIT = {"kind": "daily", "amount": 5_000_000, "onStoreFailure": "closed", "alerts": [80, 100]}

router = Router()


@router.get("/open", scopes=["read"])
def look() -> str:
    """Be there for viewers."""
    return "seen"


def service(clock: FakeClock, events: Events | None = None, **settings: Any) -> App:
    """Return a service whose keys are in its state."""
    given = {"api_keys": KEYS, "keys": "state", **settings}
    return build_app(
        router, Settings(jobs="memory://", blobs="memory://", **given), clock=clock, events=events
    )


@pytest.fixture
def clock() -> FakeClock:
    """The time of the service."""
    return FakeClock()


@pytest.fixture
async def admin(clock: FakeClock) -> AsyncIterator[AsyncTestClient]:
    """A service, and whoever may do everything."""
    async with TestClient(service(clock), api_key=ADMIN) as client:
        yield client


async def made(client: AsyncTestClient, **wishes: Any) -> dict[str, Any]:
    """Make a key."""
    answer = await client.post("/api/keys", json={"roles": ["viewer"], **wishes})
    assert answer.status == 201, answer.value
    value: dict[str, Any] = answer.value
    return value


async def with_key(client: AsyncTestClient, key: str, method: str, path: str, **options: Any) -> TestResponse:
    """Ask with another key."""
    return await client.request(method, path, headers={"authorization": f"Bearer {key}"}, **options)


async def test_a_key_from_its_beginning_to_its_end(admin: AsyncTestClient, clock: FakeClock) -> None:
    """Made, used, shown without its secret, changed, rotated, revoked."""
    answer = await admin.post(
        "/api/keys",
        json={
            "name": "ci",
            "roles": ["viewer"],
            "workspaces": ["ws-1"],
            "limits": [LIMIT],
            "expiresIn": 3600,
        },
    )
    key, path = answer.value["key"], answer.header("location") or ""
    assert (answer.status, path) == (201, f"/api/keys/{answer.value['id']}")
    assert answer.header("cache-control") == "no-store"
    assert answer.value["createdBy"] == "root"
    assert (await with_key(admin, key, "GET", "/open")).value == "seen"
    shown = await admin.get(path)
    assert (shown.value["status"], shown.value["limits"]) == ("active", [LIMIT])
    assert shown.value["lastUsedAt"]
    assert shown.value["expiresAt"] == "2023-11-14T23:13:20Z"
    assert key not in shown.content.decode()
    tag = shown.header("etag") or ""
    changed = await admin.patch(path, json={"name": "ci-2", "expiresAt": None}, headers={"if-match": tag})
    assert (changed.status, changed.value["name"], changed.value["expiresAt"]) == (200, "ci-2", None)
    assert changed.value["roles"] == ["viewer"]
    late = await admin.patch(path, json={"name": "ci-3"}, headers={"if-match": tag})
    assert (late.status, late.value["code"]) == (412, "precondition_failed")
    rotated = await admin.post(f"{path}/rotate", json={"overlapSeconds": 60})
    assert rotated.value["previousValidUntil"] == "2023-11-14T22:14:20Z"
    for each in (key, rotated.value["key"]):
        assert (await with_key(admin, each, "GET", "/open")).status == 200
    clock.advance(61)
    assert (await with_key(admin, key, "GET", "/open")).status == 401
    assert (await admin.delete(path)).status == 204
    assert (await with_key(admin, rotated.value["key"], "GET", "/open")).status == 401
    assert (await admin.get(path)).value["status"] == "revoked"
    assert (await admin.patch(path, json={"name": "back"})).status == 409
    assert (await admin.post(f"{path}/rotate")).status == 409
    assert (await admin.delete(path)).status == 204
    clock.advance(31 * 86400)
    assert (await admin.get(path)).status == 404


async def test_no_listing_shows_a_secret(admin: AsyncTestClient) -> None:
    """Nor its hash; pages follow each other and hold every key once."""
    keys = [await made(admin, name=f"key {number}") for number in range(7)]
    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        answer = await admin.get("/api/keys", query={"limit": 3, "cursor": cursor})
        text = answer.content.decode()
        assert not any(key["key"].split("_", 2)[2] in text for key in keys)
        assert "digest" not in text
        found += [each["id"] for each in answer.value["keys"]]
        cursor, pages = answer.value.get("cursor", ""), pages + 1
        assert pages < 10
    assert sorted(found) == sorted(key["id"] for key in keys)


WRONG: list[tuple[Any, str]] = [
    (b"", ""), (b"{", ""), (b"[]", ""), (b"null", ""), ("[" * 200_000, ""), ({}, "roles"),
    ({"roles": []}, "roles"), ({"roles": ["boss"]}, "roles"), ({"roles": "admin"}, "roles"),
    ({"roles": [1]}, "roles.0"), ({"scopes": ["a b"]}, "scopes.0"), ({"scopes": ["x" * 200]}, "scopes.0"),
    ({"roles": ["viewer"] * 101}, "roles"), ({"role": ["viewer"]}, "role"),
    ({"roles": ["viewer"], "id": "x"}, "id"),
    ({"roles": ["viewer"], "name": ""}, "name"), ({"roles": ["viewer"], "name": "a\nb"}, "name"),
    ({"roles": ["viewer"], "name": 7}, "name"), ({"roles": ["viewer"], "workspaces": []}, "workspaces"),
    ({"roles": ["viewer"], "workspaces": ["../x"]}, "workspaces.0"),
    ({"roles": ["viewer"], "workspaces": ["a"], "workspace": "b"}, "workspace"),
    ({"roles": ["viewer"], "tier": {}}, "tier"), ({"roles": ["viewer"], "limits": {}}, "limits"),
    ({"roles": ["viewer"], "limits": [{"kind": "daily"}]}, "limits.0.amount"),
    ({"roles": ["viewer"], "limits": [{"kind": "yearly", "amount": 1}]}, "limits.0.kind"),
    ({"roles": ["viewer"], "limits": [{"kind": "daily", "amount": -1}]}, "limits.0.amount"),
    ({"roles": ["viewer"], "limits": [{"kind": "daily", "amount": True}]}, "limits.0.amount"),
    ({"roles": ["viewer"], "limits": [LIMIT, LIMIT]}, "limits"),
    ({"roles": ["viewer"], "limits": [{**LIMIT, "alerts": [0]}]}, "limits.0.alerts"),
    ({"roles": ["viewer"], "limits": [{**LIMIT, "dollars": 1}]}, "limits.0.dollars"),
    ({"roles": ["viewer"], "expiresAt": "soon"}, "expiresAt"),
    ({"roles": ["viewer"], "expiresAt": 1}, "expiresAt"),
    ({"roles": ["viewer"], "expiresAt": "9999-12-31T23:59:59-12:00"}, "expiresAt"),
    ({"roles": ["viewer"], "expiresIn": -1}, "expiresIn"),
    ({"roles": ["viewer"], "expiresIn": 1e300}, "expiresIn"),
    ('{"roles": ["viewer"], "expiresIn": NaN}', "expiresIn"),
    ({"roles": ["viewer"], "expiresIn": 1, "expiresAt": None}, "expiresIn"),
]  # fmt: skip


async def test_bad_input_is_400_with_the_name_of_the_field(admin: AsyncTestClient) -> None:
    """And nothing was made."""
    for body, field in WRONG:
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        answer = await admin.post("/api/keys", body=raw, headers={"content-type": "application/json"})
        assert answer.status in ((413, 400) if len(raw) > 60_000 else (400,)), (raw[:80], answer.content)
        if answer.status == 400:
            assert ".".join(map(str, answer.value["errors"][0]["loc"][1:])) == field, raw[:80]
    assert (await admin.get("/api/keys")).value == {"keys": []}
    for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "-1"}, {"cursor": "\x00"}, {"cursor": "é"}):
        assert (await admin.get("/api/keys", query=query)).status == 400
    for key_id in ("nothing0", "..%2f..", "x" * 500, "ABCDEFGHIJKL", "rk_abcdefghijkl"):
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
            body = '{"name": "x"}' if method == "PATCH" else None
            assert (await admin.request(method, f"/api/keys/{key_id}{path}", body=body)).status == 404
    one = await made(admin)
    for body in (
        {"overlapSeconds": -1},
        {"overlapSeconds": "1"},
        {"overlap": 1},
        [],
        {"overlapSeconds": 1e9},
    ):
        assert (await admin.post(f"/api/keys/{one['id']}/rotate", json=body)).status == 400


async def test_nobody_gives_more_than_he_holds(admin: AsyncTestClient) -> None:
    """Neither in a new key, nor by changing or rotating one that is stronger than himself."""
    limits = [{"kind": "requests", "amount": 100}]
    manager = await made(
        admin, roles=["developer"], scopes=["keys:manage"], workspaces=["ws-1", "ws-2"], tier="gold",
        limits=limits, expiresIn=3600,
    )  # fmt: skip
    strong = await made(admin, roles=["admin"], workspaces=["ws-1"])
    free = await made(admin, roles=["viewer"], workspaces=["ws-1"])  # neither limits nor an end
    foreign = await made(admin, roles=["viewer"], workspaces=["ws-3"])
    key = manager["key"]
    bound = {"workspaces": ["ws-1"], "limits": limits, "expiresIn": 60}
    over: list[tuple[dict[str, Any], str]] = [
        ({"roles": ["admin"]}, "roles"), ({"roles": ["operator"]}, "roles"), ({"scopes": ["*"]}, "scopes"),
        ({"scopes": ["config:manage"]}, "scopes"), ({"roles": ["viewer"], "workspaces": ["*"]}, "workspaces"),
        ({"roles": ["viewer"], "workspaces": ["ws-1", "ws-3"]}, "workspaces"),
        ({"roles": ["viewer"], "tier": "platinum"}, "tier"), ({"roles": ["viewer"], "limits": []}, "limits"),
        ({"roles": ["viewer"], "limits": [{"kind": "requests", "amount": 101}]}, "limits"),
        ({"roles": ["viewer"], "expiresIn": 3601}, "expiresAt"),
        ({"roles": ["viewer"], "expiresIn": None}, "expiresAt"),
    ]  # fmt: skip
    for wishes, field in over:
        given = {name: value for name, value in {**bound, **wishes}.items() if value is not None}
        answer = await with_key(admin, key, "POST", "/api/keys", json=given)
        assert (answer.status, answer.value["code"]) == (403, "grant_exceeded"), wishes
        assert answer.value["errors"][0]["loc"] == ["body", field]
    mine = await with_key(
        admin, key, "POST", "/api/keys", json={**bound, "roles": ["viewer"], "tier": "gold"}
    )
    assert mine.status == 201
    own, others = f"/api/keys/{mine.value['id']}", f"/api/keys/{strong['id']}"
    assert (await with_key(admin, key, "PATCH", own, json={"roles": ["admin"]})).status == 403
    assert (await with_key(admin, key, "PATCH", others, json={"name": "mine"})).status == 403
    assert (await with_key(admin, key, "POST", f"{others}/rotate")).status == 403
    assert (await with_key(admin, key, "DELETE", others)).status == 403
    assert (await with_key(admin, key, "POST", f"/api/keys/{free['id']}/rotate")).status == 403
    assert (await with_key(admin, key, "POST", f"{own}/rotate")).status == 200
    itself = f"/api/keys/{manager['id']}"
    assert (await with_key(admin, key, "PATCH", itself, json={"expiresAt": None})).status == 403
    for method in ("GET", "DELETE"):
        assert (await with_key(admin, key, method, f"/api/keys/{foreign['id']}")).status == 404
    listed = (await with_key(admin, key, "GET", "/api/keys")).value["keys"]
    assert foreign["id"] not in {each["id"] for each in listed}
    assert (await with_key(admin, strong["key"], "GET", "/open")).status == 200


async def test_an_admin_is_held_to_his_own_limits_and_end(admin: AsyncTestClient) -> None:
    """One who is to be here for an hour makes no key that outlives him; tiers are his to give."""
    brief = await made(admin, roles=["admin"], limits=[LIMIT], expiresIn=3600)
    free = await made(admin, roles=["admin"])
    for wishes, field in (({"expiresIn": 60}, "limits"), ({"limits": [LIMIT]}, "expiresAt")):
        answer = await with_key(admin, brief["key"], "POST", "/api/keys", json={"roles": ["admin"], **wishes})
        assert (answer.status, answer.value["code"]) == (403, "grant_exceeded"), wishes
        assert answer.value["errors"][0]["loc"] == ["body", field]
    for method, path in (("POST", f"/api/keys/{free['id']}/rotate"), ("DELETE", f"/api/keys/{free['id']}")):
        assert (await with_key(admin, brief["key"], method, path)).status == 403
    within = {"roles": ["admin"], "limits": [LIMIT], "expiresIn": 60, "tier": "gold"}
    assert (await with_key(admin, brief["key"], "POST", "/api/keys", json=within)).status == 201
    assert (await with_key(admin, free["key"], "POST", f"/api/keys/{brief['id']}/rotate")).status == 200


async def test_only_who_manages_keys_comes_near_them(admin: AsyncTestClient) -> None:
    """An operator does not."""
    one = await made(admin, roles=["operator"])
    for method, path in (("GET", "/api/keys"), ("POST", "/api/keys"), ("GET", f"/api/keys/{one['id']}")):
        assert (await with_key(admin, one["key"], method, path)).status == 403
        assert (await admin.request(method, path, headers={"authorization": ""})).status == 401


async def test_changes_at_the_same_time_are_all_made(admin: AsyncTestClient) -> None:
    """None of them undoes another."""
    import asyncio

    one = await made(admin)
    path = f"/api/keys/{one['id']}"
    wishes = ({"name": "other"}, {"tier": "gold"}, {"limits": [LIMIT]}, {"roles": ["developer"]})
    answers = await asyncio.gather(*(admin.patch(path, json=wish) for wish in wishes))
    assert {answer.status for answer in answers} == {200}
    now = (await admin.get(path)).value
    assert (now["name"], now["tier"], now["limits"], now["roles"]) == (
        "other",
        "gold",
        [LIMIT],
        ["developer"],
    )


async def test_an_empty_house_does_not_open_a_public_address(clock: FakeClock) -> None:
    """And says on a private one that nobody can come in."""
    public = service(clock, api_keys="", host="0.0.0.0")
    with pytest.raises(Misconfigured, match="router-core keys create --role admin"):
        await public.start()
    seen: list[object] = []
    events = Events()
    events.subscribe(seen.append)
    async with TestClient(service(clock, events, api_keys="")) as client:
        assert any(isinstance(note, Note) and note.name == "no_keys" for note in seen)
        assert (await client.get("/open")).status == 401
        assert (await client.get("/health")).status == 200


async def test_a_state_that_is_set_up_wrongly_is_told_at_the_start(clock: FakeClock, tmp_path: Path) -> None:
    """Also where there are other keys: nobody would know why those of the state do not open."""
    (tmp_path / "state.db").write_text("something else, and more than a few letters of it" * 100)
    wrong = service(clock, state=f"sqlite:///{tmp_path}/state.db")
    with pytest.raises(Misconfigured):
        await wrong.start()
    await wrong.stop()


async def test_the_document_tells_of_them(admin: AsyncTestClient) -> None:
    """With the ways to say who one is."""
    document = (await admin.get("/openapi.json")).value
    assert {"/api/keys", "/api/keys/{id}", "/api/keys/{id}/rotate"} <= document["paths"].keys()
    assert document["components"]["securitySchemes"]


async def test_without_the_setting_there_are_no_such_routes(clock: FakeClock) -> None:
    """Keys of the setting cannot be changed over HTTP."""
    async with TestClient(service(clock, keys=""), api_key=ADMIN) as client:
        assert (await client.get("/api/keys")).status == 404
