"""The routes of the control plane: what they refuse, races, pages, tenants, and all of it at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from router_core.gateway.config.load import parse_config
from tests.gateway.serving import House, Reply, house

FILE = """
models: [{id: file-model, type: text-generation, aliases: [known], clients: [{type: scripted}]}]
routing_rules: [{name: File rule, targetModels: [{modelId: file-model}], priority: 5}]
workspaces: {file-ws: {budgetLimits: {daily: 1}}}
agents: {file-agent: {preferredModels: [file-model]}}
"""
KEYS: dict[str, Any] = {
    "api_keys": "root:root-key-0123456789:*,ann:ann-key-0123456789:read,tom:tom-key-0123456789:admin@ours"
}


def model(name: str = "a", **more: Any) -> dict[str, Any]:
    """Return the body of a model."""
    return {"id": name, "name": name.upper(), "provider": "scripted", **more}


def rule(name: str = "R", **more: Any) -> dict[str, Any]:
    """Return the body of a rule."""
    return {"name": name, "targetModels": [{"modelId": "file-model"}], **more}


def said(reply: Reply) -> list[str]:
    """Return the fields that a 400 names."""
    assert reply.status == 400, reply.body
    return [each["field"] for each in reply.json()["errors"]]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": "x"}, "provider"),
    ({"name": 5, "provider": "scripted"}, "name"),
    ({"name": "x" * 300, "provider": "scripted"}, "name"),
    (model(provider="opnai"), "provider"),
    (model(temprature=1), "temprature"),
    (model(modelType="chatty"), "modelType"),
    (model(status="on"), "status"),
    (model(tags="fast"), "tags"),
    (model(tags=["a", 5]), "tags[1]"),
    (model(capabilities=[{"maxTokens": 5}]), "capabilities[0].type"),
    (model(capabilities={"type": "x"}), "capabilities"),
    (model(parameters={"temperature": "hot"}), "parameters.temperature"),
    (model(parameters={"temperature": 3}), "parameters.temperature"),
    (model(parameters={"maxTokens": 1.5}), "parameters.maxTokens"),
    (model(parameters={"max_tokens": 5}), "parameters.max_tokens"),
    (model(parameters={"temperature": 1}, modelType="embedding"), "parameters"),
    (model(endpoints={}), "endpoints"),
    (model(endpoints=[{}]), "endpoints[0].url"),
    (model(endpoints=[{"url": "https://a.example/v1"}] * 2), "endpoints[1].id"),
    (model(limits={"budgetLimits": {"daily": -1}}), "limits.budgetLimits.daily"),
    (model(price={"input": -1}), "price.input"),
    (model(contextLength=0), "contextLength"),
    (model(id="a/b"), "id"),
    (model(id="batch"), "id"),
    (model(id=""), "id"),
    (model(id=["a"]), "id"),
    (model(aliases=["a"] + ["b"] * 10_001), "aliases"),
    (model(description="x" * 200_000), "description"),
]


async def test_a_model_that_cannot_be_names_its_field() -> None:
    """With 400, and nothing has changed."""
    async with house(FILE) as made:
        for body, field in WRONG:
            assert said(await made.ask("/api/models", body)) == [field]
        assert made.gateway.control.version == 0


async def test_an_unknown_field_is_told_with_the_one_that_was_meant() -> None:
    """As in rules, so everywhere."""
    async with house(FILE) as made:
        for path, body, meant in (
            ("/api/models", model(modeltype="chat"), "modelType"),
            ("/api/models", model(endpoints=[{"url": "", "healthcheckUrl": ""}]), "healthCheckUrl"),
            ("/api/routing/rules", rule(target_models=[]), "targetModels"),
            ("/api/agents/x/preferences", {"preferedModels": []}, "preferredModels"),
            ("/api/workspaces/x/config", {"budgetLimit": {}}, "budgetLimits"),
            ("/api/models/file-model/health", {"status": "healthy", "responsTime": 1}, "responseTime"),
            ("/api/config/import", {"config": {"routingrules": []}}, "routingRules"),
        ):  # fmt: skip
            reply = await made.ask(path, body)
            assert reply.status == 400
            assert f"did you mean {meant}?" in reply.json()["detail"], reply.body


async def test_what_is_no_json_object_is_400() -> None:
    """On every route that takes a body."""
    wrong = (b"", b"[]", b"null", b"{", b'{"a": 1, "a": 2}', b"\xff", b'{"a": NaN}')
    async with house(FILE) as made:
        document = (await made.ask("/openapi.json")).json()
        asked = [
            (method.upper(), path.replace("{", "").replace("}", ""))
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if "control" in operation["tags"] and "requestBody" in operation
        ]
        assert len(asked) > 15
        for number, (method, path) in enumerate(asked):
            for data in wrong if number < 3 else (b"", wrong[number % len(wrong)]):
                reply = await made.ask(path, data, method)
                assert reply.status == 400, (method, path, reply.body)


async def test_another_content_type_is_415() -> None:
    """A form is no model."""
    async with house(FILE) as made:
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await made.ask("/api/models", b"name=x", headers=form)).status == 415


async def test_what_the_file_says_is_the_files() -> None:
    """It is shown, and changes there."""
    whole = {
        "/api/models/file-model": model("file-model"),
        "/api/routing/rules/File rule": rule("File rule"),
        "/api/workspaces/file-ws/config": {},
        "/api/agents/file-agent/preferences": {},
    }
    async with house(FILE) as made:
        for path, body in whole.items():
            shown = await made.ask(path)
            assert (shown.status, shown.json()["managedBy"]) == (200, "file"), path
            for method in ("DELETE", "PATCH", "PUT"):
                if method == "PATCH" and path.endswith("preferences"):
                    continue
                given = {"DELETE": None, "PATCH": {}, "PUT": body}[method]
                reply = await made.ask(path, given, method)
                assert (reply.status, reply.json()["code"]) == (409, "configured_by_file"), (method, path)
        reply = await made.ask("/api/models", model("known"))
        assert (reply.status, reply.json()["code"]) == (409, "configured_by_file")
        assert made.gateway.control.version == 0


async def test_what_the_file_has_taken_can_be_taken_away() -> None:
    """What lies under a name of the file goes, and the file's stays."""
    async with house("models: []") as made:
        await made.ask("/api/models", model("file-model"))
        await made.ask("/api/agents/file-agent/preferences", {"preferredModels": ["file-model"]})
        await made.ask("/api/routing/rules", rule())
        made.gateway.apply(parse_config(FILE, "gateway.yaml", {}))
        for path in ("/api/models/file-model", "/api/agents/file-agent/preferences"):
            assert (await made.ask(path)).json()["managedBy"] == "file"
            assert (await made.ask(path, {}, "PUT")).status in (400, 409)
            assert (await made.ask(path, None, "DELETE")).status == 204
            assert (await made.ask(path, None, "DELETE")).status == 409
            assert (await made.ask(path)).json()["managedBy"] == "file"


async def test_if_match_and_its_races() -> None:
    """Of ten who have read the same, one writes."""
    async with house(FILE) as made:
        made_one = await made.ask("/api/models", model())
        etag = made_one.headers["etag"]
        assert (await made.ask("/api/models/a", headers={"if-none-match": etag})).status == 304
        replies = await asyncio.gather(
            *(
                made.ask("/api/models/a", {"tags": [f"t{number}"]}, "PATCH", {"if-match": etag})
                for number in range(10)
            )
        )
        assert sorted(each.status for each in replies) == [200] + [412] * 9
        failed = next(each for each in replies if each.status == 412)
        assert failed.json()["code"] == "precondition_failed"
        now = await made.ask("/api/models/a")
        assert failed.headers["etag"] == now.headers["etag"] != etag
        for method, path in (("DELETE", "/api/models/a"), ("PUT", "/api/models/a")):
            body = None if method == "DELETE" else {"name": "A", "provider": "scripted"}
            assert (await made.ask(path, body, method, {"if-match": '"old"'})).status == 412
        patched = {"status": "inactive"}
        assert (await made.ask("/api/models/a/status", patched, "PATCH", {"if-match": etag})).status == 412
        assert (await made.ask("/api/models/a/status", patched, "PATCH", {"if-match": "*"})).status == 200
        body = {"name": "B", "provider": "scripted"}
        assert (await made.ask("/api/models/b", body, "PUT", {"if-match": "*"})).status == 412
        limits = {"modelRestrictions": ["a"]}
        assert (await made.ask("/api/workspaces/w/config", limits)).status == 201
        fresh = {"if-none-match": "*"}
        assert (await made.ask("/api/workspaces/w/config", limits, headers=fresh)).status == 412


async def test_an_answer_may_be_sent_again() -> None:
    """With what only answers say in it; nothing has changed then."""
    async with house(FILE) as made:
        await made.ask("/api/models", model(endpoints=[{"url": "https://a.example/v1"}], provider="vllm"))
        await made.ask("/api/routing/rules", rule())
        await made.ask("/api/agents/x/preferences", {"preferredModels": ["a"]})
        await made.ask("/api/workspaces/w/config", {"budgetLimits": {"daily": 1.5}})
        version = made.gateway.control.version
        for path in (
            "/api/models/a", "/api/routing/rules/r", "/api/agents/x/preferences", "/api/workspaces/w/config",
        ):  # fmt: skip
            shown = (await made.ask(path)).json()
            reply = await made.ask(path, shown, "PUT")
            assert (reply.status, reply.json()) == (200, shown)
        assert made.gateway.control.version == version
        assert (await made.ask("/api/models/a", {"id": "b"}, "PATCH")).status == 400


async def test_pages() -> None:
    """By offset and cursor, each thing once, whatever is added meanwhile."""
    async with house(FILE) as made:
        rules = [rule(f"R{number}", priority=number % 3) for number in range(7)]
        config = {"models": [model(f"m{number:03}") for number in range(25)], "routingRules": rules}
        assert (await made.ask("/api/config/import", {"config": config})).status == 200
        seen: list[str] = []
        cursor = ""
        while True:
            reply = (await made.ask(f"/api/models?limit=10{cursor}")).json()
            assert reply["total"] in (26, 27)
            seen += [each["id"] for each in reply["models"]]
            if "nextCursor" not in reply:
                break
            cursor = f"&cursor={reply['nextCursor']}"
            await made.ask("/api/models", model("a-before-all"))
        assert seen == ["file-model", *(f"m{number:03}" for number in range(25))]
        assert [
            each["id"] for each in (await made.ask("/api/models?offset=25&limit=5")).json()["models"]
        ] == ["m023", "m024"]
        rules = (await made.ask("/api/routing/rules")).json()["rules"]
        assert [each["id"] for each in rules] == ["File rule", "r2", "r5", "r1", "r4", "r0", "r3", "r6"]
        first = (await made.ask("/api/routing/rules?limit=3")).json()
        rest = (await made.ask(f"/api/routing/rules?cursor={first['nextCursor']}")).json()
        assert [each["id"] for each in rest["rules"]] == ["r1", "r4", "r0", "r3", "r6"]
        for wrong in ("limit=0", "limit=x", "limit=1001", "offset=-1", "cursor=%21", "cursor=W10&offset=2",
                      "page=2", "limit=1&limit=2", "cursor=bnVsbA", "cursor=WzUsNV0"):  # fmt: skip
            assert (await made.ask(f"/api/models?{wrong}")).status in (200, 400), wrong
        assert (await made.ask("/api/models?page=2")).json()["errors"][0]["loc"] == ["query", "page"]


async def test_filters() -> None:
    """Each of them, and together."""
    async with house(FILE) as made:
        vision = [{"type": "vision"}, "tools"]
        await made.ask("/api/models", model("a", tags=["x", "y"], capabilities=vision))
        await made.ask("/api/models", model("b", tags=["x"], modelType="embedding", status="inactive"))
        for query, wanted in (
            ("tags=x", ["a", "b"]), ("tags=x,y", ["a"]), ("capability=vision", ["a"]),
            ("capability=tools&tags=y", ["a"]), ("modelType=embedding", ["b"]), ("status=inactive", ["b"]),
            ("managedBy=file", ["file-model"]), ("managedBy=api", ["a", "b"]), ("tags=z", []),
        ):  # fmt: skip
            found = (await made.ask(f"/api/models?{query}")).json()["models"]
            assert [each["id"] for each in found] == wanted, query


async def test_a_model_that_others_speak_of_stays() -> None:
    """Unless somebody insists; the rule is told of then."""
    async with house(FILE) as made:
        await made.ask("/api/models", model("a", aliases=["alias-of-a"]))
        await made.ask("/api/routing/rules", rule(targetModels=[{"modelId": "alias-of-a"}]))
        reply = await made.ask("/api/models/a", None, "DELETE")
        assert (reply.status, reply.json()["code"]) == (409, "model_in_use")
        assert reply.json()["usedBy"] == ["routingRules/r"]
        assert (await made.ask("/api/models/a?force=true", None, "DELETE")).status == 204
        shown = (await made.ask("/api/routing/rules/r")).json()
        assert shown["warnings"] == ["targetModels[0].modelId: there is no model 'alias-of-a'"]


async def test_statuses() -> None:
    """One that serves nobody is unknown to callers; it keeps its place here, and rules pass it by."""
    async with house(FILE) as made:
        await made.ask("/api/models", model("a"))
        chat = {"model": "a", "messages": [{"role": "user", "content": "Hi"}]}
        for status, wanted in (("active", 200), ("maintenance", 404), ("deprecated", 200), ("inactive", 404)):
            assert (await made.ask("/api/models/a/status", {"status": status}, "PATCH")).status == 200
            reply = await made.ask("/v1/chat/completions", chat)
            assert reply.status == wanted, status
            listed = [each["id"] for each in (await made.ask("/v1/models")).json()["data"]]
            assert ("a" in listed) is (wanted == 200)
            assert (await made.ask("/api/models/a")).json()["status"] == status
        health = (await made.ask("/api/models/a/health")).json()
        assert (health["status"], health["deployments"]) == ("inactive", [])
        for wrong in ({}, {"status": "on"}, {"status": None}, {"status": "active", "tags": []}):
            assert (await made.ask("/api/models/a/status", wrong, "PATCH")).status == 400


async def test_a_model_that_is_wrong_by_now_can_be_switched_off() -> None:
    """Its key is not allowed any more: it is left out, and says so; on again it is refused."""
    async with house("control: {secrets: [TEAM_KEY]}", {"TEAM_KEY": "k" * 20}) as made:
        place = {"url": "https://a.example/v1"}
        body = model(provider="vllm", apiKeyRef="TEAM_KEY", endpoints=[place])
        assert (await made.ask("/api/models", body)).status == 201
        made.gateway.apply(made.gateway.control.base.__class__())
        assert "may be sent" in (await made.ask("/api/models/a")).json()["warnings"][0]
        assert (await made.ask("/api/models/a/status", {"status": "inactive"}, "PATCH")).status == 200
        assert said(await made.ask("/api/models/a/status", {"status": "active"}, "PATCH")) == [
            "endpoints[0].apiKeyRef"
        ]


async def test_batches() -> None:
    """As far as it goes, or not at all; one version."""
    async with house(FILE) as made:
        for name in "ab":
            await made.ask("/api/models", model(name))
        updates = [{"modelId": name, "status": "inactive"} for name in ("a", "file-model", "zz", "b")]
        reply = await made.ask("/api/models/batch/status", {"updates": updates, "atomic": True}, "PATCH")
        assert (reply.status, reply.json()["code"]) == (409, "batch_failed")
        assert [each["success"] for each in reply.json()["results"]] == [True, False, False, True]
        assert (await made.ask("/api/models/a")).json()["status"] == "active"
        reply = await made.ask("/api/models/batch/status", {"updates": updates}, "PATCH")
        told = reply.json()
        assert (reply.status, told["updated"], told["failed"]) == (200, 2, 2)
        assert [each.get("error", {}).get("code") for each in told["results"]] == [
            None, "configured_by_file", "not_found", None,
        ]  # fmt: skip
        assert made.gateway.control.version == 3
        for wrong, field in (
            ({}, "updates"), ({"updates": []}, "updates"), ({"updates": {}}, "updates"),
            ({"updates": [{}]}, "updates[0].modelId"), ({"updates": [{"modelId": "a"}]}, "updates[0].status"),
            ({"updates": [{"modelId": "a", "status": "x"}]}, "updates[0].status"),
            ({"updates": updates[:1] * 2}, "updates[1].modelId"),
            ({"updates": updates, "atomic": "yes"}, "atomic"),
            ({"updates": [{"modelId": "a", "status": "active"}] * 1001}, "updates"),
        ):  # fmt: skip
            assert said(await made.ask("/api/models/batch/status", wrong, "PATCH")) == [field]


async def test_endpoints() -> None:
    """Each has a life of its own inside its model."""
    async with house(FILE) as made:
        await made.ask("/api/models", model(provider="vllm"))
        path = "/api/models/a/endpoints"
        one = (await made.ask(path, {"id": "one", "url": "https://a.example/v1/"})).json()
        assert (one["url"], one["type"], one["weight"]) == ("https://a.example/v1", "primary", 1)
        assert (await made.ask(path, {"id": "one", "url": "https://b.example"})).status == 409
        two = {"id": "two", "url": "https://b.example/v1", "type": "fallback", "timeout": 5000}
        assert (await made.ask(path, two)).status == 201
        candidates = made.gateway.registry.snapshot.models["a"].candidates
        assert [(each.id, each.deployment.priority) for each in candidates] == [("a/one", 0), ("a/two", 20)]
        reply = await made.ask(f"{path}/two", {"weight": 0.5, "timeout": None}, "PATCH")
        assert (reply.json()["weight"], "timeout" in reply.json()) == (0.5, False)
        assert said(await made.ask(f"{path}/two", {"weight": -1}, "PATCH")) == ["weight"]
        assert said(
            await made.ask(path, {"url": "https://c.example", "healthCheckUrl": "https://d.example"})
        ) == ["healthCheckUrl"]
        assert (await made.ask(f"{path}/three", {"weight": 1}, "PATCH")).status == 404
        assert (await made.ask(f"{path}/two", None, "DELETE")).status == 204
        assert (await made.ask(f"{path}/two", None, "DELETE")).status == 404
        assert (await made.ask("/api/models/zz/endpoints")).status == 404
        assert (await made.ask("/api/models/zz/endpoints", two)).status == 404


async def test_workspaces() -> None:
    """Written whole, changed in part, gone."""
    async with house(FILE) as made:
        await made.ask("/api/workspaces/ours/config", {"budgetLimits": {"daily": 5}})
        listed = (await made.ask("/api/workspaces")).json()["workspaces"]
        assert [each["workspaceId"] for each in listed] == ["file-ws", "ours"]
        patched = await made.ask("/api/workspaces/ours/config", {"budgetLimits": {"weekly": 9}}, "PATCH")
        assert patched.json()["budgetLimits"] == {"daily": 5, "weekly": 9}
        assert (await made.ask("/api/workspaces/ours/config", None, "DELETE")).status == 204
        assert (await made.ask("/api/workspaces/ours/config")).status == 404


async def test_workspaces_of_others_are_not_there() -> None:
    """Neither in lists, nor in rules, nor where all of it is shown, also for those who may manage theirs."""
    async with house(FILE, None, **KEYS) as made:
        root, tom = ({"authorization": f"Bearer {name}-key-0123456789"} for name in ("root", "tom"))
        await made.ask("/api/workspaces/theirs/config", {"budgetLimits": {"daily": 5}}, headers=root)
        for name, condition in (("Mine", ["ours"]), ("Both", ["ours", "theirs"])):
            body = rule(name, condition={"workspaceId": condition})
            assert (await made.ask("/api/routing/rules", body, headers=root)).status == 201
        for method, path, status in (
            ("GET", "/api/workspaces/theirs/config", 404), ("DELETE", "/api/workspaces/theirs/config", 404),
            ("POST", "/api/workspaces/theirs/config", 404), ("GET", "/api/routing/rules/both", 404),
            ("GET", "/api/routing/rules/mine", 200), ("GET", "/api/config/export", 403),
            ("POST", "/api/config/import", 403), ("POST", "/api/config/rollback", 403),
            ("GET", "/api/config/versions", 403), ("GET", "/api/config/versions/1", 403),
            ("PATCH", "/api/routing/rules/both", 404), ("DELETE", "/api/routing/rules/both", 404),
            ("PUT", "/api/routing/rules/both", 404),
        ):  # fmt: skip
            empty: Any = None if method in ("GET", "DELETE") else {"name": "Both"}
            reply = await made.ask(path, empty, method, tom)
            assert reply.status == status, (method, path, reply.body)
        for path in ("/api/workspaces", "/api/routing/rules"):
            assert b"theirs" not in (await made.ask(path, headers=tom)).body


async def test_scopes() -> None:
    """Who may read may not write."""
    async with house(FILE, None, **KEYS) as made:
        ann, root = ({"authorization": f"Bearer {name}-key-0123456789"} for name in ("ann", "root"))
        assert (await made.ask("/api/models")).status == 401
        assert (await made.ask("/api/models", headers=ann)).status == 200
        for method, path in (
            ("POST", "/api/models"), ("PATCH", "/api/models/file-model/status"),
            ("GET", "/api/config/export"),
            ("POST", "/api/config/import"), ("POST", "/api/config/rollback"), ("POST", "/api/routing/rules"),
            ("POST", "/api/models/file-model/health"), ("DELETE", "/api/workspaces/file-ws/config"),
        ):  # fmt: skip
            empty: Any = None if method in ("GET", "DELETE") else {}
            assert (await made.ask(path, empty, method, ann)).status == 403, path
        assert (await made.ask("/api/models", model(), headers=root)).status == 201
        assert made.gateway.control.current.who == "root"


async def test_an_import_is_all_or_nothing() -> None:
    """Every mistake is told, and nothing is done; what is right is one version."""
    async with house(FILE) as made:
        good = {"models": [model("a"), model("b")], "routingRules": [rule()],
                "agentPreferences": {"x": {"preferredModels": ["a"]}},
                "workspaceConfigs": {"w": {"budgetLimits": {"daily": 5}}}}  # fmt: skip
        bad = json.loads(json.dumps(good))
        bad["models"][1]["status"] = "on"
        bad["routingRules"][0]["targetModels"] = []
        bad["workspaceConfigs"]["w"]["budgetLimits"]["daily"] = -1
        bad["models"].append(model("a"))
        assert said(await made.ask("/api/config/import", {"config": bad})) == [
            "config.models[1].status", "config.models[2].id", "config.routingRules[0].targetModels",
            "config.workspaceConfigs.w.budgetLimits.daily",
        ]  # fmt: skip
        assert made.gateway.control.version == 0
        dry = (await made.ask("/api/config/import?dryRun=true", {"config": good})).json()
        assert dry["diff"]["models"]["created"] == ["a", "b"]
        assert made.gateway.control.version == 0
        done = (await made.ask("/api/config/import", {"config": good, "why": "first"})).json()
        assert (done["version"], done["diff"]) == (1, dry["diff"])
        again = (
            await made.ask("/api/config/import?mode=replace", {"config": {"models": [model("b")]}})
        ).json()
        assert again["diff"]["models"]["deleted"] == ["a"]
        assert again["diff"]["agentPreferences"]["deleted"] == ["x"]
        taken = {"config": {"models": [model("new"), model("file-model")]}}
        reply = await made.ask("/api/config/import", taken)
        assert (reply.status, reply.json()["code"]) == (409, "configured_by_file")
        assert made.gateway.control.version == 2
        back = (await made.ask("/api/config/rollback", {"version": 1})).json()
        assert (back["version"], back["diff"]["models"]["created"]) == (3, ["a"])
        listed = (await made.ask("/api/config/versions?limit=2")).json()["versions"]
        assert [(each["version"], each["why"]) for each in listed] == [
            (3, "back to version 1"), (2, "import (replace)"),
        ]  # fmt: skip
        then = (await made.ask("/api/config/versions/2")).json()
        assert [each["id"] for each in then["config"]["models"]] == ["b"]
        for wrong in ({}, {"version": "1"}, {"version": -1}, {"version": 1, "to": 2}):
            assert (await made.ask("/api/config/rollback", wrong)).status == 400
        assert (await made.ask("/api/config/rollback", {"version": 99})).status == 404
        assert (await made.ask("/api/config/versions/99")).status == 404


async def test_an_export_of_everything_can_be_imported_elsewhere() -> None:
    """What the file says is in it where that is asked for, and is skipped where it comes in."""
    async with house(FILE) as made:
        await made.ask("/api/models", model("a"))
        out = (await made.ask("/api/config/export?all=true")).json()
    assert [each["id"] for each in out["config"]["models"]] == ["a", "file-model"]
    assert out["config"]["workspaceConfigs"]["file-ws"]["managedBy"] == "file"
    async with house("") as other:
        told = (await other.ask("/api/config/import", out)).json()
        assert (told["diff"]["models"]["created"], told["skipped"]) == (["a"], 4)


async def test_an_import_of_something_else_is_400() -> None:
    """Whatever stands where the configuration should."""
    configs: list[Any] = [
        [], "x", None, {"models": {}}, {"workspaceConfigs": []}, {"models": [5]}, {"models": [{}]},
        {"agentPreferences": {"": {}}}, {"agentPreferences": {"x": []}}, {"nonsense": []},
    ]  # fmt: skip
    async with house(FILE) as made:
        for config in configs:
            reply = await made.ask("/api/config/import", {"config": config})
            assert reply.status == 400, reply.body
            assert reply.json()["errors"][0]["field"].startswith("config")


async def hammered(made: House, number: int) -> Reply:
    """Add a rule."""
    return await made.ask("/api/routing/rules", rule(f"Rule {number}"))


async def test_writers_of_one_process_lose_nothing_either() -> None:
    """Fifty at once, and twice the same name: one of each is refused."""
    async with house(FILE) as made:
        replies = await asyncio.gather(*(hammered(made, number % 25) for number in range(50)))
        assert sorted(each.status for each in replies) == [201] * 25 + [409] * 25
        assert (await made.ask("/api/routing/rules")).json()["total"] == 26
