"""The control plane as the model router's documentation shows it: its requests, word for word."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.gateway.serving import on_socket

FILE = """
models:
  - {id: gpt-4, type: text-generation, clients: [{type: scripted}]}
  - {id: claude-3-sonnet, type: text-generation, clients: [{type: scripted}]}
  - {id: gpt-3.5-turbo, type: text-generation, clients: [{type: scripted}]}
"""
MODEL = """{
  "name": "GPT-4 Turbo",
  "version": "gpt-4-1106-preview",
  "provider": "openai",
  "modelType": "chat",
  "capabilities": [
    {
      "type": "text-generation",
      "maxTokens": 4096
    }
  ],
  "parameters": {
    "temperature": 0.7,
    "maxTokens": 4096
  },
  "status": "active",
  "tags": ["gpt-4", "high-quality", "reasoning"]
}"""
HEALTH = """{
  "status": "healthy",
  "responseTime": 500,
  "errorRate": 0.01,
  "availability": 99.9
}"""
ENDPOINT = """{
  "url": "https://api.openai.com/v1/chat/completions",
  "type": "primary",
  "weight": 1.0,
  "healthCheckUrl": "https://api.openai.com/v1/models"
}"""
RULE = """{
  "name": "Creative Agent Claude Preference",
  "condition": {
    "agentType": ["creative"],
    "requestType": ["completion", "chat"],
    "contentLength": {
      "min": 100,
      "max": 2000
    }
  },
  "targetModels": [
    {
      "modelId": "claude-3-sonnet",
      "weight": 0.7,
      "fallbackOrder": 1
    },
    {
      "modelId": "gpt-4",
      "weight": 0.3,
      "fallbackOrder": 2
    }
  ],
  "trafficSplit": {
    "primary": 80,
    "canary": 20
  },
  "priority": 100,
  "enabled": true
}"""
PREFERENCES = """{
  "preferredModels": ["gpt-4", "claude-3-sonnet"],
  "fallbackModels": ["gpt-3.5-turbo"],
  "requiredCapabilities": ["text-generation"],
  "performanceRequirements": {
    "maxLatency": 5000,
    "minSuccessRate": 0.95,
    "maxCostPerToken": 0.01
  }
}"""
WORKSPACE = """{
  "modelRestrictions": ["gpt-4", "claude-3-sonnet"],
  "budgetLimits": {
    "daily": 100,
    "weekly": 500,
    "monthly": 2000
  },
  "qualityRequirements": {
    "minSuccessRate": 0.95,
    "maxLatency": 5000
  },
  "complianceRequirements": ["gdpr", "ccpa", "hipaa"]
}"""
BATCH = """{
  "updates": [
    {
      "modelId": "model-1",
      "status": "active"
    },
    {
      "modelId": "model-2",
      "status": "inactive"
    }
  ]
}"""
ID = "gpt-4-1106-preview"


class Wire:
    """One connection to a gateway."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def ask(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON and headers."""
        given = {"Content-Type": "application/json"} if body is not None else {}
        self.connection.request(method, path, body, {**given, **(headers or {})})
        answer = self.connection.getresponse()
        data = answer.read()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(data) if data else None, told


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A gateway with three models in its file, and the key of OpenAI."""
    with on_socket(FILE, {"OPENAI_API_KEY": "not-a-real-one-000"}) as (_, url):
        made = Wire(url)
        yield made
        made.connection.close()


@pytest.fixture(scope="module")
def model(wire: Wire) -> dict[str, Any]:
    """The model of the examples, registered."""
    status, told, headers = wire.ask("POST", "/api/models", MODEL)
    assert status == 201
    assert headers["location"] == f"/api/models/{ID}"
    assert headers["etag"]
    assert isinstance(told, dict)
    return told


def same(told: Mapping[str, Any], sent: str) -> bool:
    """Return whether an answer holds all that was sent, in any order of words that are a set."""
    for name, value in json.loads(sent).items():
        got = told[name]
        if name == "trafficSplit":
            got = {arm: share for arm, share in got.items() if share}
        if name == "complianceRequirements":
            got, value = sorted(got), sorted(value)
        if got != value:
            return False
    return True


def test_register_and_get_a_model(wire: Wire, model: dict[str, Any]) -> None:
    """It has the id of its version, and says what was said."""
    assert model["id"] == ID
    assert same(model, MODEL)
    assert model["createdAt"] == model["updatedAt"]
    status, told, _ = wire.ask("GET", f"/api/models/{ID}")
    assert (status, told["id"], same(told, MODEL)) == (200, ID, True)
    assert wire.ask("POST", "/api/models", MODEL)[0] == 409
    assert wire.ask("GET", "/api/models/nothing")[0] == 404


def test_list_models(wire: Wire, model: dict[str, Any]) -> None:
    """By what the example filters by."""
    status, told, _ = wire.ask("GET", "/api/models?provider=openai&status=active&modelType=chat")
    assert status == 200
    assert [each["id"] for each in told["models"]] == [ID]
    assert told["total"] == 1


def test_update_the_status(wire: Wire, model: dict[str, Any]) -> None:
    """There and back; it is gone for callers meanwhile."""
    status, told, _ = wire.ask("PATCH", f"/api/models/{ID}/status", '{\n  "status": "inactive"\n}')
    assert (status, told["status"]) == (200, "inactive")
    assert wire.ask("GET", f"/v1/models/{ID}")[0] == 404
    assert wire.ask("PATCH", f"/api/models/{ID}/status", '{"status": "active"}')[0] == 200
    assert wire.ask("GET", f"/v1/models/{ID}")[0] == 200


def test_report_and_get_health(wire: Wire, model: dict[str, Any]) -> None:
    """What was reported comes back beside what is measured."""
    status, told, _ = wire.ask("POST", f"/api/models/{ID}/health", HEALTH)
    assert (status, told["status"]) == (200, "healthy")
    status, told, _ = wire.ask("GET", f"/api/models/{ID}/health")
    assert status == 200
    assert (told["status"], told["responseTime"], told["errorRate"], told["availability"]) == (
        "healthy", 500, 0.01, 99.9,
    )  # fmt: skip
    assert told["circuit"] == "closed"
    assert len(told["deployments"]) == 1


def test_register_and_get_endpoints(wire: Wire, model: dict[str, Any]) -> None:
    """One endpoint, with an id of its own."""
    status, told, headers = wire.ask("POST", f"/api/models/{ID}/endpoints", ENDPOINT)
    assert status == 201
    assert same(told, ENDPOINT)
    assert headers["location"].endswith(told["id"])
    status, listed, _ = wire.ask("GET", f"/api/models/{ID}/endpoints")
    assert (status, [each["id"] for each in listed["endpoints"]]) == (200, [told["id"]])


def test_rules(wire: Wire) -> None:
    """Added, listed, asked, changed, deleted."""
    status, told, headers = wire.ask("POST", "/api/routing/rules", RULE)
    assert status == 201
    assert same(told, RULE)
    path = headers["location"]
    assert path == f"/api/routing/rules/{told['id']}"
    status, listed, _ = wire.ask("GET", "/api/routing/rules")
    assert (status, [each["id"] for each in listed["rules"]]) == (200, [told["id"]])
    test = {"agentType": "creative", "workspaceId": "", "requestType": "completion", "prompt": "x" * 200}
    status, decision, _ = wire.ask("POST", "/api/routing/test", json.dumps(test))
    assert (status, decision["rule"]) == (200, "Creative Agent Claude Preference")
    status, told, _ = wire.ask("PATCH", path, '{"priority": 7, "enabled": false}')
    assert (status, told["priority"], told["enabled"]) == (200, 7, False)
    assert wire.ask("DELETE", path)[0] == 204
    assert wire.ask("DELETE", path)[0] == 404


def test_preferences_of_agents(wire: Wire) -> None:
    """Set and got, and the models that come of them, in order."""
    status, told, _ = wire.ask("POST", "/api/agents/creative/preferences", PREFERENCES)
    assert status == 201
    assert same(told, PREFERENCES)
    assert wire.ask("POST", "/api/agents/creative/preferences", PREFERENCES)[0] == 200
    status, told, _ = wire.ask("GET", "/api/agents/creative/preferences")
    assert (status, told["agentType"], same(told, PREFERENCES)) == (200, "creative", True)
    wanted = json.loads(PREFERENCES)
    del wanted["performanceRequirements"]  # nobody knows what scripted models cost
    wire.ask("POST", "/api/agents/creative/preferences", json.dumps(wanted))
    status, told, _ = wire.ask("GET", "/api/agents/creative/models")
    assert status == 200
    assert [(each["modelId"], each["why"]) for each in told["models"]] == [
        ("gpt-4", "preferred"), ("claude-3-sonnet", "preferred"), ("gpt-3.5-turbo", "fallback"),
    ]  # fmt: skip


def test_config_of_a_workspace(wire: Wire) -> None:
    """Set, and as it was set."""
    status, told, _ = wire.ask("POST", "/api/workspaces/ws-marketing-001/config", WORKSPACE)
    assert status == 201
    assert same(told, WORKSPACE)
    status, told, _ = wire.ask("GET", "/api/workspaces/ws-marketing-001/config")
    assert (status, same(told, WORKSPACE)) == (200, True)


def test_export_and_import(wire: Wire, model: dict[str, Any]) -> None:
    """What comes out goes in again, as the example says and as it came."""
    status, out, _ = wire.ask("GET", "/api/config/export")
    assert status == 200
    assert set(out["config"]) >= {"models", "routingRules", "agentPreferences", "workspaceConfigs"}
    for body in (out, {"config": out["config"]}):
        status, told, _ = wire.ask("POST", "/api/config/import", json.dumps(body))
        assert (status, told["changed"], told["diff"]) == (200, False, {})


def test_batch_status(wire: Wire) -> None:
    """Each gets its own result, those that there are not as well."""
    for name in ("model-1", "model-2"):
        wire.ask("POST", "/api/models", json.dumps({"id": name, "name": name, "provider": "scripted"}))
    status, told, _ = wire.ask("PATCH", "/api/models/batch/status", BATCH)
    assert (status, told["updated"], told["failed"]) == (200, 2, 0)
    assert [(each["modelId"], each["status"]) for each in told["results"]] == [
        ("model-1", "active"), ("model-2", "inactive"),
    ]  # fmt: skip
    wire.ask("DELETE", "/api/models/model-2")
    status, told, _ = wire.ask("PATCH", "/api/models/batch/status", BATCH)
    assert (status, told["updated"], told["results"][1]["error"]["status"]) == (200, 1, 404)


def test_a_model_that_was_registered_serves(wire: Wire) -> None:
    """From the answer to its registration on, by id and alias."""
    body = {"name": "Mine", "version": "2.1", "provider": "scripted", "aliases": ["our-own"]}
    status, told, _ = wire.ask("POST", "/api/models", json.dumps(body))
    assert (status, told["id"]) == (201, "mine")  # a number is no name
    for name in ("mine", "our-own"):
        asked = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hi"}]})
        status, answer, headers = wire.ask("POST", "/v1/chat/completions", asked)
        assert (status, headers["x-router-model"]) == (200, "mine"), answer
