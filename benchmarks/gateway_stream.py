"""Streams through the gateway: CPU for an event against nginx, and what is added to the first event.

51 events of about 200 bytes, 10 ms apart, 64 streams at a time: the pace of models that answer quickly. The
upstream waits for nothing, so the time to its first event is that of the way there. Ours has everything on
(keys, rules, three deployments, accounts), nginx passes bytes on unbuffered.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gateways import programs
from benchmarks.gateways.programs import Running
from benchmarks.gateways.streams import Streams, read_streams
from benchmarks.load import cpu_seconds
from benchmarks.report import Row, Skip

_EVENTS = 50
_PACE = 0.01
_MANY = 64
_ROUNDS = 3
_SECONDS = 3.0
_ADDED_MS = 1.0


@dataclass(slots=True)
class _Measured:
    """One server under load."""

    running: Running
    costs: list[float] = field(default_factory=list)
    """Microseconds of CPU for one event."""
    first: dict[int, list[float]] = field(default_factory=lambda: {1: [], _MANY: []})
    """Milliseconds to the first event, by how many streams there were at a time."""

    def load(self, seconds: float) -> None:
        """Take one measurement; raises RuntimeError when streams were cut."""
        before = cpu_seconds(self.running.pid)
        seen = self._read(_MANY, seconds)
        self.costs.append((cpu_seconds(self.running.pid) - before) / seen.events * 1e6)
        self._read(1, seconds / 2)

    def _read(self, parallel: int, seconds: float) -> Streams:
        seen = read_streams(self.running.port, parallel, seconds)
        if seen.broken or not seen.first:
            raise RuntimeError(
                f"{self.running.name}: {seen.broken} streams were cut, {len(seen.first)} began"
            )
        # the first of each connection opens others: it is not what a stream costs
        self.first[parallel].append(median(seen.first[parallel:] or seen.first) * 1000)
        return seen


def run() -> list[Row | Skip]:
    """Return CPU for an event, and time to the first one."""
    if shutil.which("nginx") is None:
        return [Skip("gateway, streams", "not installed: nginx")]
    with ExitStack() as stack:
        upstream = stack.enter_context(programs.slow(events=_EVENTS, pace=_PACE))
        found = {
            "upstream": _Measured(upstream),
            "ours": _Measured(stack.enter_context(programs.ours(upstream.port))),
            "nginx": _Measured(stack.enter_context(programs.nginx_proxy(upstream.port))),
        }
        for name in ("ours", "nginx"):
            read_streams(found[name].running.port, _MANY, 0.5)
        for _ in range(_ROUNDS):
            for one in found.values():
                one.load(_SECONDS)
    return _rows(found["ours"], found["nginx"], found["upstream"])


def _rows(ours: _Measured, nginx: _Measured, upstream: _Measured) -> list[Row | Skip]:
    cost, paid = median(ours.costs), median(nginx.costs)
    rows: list[Row | Skip] = [
        Row("CPU for an event against nginx, us", f"{cost:.1f}", f"nginx {paid:.1f}", cost / paid, 2.0, False)
    ]
    for parallel in (1, _MANY):
        alone = median(upstream.first[parallel])
        added = median(ours.first[parallel]) - alone
        passed = median(nginx.first[parallel]) - alone
        title = f"added to the first event, ms, {parallel} at a time (nginx {passed:.2f})"
        rows.append(Row(title, f"{added:.2f}", f"{_ADDED_MS:.0f} allowed", added / _ADDED_MS, 1.0, False))
    return rows
