"""Whose a call is, and what its workspace lets it use."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from router_core.errors import BadRequest, Forbidden, RouterError
from router_core.gateway.budgets.tenants import Tenants
from router_core.gateway.call import Attributes, Call
from router_core.gateway.config.load import parse_config
from router_core.types import ANONYMOUS, Principal
from tests.gateway.serving import House, chat, house

PATH = "/v1/chat/completions"
YAML = """
default_model: big
models:
  - {id: big, type: text-generation, aliases: [great], fallbacks: [small],
     clients: [{type: scripted, model: big, region: us-east-1, args: {reply: big}}]}
  - id: small
    type: text-generation
    clients:
      - {type: scripted, model: a, region: eu-west-3, compliance: [gdpr], price: {input: 1, output: 1},
         args: {reply: a}}
      - {type: scripted, model: b, region: us-east-1, args: {reply: b}}
routing_rules:
  - {name: all, condition: {agentType: [writer]}, targetModels: [{modelId: great}, {modelId: small}],
     trafficSplit: {primary: 100}}
workspaces:
  free: {}
  named: {modelRestrictions: [great]}
  lesser: {modelRestrictions: [small]}
  european: {regions: [eu]}
  careful: {complianceRequirements: [gdpr]}
  exact: {modelRestrictions: [small], budgetLimits: {daily: 1}, unpriced: refuse}
  picky: {modelRestrictions: [small], qualityRequirements: {minSuccessRate: 0.9, maxLatency: 5000}}
"""

BOUND = Principal("ann", frozenset({"models:call"}), "api_key", workspaces=frozenset({"free", "named"}))
SINGLE = replace(BOUND, workspaces=frozenset({"named"}))
AT_HOME = replace(BOUND, workspace="free")
FREE = Principal("bob", frozenset({"*"}), "api_key", workspace="named")


def settled(principal: Principal, asked: str, *, required: bool = False) -> Call:
    """Return a call after it was given its workspace."""
    config = replace(parse_config(YAML, "x", {}), workspaces_required=required)
    call = Call("chat/completions", "big", principal=principal)
    if asked:
        call.attributes = Attributes(workspace_id=asked, agent_type="writer")
    Tenants(lambda: config).settle(call)
    return call


@pytest.mark.parametrize(
    ("principal", "asked", "workspace"),
    [
        (ANONYMOUS, "", ""),
        (ANONYMOUS, "free", "free"),
        (ANONYMOUS, "nobody-configured", "nobody-configured"),
        (FREE, "", "named"),
        (FREE, "free", "free"),
        (BOUND, "named", "named"),
        (AT_HOME, "", "free"),
        (AT_HOME, "named", "named"),
        (SINGLE, "", "named"),
    ],
    ids=["none", "asked", "unknown", "own", "other", "one-of-two", "home", "elsewhere", "only-one"],
)
def test_a_call_gets_one_workspace(principal: Principal, asked: str, workspace: str) -> None:
    """The one that it names, else that of its caller; rules and records see the same one."""
    call = settled(principal, asked)
    assert call.workspace == call.attributes.workspace_id == workspace


@pytest.mark.parametrize(
    ("principal", "asked", "required", "status", "code"),
    [
        (BOUND, "lesser", False, 403, "workspace_forbidden"),
        (BOUND, "nobody-configured", False, 403, "workspace_forbidden"),
        (BOUND, "", False, 400, "workspace_required"),
        (ANONYMOUS, "", True, 400, "workspace_required"),
        (ANONYMOUS, "nobody-configured", True, 403, "workspace_forbidden"),
        (ANONYMOUS, "x" * 300, False, 400, "bad_request"),
    ],
    ids=["foreign", "unknown", "which", "none", "not-configured", "long"],
)
def test_a_call_may_not_choose_any_workspace(
    principal: Principal, asked: str, required: bool, status: int, code: str
) -> None:
    """Who is bound stays bound: to leave the name out is no way past the limits either."""
    with pytest.raises((BadRequest, Forbidden)) as caught:
        settled(principal, asked, required=required)
    error: RouterError = caught.value
    assert (error.status, error.code) == (status, code)


def test_a_configured_workspace_is_enough_where_one_is_required() -> None:
    """And its bounds are part of the call."""
    assert settled(ANONYMOUS, "named", required=True).bounds.models == frozenset({"big"})


async def ask(made: House, workspace: str, model: str, **headers: str) -> Any:
    """Ask a model for a workspace."""
    return await made.ask(PATH, chat(model), headers={"x-router-workspace": workspace, **headers})


async def test_a_workspace_names_what_it_may_use() -> None:
    """By any of its names; another model is 403 when named, and passed over when the choice is free."""
    async with house(YAML) as made:
        assert (await ask(made, "named", "great")).status == 200
        assert made.gateway.ledger.recent(1)[0].workspace == "named"
        refused = await ask(made, "lesser", "great")
        assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        chosen = await ask(made, "lesser", "auto", **{"x-router-agent-type": "writer"})
        assert (chosen.status, chosen.headers["x-router-model"]) == (200, "small")
        usual = await ask(made, "free", "auto", **{"x-router-agent-type": "writer"})
        assert usual.headers["x-router-model"] == "big"
        told = await made.ask("/api/routing/test", {"agentType": "writer", "workspaceId": "lesser"})
        assert [each["reason"] for each in told.json()["decisions"]] == ["workspace", None]


async def test_a_fallback_is_no_way_around() -> None:
    """A model that stands in for another has to be allowed, too."""
    text = YAML.replace("args: {reply: big}", 'args: {reply: "x", fail_every: 1, fail_status: 500}')
    async with house(text) as made:
        assert (await ask(made, "free", "big")).headers["x-router-model"] == "small"
        assert (await ask(made, "named", "big")).status >= 500


async def test_regions_and_policies_remove_deployments() -> None:
    """Whatever the call asks for beside them: two filters remove what either does."""
    async with house(YAML) as made:
        for workspace in ("european", "careful"):
            for _ in range(4):
                answer = await ask(made, workspace, "small")
                assert answer.json()["choices"][0]["message"]["content"] == "a"
        none = await ask(made, "european", "small", **{"x-router-region": "us-east-1"})
        assert none.status >= 400
        assert "region" in none.headers["x-router-decision"]


async def test_what_has_no_price_may_be_left_out() -> None:
    """Where a budget could not hold it back."""
    async with house(YAML) as made:
        for _ in range(4):
            assert (await ask(made, "exact", "small")).json()["choices"][0]["message"]["content"] == "a"


async def test_a_model_may_leave_out_what_has_no_price() -> None:
    """For everybody, whatever their workspace says."""
    limits = "limits: {budgetLimits: {daily: 1}, unpriced: refuse}"
    async with house(YAML.replace("  - id: small\n", f"  - id: small\n    {limits}\n")) as made:
        for workspace in ("free", "lesser") * 3:
            answer = await ask(made, workspace, "small")
            assert answer.json()["choices"][0]["message"]["content"] == "a"


async def test_measured_quality_is_a_filter() -> None:
    """A deployment that fails too often serves others, and not who asks for better."""
    async with house(YAML) as made:
        small = made.gateway.registry.snapshot.models["small"]
        bad = next(each.standing for each in small.candidates if each.deployment.model == "b")
        slow = next(each.standing for each in small.candidates if each.deployment.model == "a")
        now = monotonic()
        for _ in range(16):
            bad._window.good(0.1, now)
            bad._window.bad(now)
        for _ in range(4):
            assert (await ask(made, "picky", "small")).json()["choices"][0]["message"]["content"] == "a"
        slow._latency.observe(60.0, monotonic())
        refused = await ask(made, "picky", "small")
        assert refused.status == 503
        assert refused.headers["x-router-decision"].count(":quality") == 2
        assert (await ask(made, "free", "small")).status == 200


async def test_models_are_listed_for_whom_they_are() -> None:
    """What the caller's workspace may not use is not there."""
    async with house(YAML) as made:
        header = {"x-router-workspace": "lesser"}
        listed = (await made.ask("/v1/models", headers=header)).json()["data"]
        assert [each["id"] for each in listed] == ["small"]
        assert (await made.ask("/v1/models/big", headers=header)).status == 404
        assert (await made.ask("/v1/models/big")).status == 200
