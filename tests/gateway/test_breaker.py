"""The circuit breaker: when it opens, whom it lets through, and what closes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.outcome import CANCELLED, OK, Outcome
from router_core.gateway.resilience.breaker import Breaker, CircuitState, Permit
from router_core.gateway.resilience.standing import Standing
from router_core.gateway.resilience.window import Window
from router_core.gateway.values import BreakerPolicy, Deployment

_BAD = Outcome("server_error", "retry", failure=True, status=500)
_MISTAKE = Outcome("client_error", "stop", status=400)
_POLICY = BreakerPolicy(in_a_row=0, minimum=5, ratio=0.5, open_for=5.0, open_max=20.0)


class _Bench:
    """One deployment, a clock, and what was reported."""

    def __init__(self, policy: BreakerPolicy = _POLICY, random: float = 0.0) -> None:
        self.now = 1000.0
        self.notes: list[str] = []
        self.random = random
        deployment = Deployment(id="d", model_id="m", type="openai", model="x")
        self.standing = Standing(
            deployment, policy, lambda name, level, fields: self.notes.append(name), lambda: self.random
        )

    def circuit(self) -> CircuitState:
        return self.standing.circuit

    def begin(self) -> Permit:
        permit = self.standing.begin(self.now)
        assert permit is not None
        return permit

    def call(self, outcome: Outcome, seconds: float = 0.1) -> None:
        permit = self.begin()
        self.now += seconds
        self.standing.end(permit, outcome, self.now, seconds)

    def break_it(self) -> None:
        while self.circuit() == "closed":
            self.call(_BAD)


# --- opening -------------------------------------------------------------------------------------


def test_it_opens_at_the_ratio_once_there_is_enough_traffic() -> None:
    """Half of the calls failed, but only the fifth call says enough."""
    bench = _Bench()
    for outcome in (_BAD, _BAD, _BAD, _BAD):
        bench.call(outcome)
        assert bench.standing.out(bench.now) == ""
    bench.call(_BAD)
    assert bench.standing.out(bench.now) == "open_circuit"
    assert bench.standing.begin(bench.now) is None
    assert bench.notes == ["circuit_opened"]


def test_it_stays_closed_below_the_ratio() -> None:
    """Four of ten is less than half."""
    bench = _Bench()
    for _ in range(20):
        for outcome in (OK, _BAD, OK, _BAD, OK):
            bench.call(outcome)
    assert bench.circuit() == "closed"


def test_failures_in_a_row_open_it_whatever_the_ratio() -> None:
    """A thousand good calls do not keep a dead deployment in."""
    bench = _Bench(replace(_POLICY, in_a_row=3))
    for _ in range(1000):
        bench.call(OK, seconds=0.001)
    for _ in range(2):
        bench.call(_BAD)
    bench.call(OK)
    for _ in range(2):
        bench.call(_BAD)
        assert bench.circuit() == "closed"
    bench.call(_BAD)
    assert bench.standing.out(bench.now) == "open_circuit"


def test_old_failures_leave_the_window() -> None:
    """Four failures, a minute, four failures: never five in one window."""
    bench = _Bench()
    for _ in range(3):
        for _ in range(4):
            bench.call(_BAD)
        bench.now += 61
    assert bench.circuit() == "closed"


@pytest.mark.parametrize("outcome", [_MISTAKE, CANCELLED, replace(_MISTAKE, kind="context_window")])
def test_what_does_not_speak_against_it_never_opens_it(outcome: Outcome) -> None:
    """Mistakes of callers and cancellations are no failures, and no successes either."""
    bench = _Bench(replace(_POLICY, in_a_row=3))
    for _ in range(100):
        bench.call(outcome)
    assert bench.circuit() == "closed"
    for _ in range(2):
        bench.call(_BAD)
        bench.call(outcome)
    assert bench.circuit() == "closed"
    bench.call(_BAD)
    assert bench.circuit() == "open"  # they did not break the row


# --- open ----------------------------------------------------------------------------------------


def test_the_time_it_is_open_doubles_up_to_its_bound() -> None:
    """Each failed probe doubles it; a recovery starts it anew."""
    bench = _Bench()
    bench.break_it()
    times = []
    for _ in range(5):
        times.append(round(bench.standing.back_at(bench.now) - bench.now, 6))
        bench.now = bench.standing.back_at(bench.now)
        bench.call(_BAD, seconds=0.0)
    assert times == [5.0, 10.0, 20.0, 20.0, 20.0]
    bench.now = bench.standing.back_at(bench.now)
    bench.call(OK)
    bench.call(OK)
    assert bench.circuit() == "closed"
    bench.break_it()
    assert bench.standing.back_at(bench.now) - bench.now == pytest.approx(5.0)


def test_jitter_spreads_and_never_lengthens() -> None:
    """Between 80 and 100 % of what was configured."""
    for random, expected in ((0.0, 5.0), (0.5, 4.5), (0.999999, 4.0)):
        bench = _Bench(random=random)
        bench.break_it()
        assert bench.standing.back_at(bench.now) - bench.now == pytest.approx(expected, abs=1e-4)


def test_late_results_do_not_count_into_the_new_state() -> None:
    """Calls from before the opening end afterwards: they neither close, nor prolong, nor open again."""
    bench = _Bench(replace(_POLICY, successes=1))
    late_good, late_bad, later_bad = bench.begin(), bench.begin(), bench.begin()
    bench.break_it()
    until = bench.standing.back_at(bench.now)
    bench.standing.end(late_bad, _BAD, bench.now, 1.0)
    bench.standing.end(late_good, OK, bench.now, 1.0)
    assert bench.standing.out(bench.now) == "open_circuit"
    assert bench.standing.back_at(bench.now) == until
    bench.now = until
    probe = bench.begin()
    bench.standing.end(later_bad, _BAD, bench.now, 1.0)
    assert bench.circuit() == "half_open"
    bench.standing.end(probe, OK, bench.now, 1.0)
    assert bench.circuit() == "closed"
    assert bench.standing.inflight == 0
    assert bench.notes == ["circuit_opened", "circuit_half_open", "circuit_closed"]


def test_a_late_failure_does_not_count_after_the_closing() -> None:
    """One begun before the opening and ended after the recovery is of another time."""
    bench = _Bench(replace(_POLICY, in_a_row=1, minimum=1000, successes=1))
    late = bench.begin()
    bench.call(_BAD)
    bench.now = bench.standing.back_at(bench.now)
    bench.call(OK)
    bench.standing.end(late, _BAD, bench.now, 9.0)
    assert bench.circuit() == "closed"


@pytest.mark.parametrize("cooling", [False, True])
def test_a_late_success_does_not_break_a_new_row(cooling: bool) -> None:
    """Two failures in a row are two, whatever from another time ends between them."""
    bench = _Bench(replace(_POLICY, in_a_row=2, minimum=1000, successes=1))
    late = bench.begin()
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    bench.call(OK)
    running = bench.begin()
    bench.call(Outcome("server_error", "retry", failure=True, cooldown=60.0 if cooling else 0.0))
    bench.standing.end(late, OK, bench.now, 9.0)
    bench.standing.end(running, _BAD, bench.now, 0.1)
    assert bench.circuit() == "open"


def test_an_early_probe_is_one_of_the_permits() -> None:
    """When every deployment is out, one may be tried before its time, by as many as there are permits."""
    bench = _Bench()
    bench.break_it()
    assert bench.standing.begin(bench.now) is None
    permit = bench.standing.begin(bench.now, early=True)
    assert permit is not None
    assert permit.probe
    assert bench.standing.begin(bench.now, early=True) is None
    bench.standing.end(permit, _BAD, bench.now, 0.1)
    assert bench.standing.out(bench.now) == "open_circuit"


# --- half-open -----------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
def test_a_thousand_waiters_get_exactly_the_permits(probes: int) -> None:
    """Nobody but the probes goes through, however many ask at the same moment."""
    bench = _Bench(replace(_POLICY, probes=probes))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    permits = [bench.standing.begin(bench.now) for _ in range(1000)]
    got = [each for each in permits if each is not None]
    assert len(got) == probes
    assert all(each.probe for each in got)
    assert bench.standing.inflight == probes
    assert bench.standing.out(bench.now) == "open_circuit"
    assert bench.notes == ["circuit_opened", "circuit_half_open"]


def test_good_probes_in_a_row_close_it() -> None:
    """The first good one is not enough, the second is."""
    bench = _Bench()
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    bench.call(OK)
    assert bench.circuit() == "half_open"
    bench.call(OK)
    assert bench.circuit() == "closed"
    assert bench.standing.out(bench.now) == ""


def test_a_bad_probe_opens_it_and_the_others_have_no_say() -> None:
    """Of three probes one fails: the good ones that come later do not close it."""
    bench = _Bench(replace(_POLICY, probes=3))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    first, second, third = bench.begin(), bench.begin(), bench.begin()
    bench.standing.end(first, _BAD, bench.now, 0.1)
    bench.standing.end(second, OK, bench.now, 0.1)
    bench.standing.end(third, OK, bench.now, 0.1)
    assert bench.standing.out(bench.now) == "open_circuit"


@pytest.mark.parametrize("outcome", [CANCELLED, _MISTAKE])
def test_a_probe_that_says_nothing_gives_its_permit_back(outcome: Outcome) -> None:
    """The next one may try."""
    bench = _Bench()
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    for _ in range(50):
        bench.call(outcome, seconds=0.0)
    assert bench.circuit() == "half_open"
    bench.call(OK)
    bench.call(OK)
    assert bench.circuit() == "closed"


def test_a_lost_probe_does_not_hold_its_permit_for_ever() -> None:
    """After its lease another may try, and what the lost one says against it then is not heard."""
    bench = _Bench(replace(_POLICY, probe_lease=30.0, successes=1))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    lost = bench.begin()
    bench.now += 29.9
    assert bench.standing.begin(bench.now) is None
    bench.now += 0.2
    assert bench.standing.out(bench.now) == ""
    probe = bench.begin()
    assert bench.standing.begin(bench.now) is None
    bench.standing.end(lost, _BAD, bench.now, 30.1)
    assert bench.circuit() == "half_open"
    assert bench.standing.begin(bench.now) is None  # a permit that ran out is not given back a second time
    bench.standing.end(probe, OK, bench.now, 0.1)
    assert bench.circuit() == "closed"


def test_a_probe_that_ends_late_has_no_say_against_it() -> None:
    """Its lease is over, whether or not somebody took its place."""
    bench = _Bench(replace(_POLICY, successes=1))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    lost = bench.begin()
    bench.now += 31
    bench.standing.end(lost, _BAD, bench.now, 31.0)
    assert bench.circuit() == "half_open"
    assert bench.standing.out(bench.now) == ""


@pytest.mark.parametrize("successor", [False, True])
def test_good_news_is_never_too_late(successor: bool) -> None:
    """Where every call takes longer than the lease, one that ends well still brings it back; but not one
    that was begun before the circuit has opened again."""
    bench = _Bench(replace(_POLICY, successes=1))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    slow = bench.begin()
    bench.now += 31
    if successor:
        bench.standing.end(bench.begin(), _BAD, bench.now, 0.1)
        bench.now = bench.standing.back_at(bench.now)
        bench.begin()
    bench.standing.end(slow, OK, bench.now, 31.0)
    assert bench.circuit() == ("half_open" if successor else "closed")


def test_one_success_is_enough_where_nobody_else_is_left() -> None:
    """A probe before its time is made when every deployment is out: whom it finds alive, all others get."""
    bench = _Bench(replace(_POLICY, successes=3))
    bench.break_it()
    permit = bench.standing.begin(bench.now, early=True)
    assert permit is not None
    bench.standing.end(permit, OK, bench.now, 0.1)
    assert bench.circuit() == "closed"


def test_a_stream_has_proved_itself_with_its_first_content() -> None:
    """Its permit is free from then on, its end is that of any call, and counts for nothing twice."""
    bench = _Bench(replace(_POLICY, successes=2))
    bench.break_it()
    bench.now = bench.standing.back_at(bench.now)
    first = bench.begin()
    bench.standing.answered(first, bench.now)
    assert bench.circuit() == "half_open"
    second = bench.begin()
    bench.standing.answered(second, bench.now)
    bench.standing.answered(second, bench.now)
    assert bench.circuit() == "closed"
    bench.now += 300.0
    bench.standing.end(first, _BAD, bench.now, 300.0)
    bench.standing.end(second, OK, bench.now, 0.1)
    assert (bench.circuit(), bench.standing.inflight) == ("closed", 0)


# --- all of it -----------------------------------------------------------------------------------

_STEP = st.tuples(
    st.sampled_from(["begin", "ok", "bad", "mistake", "cancel", "twice", "lose"]),
    st.floats(min_value=0, max_value=12),
)


@given(st.lists(_STEP, max_size=120), st.integers(1, 3))
def test_invariants_hold_for_any_history(steps: list[tuple[str, float]], probes: int) -> None:
    """Never more live probes than permits, never a wedge, the count in flight is exact."""
    policy = BreakerPolicy(window=20, minimum=3, in_a_row=3, probes=probes, probe_lease=10, open_for=2)
    bench = _Bench(policy, random=0.3)
    standing, running = bench.standing, []
    outcomes = {"ok": OK, "bad": _BAD, "mistake": _MISTAKE, "cancel": CANCELLED}
    for step, wait in steps:
        bench.now += wait
        may = standing.out(bench.now) == ""
        if step == "begin":
            permit = standing.begin(bench.now)
            assert (permit is not None) == may
            if permit is not None:
                running.append(permit)
        elif running and step in outcomes:
            standing.end(running.pop(0), outcomes[step], bench.now, 1.0)
        elif running and step == "twice":
            ended = running.pop()
            standing.end(ended, OK, bench.now, 1.0)
            standing.end(ended, _BAD, bench.now, 1.0)
        live = [p for p in running if p.probe and bench.now < p.begun + 10 and _current(standing, p)]
        assert len(live) <= probes
        assert standing.inflight == len(running)
    bench.now += 60
    assert standing.out(bench.now) == ""  # whatever was, it can be asked again
    assert standing.begin(bench.now) is not None


def _current(standing: Standing, permit: Permit) -> bool:
    return permit.generation == standing._breaker.generation


def test_the_window_forgets_bucket_by_bucket() -> None:
    """What was counted leaves with its bucket, and a long pause empties all of them."""
    window = Window(10.0)
    for second in range(20):
        window.good(1.0, float(second))
        window.bad(float(second))
    totals = window.totals(19.5)
    assert (totals.good, totals.bad, totals.seconds) == (10, 10, 10.0)
    assert window.totals(24.5).good == 5
    assert window.totals(1000.0) == (0, 0, 0.0)


@given(st.lists(st.floats(min_value=0, max_value=30), max_size=60))
def test_the_window_counts_no_less_and_hardly_more_than_it_should(waits: list[float]) -> None:
    """All of the last nine buckets are in, and nothing older than ten."""
    window, now, times = Window(60.0), 50.0, []
    for wait in waits:
        now += wait
        times.append(now)
        window.bad(now)
    bad = window.totals(now).bad
    assert sum(now - at < 54.0 for at in times) <= bad <= sum(now - at <= 60.0 + 1e-6 for at in times)


def test_a_policy_can_change_while_it_is_open() -> None:
    """A reload changes thresholds, not the state."""
    breaker = Breaker(_POLICY, lambda: 0.0)
    while not breaker.bad(0.0):
        pass
    breaker.follow(replace(_POLICY, window=5.0, probes=2))
    assert breaker.state == "open"
    assert not breaker.admits(4.9)
    assert breaker.admits(5.0)
    breaker.half_open()
    assert [breaker.take(5.0) is not None for _ in range(3)] == [True, True, False]
