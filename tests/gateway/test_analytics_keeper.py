"""Flushing and reading sums: several processes, time that passes, a store that is away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from router_core.errors import StoreError
from router_core.gateway.accounting.metrics import GatewayMetrics
from router_core.gateway.analytics.collect import Collector
from router_core.gateway.analytics.deployments import Deployments
from router_core.gateway.analytics.keeper import Analytics
from router_core.gateway.analytics.period import period_of
from router_core.gateway.analytics.report import Report, Wanted
from router_core.gateway.analytics.shelf import prefixes
from router_core.gateway.outcome import OK
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from tests.gateway.ledger_parts import DEPLOYMENT, make_attempt, make_call, notes_of

NOON = 1_700_000_000.0 // 86_400 * 86_400 + 12 * 3600


class Away(MemoryStateStore):
    """A store that can be switched off."""

    off = False

    async def put(self, key: str, value: bytes, **more: Any) -> str:
        """Write, or fail."""
        if self.off:
            raise StoreError("away")
        return await super().put(key, value, **more)

    async def entries(self, prefix: str, **more: Any) -> Any:
        """List, or fail."""
        if self.off:
            raise StoreError("away")
        return await super().entries(prefix, **more)


class Process:
    """One process of a gateway, as far as analytics goes."""

    def __init__(self, store: MemoryStateStore, clock: FakeClock, version: str = "v1") -> None:
        self.clock = clock
        self.metrics = GatewayMetrics(clock.monotonic)
        self.collector = Collector(clock, time=clock.monotonic)
        self.events = Events()
        self.keeper = Analytics(
            self.collector, Deployments(self.metrics, lambda name: "turbo"), store, clock, self.events,
            lambda: {"version": version},
        )  # fmt: skip

    def serve(self, count: int = 1, seconds: float = 0.1, request_id: str = "") -> None:
        """Serve some calls."""
        now = self.clock.monotonic()
        for number in range(count):
            attempt = make_attempt(1, DEPLOYMENT, seconds=seconds)
            self.metrics.cells("turbo-1").add(attempt, None, 0, False)
            call = make_call(attempts=[attempt], started=now - seconds, request_id=f"{request_id}{number}")
            self.keeper.called(call, "turbo", OK)

    async def report(self, **asked: str) -> tuple[Report, bool]:
        """Return what is told of a period."""
        now = self.clock.now()
        given: Mapping[str, str] = {"from": asked.pop("since"), **asked} if "since" in asked else asked
        period = period_of(given, now)
        self.keeper.gather()
        names = [name for level, start, end in period.reads(now) for name in prefixes(level, start, end)]
        found = await self.keeper.read(names)
        report = Report(Wanted(), period)
        report.take(found.values, now)
        return report, found.partial


async def test_processes_add_up_and_flushing_twice_counts_nothing_twice() -> None:
    """Each writes under a key of its own, as often as it likes."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    one, other = Process(store, clock), Process(store, clock)
    one.serve(3)
    other.serve(4)
    for _ in range(3):
        await one.keeper.tick()
        await other.keeper.tick()
    one.serve(1)
    for process, sees in ((one, 8), (other, 7)):
        report, partial = await process.report(timeRange="1h")
        assert (report.calls, partial) == (sees, False)
    assert one.keeper.process != other.keeper.process
    deployments = (await one.report(timeRange="1h"))[0].deployments()
    assert (deployments[0]["attempts"], deployments[0]["modelId"]) == (8, "turbo")


@pytest.mark.parametrize("asked", ["1h", "6h", "24h", "7d", "30d", "90d"])
async def test_every_resolution_tells_the_same(asked: str) -> None:
    """Calls of days, hours and the current minute, each read once whatever the steps are."""
    clock = FakeClock(NOON - 3 * 86_400 - 1800)
    store = MemoryStateStore(clock)
    process = Process(store, clock)
    ages: list[float] = []
    for pause in (3 * 86_400, 1700, 40, 50, 10):
        process.serve()
        ages = [age + pause for age in [*ages, 0.0]]
        await process.keeper.tick()
        clock.advance(pause)
        await process.keeper.tick()
    process.serve()
    ages.append(0.0)
    report, _ = await process.report(timeRange=asked)
    span = {"1h": 3600, "6h": 6 * 3600, "24h": 86_400}.get(asked, 1e9)
    assert report.calls == sum(age <= span for age in ages)
    assert sum(point["requests"] for point in report.series()) == report.calls


async def test_a_new_process_goes_on_beside_what_the_old_one_wrote() -> None:
    """What was flushed before a crash stays; what was not is lost, and nothing else."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    old = Process(store, clock)
    old.serve(5)
    await old.keeper.tick()
    old.serve(2)
    new = Process(store, clock)
    new.serve(1)
    assert (await new.report(timeRange="1h"))[0].calls == 6
    await new.keeper.aclose()
    again = Process(store, clock)
    clock.advance(7200)
    assert (await again.report(timeRange="6h"))[0].calls == 1, "the hour of the crashed one was not over"


async def test_a_store_that_is_away_is_told_and_made_good() -> None:
    """Answers come from this process and say so; when it is back, everything is written."""
    clock = FakeClock(NOON)
    store = Away(clock)
    one, other = Process(store, clock), Process(store, clock)
    notes = notes_of(one.events)
    store.off = True
    one.serve(2)
    await one.keeper.tick()
    clock.advance(70)
    one.serve(3)
    await one.keeper.tick()
    report, partial = await one.report(timeRange="1h")
    assert (report.calls, partial) == (5, True)
    assert [note.name for note in notes] == ["analytics_store_down"]
    records, partial = await one.keeper.calls()
    assert (len(records), partial) == (5, True)
    store.off = False
    await one.keeper.tick()
    assert [note.name for note in notes] == ["analytics_store_down", "analytics_store_up"]
    report, partial = await other.report(timeRange="1h")
    assert (report.calls, partial) == (5, False)


async def test_what_cannot_be_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for long costs the oldest stretches, which are counted."""
    monkeypatch.setattr("router_core.gateway.analytics.keeper._KEPT_BYTES", 2000)
    clock = FakeClock(NOON)
    store = Away(clock)
    store.off = True
    process = Process(store, clock)
    for _ in range(60):
        process.serve()
        await process.keeper.tick()
        clock.advance(60)
    assert process.keeper.lost > 20
    assert sum(map(len, process.keeper._kept.values())) <= 2000


@pytest.mark.parametrize("back", [65.0, 4000.0, 100_000.0], ids=["minute", "hour", "day"])
async def test_a_clock_that_is_set_back_takes_nothing_away(back: float) -> None:
    """What is counted in a minute that comes again stands beside what was counted in it before."""
    clock = FakeClock(NOON)
    process = Process(MemoryStateStore(clock), clock)
    for _ in range(4):
        process.serve()
        await process.keeper.tick()
        clock.advance(60)
    clock.jump(-back)
    for _ in range(4):
        process.serve()
        await process.keeper.tick()
        clock.advance(60)
    clock.jump(back)
    process.serve()
    await process.keeper.tick()
    process.keeper._kept.clear()
    if back < 3600:
        assert (await process.report(timeRange="1h"))[0].calls == 9
    clock.advance(3 * 86_400)
    await process.keeper.tick()
    process.keeper._kept.clear()
    for asked in ("7d", "30d"):
        assert (await process.report(timeRange=asked))[0].calls == 9


async def test_more_than_an_answer_is_made_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and the answer says that it is not all."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    for _ in range(5):
        process = Process(store, clock)
        process.serve()
        await process.keeper.tick()
    monkeypatch.setattr("router_core.gateway.analytics.keeper._READ_BYTES", 250)
    report, partial = await Process(store, clock).report(timeRange="1h")
    assert partial is True
    assert 0 < report.calls < 5


async def test_last_calls_of_all_processes() -> None:
    """Newest first, none twice, as many as are kept."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    one, other = Process(store, clock), Process(store, clock)
    for turn in range(3):
        one.serve(2, request_id=f"one{turn}-")
        other.serve(150, request_id=f"other{turn}-")
        await one.keeper.tick()
        await other.keeper.tick()
        clock.advance(11)
    records, partial = await one.keeper.calls()
    assert partial is False
    assert len(records) == 6 + 3 * 100
    assert len({each.request_id for each in records}) == len(records)
    assert [each.at for each in records] == sorted((each.at for each in records), reverse=True)


async def test_processes_tell_their_version_until_they_end() -> None:
    """Which replica goes by which configuration; one that has ended is gone at once."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    one, other = Process(store, clock, "v1"), Process(store, clock, "v2")
    await one.keeper.tick()
    await other.keeper.tick()
    told, partial = await one.keeper.processes()
    assert ([each["version"] for each in told], partial) == (["v1", "v2"], False)
    await other.keeper.aclose()
    assert [each["version"] for each in (await one.keeper.processes())[0]] == ["v1"]


async def test_frozen_processes_flush_with_their_calls() -> None:
    """Where nothing runs beside the calls, a call begins to write what is due."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    process = Process(store, clock)
    process.keeper.flush_with_calls()
    process.serve()
    await process.keeper.idle()
    first = len((await store.entries("gwa/m/")).entries)
    process.serve()
    assert process.keeper._flushing is None
    clock.advance(11)
    process.serve()
    await process.keeper.idle()
    assert first == 1
    assert (await Process(store, clock).report(timeRange="1h"))[0].calls == 3


async def test_damaged_and_foreign_values_are_left_out() -> None:
    """They make an answer partial, and nothing worse."""
    clock = FakeClock(NOON)
    store = MemoryStateStore(clock)
    process = Process(store, clock)
    process.serve(2)
    await process.keeper.tick()
    key = next(iter((await store.entries("gwa/m/")).entries)).key
    await store.put(key.replace(process.keeper.process, "zz"), b"\xff nonsense", ttl=60)
    await store.put("gwa/r/zz.0", b"nonsense", ttl=60)
    await store.put("gwa/p/zz", b"nonsense", ttl=60)
    report, _ = await process.report(timeRange="1h")
    assert (report.calls, report.damaged, report.frame(False)["partial"]) == (2, 1, True)
    assert len((await process.keeper.calls())[0]) == 2
    assert len((await process.keeper.processes())[0]) == 1
