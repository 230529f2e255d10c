"""The account of attempts: what is booked, what is written down, and that no sink keeps a call waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router_core.gateway.accounting.ledger import Ledger
from router_core.gateway.accounting.prices import Prices
from router_core.gateway.accounting.records import MAX_NAME
from router_core.gateway.call import Attributes, Usage
from router_core.gateway.outcome import KINDS
from router_core.gateway.select.decision import Decision
from router_core.gateway.values import Deployment, Price
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from tests.gateway.ledger_parts import (
    DEPLOYMENT,
    UNPRICED,
    Noting,
    make_attempt,
    make_call,
    make_ledger,
    notes_of,
    settle,
)


def test_an_attempt_is_booked() -> None:
    """Usage and cost are on the attempt, and everything but what was said is in the record."""
    ledger = make_ledger(clock=FakeClock(now=1_700_000_000.0, monotonic=1000.0))
    call, attempt = make_call(attributes=Attributes(workspace_id="ws-1")), make_attempt()
    call.body = b'{"messages":[{"role":"user","content":"my secret prompt"}]}'
    call.decision = Decision("turbo", "latency", "turbo-1", ("turbo-1", "turbo-2"), (), "", "panic")
    call.rule = "creative first"
    ledger.settle(call, attempt, DEPLOYMENT, Usage(1000, 100, 400, 30))
    assert attempt.usage == Usage(1000, 100, 400, 30)
    assert attempt.cost == 1200 + 400 + 800
    (record,) = ledger.recent()
    assert record.at == pytest.approx(1_700_000_000.5)
    assert (record.request_id, record.principal, record.workspace) == ("r-1", "team-a", "ws-1")
    assert (record.model, record.model_id, record.deployment) == ("turbo-alias", "turbo", "turbo-1")
    assert (record.endpoint, record.attempt, record.outcome) == ("chat/completions", 1, "ok")
    assert (record.status, record.seconds, record.first_byte) == (200, 0.25, 0.125)
    assert (record.input_tokens, record.output_tokens, record.cached_tokens) == (1000, 100, 400)
    assert (record.reasoning_tokens, record.cost, record.estimated) == (30, 2400, False)
    assert (record.strategy, record.rule, record.reason) == ("latency", "creative first", "panic")
    assert "secret" not in repr(record)


def test_what_nobody_knows_the_price_of_is_unpriced() -> None:
    """None, not 0; and it is counted."""
    ledger = make_ledger()
    attempt = make_attempt(deployment=UNPRICED)
    ledger.settle(make_call(), attempt, UNPRICED, Usage(10, 10))
    assert attempt.cost is None
    assert ledger.recent()[0].cost is None
    assert ledger.metrics.unpriced.value(("own-1",)) == 1
    assert ledger.metrics.cost.value(("own-1",)) == 0


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("outcome", KINDS)
def test_what_is_booked_when_nobody_counted(outcome: str, undone: bool) -> None:
    """What was sent, where the upstream may have worked on it; nothing where it has not."""
    ledger = make_ledger()
    attempt = make_attempt(outcome=outcome)
    ledger.settle(make_call(), attempt, DEPLOYMENT, None, undone=undone)
    booked = outcome in ("ok", "cancelled") or (outcome in ("timeout", "unclear", "malformed") and not undone)
    assert attempt.usage == (Usage(40, estimated=True) if booked else None)
    assert attempt.cost == (80 if booked else 0)
    assert ledger.recent()[0].estimated is booked
    assert ledger.metrics.estimated.value(("turbo-1",)) == (1 if booked else 0)


def test_an_answer_of_which_nothing_is_known_is_not_free() -> None:
    """Neither counted nor estimated: unpriced, unless a request as such has a price."""
    ledger = make_ledger()
    attempt = make_attempt()
    ledger.settle(make_call(input_tokens=0), attempt, DEPLOYMENT, None)
    assert attempt.cost is None
    flat = Deployment("flat", "m", "openai", "x", price=Price(request=30))
    other = make_attempt(deployment=flat)
    ledger.settle(make_call(input_tokens=0), other, flat, None)
    assert other.cost == 30


def test_transcriptions_are_billed_as_sound() -> None:
    """By seconds, where the upstream counts those."""
    ledger = make_ledger()
    attempt = make_attempt()
    whisper = Deployment("whisper", "speech", "openai", "whisper-1")
    ledger.settle(make_call(endpoint="audio/transcriptions"), attempt, whisper, Usage(seconds=60))
    assert attempt.cost == 6000
    assert ledger.recent()[0].audio_seconds == 60


def test_a_new_configuration_has_a_new_price() -> None:
    """The id is the same, what it costs is not."""
    ledger = make_ledger()
    settle(ledger, 1)
    dearer = Deployment("turbo-1", "turbo", "openai", "gpt-4o", price=Price(20_000_000, 80_000_000))
    attempt = make_attempt()
    ledger.settle(make_call(), attempt, dearer, Usage(100, 10))
    assert (ledger.recent()[1].cost, attempt.cost) == (280, 2800)
    assert ledger.metrics.cost.value(("turbo-1",)) == 3080


def test_names_of_callers_are_cut() -> None:
    """They may be as long as a header; records are not."""
    ledger = make_ledger()
    call = make_call(model_name="m" * 5000, attributes=Attributes(workspace_id="w" * 5000))
    ledger.settle(call, make_attempt(), DEPLOYMENT, None)
    (record,) = ledger.recent()
    assert (len(record.model), len(record.workspace)) == (MAX_NAME, MAX_NAME)


def test_the_latest_come_first() -> None:
    """As many as are asked for, and no more than are kept."""
    ledger = make_ledger(recent=3)
    settle(ledger, 1, 2, 3, 4)
    assert [record.attempt for record in ledger.recent()] == [4, 3, 2]
    assert [record.attempt for record in ledger.recent(1)] == [4]
    assert ledger.recent(0) == ledger.recent(-5) == []


def test_without_a_sink_nothing_waits() -> None:
    """The last ones are kept for whoever asks, and that is all."""
    ledger = make_ledger(recent=10)
    settle(ledger, *range(1000))
    assert (ledger.waiting, ledger.dropped, len(ledger.recent(5000))) == (0, 0, 10)


def test_records_do_not_pile_up() -> None:
    """The ring holds so many, whatever comes: the oldest are lost, counted, and reported once."""
    events = Events()
    notes = notes_of(events)
    ledger = make_ledger(Noting(), events=events, maxsize=100, recent=10)
    settle(ledger, *range(20_000))
    assert (ledger.waiting, ledger.dropped) == (100, 19_900)
    assert ledger.metrics.dropped.value() == 19_900
    assert [(note.name, note.level) for note in notes] == [("ledger_dropping", "warning")]


async def test_records_come_whole_and_in_order() -> None:
    """In batches, each record once."""
    sink = Noting()
    ledger = make_ledger(sink, maxsize=5000)
    settle(ledger, *range(2500))
    await ledger.tick()
    await ledger.idle()
    assert sink.numbers == list(range(2500))
    assert max(len(batch) for batch in sink.batches) <= 1000
    assert (ledger.waiting, ledger.dropped) == (0, 0)


async def test_a_slow_sink_keeps_nobody_waiting() -> None:
    """Calls are settled while it hangs; one write is under way at a time; it gets the newest that fit."""
    events = Events()
    notes = notes_of(events)
    sink = Noting()
    sink.open.clear()
    ledger = make_ledger(sink, events=events, maxsize=10)
    settle(ledger, *range(5))
    await ledger.tick()
    await asyncio.sleep(0)  # it has taken those five
    for _ in range(3):
        settle(ledger, *range(100, 200))
        await ledger.tick()
    assert sink.tries == 1
    assert (ledger.waiting, ledger.dropped) == (10, 290)
    sink.open.set()
    await ledger.idle()
    assert sink.numbers == [0, 1, 2, 3, 4, *range(190, 200)]
    assert [note.name for note in notes] == ["ledger_dropping", "ledger_keeps_up"]
    assert notes[1].fields == {"records": 290}


async def test_a_failing_sink_gets_everything_later() -> None:
    """What it did not take comes again before the rest; it is reported once, and so is its recovery."""
    events = Events()
    notes = notes_of(events)
    sink = Noting()
    sink.failures = 3
    ledger = make_ledger(sink, events=events)
    settle(ledger, 1, 2, 3)
    for number in (4, 5, 6):
        await ledger.tick()
        await ledger.idle()
        settle(ledger, number)
    assert sink.batches == []
    await ledger.tick()
    await ledger.idle()
    assert sink.numbers == [1, 2, 3, 4, 5, 6]
    assert [note.name for note in notes] == ["ledger_sink_failed", "ledger_sink_recovered"]
    assert notes[0].level == "error"
    assert (ledger.dropped, ledger.waiting) == (0, 0)


async def test_what_comes_back_is_bounded_too() -> None:
    """A batch that was not taken and those that came meanwhile: the oldest are lost."""
    sink = Noting()
    sink.failures = 1
    sink.open.clear()
    ledger = make_ledger(sink, maxsize=10)
    settle(ledger, *range(10))
    await ledger.tick()
    await asyncio.sleep(0)
    settle(ledger, *range(100, 104))
    sink.open.set()
    await ledger.idle()
    assert (ledger.waiting, ledger.dropped) == (10, 4)
    await ledger.tick()
    await ledger.idle()
    assert sink.numbers == [4, 5, 6, 7, 8, 9, 100, 101, 102, 103]


async def test_the_end_writes_what_waits() -> None:
    """The loop is cancelled as the app does it; nothing is lost, and the sink is closed."""
    sink = Noting()
    ledger = make_ledger(sink, interval=60.0)
    loop = asyncio.create_task(ledger.run())
    await asyncio.sleep(0)
    settle(ledger, 1, 2)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert loop.cancelled()
    assert sink.numbers == [1, 2]
    assert sink.closed == 1
    settle(ledger, 3)  # a call that ended even later
    assert await ledger.aclose() == 0
    assert sink.numbers == [1, 2, 3]


async def test_the_end_does_not_wait_for_ever() -> None:
    """A sink that hangs is given up; what is lost is counted and reported."""
    events = Events()
    notes = notes_of(events)
    sink = Noting()
    sink.open.clear()
    ledger = make_ledger(sink, events=events)
    settle(ledger, *range(7))
    assert await ledger.aclose(within=0.01) == 7
    assert (ledger.dropped, ledger.waiting) == (7, 0)
    assert [note.name for note in notes] == ["ledger_lost"]
    assert sink.closed == 1


async def test_the_end_tries_a_failing_sink_again() -> None:
    """It may be well a moment later."""
    sink = Noting()
    sink.failures = 1
    ledger = make_ledger(sink)
    settle(ledger, 1)
    assert await ledger.aclose(within=5.0) == 0
    assert sink.numbers == [1]


async def test_a_full_batch_is_written_at_once() -> None:
    """Not only when the interval is over."""
    sink = Noting()
    ledger = make_ledger(sink, interval=60.0, maxsize=50)
    loop = asyncio.create_task(ledger.run())
    await asyncio.sleep(0)
    settle(ledger, *range(50))
    for _ in range(5):
        await asyncio.sleep(0)
    assert sink.numbers == list(range(50))
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_a_sink_that_cannot_be_closed() -> None:
    """Is reported, and ends nothing."""

    class Stuck(Noting):
        async def aclose(self) -> None:
            raise OSError("no")

    events = Events()
    notes = notes_of(events)
    ledger = make_ledger(Stuck(), events=events)
    assert await ledger.aclose() == 0
    assert [note.name for note in notes] == ["ledger_sink_failed"]


async def test_prices_that_fail_to_refresh_stop_nothing() -> None:
    """Those of before hold."""
    events = Events()
    notes = notes_of(events)
    ledger = make_ledger(Noting(), events=events)

    class Broken:
        def refresh(self) -> bool:
            raise RuntimeError("a list with a flaw")

    ledger.prices = Broken()  # type: ignore[assignment]
    await ledger.tick()
    assert [note.name for note in notes] == ["price_lookup_failed"]


async def test_the_clock_may_be_set() -> None:
    """Records follow the machine's clock from the next tick on."""
    clock = FakeClock(now=5000.0, monotonic=1000.0)
    ledger = make_ledger(clock=clock)
    clock.jump(100.0)
    await ledger.tick()
    settle(ledger, 1)
    assert ledger.recent()[0].at == pytest.approx(5100.5)


async def test_a_new_configuration_is_followed() -> None:
    """Who is gone is forgotten, so that years of reloads do not add up; the sums stay."""
    ledger = make_ledger()
    settle(ledger, 1)
    ledger.follow([UNPRICED])
    assert ledger._accounts == {}
    settle(ledger, 2)
    assert ledger.metrics.attempts.value(("turbo-1", "ok")) == 2


async def test_prices_are_looked_up_before_they_are_needed() -> None:
    """Beside the calls, once, and only those that have to be."""
    asked: list[tuple[str, str]] = []

    class Book:
        def find(self, provider: str, url: str, model: str) -> None:
            asked.append((model, threading.current_thread().name))

    ledger = make_ledger()
    ledger.prices = Prices(Book())
    listed = Deployment("new", "m", "openai", "gpt-4o")
    ledger.follow([DEPLOYMENT, UNPRICED, listed])
    assert asked == []
    await ledger.tick()
    await ledger.tick()
    ledger.follow([DEPLOYMENT, UNPRICED, listed])
    await ledger.tick()
    ledger.settle(make_call(), make_attempt(deployment=listed), listed, None)
    assert [model for model, _ in asked] == ["gpt-4o"]
    assert asked[0][1] != threading.current_thread().name


def test_it_is_always_ready() -> None:
    """Lost records are no reason to take no calls."""
    ledger: Ledger = make_ledger()
    assert ledger.ready(0.0)
    assert ledger.name == "ledger"
