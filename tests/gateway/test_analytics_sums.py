"""Sums of calls: quantiles within their error, bounded keys, calls and streams counted once."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.analytics.collect import Collector
from router_core.gateway.analytics.histogram import RELATIVE_ERROR, Counts, index_of, joined, quantile
from router_core.gateway.analytics.shelf import MAX_BYTES, MINUTE, pack, start_of, unpack
from router_core.gateway.analytics.sums import MAX_KEYS, OTHER, Key, Sum, Table
from router_core.gateway.call import Attributes, Usage
from router_core.gateway.outcome import OK, Outcome
from router_core.testing.clock import FakeClock
from tests.gateway.ledger_parts import DEPLOYMENT, make_attempt, make_call


@given(st.lists(st.floats(1e-4, 9e4), min_size=1, max_size=300))
def test_quantiles_are_right_to_their_stated_error(values: list[float]) -> None:
    """Of any values, whichever share is asked for."""
    counts: Counts = {}
    for value in values:
        joined(counts, {index_of(value): 1})
    ordered = sorted(values)
    shares = (0.0, 0.5, 0.95, 0.99, 1.0)
    for share, found in zip(shares, quantile(counts, shares), strict=True):
        true = ordered[int(share * (len(values) - 1))]
        assert found is not None
        assert abs(found - true) <= RELATIVE_ERROR * true * 1.000001


def test_merged_histograms_are_the_histogram_of_both() -> None:
    """In whatever order they are added; and durations that cannot be are none the worse."""
    rng = random.Random(5)
    values = [rng.expovariate(3) for _ in range(500)] + [0.0, -1.0, float("inf"), 1e300]
    whole: Counts = {}
    left: Counts = {}
    right: Counts = {}
    for number, value in enumerate(values):
        joined(whole, {index_of(value): 1})
        joined(left if number % 3 else right, {index_of(value): 1})
    joined(left, right)
    assert left == whole
    assert quantile({}, (0.5,)) == [None]


def test_keys_are_bounded_and_what_is_beyond_is_still_counted() -> None:
    """1e5 made-up workspaces and agent types leave the sums of models right, and few keys."""
    table = Table()
    for number in range(100_000):
        table.find(("m", f"w{number}", f"a{number}", "ok")).calls += 1
    table.find(("m2", "w", "a", "ok")).calls += 7
    assert len(table.rows) <= 2 * MAX_KEYS
    assert sum(row.calls for key, row in table if key[0] == "m") == 100_000
    assert table.rows[("m2", OTHER, OTHER, "ok")].calls == 7


def test_models_beyond_bounds_are_other_models() -> None:
    """Even names of models are bounded."""
    table = Table()
    for number in range(5000):
        table.find((f"m{number}", "", "", "ok")).calls += 1
    assert len(table.rows) <= 2 * MAX_KEYS + 1
    assert sum(row.calls for _, row in table) == 5000


def test_agent_types_of_one_workspace_take_no_room_from_another() -> None:
    """Whoever invents agent types loses only his own detail."""
    table = Table()
    for number in range(5000):
        table.find(("m", "loud", f"a{number}", "ok")).calls += 1
    table.find(("m", "quiet", "creative", "ok")).calls += 1
    assert ("m", "quiet", "creative", "ok") in table.rows
    assert table.rows[("m", "loud", OTHER, "ok")].calls > 4900


def test_large_tables_are_split_and_come_back() -> None:
    """No value is larger than a store takes; together they are what was packed."""
    table = Table()
    rng = random.Random(1)
    for number in range(400):
        row = table.find(("m", f"w{number:0100d}", "a", "ok"))
        for _ in range(600):
            row.count(rng.expovariate(1), rng.expovariate(9), (3, 4, 5, False, True, None), 1, False)
    values = pack(table)
    assert len(values) > 1
    assert max(map(len, values)) <= MAX_BYTES
    back: dict[Key, Sum] = {}
    for value in values:
        part = unpack(value)
        assert part is not None
        back.update(part.rows)
    assert back == table.rows


@pytest.mark.parametrize("value", [b"", b"\xc1", b"{}", b"\x93\x01\x02\x03", msgspec.msgpack.encode([1, 2])])
def test_damaged_values_are_none(value: bytes) -> None:
    """What cannot be read stops nobody."""
    assert unpack(value) is None


def test_keys_tell_when() -> None:
    """And foreign keys tell nothing."""
    assert start_of(MINUTE, MINUTE.key(1_700_000_040, "p")) == 1_700_000_040
    for key in ("gwa/m/1/x/p.0", "gwa/h/0000001/0000000001/p.0", "gwa/m", ""):
        assert start_of(MINUTE, key) is None


def collector(clock: FakeClock) -> Collector:
    """Return a collector whose clocks stand still."""
    return Collector(clock, time=clock.monotonic)


def test_a_call_with_a_fallback_and_a_retry() -> None:
    """Booked at the model that served it, with the cost of every attempt."""
    clock = FakeClock()
    made = collector(clock)
    bad = make_attempt(1, outcome="timeout", usage=Usage(40, estimated=True), cost=80, first_byte=0.0)
    good = make_attempt(2, usage=Usage(100, 10), cost=None)
    good.model_id, good.deployment_id = "spare", "spare-1"
    call = make_call(attempts=[bad, good], workspace="ws", attributes=Attributes(agent_type="creative"))
    made.called(call, "turbo", OK, 1002.0)
    (key, row), record = next(iter(made.minute)), made.last(1)[0]
    assert key == ("spare", "ws", "creative", "ok")
    assert (row.calls, row.tries, row.fallbacks, row.unpriced, row.estimated) == (1, 2, 1, 1, 1)
    assert (row.input_tokens, row.output_tokens, row.cost, row.seconds) == (140, 10, 80, 2.0)
    assert (record.model, record.asked_model, record.deployment) == ("spare", "turbo", "spare-1")
    assert (record.cost, record.tries, record.request_id) == (None, 2, "r-1")


def test_refused_cancelled_and_unknown() -> None:
    """Calls without any attempt are calls, too."""
    made = collector(FakeClock())
    made.called(make_call(), "", Outcome("not_found", "stop"), 1001.0)
    made.called(make_call(), "turbo", None, 1001.0)
    assert {key[0::3] for key, _ in made.minute} == {("unknown", "not_found"), ("turbo", "cancelled")}


def test_a_stream_is_counted_once_when_it_has_ended() -> None:
    """Not when it begins; a loser of a hedge that ends meanwhile is not its end."""
    made = collector(FakeClock())
    attempt = make_attempt(outcome="", first_byte=0.5)
    call = make_call(stream=True, attempts=[attempt])
    made.called(call, "turbo", OK, 1001.0)
    assert not made.minute
    made.settled(make_call(stream=True, attempts=[make_attempt()]), attempt, 1002.0)
    assert not made.minute
    attempt.outcome = "unclear"
    made.settled(call, attempt, 1003.0)
    made.settled(call, attempt, 1004.0)
    row = made.minute.rows[("turbo", "", "", "unclear")]
    assert (row.calls, row.seconds, row.streams, row.first_seconds) == (1, 3.0, 1, 1.0)


def test_minutes_are_closed_by_the_clock() -> None:
    """A call belongs to the minute in which it ended, whoever flushes when."""
    clock = FakeClock(now=1_700_000_030.0)
    made = collector(clock)
    call = make_call(attempts=[make_attempt(1, DEPLOYMENT)])
    made.called(call, "turbo", OK, clock.monotonic())
    clock.advance(60)
    made.called(call, "turbo", OK, clock.monotonic())
    assert [(start, sum(row.calls for _, row in table)) for _, start, table in made.closed] == [
        (1_699_999_980, 1)
    ]
    assert made.start == 1_700_000_040
    clock.jump(-600)
    made.synchronise()
    made.called(call, "turbo", OK, clock.monotonic())
    assert sum(row.calls for _, _, table in made.closed for _, row in table) == 2
