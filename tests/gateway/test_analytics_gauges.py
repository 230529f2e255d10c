"""What operators look at beside traffic: budgets and rollouts among the metrics."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.serving import House, chat, house

CONFIG = """
models:
  - id: small
    type: text-generation
    clients: [{id: s1, model: up, type: scripted, args: {reply: "Hi!"}, price: {input: 1000, output: 1000}}]
  - id: next
    type: text-generation
    clients: [{id: n1, model: up, type: scripted}]
workspaces:
  ws-a: {budgetLimits: {daily: 1, monthly: 100}}
rollouts:
  - {id: r1, model: small, canary: next, strategy: linear, startShare: 1, step: 15, intervalSeconds: 600}
"""


async def gauges(made: House) -> dict[tuple[str, ...], float]:
    """Return the samples of the two gauges: labels -> value."""
    text = (await made.ask("/metrics")).body.decode()
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        if family.name in ("model_router_budget_used_ratio", "model_router_rollout_percent")
        for sample in family.samples
    }


async def test_budgets_and_rollouts_are_told() -> None:
    """A budget that was used, and every rollout whose state is known."""
    async with house(CONFIG) as made:
        await made.gateway.trials.tick()
        await made.gateway.trials.idle()
        assert await gauges(made) == {("r1", "running"): 1.0}
        headers = {"x-router-workspace": "ws-a", "x-router-session": "one"}
        for _ in range(3):
            answer = await made.ask("/v1/chat/completions", chat("small"), headers=headers)
            assert answer.status == 200
        records = (await made.ask("/api/metrics/requests?modelId=small")).json()["requests"]
        spent = sum(each["usage"]["cost"] or 0 for each in records)
        found = await gauges(made)
        assert spent > 0
        assert found["workspace:ws-a", "daily"] == pytest.approx(spent)
        assert found["workspace:ws-a", "monthly"] * 100 == pytest.approx(spent)
