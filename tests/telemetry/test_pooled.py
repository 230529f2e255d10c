"""Metrics of several processes: added up, whoever is asked, and never less than was told before."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.call import Call
from router_core.gateway.outcome import OK
from router_core.telemetry.metrics import MAX_SERIES, Counter, Gauge, Histogram, Metrics
from router_core.telemetry.pooled import MetricsPool, Rendered


class Process:
    """One process of a service, with metrics of every kind."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.calls = Counter("calls_total", "Calls.", ("who",))
        self.seconds = Histogram("seconds", "Time.", ("who",), (0.1, 1.0))
        self.busy = Gauge("busy", "Under way.", across="sum")
        self.worst = Gauge("worst", "The worst.", across="min")
        self.mine = Gauge("mine", "Mine.")
        for metric in (self.calls, self.seconds, self.busy, self.worst, self.mine):
            self.metrics.add(metric)
        self.pool = self.metrics.pool = MetricsPool(folder, self.metrics.render, self.metrics.across)

    def count(self, who: str, times: int, seconds: float = 0.5) -> None:
        """Count some calls."""
        self.calls.add((who,), times)
        for _ in range(times):
            self.seconds.observe(seconds, (who,))

    def write(self) -> None:
        """Write what this process renders, as its loop does now and then."""
        self.pool.publish(self.metrics.render())

    async def samples(self) -> dict[tuple[str, str], float]:
        """Return what it answers with: name and the first label (of buckets: the bound) -> value."""
        text = await self.metrics.exposed()
        return {
            (each.name, each.labels.get("le", each.labels.get("who", ""))): each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
        }


def files(folder: Path, part: str) -> dict[Path, bytes]:
    """Return the files whose names have a part."""
    return {path: path.read_bytes() for path in folder.iterdir() if part in path.name}


async def test_all_answer_with_the_sums_of_all(tmp_path: Path) -> None:
    """Counters and histograms add up, gauges as each says, series of one alone included."""
    one, other = Process(tmp_path), Process(tmp_path)
    one.count('a"\\ b', 2, 0.05)
    other.count("b", 3, 0.5)
    for process, busy in ((one, 2.0), (other, 5.0)):
        process.busy.set(busy)
        process.worst.set(busy / 10)
        process.mine.set(busy)
        process.write()
    for process, mine in ((one, 2.0), (other, 5.0)):
        found = await process.samples()
        assert (found["calls_total", 'a"\\ b'], found["calls_total", "b"]) == (2, 3)
        assert (found["busy", ""], found["worst", ""], found["mine", ""]) == (7.0, 0.2, mine)
        assert found["seconds_count", "b"] == 3
        assert found["seconds_sum", "b"] == 1.5
    one.pool.close()
    other.pool.close()


async def test_sums_never_fall_when_processes_end(tmp_path: Path) -> None:
    """What one has counted stays, once, through any number of ends; its gauges go."""
    asked = Process(tmp_path)
    for turn in range(1, 6):
        dying = Process(tmp_path)
        dying.count("a", 10)
        dying.busy.set(4.0)
        dying.write()
        assert (await asked.samples())["calls_total", "a"] == turn * 10
        dying.pool.close()
        for _ in range(3):
            found = await asked.samples()
            assert found["calls_total", "a"] == turn * 10
            assert found["busy", ""] == 0.0 if ("busy", "") in found else True
    assert len(files(tmp_path, ".prom")) == 2, "those that have ended share a file"
    asked.pool.close()


async def test_what_was_told_once_is_known_to_all(tmp_path: Path) -> None:
    """Whoever is asked next tells no less, although the first has not had its turn to write."""
    one, other = Process(tmp_path), Process(tmp_path)
    one.count("a", 7)
    assert (await one.samples())["calls_total", "a"] == 7
    assert (await other.samples())["calls_total", "a"] == 7
    one.pool.close()
    other.pool.close()


def _die(folder: str) -> None:
    """Count and end without a goodbye."""
    import os

    process = Process(Path(folder))
    process.count("a", 5)
    process.write()
    os._exit(1)


@pytest.mark.process
async def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    """Its lock falls with it."""
    child = multiprocessing.get_context("spawn").Process(target=_die, args=(str(tmp_path),))
    child.start()
    child.join(60)
    asked = Process(tmp_path)
    assert [(await asked.samples())["calls_total", "a"] for _ in range(2)] == [5, 5]
    asked.pool.close()


async def test_a_funeral_that_was_cut_short_counts_nobody_twice(tmp_path: Path) -> None:
    """The file of those that have ended names whose files are in it."""
    dead, asked = Process(tmp_path), Process(tmp_path)
    dead.count("a", 5)
    dead.pool.close()
    kept = files(tmp_path, dead.pool._name)
    assert (await asked.samples())["calls_total", "a"] == 5
    for path, data in kept.items():
        path.write_bytes(data)
    other = Process(tmp_path)
    other.count("a", 1)
    other.pool.close()
    for _ in range(2):
        assert (await asked.samples())["calls_total", "a"] == 6
    asked.pool.close()


async def test_garbage_and_a_folder_that_is_gone(tmp_path: Path) -> None:
    """A process then answers for itself."""
    folder = tmp_path / "pool"
    folder.mkdir()
    process = Process(folder)
    process.count("a", 2)
    (folder / "1-2.prom").write_bytes(b"\xff\xfe nonsense")
    (folder / "1-3.prom").write_text("calls_total nonsense")
    assert (await process.samples())["calls_total", "a"] == 2
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert (await process.samples())["calls_total", "a"] == 2
    process.pool.close()


def test_reading_a_rendering_gives_it_back() -> None:
    """Every metric of the product survives the way through a file unchanged."""
    metrics = Metrics()
    GatewayMetrics().join(metrics)
    metrics.requests.add(("GET", "GET /x", "200"), 3)
    metrics.request_seconds.observe(0.3, ("GET /x",))
    metrics.oldest_queued.set(1.25)
    text = metrics.render()
    assert Rendered(text).text() == text


def test_made_up_models_make_no_series() -> None:
    """1e5 names that callers made up are one; those of a configuration are as many as there may be."""
    metrics = GatewayMetrics()
    rendered = Metrics()
    metrics.join(rendered)
    for number in range(100_000):
        metrics.called(Call("chat/completions", f"made-up-{number}"), "", None)
        if number % 20 == 0:
            metrics.called(Call("chat/completions", "m"), f"configured-{number}", OK)
            metrics.rule_matched(f"rule-{number}")
    found: dict[str, Any] = {each.name: each for each in text_string_to_metric_families(rendered.render())}
    assert len(found["model_router_requests"].samples) <= MAX_SERIES + 1
    assert sum(each.value for each in found["model_router_requests"].samples) == 105_000
    assert len(found["model_router_routing_rule_matches"].samples) <= MAX_SERIES + 1
    assert metrics.requests.value(("unknown", "cancelled")) == 100_000


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("model_router_requests", "counter", {"model", "outcome"}),
        ("model_router_request_duration_seconds", "histogram", {"model"}),
        ("model_router_model_health_score", "gauge", {"model"}),
        ("model_router_routing_rule_matches", "counter", {"rule"}),
    ],
)
def test_names_that_dashboards_know(name: str, kind: str, labels: set[str]) -> None:
    """The names, types and labels that were promised."""
    metrics = GatewayMetrics()
    rendered = Metrics()
    metrics.join(rendered)
    metrics.called(Call("chat/completions", "m"), "m", OK)
    metrics.rule_matched("r")
    metrics.health.set(1.0, ("m",))
    rendered._hooks.clear()
    found = {each.name: each for each in text_string_to_metric_families(rendered.render())}[name]
    assert found.type == kind
    assert {label for each in found.samples for label in each.labels if label != "le"} == labels
