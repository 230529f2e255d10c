"""What the gateway counts, among the metrics of its app.

Labels are ids of the configuration and words of the code; a model that nobody knows is ``unknown``. What an
attempt adds to is looked up once for each deployment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Protocol, TypeVar

from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.outcome import Outcome
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.values import Deployment
from router_core.telemetry.metrics import BUCKETS, Counter, Gauge, Histogram, Metrics

__all__ = ["UNKNOWN", "DeploymentCells", "GatewayMetrics", "Watched", "score"]

UNKNOWN: Final = "unknown"
_MANY: Final = 20
"""Attempts that are told apart."""
_CIRCUIT: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}
_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_ILL: Final = frozenset({"open_circuit", "ejected", "unhealthy"})


class Watched(Protocol):
    """A candidate of the selection, as far as its gauges need it."""

    @property
    def deployment(self) -> Deployment:
        """Which one it is."""

    @property
    def standing(self) -> Standing:
        """How it stands."""


class DeploymentCells:
    """The sums that the attempts of one deployment go into; nobody else adds to them."""

    __slots__ = (
        "_attempts", "_cached", "_cost", "_estimated", "_input", "_metrics", "_name", "_outcomes", "_output",
        "_reasoning", "_seconds", "_streams", "_unpriced",
    )  # fmt: skip

    def __init__(self, metrics: GatewayMetrics, deployment_id: str) -> None:
        name = self._name = deployment_id
        self._attempts = metrics.attempts
        self._outcomes: dict[str, list[float]] = {}
        self._seconds = metrics.attempt_seconds.cell((name,))
        self._metrics = metrics
        self._streams: tuple[list[float], list[float]] | None = None
        self._input = metrics.tokens.cell((name, "input"))
        self._output = metrics.tokens.cell((name, "output"))
        self._cached = metrics.tokens.cell((name, "cached"))
        self._reasoning = metrics.tokens.cell((name, "reasoning"))
        self._cost = metrics.cost.cell((name,))
        self._unpriced = metrics.unpriced.cell((name,))
        self._estimated = metrics.estimated.cell((name,))

    def add(self, attempt: Attempt, usage: Usage | None, cost: int | None, stream: bool) -> None:
        """Count one attempt that has ended."""
        outcome, seconds = attempt.outcome, attempt.seconds
        cell = self._outcomes.get(outcome)
        if cell is None:
            cell = self._outcomes[outcome] = self._attempts.cell((self._name, outcome))
        cell[0] += 1.0
        series = self._seconds
        series[bisect_left(BUCKETS, seconds)] += 1.0
        series[-1] += seconds
        if stream and attempt.first_byte > 0.0:
            self._add_stream(attempt.first_byte, seconds)
        if usage is None:
            return
        self._input[0] += usage.input_tokens
        self._output[0] += usage.output_tokens
        if usage.cached_tokens:
            self._cached[0] += usage.cached_tokens
        if usage.reasoning_tokens:
            self._reasoning[0] += usage.reasoning_tokens
        if usage.estimated:
            self._estimated[0] += 1.0
        if cost is None:
            self._unpriced[0] += 1.0
        else:
            self._cost[0] += cost

    def _add_stream(self, first: float, seconds: float) -> None:
        streams = self._streams
        if streams is None:  # most deployments of some services never have one
            metrics, labels = self._metrics, (self._name,)
            streams = (metrics.first_token_seconds.cell(labels), metrics.stream_seconds.cell(labels))
            self._streams = streams
        _observe(streams[0], first)
        _observe(streams[1], seconds)


class GatewayMetrics:
    """The gateway's metrics; ``join`` shows them among those of an app."""

    def __init__(self, time: Callable[[], float] = monotonic) -> None:
        """``time`` is the clock of ``Call.started`` (``loop.time``, which is ``time.monotonic``)."""
        self._time = time
        self._all: list[Counter | Histogram] = []
        self._watched: Callable[[], Iterable[Watched]] = tuple
        self.requests = self._counter("requests_total", "Calls of models.", "model", "outcome")
        self.request_seconds = self._histogram(
            "request_duration_seconds",
            "Time from a call to its answer, or to the first content of it.",
            "model",
        )
        self.attempts = self._counter("attempts_total", "Tries at deployments.", "deployment", "outcome")
        self.attempt_seconds = self._histogram(
            "attempt_duration_seconds", "Time of one try, streams to their end.", "deployment"
        )
        self.first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "Time to the first content of a stream.", "deployment"
        )
        self.stream_seconds = self._histogram(
            "stream_duration_seconds", "Time to the end of a stream.", "deployment"
        )
        self.tokens = self._counter(
            "tokens_total", "Tokens; cached is part of input, reasoning of output.", "deployment", "kind"
        )
        self.cost = self._counter("cost_microdollars_total", "Cost of what has a price.", "deployment")
        self.unpriced = self._counter(
            "unpriced_attempts_total", "Tries that used something whose price nobody knows.", "deployment"
        )
        self.estimated = self._counter(
            "estimated_attempts_total", "Tries whose tokens are estimated.", "deployment"
        )
        self.retries = self._counter("retries_total", "Tries after the first at one model.", "model")
        self.fallbacks = self._counter("fallbacks_total", "Calls that went on to another model.", "model")
        self.hedges = self._counter("hedges_total", "Second copies of slow calls.", "model")
        self.rule_matches = self._counter(
            "routing_rule_matches", "Calls that a routing rule decided.", "rule"
        )
        self.select_status = self._counter("request_status_total", "Calls of /select_endpoint.", "status")
        self.select_attempt = self._counter(
            "endpoint_attempt_total",
            "Which attempt of /select_endpoint succeeded, or was the last.",
            "attempt",
        )
        self.dropped = self._counter("ledger_dropped_total", "Records that were lost before they were kept.")
        self.in_flight = self._gauge("in_flight", "Tries under way.", "deployment", across="sum")
        self.queue = self._gauge(
            "queue_depth", "Requests that wait in an upstream, as it says.", "deployment", across="max"
        )
        self.circuit = self._gauge(
            "circuit_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", "deployment", across="max"
        )
        self.health = self._gauge(
            "model_health_score", "Share of a model's calls that would succeed.", "model", across="min"
        )
        self._models: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        self._rules: dict[str, list[float]] = {}

    def cells(self, deployment_id: str) -> DeploymentCells:
        """Return what the attempts of a deployment add to."""
        return DeploymentCells(self, deployment_id)

    def join(self, metrics: Metrics) -> None:
        """Show all of them among the metrics of an app."""
        for metric in self._all:
            metrics.add(metric)
        metrics.before_render(self._look)

    def watch(self, candidates: Callable[[], Iterable[Watched]]) -> None:
        """Set the gauges by the standings of these deployments, whenever the metrics are read."""
        self._watched = candidates

    def called(self, call: Call, model_id: str, outcome: Outcome | None) -> None:
        """Count one call: by the model that was asked for (empty: nobody knows it) and how it ended (None: it
        was cancelled); a stream ends here with its first content."""
        model, kind = model_id or UNKNOWN, "cancelled" if outcome is None else outcome.kind
        cells = self._models.get((model, kind))
        if cells is None:
            count, series = self.requests.cell((model, kind)), self.request_seconds.cell((model,))
            cells = self._models.setdefault((model, kind), (count, series))
        count, series = cells
        count[0] += 1.0
        seconds = self._time() - call.started
        series[bisect_left(BUCKETS, seconds)] += 1.0
        series[-1] += seconds
        if len(call.attempts) > 1:
            self._count_more(call.attempts)

    def rule_matched(self, rule: str) -> None:
        """Count a rule that decided where a call goes."""
        cell = self._rules.get(rule)
        if cell is None:
            cell = self._rules[rule] = self.rule_matches.cell((rule,))
        cell[0] += 1.0

    def selected(self, status: int, attempt: int) -> None:
        """Count a call of ``/select_endpoint``: the status that it ended with (-1: nobody could be reached)
        and the number of the attempt that got it."""
        self.select_status.add((str(status) if 100 <= status <= 599 else "-1",))
        self.select_attempt.add((str(attempt) if attempt < _MANY else f"{_MANY}+",))

    def forget(self) -> None:
        """Let go of what was looked up, after models were removed; the sums stay."""
        self._models.clear()
        self._rules.clear()

    def _count_more(self, attempts: list[Attempt]) -> None:
        """Count what was more than one try: each at its model, a fallback at the model that was left."""
        before = None
        for attempt in attempts:
            if attempt.hedge:
                self.hedges.add((attempt.model_id,))
                continue
            if before is not None and attempt.model_id == before:
                self.retries.add((before,))
            elif before is not None:
                self.fallbacks.add((before,))
            before = attempt.model_id

    def _look(self) -> None:
        now = self._time()
        in_flight: dict[tuple[str, ...], float] = {}
        queue: dict[tuple[str, ...], float] = {}
        circuit: dict[tuple[str, ...], float] = {}
        health: dict[tuple[str, ...], list[float]] = {}
        for candidate in self._watched():
            standing, deployment = candidate.standing, candidate.deployment
            name = (deployment.id,)
            in_flight[name] = standing.inflight
            queue[name] = standing.queue
            circuit[name] = _CIRCUIT[standing.circuit]
            health.setdefault((deployment.model_id,), []).append(score(standing, now))
        self.in_flight.replace(in_flight)
        self.queue.replace(queue)
        self.circuit.replace(circuit)
        self.health.replace({name: sum(scores) / len(scores) for name, scores in health.items()})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._added(Counter(f"model_router_{name}", text, labels))

    def _gauge(self, name: str, text: str, *labels: str, across: str) -> Gauge:
        return self._added(Gauge(f"model_router_{name}", text, labels, across))

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return self._added(Histogram(f"model_router_{name}", text, labels))

    def _added(self, metric: _Metric) -> _Metric:
        self._all.append(metric)
        return metric


def _observe(series: list[float], value: float) -> None:
    series[bisect_left(BUCKETS, value)] += 1.0
    series[-1] += value


def score(standing: Standing, now: float) -> float:
    """Return the share of calls that would succeed, as far as the last ones tell; 0 for one that is out."""
    if standing.out(now) in _ILL:
        return 0.0
    good, bad, _ = standing.totals(now)
    return good / (good + bad) if good + bad else 1.0
