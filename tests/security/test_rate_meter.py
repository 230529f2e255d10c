"""Counting in a sliding window, and whose address a request is counted under."""

from __future__ import annotations

import pytest

from router_core.errors import Misconfigured, RateLimited
from router_core.http.message import Headers, Request
from router_core.security.addresses import ClientAddress, parse_proxies
from router_core.security.rate_limit import Meter, Rate, rate_of
from router_core.settings import Settings


class Wall:
    """A clock on the wall that is turned by hand."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        """Return the time."""
        return self.at


def passed(meter: Meter, key: str = "k", tries: int = 50) -> int:
    """Return how many of so many tries are let through now."""
    count = 0
    for _ in range(tries):
        try:
            meter.take(key)
        except RateLimited:
            break
        count += 1
    return count


def test_so_many_and_then_again_after_the_window() -> None:
    """A refused try is not counted: whoever goes on asking does not wait longer."""
    wall = Wall()
    meter = Meter(Rate(10, 100), clock=wall)
    assert passed(meter) == 10
    for _ in range(30):
        with pytest.raises(RateLimited):
            meter.take("k")
    assert passed(meter, "other") == 10
    wall.at += 300
    assert passed(meter) == 10


@pytest.mark.parametrize("at", [1000.0, 1050.0, 1099.9, 1001.5])
def test_no_more_than_the_limit_in_any_stretch(at: float) -> None:
    """Also around the boundary of the windows by which it is counted, where others give twice as many."""
    wall = Wall(at)
    meter = Meter(Rate(20, 100), clock=wall)
    taken: list[float] = []
    for _ in range(4000):
        wall.at += 0.25
        try:
            meter.take("k")
        except RateLimited:
            continue
        taken.append(wall.at)
    worst = max(sum(1 for one in taken if start <= one < start + 100) for start in taken)
    assert worst <= 20
    assert len(taken) >= 190


def test_who_waits_as_told_is_let_in() -> None:
    """As many as were made at the beginning of the window; a moment earlier nobody is."""
    wall = Wall(1000.0)
    meter = Meter(Rate(10, 90), clock=wall)
    assert passed(meter, tries=4) == 4
    wall.at = 1050.0
    assert passed(meter) == 6
    with pytest.raises(RateLimited) as caught:
        meter.take("k")
    wall.at += caught.value.retry_after - 0.1
    assert passed(meter) == 0
    wall.at += 0.1
    assert passed(meter) == 4
    assert wall.at - 1000.0 <= 90 + 90 / 30


def test_looking_counts_nothing() -> None:
    """``check`` says what ``take`` would."""
    wall = Wall()
    meter = Meter(Rate(3, 100), clock=wall)
    for _ in range(9):
        meter.check("k")
    assert passed(meter) == 3
    with pytest.raises(RateLimited):
        meter.check("k")
    wall.at += 250
    meter.check("k")


def test_what_is_left_is_told_when_it_is_little() -> None:
    """The last fifth."""
    meter = Meter(Rate(10, 100), clock=Wall())
    assert [meter.take("k") for _ in range(10)] == [-1, -1, -1, -1, -1, -1, -1, -1, 1, 0]
    assert Meter(Rate(1, 100), clock=Wall()).take("k") == 0


def test_the_fields_of_an_answer() -> None:
    """Of the draft and of those who came before it, all saying the same."""
    meter = Meter(Rate(2, 900), clock=Wall(1_000_000.0))
    passed(meter)
    with pytest.raises(RateLimited) as caught:
        meter.take("k")
    headers = caught.value.headers
    seconds = int(headers["Retry-After"])
    assert headers["ratelimit-policy"] == '"default";q=2;w=900'
    assert headers["ratelimit"] == f'"default";r=0;t={seconds}'
    assert headers["x-ratelimit-limit"] == "2"
    assert headers["x-ratelimit-remaining"] == "0"
    assert headers["x-ratelimit-reset"] == str(1_000_000 + seconds)


def test_no_more_callers_are_remembered_than_there_is_room_for() -> None:
    """Whoever was counted last stays."""
    wall = Wall()
    meter = Meter(Rate(2, 100), clock=wall, keys=100)
    for number in range(1000):
        meter.take(f"a:{number}")
    assert len(meter._counts) <= 100
    assert passed(meter, "a:999") == 1
    wall.at += 1000
    meter.take("late")
    for number in range(100):
        meter.take(f"b:{number}")
    assert not any(key.startswith("a:") for key in meter._counts)


@pytest.mark.parametrize(
    ("most", "window", "rate"),
    [(0, 0, None), (5, 0, Rate(5, 900)), (0, 60_000, Rate(1000, 60)), (7, 1500, Rate(7, 1.5))],
)
def test_each_of_the_two_settings_has_a_default(most: int, window: int, rate: Rate | None) -> None:
    """Neither: no limit."""
    assert rate_of(Settings(rate_limit_max=most, rate_limit_window_ms=window)) == rate


def test_the_variables_of_the_settings() -> None:
    """Without a prefix; a negative one is a slip."""
    environ = {"RATE_LIMIT_MAX": "50", "RATE_LIMIT_WINDOW_MS": "1000"}
    assert rate_of(Settings.from_env(environ)) == Rate(50, 1)
    with pytest.raises(Misconfigured, match="RATE_LIMIT_MAX must not be less than 0"):
        Settings.from_env({"RATE_LIMIT_MAX": "-1"})


# --- addresses -----------------------------------------------------------------------------------


def asked(client: str, *forwarded: str) -> Request:
    """Return a request from an address."""
    return Request(
        "GET", "/", headers=Headers([("X-Forwarded-For", value) for value in forwarded]), client=client
    )


def test_the_peer_counts_whatever_a_header_says() -> None:
    """Nobody chooses under which address he is counted."""
    address = ClientAddress()
    assert address(asked("203.0.113.7", "198.51.100.1")) == "203.0.113.7"
    assert address(asked("", "198.51.100.1")) == ""


@pytest.mark.parametrize(
    ("client", "forwarded", "counted"),
    [
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, nonsense, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
    ],
)
def test_a_trusted_proxy_is_looked_through(client: str, forwarded: list[str], counted: str) -> None:
    """From the end, to the first address that is nobody's whom we trust."""
    address = ClientAddress(parse_proxies("10.0.0.0/8, 192.0.2.1"))
    assert address(asked(client, *forwarded)) == counted


def test_a_long_header_costs_little() -> None:
    """Only its end is looked at, and what is remembered is bounded."""
    address = ClientAddress(parse_proxies("10.0.0.0/8"))
    assert address(asked("10.0.0.1", ",".join(["10.0.0.2"] * 50_000))) == "10.0.0.2"
    for number in range(10_000):
        address(asked(f"198.51.{number // 250}.{number % 250}"))
    assert len(address._known) <= 4096


@pytest.mark.parametrize("text", ["10.0.0.0/40", "proxy.example.com", "10.0.0.1/8"])
def test_a_proxy_that_is_no_address_is_refused(text: str) -> None:
    """At the start."""
    with pytest.raises(Misconfigured, match="ROUTER_TRUSTED_PROXIES"):
        parse_proxies(text)
