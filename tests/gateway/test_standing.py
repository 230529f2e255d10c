"""How a deployment stands: calls in flight, speed, cooldowns, probes, ejection, and what is reported."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from router_core.gateway.outcome import CANCELLED, OK, Outcome
from router_core.gateway.resilience.latency import PeakEwma
from router_core.gateway.resilience.standing import Standing, Standings
from router_core.gateway.values import BreakerPolicy, Deployment, HealthPolicy, Secret
from router_core.telemetry.events import Events, Note

_BAD = Outcome("server_error", "retry", failure=True, status=500, message="the upstream answered 500")
_LIMITED = Outcome("rate_limited", "retry", cooldown=10.0, status=429)
_NOW = 5000.0


class _Board:
    """Standings whose notes are kept."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.standings = Standings(Events(self._listen), random.Random(1))

    def _listen(self, event: object) -> None:
        assert isinstance(event, Note)
        self.notes.append(event)

    @property
    def names(self) -> list[str]:
        return [note.name for note in self.notes]

    def get(self, breaker: BreakerPolicy | None = None, id_: str = "d", **fields: object) -> Standing:
        deployment = Deployment(id=id_, model_id="m", type="openai", model="x", **fields)  # type: ignore[arg-type]
        return self.standings.get(deployment, breaker or BreakerPolicy())


@pytest.fixture
def board() -> _Board:
    """Standings of one process."""
    return _Board()


def _call(standing: Standing, outcome: Outcome, now: float, seconds: float = 0.1) -> None:
    permit = standing.begin(now)
    assert permit is not None
    standing.end(permit, outcome, now, seconds)


def _probe(standing: Standing) -> tuple[bool | None, str]:
    return standing.probe_ok, standing.probe_detail


# --- who may be asked without a thought for the load ----------------------------------------------


def test_it_is_well_while_its_calls_end_well(board: _Board) -> None:
    """Known by its calls alone: not before the first, not right after a failure, nor with many of them."""
    standing = board.get(BreakerPolicy(in_a_row=0, ratio=1.0))
    assert not standing.well(_NOW)
    for _ in range(9):
        _call(standing, OK, _NOW)
    assert standing.well(_NOW)
    _call(standing, _BAD, _NOW)
    assert not standing.well(_NOW)
    _call(standing, OK, _NOW)
    assert standing.well(_NOW)
    _call(standing, _BAD, _NOW)
    _call(standing, OK, _NOW)
    assert not standing.well(_NOW), "two of twelve are too many"
    standing.probed(False, "down", _NOW)
    assert not standing.well(_NOW)


def test_a_stream_shows_that_it_is_well_before_it_ends(board: _Board) -> None:
    """With its first content, for as long as calls are looked back upon; not when something failed since."""
    standing = board.get(BreakerPolicy(window=60.0))
    permit = standing.begin(_NOW)
    assert permit is not None
    standing.answered(permit, _NOW)
    assert standing.well(_NOW + 59.0)
    assert not standing.well(_NOW + 60.0)
    _call(standing, _BAD, _NOW + 1.0)
    assert not standing.well(_NOW + 1.0)


# --- calls in flight -----------------------------------------------------------------------------


def test_calls_in_flight_are_counted_exactly(board: _Board) -> None:
    """However they end, and however often somebody says that they did."""
    standing = board.get()
    permits = [standing.begin(_NOW) for _ in range(4)]
    assert standing.inflight == 4
    for permit, outcome in zip(permits, (OK, _BAD, CANCELLED, _LIMITED), strict=True):
        assert permit is not None
        for _ in range(3):
            standing.end(permit, outcome, _NOW, 0.1)
    assert (standing.inflight, standing.started, standing.failed) == (0, 4, 1)


def test_a_second_end_counts_for_nothing(board: _Board) -> None:
    """One failure that is reported five times is one failure."""
    standing = board.get(BreakerPolicy(in_a_row=5))
    permit = standing.begin(_NOW)
    assert permit is not None
    for _ in range(5):
        standing.end(permit, _BAD, _NOW, 0.1)
    assert standing.circuit == "closed"
    assert standing.failed == 1


def test_a_full_deployment_is_busy_and_not_ill(board: _Board) -> None:
    """The limit is exact, and a place is free again as soon as a call has ended."""
    standing = board.get(max_concurrency=3)
    permits = [standing.begin(_NOW) for _ in range(1000)]
    got = [each for each in permits if each is not None]
    assert len(got) == 3
    assert standing.out(_NOW) == "busy"
    assert standing.back_at(_NOW) > _NOW
    standing.end(got[0], CANCELLED, _NOW, 0.1)
    assert standing.out(_NOW) == ""
    assert standing.begin(_NOW) is not None
    assert board.notes == []


# --- cooldown ------------------------------------------------------------------------------------


def test_a_cooldown_is_kept(board: _Board) -> None:
    """It asked for ten seconds and gets them; its circuit stays closed."""
    standing = board.get()
    _call(standing, _LIMITED, _NOW)
    assert standing.out(_NOW) == "cooldown"
    assert standing.begin(_NOW + 9.9) is None
    assert standing.back_at(_NOW + 1) == _NOW + 10
    assert standing.out(_NOW + 10) == ""
    assert standing.begin(_NOW + 10) is not None
    assert standing.circuit == "closed"
    assert board.names == ["cooldown"]
    assert board.notes[0].fields == {"deployment": "d", "seconds": 10.0, "cause": "rate_limited"}


def test_a_key_that_is_refused_is_a_warning(board: _Board) -> None:
    """Nothing but a new key brings that back: somebody has to look, also where only warnings are written."""
    _call(board.get(), Outcome("auth", "retry", failure=True, cooldown=30.0, status=401), _NOW)
    [note] = [each for each in board.notes if each.name == "cooldown"]
    assert (note.level, note.fields["cause"]) == ("warning", "auth")


def test_a_new_key_begins_anew(board: _Board) -> None:
    """Whoever mends a key that was refused does not wait for the end of what the old one has earned."""
    standing = board.get(key=Secret("old"))
    _call(standing, Outcome("auth", "retry", failure=True, cooldown=30.0, status=401), _NOW)
    assert board.get(key=Secret("old"), weight=2.0).out(_NOW) == "cooldown"
    assert board.get(key=Secret("new")) is standing
    assert standing.out(_NOW) == ""
    assert standing.circuit == "closed"
    assert standing.begin(_NOW) is not None


def test_a_cooldown_is_never_shortened(board: _Board) -> None:
    """A later answer that asks for less, or one that went well, changes nothing about it."""
    standing = board.get()
    first, second, third = (standing.begin(_NOW) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    standing.end(first, _LIMITED, _NOW, 0.1)
    standing.end(second, Outcome("rate_limited", "retry", cooldown=2.0), _NOW + 1, 0.1)
    standing.end(third, OK, _NOW + 2, 0.1)
    assert standing.back_at(_NOW + 3) == _NOW + 10
    assert standing.out(_NOW + 9) == "cooldown"
    assert board.names == ["cooldown"]


def test_a_cooldown_can_be_prolonged(board: _Board) -> None:
    """The later deadline counts."""
    standing = board.get()
    first, second = standing.begin(_NOW), standing.begin(_NOW)
    assert first is not None
    assert second is not None
    standing.end(first, _LIMITED, _NOW, 0.1)
    standing.end(second, Outcome("rate_limited", "retry", cooldown=30.0), _NOW + 1, 0.1)
    assert standing.back_at(_NOW + 2) == _NOW + 31


def test_a_cooldown_outlasts_a_closed_circuit(board: _Board) -> None:
    """Both have to be over."""
    standing = board.get(BreakerPolicy(in_a_row=1, open_for=2.0))
    first, second = standing.begin(_NOW), standing.begin(_NOW)
    assert first is not None
    assert second is not None
    standing.end(first, _LIMITED, _NOW, 0.1)
    standing.end(second, _BAD, _NOW, 0.1)
    assert standing.out(_NOW + 1) == "open_circuit"
    assert standing.back_at(_NOW + 1) == _NOW + 10
    assert standing.out(_NOW + 3) == "cooldown"
    assert standing.begin(_NOW + 3, early=True) is None
    assert standing.begin(_NOW + 10) is not None


# --- probes --------------------------------------------------------------------------------------


def test_a_failed_probe_takes_it_out_and_a_good_one_brings_it_back(board: _Board) -> None:
    """Each change is told once, however often it is seen."""
    standing = board.get()
    for _ in range(3):
        standing.probed(False, "503", _NOW)
    assert _probe(standing) == (False, "503")
    assert standing.out(_NOW) == "unhealthy"
    for _ in range(3):
        standing.probed(True, "", _NOW + 1)
    assert _probe(standing) == (True, "")
    assert standing.out(_NOW + 1) == ""
    assert board.names == ["deployment_unhealthy", "deployment_healthy"]


def test_a_good_call_brings_it_back(board: _Board) -> None:
    """In a panic it is asked all the same; when that goes well, the probe was wrong."""
    standing = board.get()
    standing.probed(False, "timeout", _NOW)
    _call(standing, _BAD, _NOW + 1)
    assert standing.out(_NOW + 1) == "unhealthy"
    _call(standing, OK, _NOW + 2)
    assert standing.out(_NOW + 2) == ""
    assert standing.probe_ok is True


def test_a_call_from_before_the_probe_proves_nothing(board: _Board) -> None:
    """What had been begun while it was well may end well after it has fallen ill."""
    standing = board.get()
    early = standing.begin(_NOW)
    assert early is not None
    standing.probed(False, "refused", _NOW + 1)
    standing.end(early, OK, _NOW + 2, 2.0)
    assert standing.out(_NOW + 2) == "unhealthy"


def test_a_call_begun_while_it_was_out_proves_it_well(board: _Board) -> None:
    """Probes that went on failing meanwhile do not matter."""
    standing = board.get()
    standing.probed(False, "refused", _NOW)
    permit = standing.begin(_NOW + 1)
    assert permit is not None
    standing.probed(False, "refused", _NOW + 2)
    standing.end(permit, OK, _NOW + 3, 2.0)
    assert standing.out(_NOW + 3) == ""


def test_an_opinion_that_nobody_renews_is_dropped(board: _Board) -> None:
    """The prober was switched off by a reload: the deployment must not stay out for ever."""
    standing = board.get(health=HealthPolicy(interval=10.0, timeout=3.0))
    standing.probed(False, "503", _NOW)
    assert standing.out(_NOW + 32) == "unhealthy"
    assert standing.back_at(_NOW + 32) == _NOW + 33
    assert standing.out(_NOW + 33) == ""
    standing.tidy(_NOW + 33)
    assert standing.probe_ok is None
    assert board.names == ["deployment_unhealthy", "deployment_healthy"]


def test_a_good_probe_does_not_close_the_circuit(board: _Board) -> None:
    """That a list of models is served says nothing about calls."""
    standing = board.get(BreakerPolicy(in_a_row=1))
    _call(standing, _BAD, _NOW)
    standing.probed(True, "", _NOW + 1)
    assert standing.out(_NOW + 1) == "open_circuit"


# --- ejection ------------------------------------------------------------------------------------


def test_ejection_and_readmission_are_told_once(board: _Board) -> None:
    """Looking at it changes nothing; the next call after the time does."""
    standing = board.get()
    standing.eject(_NOW, 30.0, "slow")
    standing.eject(_NOW + 1, 5.0, "slow")
    for _ in range(3):
        assert standing.out(_NOW + 29.9) == "ejected"
    assert standing.back_at(_NOW + 1) == _NOW + 30
    assert standing.out(_NOW + 30) == ""
    assert board.names == ["deployment_ejected"]
    _call(standing, OK, _NOW + 31)
    _call(standing, OK, _NOW + 32)
    assert board.names == ["deployment_ejected", "deployment_readmitted"]


def test_ejected_and_unhealthy_ones_are_admitted_when_chosen(board: _Board) -> None:
    """Whether to believe these opinions is the selection's to decide (panic); a circuit binds it too."""
    standing = board.get(BreakerPolicy(in_a_row=2))
    standing.eject(_NOW, 30.0, "slow")
    standing.probed(False, "x", _NOW)
    _call(standing, _BAD, _NOW + 1)
    _call(standing, _BAD, _NOW + 1)
    assert standing.begin(_NOW + 1) is None


# --- speed ---------------------------------------------------------------------------------------


def test_peaks_are_taken_over_whole_and_fade() -> None:
    """Up at once, down slowly, and down without any calls too."""
    ewma = PeakEwma()
    ewma.observe(0.1, 0.0)
    ewma.observe(2.0, 1.0)
    assert ewma.value == 2.0
    ewma.observe(0.1, 2.0)
    assert 1.5 < ewma.value < 2.0
    assert ewma.read(2.0) == ewma.value
    assert ewma.read(12.0) == pytest.approx(ewma.value / 2.718, rel=0.01)
    assert ewma.read(1.0) == ewma.value  # a clock that goes back changes nothing
    for second in range(3, 90):
        ewma.observe(0.1, float(second))
    assert ewma.value == pytest.approx(0.1, rel=0.05)


def test_a_slow_model_is_not_forgotten_between_two_of_its_calls() -> None:
    """An average of 20 s must outlast the 20 s that the next call takes, but not the hour."""
    ewma = PeakEwma()
    ewma.observe(20.0, 0.0)
    assert ewma.read(20.0) > 10.0
    ewma.observe(600.0, 0.0)
    assert ewma.read(600.0) < 0.1


def test_load_counts_what_is_in_flight(board: _Board) -> None:
    """Latency times calls, this one included; with the time, the latency fades."""
    standing = board.get()
    assert standing.load() == 0.0
    _call(standing, OK, _NOW, seconds=0.5)
    assert standing.load() == 0.5
    standing.begin(_NOW)
    assert standing.load(_NOW) == 1.0
    assert standing.load(_NOW + 60) < 0.01


def test_one_that_never_answered_gets_one_call_first(board: _Board) -> None:
    """Until it has, it is the worst choice: a burst must not all go to the unknown."""
    standing = board.get()
    standing.begin(_NOW)
    one = standing.load(_NOW)
    standing.begin(_NOW)
    assert 1e5 < one < standing.load(_NOW)


def test_fast_failures_are_not_taken_for_speed(board: _Board) -> None:
    """A refused connection takes a millisecond; slow failures do count as slow."""
    standing = board.get(BreakerPolicy(in_a_row=0, minimum=1000))
    _call(standing, OK, _NOW, seconds=1.0)
    _call(standing, _BAD, _NOW + 1, seconds=0.001)
    _call(standing, CANCELLED, _NOW + 1, seconds=0.001)
    assert standing.latency == 1.0
    _call(standing, _BAD, _NOW + 2, seconds=30.0)
    assert standing.latency == 30.0


# --- reports, reloads ----------------------------------------------------------------------------


def test_every_change_of_the_circuit_is_told_once(board: _Board) -> None:
    """A hundred refused calls are no hundred notes."""
    standing = board.get(BreakerPolicy(in_a_row=2, open_for=5.0, successes=1))
    for _ in range(2):
        _call(standing, _BAD, _NOW)
    for _ in range(100):
        assert standing.begin(_NOW + 1) is None
        assert standing.out(_NOW + 10) == ""
    _call(standing, OK, _NOW + 10)
    for _ in range(100):
        _call(standing, OK, _NOW + 11)
    assert board.names == ["circuit_opened", "circuit_half_open", "circuit_closed"]
    opened = board.notes[0]
    assert opened.level == "warning"
    assert opened.message == "d: circuit opened"
    assert opened.fields["cause"] == "server_error"
    assert 4.0 <= opened.fields["seconds"] <= 5.0


def test_standings_outlive_reloads(board: _Board) -> None:
    """The same id keeps its state and goes by the new configuration."""
    standing = board.get(BreakerPolicy(in_a_row=5))
    for _ in range(4):
        _call(standing, _BAD, _NOW)
    again = board.get(BreakerPolicy(in_a_row=2, minimum=100), max_concurrency=1)
    assert again is standing
    permit = again.begin(_NOW)
    assert permit is not None
    assert again.begin(_NOW) is None
    again.end(permit, _BAD, _NOW, 0.1)
    assert again.circuit == "open"


def test_removed_ones_go_when_their_calls_have_ended(board: _Board) -> None:
    """A call of a removed deployment still ends where it was begun."""
    busy, idle = board.get(id_="busy"), board.get(id_="idle")
    kept = board.get(id_="kept")
    permit = busy.begin(_NOW)
    assert permit is not None
    board.standings.keep(["kept"])
    assert {each.id for each in board.standings} == {"busy", "kept"}
    assert board.standings.find("idle") is None
    busy.end(permit, OK, _NOW, 0.1)
    board.standings.keep(["kept"])
    assert len(board.standings) == 1
    assert board.standings.find("kept") is kept
    assert board.get(id_="idle") is not idle


def test_the_healthy_state_comes_back_whole(board: _Board) -> None:
    """After everything that can go wrong, and time, the short way of the healthy is taken again."""
    standing = board.get(BreakerPolicy(in_a_row=1, open_for=1.0, successes=1))
    disturb: list[Callable[[float], None]] = [
        lambda now: _call(standing, _LIMITED, now),
        lambda now: standing.probed(False, "x", now),
        lambda now: standing.eject(now, 30.0, "x"),
        lambda now: _call(standing, _BAD, now),
    ]
    now = _NOW
    for one in disturb:
        one(now)
        assert standing.out(now)
        now += 100
        _call(standing, OK, now)
        assert standing.clear
        assert standing.out(now) == ""
