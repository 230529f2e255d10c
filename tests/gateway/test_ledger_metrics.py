"""What the gateway counts: names, labels, sums, and that callers make no series."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.call import Attempt, Usage
from router_core.gateway.outcome import OK, Outcome
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.values import BreakerPolicy, Deployment
from router_core.telemetry.metrics import MAX_SERIES, Metrics
from router_core.testing.clock import FakeClock
from tests.gateway.ledger_parts import DEPLOYMENT, UNPRICED, make_attempt, make_call, make_ledger

parser = pytest.importorskip("prometheus_client.parser", reason="the official parser judges the text")

FAILED = Outcome("server_error", "retry", failure=True)
Key = tuple[str, tuple[tuple[str, str], ...]]


def read(metrics: Metrics) -> Mapping[Key, float]:
    """Return what the official parser reads."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(metrics.render())
        for sample in family.samples
    }


class Gateway:
    """A ledger with its metrics, joined to those of an app."""

    def __init__(self) -> None:
        self.app = Metrics()
        self.clock = FakeClock()
        self.ledger: Ledger = make_ledger(clock=self.clock)
        self.metrics: GatewayMetrics = self.ledger.metrics
        self.metrics.join(self.app)

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample; None where there is none."""
        return read(self.app).get((f"model_router_{name}", tuple(sorted(labels.items()))))


def test_calls_by_model_and_outcome() -> None:
    """The names of the reference; unknown models are one series, whatever they are called."""
    gateway = Gateway()
    gateway.clock.advance(0.3)
    gateway.metrics.called(make_call(), "turbo", OK)
    gateway.metrics.called(make_call(), "turbo", OK)
    gateway.metrics.called(make_call(), "turbo", None)
    for number in range(50):
        gateway.metrics.called(make_call(model_name=f"x{number}"), "", Outcome("not_found", "stop"))
    assert gateway.value("requests_total", model="turbo", outcome="ok") == 2
    assert gateway.value("requests_total", model="turbo", outcome="cancelled") == 1
    assert gateway.value("requests_total", model="unknown", outcome="not_found") == 50
    assert gateway.value("request_duration_seconds_count", model="turbo") == 3
    assert gateway.value("request_duration_seconds_sum", model="turbo") == pytest.approx(0.9)
    assert gateway.value("request_duration_seconds_bucket", model="turbo", le="0.25") == 0
    assert gateway.value("request_duration_seconds_bucket", model="turbo", le="0.5") == 3


def test_attempts_by_deployment() -> None:
    """Outcomes, tokens of each kind, cost, and how long it took."""
    gateway = Gateway()
    settle = gateway.ledger.settle
    settle(make_call(), make_attempt(), DEPLOYMENT, Usage(1000, 100, 400, 30))
    settle(make_call(), make_attempt(), DEPLOYMENT, Usage(10, 1, estimated=True))
    settle(make_call(), make_attempt(outcome="connect"), DEPLOYMENT, None)
    settle(make_call(), make_attempt(deployment=UNPRICED), UNPRICED, Usage(5, 5))
    one = {"deployment": "turbo-1"}
    assert gateway.value("attempts_total", outcome="ok", **one) == 2
    assert gateway.value("attempts_total", outcome="connect", **one) == 1
    assert gateway.value("tokens_total", kind="input", **one) == 1010
    assert gateway.value("tokens_total", kind="output", **one) == 101
    assert gateway.value("tokens_total", kind="cached", **one) == 400
    assert gateway.value("tokens_total", kind="reasoning", **one) == 30
    assert gateway.value("cost_microdollars_total", **one) == 2400 + 28
    assert gateway.value("estimated_attempts_total", **one) == 1
    assert gateway.value("unpriced_attempts_total", **one) == 0
    assert gateway.value("unpriced_attempts_total", deployment="own-1") == 1
    assert gateway.value("cost_microdollars_total", deployment="own-1") == 0
    assert gateway.value("attempt_duration_seconds_count", **one) == 3
    assert gateway.value("attempt_duration_seconds_sum", **one) == pytest.approx(0.75)


def test_streams_have_times_of_their_own() -> None:
    """To the first content and to the end; calls without a stream, or without content, count for neither."""
    gateway = Gateway()
    settle = gateway.ledger.settle
    settle(make_call(stream=True), make_attempt(first_byte=0.2, seconds=4.0), DEPLOYMENT, None)
    settle(make_call(stream=True), make_attempt(first_byte=0.0, outcome="timeout"), DEPLOYMENT, None)
    settle(make_call(), make_attempt(), DEPLOYMENT, None)
    assert gateway.value("time_to_first_token_seconds_count", deployment="turbo-1") == 1
    assert gateway.value("time_to_first_token_seconds_sum", deployment="turbo-1") == pytest.approx(0.2)
    assert gateway.value("stream_duration_seconds_sum", deployment="turbo-1") == pytest.approx(4.0)


def attempts(*models: str, hedged: int = -1) -> list[Attempt]:
    """Return attempts at these models, one of them a hedge."""
    return [
        Attempt(number + 1, model, f"{model}-1", 0.0, hedge=number == hedged)
        for number, model in enumerate(models)
    ]


@pytest.mark.parametrize(
    ("tries", "retries", "fallbacks", "hedges"),
    [
        (attempts("a"), 0, 0, 0),
        (attempts("a", "a", "a"), 2, 0, 0),
        (attempts("a", "b"), 0, 1, 0),
        (attempts("a", "a", "b", "b", "c"), 2, 2, 0),
        (attempts("a", "a", hedged=1), 0, 0, 1),
        (attempts("a", "a", "a", hedged=1), 1, 0, 1),
    ],
)
def test_more_than_one_try(tries: list[Attempt], retries: int, fallbacks: int, hedges: int) -> None:
    """Retries stay with a model, fallbacks leave it, hedges are neither."""
    gateway = Gateway()
    call = make_call()
    call.attempts = tries
    gateway.metrics.called(call, "a", OK)
    found = read(gateway.app)

    def total(name: str) -> float:
        return sum(value for (full, _), value in found.items() if full == f"model_router_{name}_total")

    assert (total("retries"), total("fallbacks"), total("hedges")) == (retries, fallbacks, hedges)


def test_rules_and_the_selector() -> None:
    """Which rules decide, and how calls of /select_endpoint end."""
    gateway = Gateway()
    gateway.metrics.rule_matched("creative first")
    gateway.metrics.selected(200, 2)
    gateway.metrics.selected(-1, 900)
    gateway.metrics.selected(123456, 1)
    assert 'model_router_routing_rule_matches{rule="creative first"} 1\n' in gateway.app.render()
    assert gateway.value("request_status_total", status="200") == 1
    assert gateway.value("request_status_total", status="-1") == 2
    assert gateway.value("endpoint_attempt_total", attempt="2") == 1
    assert gateway.value("endpoint_attempt_total", attempt="20+") == 1


class Watched:
    """A deployment and how it stands."""

    def __init__(self, name: str, model: str = "turbo") -> None:
        self.deployment = Deployment(name, model, "openai", "gpt-4o")
        self.standing = Standing(
            self.deployment, BreakerPolicy(), lambda *_: None, random.Random(1).random
        )  # fmt: skip

    def ends(self, outcome: Outcome, times: int, now: float) -> None:
        """Let calls end so."""
        for _ in range(times):
            permit = self.standing.begin(now)
            assert permit is not None
            self.standing.end(permit, outcome, now, 0.1)


def test_gauges_show_how_deployments_stand() -> None:
    """In flight, waiting, circuit, and what share of a model's calls would succeed."""
    gateway = Gateway()
    now = gateway.clock.monotonic()
    well, ill, other = Watched("a"), Watched("b"), Watched("c", "own")
    gateway.metrics.watch(lambda: [well, ill, other])
    well.ends(OK, 3, now)
    well.ends(FAILED, 1, now)
    well.standing.begin(now)
    other.standing.queue = 7
    ill.ends(FAILED, 5, now)
    assert gateway.value("in_flight", deployment="a") == 1
    assert gateway.value("queue_depth", deployment="c") == 7
    assert gateway.value("circuit_state", deployment="a") == 0
    assert gateway.value("circuit_state", deployment="b") == 2
    assert gateway.value("model_health_score", model="turbo") == pytest.approx(0.75 / 2)
    assert gateway.value("model_health_score", model="own") == 1
    gateway.metrics.watch(lambda: [other])
    assert gateway.value("in_flight", deployment="a") is None


def test_before_anybody_is_watched() -> None:
    """The gauges are empty, and the text is valid."""
    gateway = Gateway()
    assert gateway.value("model_health_score", model="turbo") is None


def test_series_are_bounded() -> None:
    """More deployments than a metric holds go together, and no sum is lost."""
    gateway = Gateway()
    for number in range(MAX_SERIES + 50):
        one = Deployment(f"d{number}", "m", "vllm", "x")
        gateway.ledger.settle(make_call(), make_attempt(deployment=one), one, Usage(1, 1))
    values = [float(line.rpartition(" ")[2]) for line in gateway.metrics.attempts.lines()]
    assert len(values) <= MAX_SERIES + 1
    assert sum(values) == MAX_SERIES + 50


def test_the_page_of_the_documents_names_every_metric() -> None:
    """With its labels, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "gateway-accounting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(model_router_\w+)` \|([^|]*)\|", page, re.MULTILINE)
    named = {name: tuple(filter(None, labels.strip().split(", "))) for name, labels in rows}
    assert named == {metric.name: metric.labels for metric in GatewayMetrics()._all}
