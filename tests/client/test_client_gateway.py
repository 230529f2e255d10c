"""The control plane through the client, plain and asynchronous, and on the command line, over a socket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.cli.exits import Exit
from handlers.cli.main import main
from router_core.client import connect
from router_core.client.gateway_shapes import Configuration, Model, Rule, Variant
from router_core.client.gateway_sync import Gateway
from router_core.errors import Conflict, Misconfigured, NotFound, RouterError
from tests.gateway.serving import on_socket

YAML = """
models:
  - id: small
    type: text-generation
    clients: [{type: scripted, model: small}]
  - id: large
    type: text-generation
    clients: [{type: scripted, model: large}]
default_model: small
"""
RULE: Rule = {
    "name": "Creative", "condition": {"agentType": ["creative"]},
    "targetModels": [{"modelId": "large", "weight": 1.0, "fallbackOrder": 1}], "priority": 100,
}  # fmt: skip
MODEL: Model = {
    "id": "registered", "name": "Registered", "version": "gpt-4o-mini", "provider": "openai",
    "modelType": "chat",
}  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve a gateway for all tests here; each uses names of its own."""
    with on_socket(YAML) as (_, address):
        yield address


@pytest.fixture
def gateway(url: str) -> Iterator[Gateway]:
    """Yield its control plane."""
    with connect(url) as client:
        yield client.gateway


def test_rules_live_their_life(gateway: Gateway) -> None:
    """Made, read, changed over the version that was read, refused over another, taken away."""
    made = gateway.rules.add({**RULE, "id": "life"})
    assert (made.value["id"], made.value["managedBy"]) == ("life", "api")
    assert gateway.rules.get("life") == made
    changed = gateway.rules.change("life", {"priority": 7}, if_match=made.etag)
    assert (changed.value["priority"], changed.etag != made.etag) == (7, True)
    with pytest.raises(RouterError) as caught:
        gateway.rules.change("life", {"priority": 8}, if_match=made.etag)
    assert caught.value.status == 412
    with pytest.raises(Conflict):
        gateway.rules.add({**RULE, "id": "life"})
    assert "life" in [each["id"] for each in gateway.rules]
    gateway.rules.delete("life")
    with pytest.raises(NotFound):
        gateway.rules.get("life")


def test_models_are_registered_switched_and_looked_at(gateway: Gateway) -> None:
    """With their status, one or many, health and endpoints."""
    models = gateway.models
    models.add(
        {**MODEL, "endpoints": [{"url": "https://api.openai.com/v1", "type": "primary", "weight": 1.0}]}
    )
    assert models.set_status("registered", "maintenance").value["status"] == "maintenance"
    told = models.set_statuses({"registered": "active"})
    assert "registered" in json.dumps(told)
    assert models.get("registered").value["status"] == "active"
    assert models.report_health("registered", {"status": "healthy", "responseTime": 500, "errorRate": 0.01})
    assert "status" in models.health("registered")
    assert "api.openai.com" in json.dumps(models.endpoints("registered"))
    assert [each["id"] for each in models.list(provider="openai")] == ["registered"]
    assert {"small", "large"} <= {each["id"] for each in models.list()}
    models.delete("registered")


def test_workspaces_agents_and_where_a_request_would_go(gateway: Gateway) -> None:
    """What is set is what is read, and what is routed by."""
    gateway.workspaces.put("ws", {"modelRestrictions": ["small"], "budgetLimits": {"daily": 5}})
    assert gateway.workspaces.get("ws").value["budgetLimits"] == {"daily": 5}
    assert gateway.budget("ws")
    gateway.agents.put("writer", {"preferredModels": ["large"]})
    assert gateway.agents.get("writer").value["preferredModels"] == ["large"]
    assert "large" in json.dumps(gateway.agent_models("writer"))
    assert gateway.test(agentType="writer", prompt="x")["model"] == "large"
    gateway.agents.delete("writer")
    gateway.workspaces.delete("ws")


def test_trials_are_configured_and_steered(gateway: Gateway) -> None:
    """A rollout and an experiment, from their making to their end."""
    gateway.rollouts.add({"id": "canary", "model": "small", "canary": "large", "strategy": "manual"})
    assert gateway.steer("canary", "pause")
    assert gateway.rollouts.get("canary").value["canary"] == "large"
    gateway.rollouts.delete("canary")
    variants: list[Variant] = [{"name": "a", "modelId": "large"}, {"name": "b", "modelId": "small"}]
    gateway.experiments.add({"id": "ab", "model": "large", "variants": variants})
    assert gateway.results("ab")
    assert gateway.stop("ab")
    assert gateway.start("ab")
    gateway.experiments.delete("ab")


def test_a_configuration_goes_out_and_in_and_back(gateway: Gateway) -> None:
    """As one version each; what it would come to is told before."""
    gateway.rules.add({**RULE, "id": "kept"})
    exported: Configuration = gateway.export()["config"]
    before = gateway.versions()["current"]
    gateway.rules.delete("kept")
    assert gateway.load(exported, dry_run=True)["dryRun"] is True
    with pytest.raises(NotFound):
        gateway.rules.get("kept")
    gateway.load(exported)
    gateway.rules.delete("kept")
    gateway.rollback(before)
    assert gateway.rules.get("kept").value["name"] == "Creative"
    gateway.rules.delete("kept")


def test_what_has_happened_is_told(gateway: Gateway) -> None:
    """Requests, sums and the state of everything."""
    assert gateway.overview()
    assert gateway.requests(limit=5)
    assert gateway.model_analytics(timeRange="1h")
    gateway.workspaces.put("seen", {})
    assert gateway.workspace_analytics("seen", timeRange="1h")
    gateway.workspaces.delete("seen")


async def test_the_asynchronous_client_does_the_same(url: str) -> None:
    """With the same names; pages are gone through to their end."""
    async with connect(url, asynchronous=True) as client:
        gateway = client.gateway
        for number in range(3):
            await gateway.rules.add({**RULE, "id": f"page-{number}"})
        found = [each["id"] async for each in gateway.rules.pages() if each["id"].startswith("page-")]
        assert found == ["page-0", "page-1", "page-2"]
        for key in found:
            await gateway.rules.delete(key)


def test_a_queue_of_runpod_has_no_control_plane() -> None:
    """And says so, before anything is sent."""
    with connect("https://api.runpod.ai/v2/x", api_key="k") as client, pytest.raises(Misconfigured):
        _ = client.gateway


def run(url: str, *words: str) -> int:
    """Run the command line."""
    return main(["gateway", *words, "--url", url])


def test_the_command_line_does_it_all(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """From files, standard input and words."""
    file = tmp_path / "rule.json"
    file.write_text(json.dumps({**RULE, "id": "cli"}))
    assert run(url, "rules", "add", str(file)) == Exit.OK
    assert json.loads(capsys.readouterr().out)["id"] == "cli"
    assert run(url, "rules", "change", "cli", '{"priority": 3}') == Exit.OK
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(RULE)))
    assert run(url, "rules", "set", "cli", "-") == Exit.OK
    capsys.readouterr()
    assert run(url, "rules", "list") == Exit.OK
    listed = capsys.readouterr().out
    assert listed.splitlines()[0].split()[:3] == ["ID", "NAME", "PRIORITY"]
    assert "cli" in listed
    assert run(url, "test", "agentType=creative", "prompt=x") == Exit.OK
    assert json.loads(capsys.readouterr().out)["model"] == "large"
    assert run(url, "export", str(tmp_path / "all.json")) == Exit.OK
    assert run(url, "rules", "delete", "cli") == Exit.OK
    assert run(url, "import", str(tmp_path / "all.json"), "--dry-run") == Exit.OK
    assert run(url, "import", str(tmp_path / "all.json")) == Exit.OK
    capsys.readouterr()
    assert run(url, "rules", "show", "cli", "--json") == Exit.OK
    assert json.loads(capsys.readouterr().out)["priority"] == 100
    assert run(url, "rules", "delete", "cli") == Exit.OK
    for words in (("overview",), ("versions",), ("requests",), ("analytics",), ("models", "list", "--json"),
                  ("models", "health", "small"), ("workspaces", "list"), ("rollouts", "list")):  # fmt: skip
        assert run(url, *words) == Exit.OK, words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rules", "show", "nobody"), "nobody"),
        (("rules", "add", "/no/such/file"), "cannot be read"),
        (("rules", "add", "{]"), "is not JSON"),
        (("rules", "add", "{}"), "name"),
        (("rules", "add", '{"nmae": 1}'), "nmae"),
        (("test", "agentType"), "NAME=VALUE"),
        (("models", "status", "small", "off"), "status"),
        (("analytics", "--range", "soon"), "timeRange"),
        (("rollback", "999"), "999"),
        (("rollouts", "steer", "nobody", "fly"), ""),
    ],
)
def test_a_mistake_is_one_line_that_helps(
    url: str, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a code that scripts can tell."""
    assert run(url, *words) in (Exit.USAGE, Exit.REFUSED)
    said: Any = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1
    assert "Traceback" not in said
