"""What trials go by: nothing is found where nothing is, however often one looks; what is there is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, inf, isclose, log, sqrt

import pytest

from router_core.gateway.trials.binomial import bounds, evidence, latency_above, latency_below
from router_core.gateway.trials.criteria import Criteria
from router_core.gateway.trials.judge import breaches, shortfalls
from router_core.gateway.trials.msprt import difference, half_width, log_ratio, p_value
from router_core.gateway.trials.power import MOST, needed, seconds_left
from router_core.gateway.trials.tally import Moments, Tally, bin_of, edge

Draw = Callable[[random.Random], float]

AA: dict[str, tuple[Draw, float]] = {
    "rate 0.95": (lambda rng: float(rng.random() < 0.95), 0.05),
    "rate 0.5": (lambda rng: float(rng.random() < 0.5), 0.05),
    "rate 0.999": (lambda rng: float(rng.random() < 0.999), 0.02),
    "latency": (lambda rng: rng.lognormvariate(0.0, 0.8), 0.14),
    "cost": (lambda rng: rng.gauss(300.0, 60.0), 15.0),
}


def looks(
    draw: Draw, other: Draw, tau: float, count: int, every: int, rng: random.Random
) -> tuple[bool, bool]:
    """Run one comparison, looking all the time; returns whether ours and a plain z-test found something."""
    one, two = Moments(), Moments()
    ours = plain = False
    for place in range(1, count + 1):
        one.add(draw(rng))
        two.add(other(rng))
        if place < 50 or place % every:
            continue
        ours = ours or difference(one, two, tau, 0.05).p <= 0.05
        error = sqrt((one.variance + two.variance) / place)
        plain = plain or (error > 0 and abs(two.mean - one.mean) / error > 1.96)
    return ours, plain


@pytest.mark.parametrize("name", ["rate 0.95", "latency"])
def test_nothing_is_found_between_equals(name: str) -> None:
    """Of A/A comparisons that are looked at every tenth call at most 5 % find a difference; a plain test, on
    the same numbers, finds one in many times more."""
    draw, tau = AA[name]
    rng = random.Random(4)
    found = [looks(draw, draw, tau, 1500, 10, rng) for _ in range(150)]
    ours, plain = (sum(column) / len(found) for column in zip(*found, strict=True))
    assert ours <= 0.05
    assert plain > 0.2


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(AA))
def test_nothing_is_found_between_equals_in_thousands_of_runs(name: str) -> None:
    """The same with 2,000 runs of 5,000 calls each, for every kind of figure."""
    draw, tau = AA[name]
    rng = random.Random(5)
    found = [looks(draw, draw, tau, 5000, 10, rng)[0] for _ in range(2000)]
    assert sum(found) / len(found) <= 0.05


def test_a_real_effect_is_found_with_the_calls_that_were_said_to_be_needed() -> None:
    """With the estimate for a power of 80 %, at least 80 % of runs end before it."""
    rng = random.Random(6)
    wanted = needed(0.9 * 0.1, 0.05, 0.05, 0.8, other=0.95 * 0.05)
    runs = [
        looks(lambda rng: float(rng.random() < 0.9), lambda rng: float(rng.random() < 0.95), 0.05, wanted, 20,
              rng)[0]
        for _ in range(300)
    ]  # fmt: skip
    assert sum(runs) / len(runs) >= 0.8


def test_the_interval_is_what_the_test_does_not_refute() -> None:
    """An effect at the end of the interval around nothing has exactly the p-value alpha."""
    for variance, tau2, alpha in ((0.01, 0.04, 0.05), (1e-6, 0.0025, 0.01), (4.0, 0.1, 0.2)):
        at = half_width(variance, tau2, alpha)
        assert isclose(p_value(at, variance, tau2), alpha, rel_tol=1e-9)


def test_the_mixture_is_what_it_says() -> None:
    """The closed form is the likelihood ratio, averaged over normal effects (a sum over many of them)."""
    effect, variance, tau2 = 0.3, 0.02, 0.05
    steps, total = 20_000, 0.0
    for place in range(steps):
        theta = -3.0 + 6.0 * (place + 0.5) / steps
        prior = exp(-theta * theta / (2 * tau2)) / sqrt(2 * 3.141592653589793 * tau2)
        total += prior * exp((2 * theta * effect - theta * theta) / (2 * variance)) * 6.0 / steps
    assert isclose(log_ratio(effect, variance, tau2), log(total), rel_tol=1e-6)


def test_the_evidence_against_a_share_is_what_it_says() -> None:
    """The closed form is the likelihood ratio, averaged over the prior (a sum over many shares)."""
    hits, n, share = 7, 40, 0.05
    steps, total = 100_000, 0.0
    for place in range(steps):
        p = (place + 0.5) / steps
        prior = 1 / (3.141592653589793 * sqrt(p * (1 - p)))
        total += prior * p**hits * (1 - p) ** (n - hits) / steps
    ratio = log(total) - hits * log(share) - (n - hits) * log(1 - share)
    assert isclose(evidence(hits, n, share), ratio, rel_tol=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_true_share_stays_within_its_bounds(share: float) -> None:
    """Looked at after every call, at most alpha of the runs ever exclude the truth."""
    rng = random.Random(8)
    out = 0
    for _ in range(300):
        hits = 0
        for n in range(1, 401):
            hits += rng.random() < share
            if evidence(hits, n, share) >= log(1 / 0.05):
                out += 1
                break
    assert out / 300 <= 0.05


def test_bounds_hold_what_was_seen_and_narrow() -> None:
    """They begin as everything, hold the share that was seen, and are where the evidence says."""
    assert bounds(0, 0, 0.05) == (0.0, 1.0)
    assert bounds(0, 50, 0.05)[0] == 0.0
    assert bounds(50, 50, 0.05)[1] == 1.0
    before = 1.0
    for n in (20, 200, 2000):
        low, high = bounds(n // 10, n, 0.05)
        assert low < 0.1 < high
        assert high - low < before
        before = high - low
        assert isclose(evidence(n // 10, n, low), log(20), rel_tol=1e-3)


def filled(*parts: tuple[float, int], errors: int = 0, cost: int | None = None) -> Tally:
    """Return a tally of answers that took so many seconds, and of failures."""
    tally = Tally()
    for seconds, count in parts:
        for _ in range(count):
            tally.answered(seconds, cost, 10)
    tally.n += errors
    tally.errors += errors
    return tally


def test_the_bounds_of_a_quantile_hold_it() -> None:
    """The 95th of a hundred is certain to be above little and below much; of few calls nothing is known."""
    tally = filled((0.1, 900), (1.0, 100))
    assert 0.09 < latency_above(tally, 0.95, 0.05) <= 1.0
    assert 1.0 <= latency_below(tally, 0.95, 0.05) < 1.06
    few = filled((0.1, 3))
    assert latency_below(few, 0.95, 0.05) == inf
    assert latency_above(Tally(), 0.95, 0.05) == 0.0
    assert latency_below(Tally(), 0.95, 0.05) == inf


def test_a_true_quantile_stays_within_its_bounds() -> None:
    """Looked at all the time, at most alpha of the runs exclude the truth (as far as bins are exact)."""
    rng, out = random.Random(9), 0
    truth = exp(1.6448536269514722)
    for _ in range(120):
        tally, wrong = Tally(), False
        for place in range(300):
            tally.answered(rng.lognormvariate(0.0, 1.0), None, 0)
            if place % 15 == 0:
                above, below = latency_above(tally, 0.95, 0.05), latency_below(tally, 0.95, 0.05)
                wrong = wrong or not above <= truth <= below
        out += wrong
    assert out / 120 <= 0.05


def test_bins_meet_at_their_edges() -> None:
    """A latency lies between the edges of its bin, whatever it is."""
    for seconds in (0.0, 0.0004, 0.001, 0.01, 0.5, 3.0, 599.0):
        place = bin_of(seconds)
        assert edge(place) <= seconds * 1.000001
        assert seconds <= edge(place + 1) * 1.000001
    assert bin_of(1e9) == 299


def test_tallies_add_up_and_survive_being_written() -> None:
    """A tally that was written and read says the same; two of them say what one would."""
    one, two = filled((0.1, 5), errors=2, cost=7), filled((0.3, 3), cost=9)
    assert Tally.read(one.to_json()).to_json() == one.to_json()
    total = Tally.total((one, two))
    assert (total.n, total.errors, total.error_rate) == (10, 2, 0.2)
    assert total.sums["cost"].mean == (5 * 7 + 3 * 9) / 8
    assert total.quantile(0.5) is not None


@pytest.mark.parametrize(
    "data",
    [None, 5, [], {"n": "x", "errors": -1, "latencies": 5, "sums": []}, {"sums": {"cost": [1, "x", None]}},
     {"n": True, "latencies": {"-1": 5, "1e3": 4, "999999999": 2, "x": 1}}, {"n": float("nan")}],
    ids=["null", "number", "list", "types", "sums", "bins", "nan"],
)  # fmt: skip
def test_what_is_no_tally_counts_as_nothing(data: object) -> None:
    """Whatever stands in the store, reading it does not fail and adds nothing that is not a number."""
    tally = Tally.read(data)
    assert (tally.n, tally.errors, tally.sums["cost"].sum) in ((0, 0, 0.0), (0, 0, 0))
    assert not tally.latencies


def test_each_criterion_has_its_evidence() -> None:
    """What is exceeded by much is found by its name; what keeps to all of them is left alone."""
    good, many = filled((0.1, 400), cost=100), Criteria(0.05, 0.02, 0.5, 0.3, 0.5)
    assert breaches(many, good, filled((0.1, 400), cost=100), 0.05) == ()
    assert shortfalls(many, good, filled((0.1, 400), cost=100)) == ()
    bad = filled((0.9, 200), errors=100, cost=300)
    wanted = [
        "maxErrorRate",
        "maxErrorRateIncrease",
        "maxLatencyP95",
        "maxLatencyIncrease",
        "maxCostIncrease",
    ]
    assert [each.criterion for each in breaches(many, good, bad, 0.05)] == wanted
    assert sorted(each.partition(":")[0] for each in shortfalls(many, good, bad)) == sorted(wanted)
    assert breaches(Criteria(), good, bad, 0.05) == ()
    assert breaches(many, good, Tally(), 0.05) == ()


def test_a_few_failures_of_a_canary_are_enough() -> None:
    """A canary that fails every second call beside a sound baseline is found within 20 calls."""
    baseline = filled((0.1, 400))
    for half in range(1, 11):
        if breaches(Criteria(max_error_rate_increase=0.05), baseline, filled((0.1, half), errors=half), 0.05):
            break
    else:
        pytest.fail("20 calls were not enough")
    assert half > 1, "one failure of two calls is no evidence"


def test_samples_grow_with_what_is_asked() -> None:
    """A smaller effect, a smaller alpha or more power take more; what cannot be found takes for ever."""
    base = needed(0.25, 0.05, 0.05, 0.8)
    assert base < needed(0.25, 0.04, 0.05, 0.8)
    assert base < needed(0.25, 0.05, 0.01, 0.8)
    assert base < needed(0.25, 0.05, 0.05, 0.95)
    assert needed(0.25, 0.0, 0.05, 0.8) == MOST
    assert needed(1e12, 1e-6, 0.05, 0.8) == MOST
    assert needed(0.0, 0.1, 0.05, 0.8) < 10
    assert seconds_left(100, 50, 60.0) == 60.0
    assert seconds_left(100, 200, 60.0) == 0.0
    assert seconds_left(100, 0, 60.0) is None
    assert seconds_left(MOST, 5, 60.0) is None
