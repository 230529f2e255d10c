"""Metrics: what is counted, that the text is valid, and that no caller can make series."""

from __future__ import annotations

import math

import pytest

from router_core.telemetry.events import JobMoved, Note, RequestDone
from router_core.telemetry.metrics import MAX_SERIES, Counter, Gauge, Histogram, Metrics

parser = pytest.importorskip("prometheus_client.parser", reason="the official parser judges the text")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return what the official parser reads."""
    found = {}
    for family in parser.text_string_to_metric_families(metrics.render()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def done(**more: object) -> RequestDone:
    """Return a request event."""
    fields = {
        "method": "POST",
        "path": "/p",
        "route": "/p",
        "status": 200,
        "seconds": 0.003,
        "request_id": "r",
    }
    return RequestDone(**{**fields, **more})  # type: ignore[arg-type]


def test_events_are_counted() -> None:
    """Requests, moves and notes."""
    metrics = Metrics()
    for event in (
        done(), done(status=429, seconds=0.2), done(bytes_out=10, disconnected=True),
        JobMoved("j", "/p", "add", "queued"), JobMoved("j", "/p", "claim", "running", seconds=0.7),
        JobMoved("j", "/p", "succeed", "succeeded", seconds=3.0), Note("store_down", "error"), object(),
    ):  # fmt: skip
        metrics(event)
    found = samples(metrics)
    request = (("method", "POST"), ("route", "/p"), ("status", "200"))
    assert found["router_requests_total", request] == 2
    assert found["router_request_duration_seconds_count", (("route", "/p"),)] == 3
    assert found["router_request_duration_seconds_bucket", (("le", "0.005"), ("route", "/p"))] == 2
    assert found["router_response_bytes_total", (("route", "/p"),)] == 10
    assert found["router_disconnects_total", (("route", "/p"),)] == 1
    assert found["router_job_wait_seconds_sum", (("route", "/p"),)] == pytest.approx(0.7)
    assert found["router_job_run_seconds_bucket", (("le", "5"), ("route", "/p"))] == 1
    assert found["router_job_run_seconds_bucket", (("le", "2.5"), ("route", "/p"))] == 0
    assert found["router_notes_total", (("level", "error"), ("name", "store_down"))] == 1


def test_a_histogram_is_cumulative_and_ends_with_infinity() -> None:
    """The last bucket is the count; bounds belong to their bucket."""
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 1e9, 0.0, -1.0):
        metrics(done(seconds=seconds))
    found = samples(metrics)
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in found.items()
        if name == "router_request_duration_seconds_bucket"
    ]
    buckets.sort()
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[0] == (0.001, 3)
    assert buckets[-1] == (math.inf, 5)


@pytest.mark.parametrize("route", ['/a"b', "/a\\b", "/a\nb", "/é", "POST /x/{y}"])
def test_odd_labels_survive_the_round_trip(route: str) -> None:
    """Quotes, backslashes and line breaks are escaped."""
    metrics = Metrics()
    metrics(done(route=route))
    labels = (("method", "POST"), ("route", route), ("status", "200"))
    assert samples(metrics)["router_requests_total", labels] == 1


def test_callers_cannot_make_series() -> None:
    """Paths and ids are no labels, unknown methods are one, and every metric has an end."""
    metrics = Metrics()
    for number in range(3000):
        metrics(
            done(
                path=f"/{number}",
                request_id=str(number),
                principal=str(number),
                route="",
                method=f"M{number}",
            )
        )
    assert len([key for key in samples(metrics) if key[0] == "router_requests_total"]) == 1
    counter = Counter("c", "Text.", ("a",))
    histogram = Histogram("h", "Text.", ("a",))
    gauge = Gauge("g", "Text.", ("a",))
    for number in range(MAX_SERIES + 1000):
        counter.add((str(number),))
        histogram.observe(1, (str(number),))
        gauge.set(1, (str(number),))
    assert len(list(counter.lines())) == len(list(gauge.lines())) == MAX_SERIES + 1
    assert counter.value(("other",)) == 1000
    assert histogram.count(("other",)) == 1000


def test_a_gauge_forgets_what_is_gone() -> None:
    """Replacing names all series."""
    gauge = Gauge("g", "Text.", ("a",))
    gauge.set(2, ("x",))
    gauge.replace({("y",): 3.0})
    assert list(gauge.lines()) == ['g{a="y"} 3']


def test_own_metrics() -> None:
    """An author may add some, under a name of their own."""
    metrics = Metrics()
    mine = Counter("my_pictures_total", "Pictures made.")
    metrics.add(mine)
    mine.add()
    assert samples(metrics)["my_pictures_total", ()] == 1
    with pytest.raises(ValueError, match="already"):
        metrics.add(Counter("router_jobs", "Again."))


def test_gauges_are_set_when_they_are_read() -> None:
    """A hook tells what is so now; one that fails keeps neither the others nor the text back."""
    metrics = Metrics()
    depth = Gauge("router_depth", "Depth.", ("name",))
    metrics.add(depth)
    level = [1.0]

    def fails() -> None:
        raise RuntimeError

    metrics.before_render(fails)
    metrics.before_render(lambda: depth.replace({("a",): level[0]}))
    assert samples(metrics)["router_depth", (("name", "a"),)] == 1
    level[0] = 7.0
    assert samples(metrics)["router_depth", (("name", "a"),)] == 7
