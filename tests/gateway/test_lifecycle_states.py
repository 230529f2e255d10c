"""The states of an endpoint, without any I/O: what moves it, what is believed, and what is told."""

from __future__ import annotations

from typing import get_args

import pytest

from router_core.gateway.lifecycle.awake import AlwaysAwake
from router_core.gateway.lifecycle.driver import Seen
from router_core.gateway.lifecycle.endpoint import HELD, Endpoint
from router_core.gateway.lifecycle.shared import Record
from router_core.gateway.lifecycle.states import TRANSITIONS, Event, State, after
from router_core.gateway.lifecycle.status import detail_of, status_of
from router_core.gateway.values import EndpointSpec

WALL = 1_700_000_000.0


class Sleeper(AlwaysAwake):
    """Stands for a provider that can put it to sleep."""

    provider = "huggingface"


def endpoint(auto_sleep: float = 900.0) -> Endpoint:
    url = "https://x.example"
    return Endpoint(EndpointSpec("big", "huggingface", url, auto_sleep=auto_sleep), Sleeper(url))


def running(timer: float | None = None) -> Seen:
    return Seen(State.RUNNING, "running", serving=True, timer=timer)


SLEEPING = Seen(State.SLEEPING, "paused", serving=False)
STARTING = Seen(State.STARTING, "pending", serving=False)
FAILED = Seen(State.ERROR, "failed", message="no capacity", serving=False)


def test_the_table_is_whole() -> None:
    """Every event has an answer in every state."""
    assert set(TRANSITIONS) == set(get_args(Event))
    assert all(set(row) == set(State) for row in TRANSITIONS.values())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("event", "then"),
    [("running", State.RUNNING), ("starting", State.STARTING), ("sleeping", State.SLEEPING),
     ("failed", State.ERROR), ("lost", State.UNKNOWN)],
    ids=["running", "starting", "sleeping", "failed", "lost"],
)  # fmt: skip
def test_the_provider_is_right(state: State, event: Event, then: State) -> None:
    """What the provider says counts, whatever was thought before."""
    assert after(state, event) is then


def test_an_order_is_held_until_the_provider_speaks_of_it() -> None:
    """Stopping is believed while the provider still says running; and so is starting after sleeping."""
    assert after(State.STOPPING, "running", held=True) is State.STOPPING
    assert after(State.STOPPING, "lost", held=True) is State.STOPPING
    assert after(State.STOPPING, "sleeping", held=True) is State.SLEEPING
    assert after(State.STOPPING, "failed", held=True) is State.ERROR
    assert after(State.STARTING, "sleeping", held=True) is State.STARTING
    assert after(State.STARTING, "failed", held=True) is State.ERROR


def test_a_call_cannot_say_more_than_that_it_does_not_run() -> None:
    """A 503 makes a running endpoint a sleeping one, and no failed one better."""
    assert after(State.RUNNING, "asleep") is State.SLEEPING
    assert after(State.ERROR, "asleep") is State.ERROR


def test_a_life() -> None:
    """Running, stopping, sleeping, starting, running: what is served and what is told at each step."""
    one = endpoint()
    assert one.ready
    assert status_of(one, WALL, 0).status is State.UNKNOWN
    one.seen(running(), 0.0, WALL)
    one.last_activity = WALL + 50
    told = status_of(one, WALL + 100, 0)
    assert (told.status, told.last_activity, told.wake_time, told.sleep_time, told.auto_sleep_in) == (
        State.RUNNING, int(WALL) + 50, None, None, 850,
    )  # fmt: skip
    one.stops(100.0, WALL + 100)
    assert not one.ready, "from the order on, not only once the provider speaks of it"
    one.seen(running(), 110.0, WALL + 110)
    assert (one.state, one.ready) == (State.STOPPING, False)
    one.seen(SLEEPING, 120.0, WALL + 120)
    told = status_of(one, WALL + 130, 0)
    assert (told.status, told.sleep_time, told.auto_sleep_in) == (State.SLEEPING, int(WALL) + 100, None)
    one.woken(200.0, WALL + 200)
    one.seen(SLEEPING, 205.0, WALL + 205)
    assert status_of(one, WALL + 205, 0).status is State.STARTING
    one.seen(STARTING, 210.0, WALL + 210)
    one.seen(SLEEPING, 220.0, WALL + 220)
    assert status_of(one, WALL + 220, 0).status is State.SLEEPING, "it had begun to start: this is news"
    one.woken(300.0, WALL + 300)
    one.seen(running(), 310.0, WALL + 310)
    told = status_of(one, WALL + 310, 0)
    assert (told.status, told.wake_time, told.sleep_time) == (State.RUNNING, int(WALL) + 300, None)
    assert told.auto_sleep_in == 900, "nobody has called since, so it counts from when it was there"


def test_an_order_is_not_believed_for_ever() -> None:
    """A provider that goes on saying running after a minute has not taken the order to stop."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    one.stops(10.0, WALL + 10)
    one.seen(running(), 10.0 + HELD, WALL + 10 + HELD)
    assert (one.state, one.ready) == (State.RUNNING, True)


def test_an_order_that_was_refused_has_not_been() -> None:
    """When the provider does not take the order to sleep, all is as before."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    before = one.stops(10.0, WALL + 10)
    one.stays(before)
    assert (one.state, one.ready, one.sleep_time) == (State.RUNNING, True, 0.0)


def test_unknown_changes_nothing_for_calls() -> None:
    """Without the management API a running endpoint serves and one asleep does not; times are as known."""
    for seen, ready in ((running(), True), (SLEEPING, False), (FAILED, False)):
        one = endpoint()
        one.seen(seen, 0.0, WALL)
        one.lost("api.example answered 500", 10.0, WALL + 10)
        assert (one.state, one.last_known, one.ready) == (State.UNKNOWN, seen.state, ready)
        assert detail_of(one, 0).message == "api.example answered 500"
        assert status_of(one, WALL + 10, 0).auto_sleep_in is None


def test_a_503_just_after_a_look_is_load() -> None:
    """For five seconds after it was seen to serve, a call is not believed."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    assert not one.asleep(4.9, WALL)
    assert one.ready
    assert one.asleep(5.1, WALL)
    assert not one.ready
    assert one.asleep(5.2, WALL)


def test_what_falls_asleep_by_itself_is_dated() -> None:
    """Changes that nobody ordered get the time at which they were seen."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    one.lost("", 5.0, WALL + 5)
    one.seen(SLEEPING, 10.0, WALL + 10)
    assert status_of(one, WALL + 10, 0).sleep_time == int(WALL) + 10
    one.seen(running(), 20.0, WALL + 20)
    assert status_of(one, WALL + 20, 0).wake_time == int(WALL) + 20


@pytest.mark.parametrize(
    ("timer", "auto_sleep", "left", "by"),
    [(None, 900.0, 600, "gateway"), (900.0, 900.0, 600, "provider"), (3600.0, 900.0, 600, "gateway"),
     (300.0, 900.0, 0, "provider"), (900.0, 0.0, 600, "gateway"), (None, 0.0, None, None)],
    ids=["ours", "theirs", "theirs-late", "theirs-early", "only-theirs", "never"],
)  # fmt: skip
def test_the_countdown(timer: float | None, auto_sleep: float, left: int | None, by: str | None) -> None:
    """It counts down from the last call, by whoever puts it to sleep first."""
    one = endpoint(auto_sleep)
    one.seen(running(timer), 0.0, WALL)
    one.last_activity = WALL + 700
    assert status_of(one, WALL + 1000, 0).auto_sleep_in == left
    if by != "gateway" or auto_sleep:
        assert detail_of(one, 0).auto_sleep_by == by


def test_the_countdown_stands_still_while_calls_are_in_flight() -> None:
    """A long stream keeps it awake."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    assert status_of(one, WALL + 5000, 0).auto_sleep_in == 0
    assert status_of(one, WALL + 5000, 2).auto_sleep_in == 900


def test_a_clock_set_back_gives_no_longer_countdown() -> None:
    """Activity in the future, as another machine's clock may say, counts as now."""
    one = endpoint()
    one.seen(running(), 0.0, WALL)
    one.absorb(Record(last_activity=WALL + 10_000))
    assert status_of(one, WALL, 0).auto_sleep_in == 900


def test_records_of_processes_join() -> None:
    """The later of each time; of the beginnings the earlier, unless it has slept since."""
    one = Record(last_activity=10, wake_time=5, sleep_time=0, since=5, url="a")
    two = Record(last_activity=8, wake_time=0, sleep_time=4, since=7, url="")
    assert one.joined(two) == two.joined(one) == Record(10, 5, 4, 5, "a")
    assert one.joined(Record(sleep_time=6)).since == 0
