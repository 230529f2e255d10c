"""Counters, gauges and histograms, and the text that Prometheus reads.

Labels are route keys, states and words from the code: a caller cannot make a new series.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from router_core.telemetry.events import JobMoved, Note, RequestDone

__all__ = ["BUCKETS", "CONTENT_TYPE", "Counter", "Gauge", "Histogram", "Metrics", "Pool"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
MAX_SERIES: Final = 2000
"""More label sets than this in one metric are counted under ``other``: memory stays bounded."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Labels = tuple[str, ...]


class Counter:
    """A sum that only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._cells: dict[Labels, list[float]] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """Add to one series."""
        with self._lock:
            self._cell(labels)[0] += amount

    def cell(self, labels: Labels) -> list[float]:
        """Return where the sum of one series stands, for somebody who adds to it alone and often."""
        with self._lock:
            return self._cell(labels)

    def _cell(self, labels: Labels) -> list[float]:
        cell = self._cells.get(labels)
        if cell is None:
            key = labels if len(self._cells) < MAX_SERIES else ("other",) * len(labels)
            cell = self._cells.setdefault(key, [0.0])
        return cell

    def value(self, labels: Labels = ()) -> float:
        """Return one series' sum."""
        cell = self._cells.get(labels)
        return 0.0 if cell is None else cell[0]

    def items(self) -> list[tuple[Labels, float]]:
        """Return every series with its sum."""
        return [(labels, cell[0]) for labels, cell in self._cells.copy().items()]

    def lines(self) -> Iterable[str]:
        """Return the sample lines."""
        for labels, (value,) in sorted(self._cells.copy().items()):
            yield f"{self.name}{_labels(self.labels, labels)} {_number(value)}"


class Gauge(Counter):
    """A value that goes up and down: set it, or have ``Metrics.before_render`` set it when it is read."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Labels = (), across: str = "own") -> None:
        """``across``: what holds for several processes together: the ``sum``, ``max`` or ``min`` of theirs,
        or what the one that is asked says by itself (``own``)."""
        super().__init__(name, text, labels)
        self.across = across

    def set(self, value: float, labels: Labels = ()) -> None:
        """Set one series."""
        with self._lock:
            self._cell(labels)[0] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Set all series at once; those not named disappear."""
        with self._lock:
            self._cells = {labels: [value] for labels, value in list(values.items())[:MAX_SERIES]}


class Histogram:
    """How often values fell into which range."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, labels: Labels = (), buckets: tuple[float, ...] = BUCKETS
    ) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._buckets = buckets
        self._series: dict[Labels, list[float]] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Count one value."""
        with self._lock:
            series = self._cell(labels)
            series[bisect_left(self._buckets, value)] += 1
            series[-1] += value

    def cell(self, labels: Labels) -> list[float]:
        """Return the counts of one series, one for each bucket and one beyond the last, and their sum."""
        with self._lock:
            return self._cell(labels)

    def _cell(self, labels: Labels) -> list[float]:
        series = self._series.get(labels)
        if series is None:
            key = labels if len(self._series) < MAX_SERIES else ("other",) * len(labels)
            series = self._series.setdefault(key, [0.0] * (len(self._buckets) + 2))
        return series

    def count(self, labels: Labels = ()) -> float:
        """Return how many values one series has."""
        return sum(self._series[labels][:-1]) if labels in self._series else 0.0

    def total(self, labels: Labels = ()) -> float:
        """Return the sum of one series' values."""
        return self._series[labels][-1] if labels in self._series else 0.0

    def lines(self) -> Iterable[str]:
        """Return the sample lines."""
        names = (*self.labels, "le")
        for labels, series in sorted((key, list(value)) for key, value in self._series.copy().items()):
            running = 0.0
            for bound, count in zip((*self._buckets, float("inf")), series[:-1], strict=True):
                running += count
                yield f"{self.name}_bucket{_labels(names, (*labels, _number(bound)))} {_number(running)}"
            own = _labels(self.labels, labels)
            yield f"{self.name}_sum{own} {_number(series[-1])}"
            yield f"{self.name}_count{own} {_number(running)}"


class Pool(Protocol):
    """Several processes of a service."""

    async def text(self) -> str:
        """Return the metrics of all of them."""


class Metrics:
    """The metrics of one app; subscribe it to the app's events."""

    def __init__(self) -> None:
        self.requests = Counter("router_requests_total", "Requests answered.", ("method", "route", "status"))
        self.request_seconds = Histogram(
            "router_request_duration_seconds", "Time from a request to the end of its answer.", ("route",)
        )
        self.response_bytes = Counter(
            "router_response_bytes_total", "Bytes of answers handed over.", ("route",)
        )
        self.disconnects = Counter(
            "router_disconnects_total", "Streams whose reader left before the end.", ("route",)
        )
        self.job_moves = Counter("router_job_moves_total", "Job state changes.", ("route", "move", "state"))
        self.job_wait = Histogram("router_job_wait_seconds", "Time from ready to claimed.", ("route",))
        self.job_run = Histogram(
            "router_job_run_seconds", "Run time of the attempt that ended a job.", ("route",)
        )
        self.notes = Counter("router_notes_total", "Other events, by name.", ("name", "level"))
        self.jobs = Gauge("router_jobs", "Open jobs.", ("route", "state"))
        self.oldest_queued = Gauge("router_oldest_queued_seconds", "Age of the job that has waited longest.")
        self.store_up = Gauge("router_store_up", "1 when the record store answers.")
        self.ready = Gauge("router_ready", "1 when the service takes work.")
        self._cells: dict[tuple[str, str, int], tuple[list[float], list[float], list[float]]] = {}
        """What a request of this method, route and status adds to, so that it is looked up once."""
        self._lock = threading.Lock()
        self._hooks: list[Callable[[], None]] = []
        self.pool: Pool | None = None
        """Where there are several processes: those whose metrics are told together."""
        self._all: list[Counter | Histogram] = [
            self.requests, self.request_seconds, self.response_bytes, self.disconnects, self.job_moves,
            self.job_wait, self.job_run, self.notes, self.jobs, self.oldest_queued, self.store_up, self.ready,
        ]  # fmt: skip

    def add(self, metric: Counter | Histogram) -> None:
        """Add a metric of one's own."""
        if any(metric.name == known.name for known in self._all):
            raise ValueError(f"there is a metric named {metric.name!r} already")
        self._all.append(metric)

    def before_render(self, hook: Callable[[], None]) -> None:
        """Call a function whenever the metrics are about to be read, for gauges of what changes too often to
        be set each time. It must be quick; one that fails leaves its gauges as they were."""
        self._hooks.append(hook)

    def __call__(self, event: object) -> None:
        """Count an event: this is a listener for ``Events.subscribe``."""
        if type(event) is RequestDone:  # which most are
            method, _, route, status, seconds, _, _, _, _, bytes_out, disconnected = event
            cells = self._cells.get((method, route, status))
            count, times, sent = cells or self._find_cells(method, route, status)
            with self._lock:
                count[0] += 1.0
                times[bisect_left(BUCKETS, seconds)] += 1
                times[-1] += seconds
                sent[0] += bytes_out
            if disconnected:
                self.disconnects.add((route,))
            return
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _find_cells(
        self, method: str, route: str, status: int
    ) -> tuple[list[float], list[float], list[float]]:
        known = method if method in _METHODS else "other"
        cells = (
            self.requests.cell((known, route, str(status))),
            self.request_seconds.cell((route,)),
            self.response_bytes.cell((route,)),
        )
        if known == method and len(self._cells) < MAX_SERIES:
            self._cells[method, route, status] = cells
        return cells

    def _moved(self, event: JobMoved) -> None:
        self.job_moves.add((event.route, event.move, event.state))
        if event.move == "claim":
            self.job_wait.observe(event.seconds, (event.route,))
        elif event.state in _ENDS:
            self.job_run.observe(event.seconds, (event.route,))

    def _note(self, event: Note) -> None:
        self.notes.add((event.name, event.level))

    def across(self) -> dict[str, str]:
        """Return by name of gauge what holds for several processes together."""
        return {each.name: each.across for each in self._all if isinstance(each, Gauge)}

    async def exposed(self) -> str:
        """Return everything, of all processes of this service where it knows of others."""
        return self.render() if self.pool is None else await self.pool.text()

    def render(self) -> str:
        """Return everything in Prometheus' text format."""
        for hook in self._hooks:
            with contextlib.suppress(Exception):
                hook()
        lines: list[str] = []
        for metric in self._all:
            lines.append(f"# HELP {metric.name} {metric.text}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        lines.append("")
        return "\n".join(lines)


_ENDS: Final = frozenset({"succeeded", "failed", "cancelled"})
_HANDLERS: Final[Mapping[type, Callable[[Metrics, object], None]]] = {
    JobMoved: Metrics._moved,  # type: ignore[dict-item]
    Note: Metrics._note,  # type: ignore[dict-item]
}


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    inner = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{inner}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
