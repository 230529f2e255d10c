"""``/api/route``, ``/api/routing/test`` and what callers may say in headers."""

from __future__ import annotations

from typing import Any

import pytest

from router_core.testing.upstream import Upstream
from router_core.testing.upstream_openai import openai_chat
from tests.gateway.serving import chat, house, models_yaml, text_of

CONFIG = """
models:
  - id: gpt-4
    type: text-generation
    clients:
      - {id: g1, model: gpt-4, type: scripted, args: {reply: "from gpt-4"}, price: {input: 30, output: 60}}
  - id: claude-3-sonnet
    type: text-generation
    clients:
      - {id: c1, model: claude, type: scripted, args: {reply: "from claude"}, region: eu, tags: [slow],
         compliance: [gdpr], price: {input: 3, output: 15}}
      - {id: c2, model: claude, type: scripted, args: {reply: "from claude"}, region: us, tags: [fast]}
  - id: embed
    type: text-embeddings-inference
    clients: [{model: e, type: scripted}]
default_model: gpt-4
routing_rules:
  - name: Creative Agent Claude Preference
    condition:
      agentType: [creative]
      requestType: [completion, chat]
      contentLength: {min: 5, max: 2000}
    targetModels:
      - {modelId: claude-3-sonnet, weight: 1.0, fallbackOrder: 1}
      - {modelId: gpt-4, weight: 0.0, fallbackOrder: 2}
    priority: 100
    enabled: true
"""
REQUEST: dict[str, Any] = {
    "id": "req-12345",
    "agentType": "creative",
    "workspaceId": "ws-marketing-001",
    "userId": "user-123",
    "prompt": "Generate a creative marketing message for our new product",
    "parameters": {"temperature": 0.8, "maxTokens": 500},
    "metadata": {"requestType": "completion", "priority": "normal"},
}


async def test_a_prompt_goes_where_the_rules_say() -> None:
    """The answer has every field of the documented one."""
    async with house(CONFIG) as made:
        reply = await made.ask("/api/route", REQUEST)
        assert reply.status == 200, reply.body
        answer = reply.json()
        assert set(answer) == {
            "id", "requestId", "modelId", "response", "usage", "latency", "status", "timestamp",
        }  # fmt: skip
        assert answer["requestId"] == "req-12345"
        assert (answer["modelId"], answer["response"]) == ("claude-3-sonnet", "from claude")
        assert answer["status"] == "success"
        usage = answer["usage"]
        assert set(usage) == {"promptTokens", "completionTokens", "totalTokens", "cost"}
        assert usage["totalTokens"] == usage["promptTokens"] + usage["completionTokens"] > 0
        assert answer["timestamp"].endswith("Z")


async def test_without_a_matching_rule_the_default_model_answers() -> None:
    """A price that is known becomes dollars; a model by name is taken at its word."""
    async with house(CONFIG) as made:
        answer = (await made.ask("/api/route", {**REQUEST, "agentType": "analyst"})).json()
        assert answer["modelId"] == "gpt-4"
        usage = answer["usage"]
        expected = (usage["promptTokens"] * 30 + usage["completionTokens"] * 60) / 1e6
        assert usage["cost"] == pytest.approx(expected, abs=2e-6)
        named = (await made.ask("/api/route", {**REQUEST, "modelId": "gpt-4"})).json()
        assert named["modelId"] == "gpt-4"


async def test_a_test_says_where_it_would_go_and_calls_nobody() -> None:
    """The documented request, answered with the decision and its reasons."""
    async with Upstream() as upstream, house(models_yaml(upstream.url, more="default_model: m")) as made:
        asked = {
            "agentType": "creative",
            "workspaceId": "ws-1",
            "requestType": "completion",
            "prompt": "Test prompt",
        }
        found = (await made.ask("/api/routing/test", asked)).json()
        assert (found["model"], found["deployment"], found["rule"]) == ("m", "d1", None)
        assert found["decisions"][0]["candidates"][0]["kept"] is True
        assert upstream.requests == []
    async with house(CONFIG) as made:
        found = (
            await made.ask("/api/routing/test", {"agentType": "creative", "prompt": "long enough"})
        ).json()
        assert found["rule"] == "Creative Agent Claude Preference"
        assert found["models"] == ["claude-3-sonnet", "gpt-4"]
        short = (await made.ask("/api/routing/test", {"agentType": "creative", "prompt": "hi"})).json()
        assert (short["rule"], short["model"]) == (None, "gpt-4")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({**REQUEST, "promt": "x"}, "promt"),
        ({"agentType": "creative"}, "prompt"),
        ({**REQUEST, "parameters": {"maxTokens": 0}}, "maxTokens"),
        ({**REQUEST, "parameters": {"heat": 1}}, "heat"),
        ({**REQUEST, "prompt": ""}, "prompt"),
        ([], ""),
    ],
    ids=["unknown field", "no prompt", "no tokens", "unknown parameter", "empty prompt", "a list"],
)
async def test_what_is_wrong_with_a_request_is_named(body: Any, name: str) -> None:
    """422 or 400, and the field."""
    async with house(CONFIG) as made:
        reply = await made.ask("/api/route", body)
        assert reply.status in (400, 422)
        assert name in reply.body.decode()


async def test_a_call_may_leave_the_model_to_the_rules() -> None:
    """``model: auto``, with what rules look at in headers."""
    async with house(CONFIG) as made:
        headers = {"x-router-agent-type": "creative"}
        reply = await made.ask("/v1/chat/completions", chat("auto"), headers=headers)
        assert text_of(reply) == "from claude"
        assert reply.headers["x-router-rule"] == "Creative Agent Claude Preference"
        assert text_of(await made.ask("/v1/chat/completions", chat("auto"))) == "from gpt-4"
        assert (await made.ask("/v1/embeddings", {"model": "auto", "input": "x"})).status == 422


@pytest.mark.parametrize("condition", ["requestType: [chat]", "contentLength: {min: 5}"])
async def test_rules_look_at_a_call_without_headers(condition: str) -> None:
    """What it is and how long it is: nobody has to say that, and nobody gets round a rule in silence."""
    config = CONFIG.replace("agentType: [creative]", condition).replace(
        "      requestType: [completion, chat]\n      contentLength: {min: 5, max: 2000}\n", ""
    )
    async with house(config) as made:
        assert text_of(await made.ask("/v1/chat/completions", chat("auto"))) == "from claude"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-router-tags": "fast"}, "c2"),
        ({"x-router-tags": "slow"}, "c1"),
        ({"x-router-region": "eu"}, "c1"),
        ({"x-router-compliance": "gdpr"}, "c1"),
        ({"x-router-max-cost": "0.5"}, "c1"),
        ({"x-router-compliance": "hipaa"}, ""),
        ({"x-router-max-cost": "0.0000001"}, ""),
    ],
)
async def test_headers_narrow_the_choice(headers: dict[str, str], expected: str) -> None:
    """They may only remove; what nobody satisfies is an error that explains itself."""
    async with house(CONFIG) as made:
        reply = await made.ask("/v1/chat/completions", chat("claude-3-sonnet"), headers=headers)
        if expected:
            assert reply.headers["x-router-deployment"] == expected
        else:
            assert reply.status == 422
            removed = reply.json()["decision"]["candidates"]
            assert [each["kept"] for each in removed] == [False, False]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-router-max-cost", "much"),
        ("x-router-max-cost", "nan"),
        ("x-router-timeout", "-1"),
        ("x-router-timeout", ""),
    ],
)
async def test_a_header_that_says_nothing_sensible_is_refused(name: str, value: str) -> None:
    """By its name."""
    async with house(CONFIG) as made:
        reply = await made.ask("/v1/chat/completions", chat("gpt-4"), headers={name: value})
        assert (reply.status, reply.json()["error"]["param"]) == (400, name)


async def test_tools_and_unknown_fields_pass_through_untouched() -> None:
    """Byte for byte, in whatever form they were written."""
    async with Upstream(openai_chat()) as upstream, house(models_yaml(upstream.url)) as made:
        body = (
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[ {"type" : "function", '
            b'"function":{"name":"f","parameters":{"a":1.0e2}}} ],"x_new":{"deep":[1,2.50,"\\u00e9"]},'
            b'"model":"m"}'
        )
        reply = await made.ask("/v1/chat/completions", body)
        assert reply.status == 200, reply.body
        sent = upstream.requests[0].body
        assert b'[ {"type" : "function", "function":{"name":"f","parameters":{"a":1.0e2}}} ]' in sent
        assert b'{"deep":[1,2.50,"\\u00e9"]}' in sent
        assert sent.count(b'"model"') == 1
        assert upstream.requests[0].json()["model"] == "up"
        assert upstream.requests[0].headers["authorization"] == "Bearer key"


async def test_a_shadow_rule_is_counted_and_decides_nothing() -> None:
    """The calls that it would have taken go where they went before."""
    shadow = """
  - name: Trial
    condition: {}
    targetModels: [{modelId: claude-3-sonnet, weight: 1, fallbackOrder: 1}]
    priority: 500
    enabled: true
    shadow: true
"""
    async with house(CONFIG.rstrip() + shadow) as made:
        assert text_of(await made.ask("/v1/chat/completions", chat("auto"))) == "from gpt-4"
        metrics = (await made.ask("/metrics")).body.decode()
        assert 'model_router_routing_rule_matches{rule="Trial (shadow)"} 1' in metrics


async def test_shares_of_a_rule_are_drawn_by_user() -> None:
    """A split sends the same user the same way every time, and some of many users each way."""
    split = CONFIG.replace("weight: 1.0", "weight: 0.5").replace("weight: 0.0", "weight: 0.5")
    async with house(split) as made:
        found: dict[str, set[str]] = {}
        for user in [f"user-{number}" for number in range(24)] * 2:
            answer = (await made.ask("/api/route", {**REQUEST, "userId": user})).json()
            found.setdefault(user, set()).add(answer["modelId"])
        assert all(len(models) == 1 for models in found.values())
        assert set.union(*found.values()) == {"gpt-4", "claude-3-sonnet"}


@pytest.mark.parametrize("headers", [{}, {"x-router-agent-type": "creative"}], ids=["plain", "with headers"])
async def test_shares_of_a_rule_are_drawn_anew_for_callers_without_a_name(headers: dict[str, str]) -> None:
    """All who call without a key are not one user, and do not all go the same way."""
    split = CONFIG.replace("weight: 1.0", "weight: 0.5").replace("weight: 0.0", "weight: 0.5")
    split = split.replace("      agentType: [creative]\n", "")
    async with house(split) as made:
        found = {
            text_of(await made.ask("/v1/chat/completions", chat("auto"), headers=headers)) for _ in range(40)
        }
    assert found == {"from gpt-4", "from claude"}


async def test_a_routed_prompt_is_explained_in_headers() -> None:
    """The body has the documented shape alone; who answered and why stands where calls of models have it."""
    async with house(CONFIG) as made:
        reply = await made.ask("/api/route", REQUEST)
        document = (await made.ask("/openapi.json")).json()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-router-model"] == "claude-3-sonnet"
    assert reply.headers["x-router-rule"] == "Creative Agent Claude Preference"
    assert "chosen=c" in reply.headers["x-router-decision"]
    answer = document["paths"]["/api/route"]["post"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"] == {"$ref": "#/components/schemas/RouteAnswer"}


async def test_a_prompt_that_the_model_refuses_comes_back_with_its_words() -> None:
    """A mistake of the caller is no failure of the upstream."""
    text = models_yaml("http://127.0.0.1:9", kind="scripted", args="fail_status: 400, fail_message: too hot")
    async with house(text) as made:
        reply = await made.ask("/api/route", {"prompt": "Hello!", "modelId": "m"})
    assert (reply.status, reply.json()["code"]) == (400, "prompt_refused")
    assert reply.json()["detail"] == "the model refused the prompt: too hot"
    assert reply.headers["x-router-deployment"] == "d1"


async def test_a_call_of_a_model_never_becomes_a_job() -> None:
    """A wish for that is passed over: what takes a request as it is has nothing that a record could keep."""
    async with house(CONFIG) as made:
        reply = await made.ask("/v1/chat/completions", chat("gpt-4"), headers={"prefer": "respond-async"})
        assert text_of(reply) == "from gpt-4"
