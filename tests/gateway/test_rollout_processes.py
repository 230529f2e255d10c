"""Two real servers that share a file of state: what one finds out about a canary, both go by."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.served import Served, served

pytestmark = [pytest.mark.process, pytest.mark.soak]

CONFIG = """
models:
  - {id: old, type: text-generation, clients: [{id: o1, type: scripted, model: up}]}
  - id: new
    type: text-generation
    clients:
      - {id: n1, type: scripted, model: up, args: {fail_rate: 0.5, fail_status: 500, seed: 3}}
rollouts:
  - {id: r, model: old, canary: new, startShare: 20, rollback: {maxErrorRateIncrease: 0.05}}
"""
CALLS = 3000


def ask(service: Served, path: str, body: Any = None) -> tuple[Any, str]:
    """Return the JSON of an answer, and the arm that it names."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer), answer.headers.get("x-router-trial") or ""


def call(service: Served, user: str) -> str:
    """Make a call, which has to be answered, and return its arm."""
    told, arm = ask(service, "/v1/chat/completions", {
        "model": "old", "user": user, "messages": [{"role": "user", "content": "Hello!"}],
    })  # fmt: skip
    assert told["choices"]
    return arm


def state(service: Served) -> dict[str, Any]:
    """Return how the rollout stands."""
    found: dict[str, Any] = ask(service, "/api/rollouts/r")[0]["state"]
    return found


async def test_servers_that_share_state_roll_back_together(tmp_path: Path) -> None:
    """Half of the canary's calls fail: fewer than 5 % of all calls fell to it, at either server, nobody went
    without an answer, both tell the same, and so does one that is started later."""
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    environ = {
        "ROUTER_GATEWAY": str(tmp_path / "gateway.yaml"), "ROUTER_LOG_LEVEL": "error",
        "ROUTER_STATE": f"sqlite:///{tmp_path / 'state.db'}", "ROUTER_JOBS": "memory://",
    }  # fmt: skip
    app = "router_core.gateway.app:create_app"
    with served(app, tmp_path, **environ) as one, served(app, tmp_path, **environ) as two:
        places = asyncio.Semaphore(8)

        async def made(number: int) -> str:
            async with places:
                return await asyncio.to_thread(call, (one, two)[number % 2], f"user {number}")

        arms = Counter(await asyncio.gather(*map(made, range(CALLS))))
        assert 0 < arms["r/canary"] < 0.05 * CALLS
        states = [state(each) for each in (one, two)]
        assert states[0]["status"] == states[1]["status"] == "rolled_back"
        assert states[0]["decisions"] == states[1]["decisions"]
        assert [each["action"] for each in states[0]["decisions"]] == ["rolled_back", "started"]
    with served(app, tmp_path, **environ) as later:
        assert state(later)["status"] == "rolled_back"
        assert call(later, "user 1") == ""
