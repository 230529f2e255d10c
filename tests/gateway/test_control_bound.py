"""Managers who are bound to workspaces: what all workspaces go by is not theirs to write."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.serving import House, house

FILE = "models: [{id: file-model, type: text-generation, clients: [{type: scripted}]}]"
KEYS: dict[str, Any] = {"api_keys": "root:root-key-0123456789:*,tom:tom-key-0123456789:admin@ours"}


def headers(name: str) -> dict[str, str]:
    """Return the header that says who asks."""
    return {"authorization": f"Bearer {name}-key-0123456789"}


def rule(*workspaces: str) -> dict[str, Any]:
    """Return the body of a rule for the calls of some workspaces."""
    condition = {"workspaceId": list(workspaces)} if workspaces else {}
    return {"name": "R", "condition": condition, "targetModels": [{"modelId": "file-model"}]}


async def asked(made: House, who: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Ask, and return the status and the code of a refusal."""
    reply = await made.ask(path, body, method, headers(who))
    return reply.status, reply.json().get("code", "") if reply.body else ""


async def test_a_model_and_an_agent_are_for_all_workspaces() -> None:
    """Whoever may enter one of them alone could read the prompts of the others at an endpoint of his own."""
    refused = (403, "every_workspace")
    body = {"id": "m", "name": "M", "provider": "scripted"}
    url = {"url": "https://models.example/v1"}
    async with house(FILE, None, **KEYS) as made:
        assert (await asked(made, "root", "POST", "/api/models", body))[0] == 201
        for method, path, sent in (
            ("POST", "/api/models", {**body, "id": "n"}), ("PUT", "/api/models/m", body),
            ("PATCH", "/api/models/m", {"tags": ["x"]}), ("DELETE", "/api/models/m", None),
            ("PATCH", "/api/models/m/status", {"status": "inactive"}),
            ("PATCH", "/api/models/batch/status", {"updates": [{"modelId": "m", "status": "inactive"}]}),
            ("POST", "/api/models/m/endpoints", url),
            ("POST", "/api/models/m/health", {"status": "unhealthy"}),
            ("POST", "/api/agents/a/preferences", {"preferredModels": ["m"]}),
            ("DELETE", "/api/agents/a/preferences", None),
        ):  # fmt: skip
            assert await asked(made, "tom", method, path, sent) == refused, (method, path)
        assert (await asked(made, "tom", "GET", "/api/models/m"))[0] == 200
        assert (await made.ask("/api/models/m", headers=headers("root"))).json()["status"] == "active"


async def test_limits_are_not_for_those_who_are_held_to_them() -> None:
    """A manager of a workspace neither writes what holds for it nor forgets what was spent; he reads both."""
    config, refused = "/api/workspaces/ours/config", (403, "every_workspace")
    async with house(FILE, None, **KEYS) as made:
        assert await asked(made, "tom", "POST", config, {"budgetLimits": {"daily": 9}}) == refused
        assert (await asked(made, "root", "POST", config, {"budgetLimits": {"daily": 5}}))[0] == 201
        for method, path, sent in (
            ("POST", config, {}), ("PUT", config, {}), ("PATCH", config, {"budgetLimits": {"daily": 500}}),
            ("PATCH", config, {"modelRestrictions": ["file-model"]}), ("DELETE", config, None),
            ("POST", "/api/workspaces/ours/budget/reset", None),
        ):  # fmt: skip
            assert await asked(made, "tom", method, path, sent) == refused, (method, path)
            foreign = await asked(made, "tom", method, path.replace("ours", "theirs"), sent)
            assert foreign[0] == 404, (method, path)
        told = (await made.ask(config, headers=headers("tom"))).json()
        assert told["budgetLimits"] == {"daily": 5}
        assert (await asked(made, "tom", "GET", "/api/workspaces/ours/budget"))[0] == 200
        assert (await asked(made, "root", "POST", "/api/workspaces/ours/budget/reset"))[0] == 200


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hooks.example.com/a", ""), ("http://127.0.0.1/a", "public"),
        ("https://localhost/a", "public"), ("https://10.0.0.7/a", "public"),
        ("https://hooks.example.com:9/a", "port 9"), ("https://[::1]/a", "public"),
    ],
    ids=["public", "loopback", "local", "private", "port", "six"],
)  # fmt: skip
async def test_a_webhook_that_is_never_sent_is_warned_of(url: str, told: str) -> None:
    """It is kept, for the setting that allows it may come; where that is set nothing is said."""
    path, body = "/api/workspaces/ours/config", {"webhook": url}
    async with house(FILE, None, **KEYS) as made:
        answer = await made.ask(path, body, headers=headers("root"))
        assert answer.status == 201
        warnings = answer.json().get("warnings", [])
        assert len(warnings) == bool(told)
        assert all(each.startswith("webhook: is not sent: ") and told in each for each in warnings)
        assert (await made.ask(path, headers=headers("root"))).json().get("warnings", []) == warnings
    async with house(FILE, None, allow_private_urls=True, **KEYS) as made:
        assert "warnings" not in (await made.ask(path, body, headers=headers("root"))).json()


async def test_a_rule_has_to_be_for_calls_of_ones_own_workspaces() -> None:
    """Before a change and after it: neither for those of others, nor for those of all."""
    async with house(FILE, None, **KEYS) as made:
        for foreign in (rule("theirs"), rule("ours", "theirs"), rule()):
            for method, path in (("POST", "/api/routing/rules"), ("PUT", "/api/routing/rules/r")):
                assert await asked(made, "tom", method, path, foreign) == (403, "workspace_forbidden")
        assert (await asked(made, "tom", "POST", "/api/routing/rules", rule("ours")))[0] == 201
        for condition in ({"workspaceId": ["theirs"]}, {"workspaceId": None}):
            changed = await asked(made, "tom", "PATCH", "/api/routing/rules/r", {"condition": condition})
            assert changed == (403, "workspace_forbidden")
        assert (await asked(made, "tom", "PATCH", "/api/routing/rules/r", {"priority": 3}))[0] == 200
        assert (await asked(made, "tom", "DELETE", "/api/routing/rules/r"))[0] == 204
        assert (await asked(made, "root", "POST", "/api/routing/rules", rule()))[0] == 201
        for method, sent in (("PUT", rule("ours")), ("PATCH", {"priority": 9}), ("DELETE", None)):
            refused = await asked(made, "tom", method, "/api/routing/rules/r", sent)
            assert refused == (403, "workspace_forbidden"), method
