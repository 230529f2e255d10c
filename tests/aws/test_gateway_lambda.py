"""The gateway with its control plane on Lambda: environments that are frozen between calls share a table."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from handlers.aws.snapstart import after_restore, before_snapshot
from handlers.cli.main import main
from router_core.security.audit import breaks_of
from router_core.testing.adapter_contract import Answer
from router_core.testing.lambda_rie import Emulator
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_faults import Behaviour
from router_core.testing.upstream_openai import openai_chat
from router_core.testing.upstream_wire import Exchange
from tests.aws.gateway_environments import SCHEDULE, AheadClock, Environment, Site, request, site_of
from tests.aws.lambda_events import received
from tests.parts import rie_binary

CONFIG = """
default_model: m
models:
  - {id: m, type: text-generation, clients: [
       {type: scripted, model: x, price: {request: 0.00001}, args: {reply: hello}}]}
  - {id: held, type: text-generation, clients: [
       {type: openai, model: x, api_key: k, url: "URL/v1", price: {request: 0.00001}}]}
workspaces:
  acme: {budgetLimits: {daily: 0.0001}, alerts: [50]}
"""
PATH = "/v1/chat/completions"
ROOT = Path(__file__).parent.parent.parent


class Upheld:
    """A provider that answers once it is told to."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    async def answer(self, exchange: Exchange) -> None:
        """Answer an exchange."""
        self.asked.set()
        await asyncio.to_thread(self.released.wait, 60)
        await openai_chat().run(exchange)


@pytest.fixture
def provider() -> Upheld:
    """Return the provider of the model ``held``."""
    return Upheld()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> AheadClock:
    """Let a test put all environments' clocks forward."""
    made = AheadClock()
    for place in ("router_core.gateway.gateway", "router_core.wiring"):
        monkeypatch.setattr(f"{place}.SystemClock", lambda: made)
    return made


@pytest.fixture
def site(
    aws: str, tmp_path: Path, provider: Upheld, clock: AheadClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Make a table and a gateway of this test's own."""
    with in_thread(Upstream(Behaviour("held", provider.answer))) as upstream:
        with site_of(tmp_path, CONFIG.replace("URL", upstream.url)) as made:
            monkeypatch.setenv("ROUTER_GATEWAY", made.environ["ROUTER_GATEWAY"])
            yield made
            provider.released.set()


@pytest.fixture
def key(site: Site, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the first key, made as an operator makes it: by the command, with the table alone."""
    capsys.readouterr()
    assert main(["keys", "create", "root", "--role", "admin", "--state", f"dynamodb://{site.table}"]) == 0
    return capsys.readouterr().out.strip()


def ask(
    environment: Environment, key: str, model: str = "m", workspace: str = "acme", **headers: str
) -> Answer:
    """Call a model in a workspace."""
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    return environment.ask("POST", PATH, body, key, x_router_workspace=workspace, **headers)


def seen(environment: Environment, key: str, path: str) -> Any:
    """Read something that is there."""
    answer = environment.ask("GET", path, None, key)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def standing(environment: Environment, key: str) -> dict[str, Any]:
    """Return how the budget stands."""
    (limit,) = seen(environment, key, "/api/workspaces/acme/budget")["limits"]
    return {"spent": round(limit["spent"] * 1e6), "reserved": round(limit["reserved"] * 1e6)}


def test_keys_come_into_force_and_end_without_a_deployment(
    site: Site, clock: AheadClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody gets in before there is one; one that is made or revoked over REST counts in all."""
    first = site.environment()
    assert '"no_keys"' in capsys.readouterr().out
    assert first.ask("GET", "/v1/models").status == 401
    words = ["keys", "create", "root", "--role", "admin", "--state", f"dynamodb://{site.table}"]
    assert main(words) == 0
    root = capsys.readouterr().out.strip().splitlines()[-1]
    second = site.environment()
    made = first.ask("POST", "/api/keys", {"name": "ci", "roles": ["developer"]}, root)
    assert made.status == 201
    told = json.loads(made.body)
    assert ask(second, told["key"]).status == 200
    assert second.ask("DELETE", "/api/routing/rules/any", None, told["key"]).status == 403
    assert first.ask("DELETE", f"/api/keys/{told['id']}", None, root).status == 204
    clock.ahead += 6
    assert ask(second, told["key"]).status == 401
    assert ask(second, root).status == 200


def test_what_one_environment_configures_another_serves(site: Site, key: str, clock: AheadClock) -> None:
    """A model and a rule; who only reads sees them too, and each change is in the audit log."""
    first, second, third = (site.environment() for _ in range(3))
    model = {"id": "fresh", "name": "Fresh", "provider": "scripted"}
    assert first.ask("POST", "/api/models", model, key).status == 201
    clock.ahead += 1.5
    rule = {"name": "creative", "condition": {"agentType": ["creative"]}, "priority": 9,
            "targetModels": [{"modelId": "fresh", "weight": 1.0}]}  # fmt: skip
    assert second.ask("POST", "/api/routing/rules", rule, key).status == 201
    clock.ahead += 1.5
    assert "fresh" in {each["id"] for each in seen(third, key, "/v1/models")["data"]}
    assert seen(third, key, "/api/routing/rules/creative")["targetModels"][0]["modelId"] == "fresh"
    answer = ask(first, key, "auto", x_router_agent_type="creative")
    assert (answer.status, answer.all("x-router-model")) == (200, ["fresh"])
    direct = third.invoke({"path": "/api/models/fresh", "method": "GET", "input": {}})
    assert direct["output"]["name"] == "Fresh"
    clock.ahead += 1.5
    assert second.ask("PATCH", "/api/models/fresh/status", {"status": "inactive"}, key).status == 200
    clock.ahead += 1.5
    direct = third.invoke({"path": "/api/models/fresh", "method": "GET", "input": {}})
    assert direct["output"]["status"] == "inactive"
    entries = seen(third, key, "/api/audit")["entries"]
    assert [(each["route"], each["after"]) for each in reversed(entries)] == [
        ("/api/models", "1"), ("/api/routing/rules", "2"), ("/api/models/{modelId}/status", "3"),
    ]  # fmt: skip
    assert not breaks_of(entries)


def test_a_budget_holds_for_all_environments_together(
    site: Site, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten calls' worth, asked for by three at once: ten pass. One of them tells that half of it is spent."""
    environments = [site.environment() for _ in range(3)]

    def calls(environment: Environment) -> list[int]:
        return [ask(environment, key).status for _ in range(5)]

    with ThreadPoolExecutor(3) as pool:
        statuses = [status for several in pool.map(calls, environments) for status in several]
    assert sorted(statuses) == [200] * 10 + [429] * 5
    assert standing(environments[0], key) == {"spent": 100, "reserved": 0}
    assert capsys.readouterr().out.count('"event":"budget_alert"') == 1


def test_an_environment_that_is_frozen_holds_its_part_for_its_lease_alone(
    site: Site, key: str, provider: Upheld, clock: AheadClock
) -> None:
    """Others have it then; and if it goes on after all, what it has cost is booked."""
    frozen, other = site.environment(), site.environment()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(ask, frozen, key, "held")
        assert provider.asked.wait(60)
        thawed = frozen.freeze()
        try:
            assert standing(other, key) == {"spent": 0, "reserved": 10}
            clock.ahead += 70  # a call through an HTTP API is over after 30
            assert standing(other, key) == {"spent": 0, "reserved": 0}
            assert [ask(other, key).status for _ in range(11)] == [200] * 10 + [429]
        finally:
            provider.released.set()
            thawed.set()
        assert late.result(60).status == 200
    assert standing(other, key) == {"spent": 110, "reserved": 0}


def test_analytics_are_of_all_environments(site: Site, key: str, clock: AheadClock) -> None:
    """Written by calls every ten seconds, and by a round of the schedule."""
    first, second = site.environment(), site.environment()
    path = "/api/analytics/models?timeRange=1h&modelId=m"
    for _ in range(3):
        assert ask(first, key).status == 200
    assert seen(second, key, path)["totals"]["requests"] == 1
    assert first.invoke(SCHEDULE)["done"]["analytics"]
    assert seen(second, key, path)["totals"]["requests"] == 3
    clock.ahead += 11
    assert ask(first, key).status == 200
    assert seen(second, key, path)["totals"]["requests"] == 4


def _identities(environment: Environment) -> list[str]:
    """Return by which names an environment writes into the shared state."""
    app: Any = environment.app._service
    parts = {part.name: part for part in app.parts.upkeep}
    return [parts["quota"]._holder(), parts["analytics"].process, parts["trials"].shared.process,
            parts["audit"]._process]  # fmt: skip


def test_environments_of_one_snapshot_have_names_of_their_own(site: Site, key: str) -> None:
    """Else each would take what others hold of a budget, and what they have counted, for its own."""
    thawed = site.environment()
    before = _identities(thawed)
    before_snapshot()
    after_restore(thawed.app)
    after = _identities(thawed)
    assert not {*before} & {*after}
    assert ask(thawed, key).status == 200
    assert standing(thawed, key) == {"spent": 10, "reserved": 0}


@pytest.mark.process
def test_it_runs_in_the_runtime_of_aws(site: Site, key: str, aws: str) -> None:
    """A process of AWS's client under the interface emulator, beside one that was started here."""
    pytest.importorskip("awslambdaric", reason="AWS's runtime client is not installed")
    environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environ |= {**site.environ, "PYTHONPATH": str(ROOT), "LAMBDA_TASK_ROOT": str(ROOT)}
    here = site.environment()
    model = {"id": "fresh", "name": "Fresh", "provider": "scripted"}
    assert here.ask("POST", "/api/models", model, key).status == 201
    with Emulator(
        rie_binary(), "handlers.aws.entry.handler", environ=environ, timeout=60, folder=ROOT
    ) as function:

        def there(method: str, path: str, body: Any = None) -> Answer:
            event = request(method, path, body, key, {"x-router-workspace": "acme"})
            return received(function.invoke(event).json())

        body = {"model": "fresh", "messages": [{"role": "user", "content": "hi"}]}
        assert there("POST", PATH, body).status == 200, function.log()[-2000:]
        statuses = [there("POST", PATH, {**body, "model": "m"}).status for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        assert there("POST", "/api/workspaces/acme/budget/reset", {}).status == 200
        assert ask(here, key).status == 200
        (entry,) = [each for each in seen(here, key, "/api/audit")["entries"]
                    if each["route"].endswith("/reset")]  # fmt: skip
        assert entry["outcome"] == "done"
