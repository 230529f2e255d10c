"""Strategies: shares, turns, ties, and that nobody is starved."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import sqrt
from random import Random
from typing import get_args

import pytest

from router_core.gateway.select.stable import digest, draw, race
from router_core.gateway.select.strategies import EXPLORE, strategy
from router_core.gateway.values import Price, StrategyName
from tests.gateway.selecting import (
    answer,
    break_circuit,
    deployment,
    make_call,
    select,
    served,
    standing,
)

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
COUNT = 6_000


def near(found: int, share: float, count: int = COUNT) -> bool:
    """Return whether a count lies within four deviations of what its share makes probable."""
    return abs(found - share * count) <= 4 * sqrt(count * share * (1 - share))


@pytest.mark.parametrize("name", STRATEGIES)
def test_equal_deployments_share_equally(name: StrategyName) -> None:
    """Of three alike each gets a third; the sticky strategy over many keys."""
    selector = select(name)
    found: Counter[str] = Counter()
    for number in range(COUNT):
        chosen = selector.pick(make_call(sticky=f"user-{number}"), 0.0)
        assert chosen is not None
        found[chosen.id] += 1
    assert all(near(found[each], 1 / 3) for each in "abc"), found


@pytest.mark.parametrize("name", STRATEGIES)
def test_equal_seeds_draw_alike(name: StrategyName) -> None:
    """All randomness comes from the generator that was given."""
    one, two = select(name, seed=7), select(name, seed=7)
    drawn = [(one.pick(make_call(), 0.0), two.pick(make_call(), 0.0)) for _ in range(50)]
    assert all(first and second and first.id == second.id for first, second in drawn)


@pytest.mark.parametrize("name", STRATEGIES)
def test_nobody_who_may_serve_is_starved(name: StrategyName) -> None:
    """With one out, the two others both get calls, and the one that is out gets none."""
    selector = select(name)
    break_circuit(selector, "b")
    found: Counter[str] = Counter()
    for number in range(400):
        chosen = selector.pick(make_call(sticky=str(number)), 0.0)
        assert chosen is not None
        found[chosen.id] += 1
    assert found["b"] == 0
    assert min(found["a"], found["c"]) > 100


def test_shuffle_does_not_look_at_weights() -> None:
    """It is the strategy that treats all alike."""
    found = served(select("shuffle", deployment("a", weight=9.0), deployment("b")), COUNT)
    assert near(found["a"], 0.5)


def test_shuffle_has_no_order() -> None:
    """What follows on a does not depend on a: the nine pairs are about equally frequent."""
    selector = select("shuffle")
    ids = [chosen.id for _ in range(COUNT) if (chosen := selector.pick(make_call(), 0.0))]
    pairs = Counter(pairwise(ids))
    expected = (COUNT - 1) / 9
    chi_square = sum((pairs[one, two] - expected) ** 2 / expected for one in "abc" for two in "abc")
    assert chi_square < 26.1  # 8 degrees of freedom: passed by 999 of 1,000 fair shuffles


class TestRoundRobin:
    """Exact turns."""

    def test_it_alternates_exactly(self) -> None:
        """Every three calls in a row go to three deployments, in the same order."""
        selector = select("round_robin")
        ids = [chosen.id for _ in range(30) if (chosen := selector.pick(make_call(), 0.0))]
        assert all(sorted(ids[at : at + 3]) == ["a", "b", "c"] for at in range(27))
        assert ids[:3] * 10 == ids

    def test_where_it_begins_is_random(self) -> None:
        """Processes that live for one call each do not all begin with the first."""
        firsts = {chosen.id for seed in range(30) if (chosen := select("round_robin", seed=seed).pick(
            make_call(), 0.0))}  # fmt: skip
        assert firsts == {"a", "b", "c"}

    def test_the_share_of_one_that_is_out_is_split_among_all(self) -> None:
        """Not given to its neighbour."""
        selector = select("round_robin", *(deployment(name) for name in "abcd"))
        served(selector, 5)
        break_circuit(selector, "b")
        found = served(selector, 30)
        assert found == {"a": 10, "b": 0, "c": 10, "d": 10}

    def test_one_that_comes_back_makes_up_for_nothing(self) -> None:
        """It gets the next turn and after that every third."""
        selector = select("round_robin")
        break_circuit(selector, "b")
        served(selector, 300)
        ids = [chosen.id for _ in range(9) if (chosen := selector.pick(make_call(), 100.0))]
        assert ids[0] == "b"
        assert Counter(ids) == {"a": 3, "b": 3, "c": 3}

    def test_retries_that_leave_some_out_keep_it_fair(self) -> None:
        """Each second call is not to go to the one before: all still get the same."""
        selector = select("round_robin")
        found: Counter[str] = Counter()
        for _ in range(300):
            first = selector.pick(make_call(), 0.0)
            assert first is not None
            second = selector.pick(make_call(), 0.0, (first.id,))
            assert second is not None
            assert second.id != first.id
            found.update((first.id, second.id))
        assert max(found.values()) - min(found.values()) <= 1


class TestWeighted:
    """Shares of the weights."""

    def test_shares_are_those_of_the_weights(self) -> None:
        """Six to three to one."""
        weights = {"a": 6.0, "b": 3.0, "c": 1.0}
        selector = select("weighted", *(deployment(name, weight=weight) for name, weight in weights.items()))
        found = served(selector, COUNT)
        assert all(near(found[name], weight / 10) for name, weight in weights.items()), found

    @pytest.mark.parametrize("name", ["weighted", "least_busy", "sticky"])
    def test_a_weight_of_nothing_gets_nothing_while_others_are_left(self, name: StrategyName) -> None:
        """And everything once it is alone."""
        selector = select(name, deployment("a"), deployment("b", weight=0.0))
        call = make_call(sticky="someone")
        assert served(selector, 200, call)["b"] == 0
        break_circuit(selector, "a")
        assert served(selector, 20, call)["b"] == 20

    @pytest.mark.parametrize("name", ["weighted", "least_busy", "sticky"])
    def test_if_nobody_has_a_weight_all_are_alike(self, name: StrategyName) -> None:
        """Rather than refusing everybody."""
        selector = select(name, deployment("a", weight=0.0), deployment("b", weight=0.0))
        found: Counter[str] = Counter()
        for number in range(400):
            chosen = selector.pick(make_call(sticky=str(number)), 0.0)
            assert chosen is not None
            found[chosen.id] += 1
        assert min(found["a"], found["b"]) > 100


class TestLeastBusy:
    """Calls in flight for the weight."""

    def test_it_evens_out(self) -> None:
        """Ninety calls that do not end are thirty each."""
        selector = select("least_busy")
        for _ in range(90):
            chosen = selector.pick(make_call(), 0.0)
            assert chosen is not None
            chosen.standing.begin(0.0)
        assert [each.standing.inflight for each in selector.candidates] == [30, 30, 30]

    def test_a_heavier_one_takes_more(self) -> None:
        """Three times the weight, three times the calls."""
        selector = select("least_busy", deployment("a", weight=3.0), deployment("b"))
        for _ in range(80):
            chosen = selector.pick(make_call(), 0.0)
            assert chosen is not None
            chosen.standing.begin(0.0)
        assert standing(selector, "a").inflight == pytest.approx(60, abs=1)

    def test_what_waits_at_the_upstream_counts(self) -> None:
        """One that reports a queue is left alone until the others are as busy."""
        selector = select("least_busy")
        standing(selector, "a").queue = 5
        assert served(selector, 50)["a"] == 0


class TestLatency:
    """The better of two."""

    def test_the_fast_one_gets_most_and_the_slow_one_is_not_forgotten(self) -> None:
        """Of two always both are compared, so that only the draws that explore reach the slow one."""
        selector = select("latency", deployment("a"), deployment("b"))
        answer(selector, "a", 0.1)
        answer(selector, "b", 3.0)
        found = served(selector, COUNT)
        assert near(found["b"], EXPLORE / 2), found
        assert found["b"] > 0

    def test_the_best_of_many_is_not_run_down(self) -> None:
        """Nobody gets more than the share in which it is one of the two: no herd."""
        selector = select("latency", *(deployment(f"d{number}") for number in range(10)))
        for number in range(10):
            answer(selector, f"d{number}", 0.1 + number / 10)
        found = served(selector, COUNT)
        assert near(found["d0"], 0.2 * (1 - EXPLORE) + 0.1 * EXPLORE), found
        assert list(found.values()) == sorted(found.values(), reverse=True)

    def test_calls_in_flight_outweigh_speed(self) -> None:
        """Twice as fast with five calls waiting is slower."""
        selector = select("latency", deployment("a"), deployment("b"))
        answer(selector, "a", 0.1)
        answer(selector, "b", 0.2)
        for _ in range(5):
            standing(selector, "a").begin(0.0)
        assert served(selector, 200)["b"] > 180

    def test_one_that_was_slow_once_is_asked_again(self) -> None:
        """Its figure fades while nobody asks it."""
        selector = select("latency", deployment("a"), deployment("b"))
        answer(selector, "a", 0.2)
        answer(selector, "b", 4.0)
        assert standing(selector, "b").load(0.0) > standing(selector, "a").load(0.0)
        answer(selector, "a", 0.2, now=60.0)
        assert served(selector, 200, now=60.0)["b"] > 150

    def test_a_new_one_is_not_flooded(self) -> None:
        """It gets one call; the next comes when that is answered."""
        selector = select("latency", deployment("a"), deployment("new"))
        answer(selector, "a", 0.1)
        found: Counter[str] = Counter()
        for _ in range(100):
            chosen = selector.pick(make_call(), 0.0)
            assert chosen is not None
            permit = chosen.standing.begin(0.0)
            assert permit is not None
            found[chosen.id] += 1
        assert 1 <= found["new"] <= 8


class TestCheapest:
    """Expected cost of this very call."""

    def test_the_cheapest_gets_it(self) -> None:
        """Which one that is depends on the call: dear input and cheap output, or the other way round."""
        selector = select(
            "cheapest",
            deployment("reader", price=Price(1_000_000, 9_000_000)),
            deployment("writer", price=Price(5_000_000, 2_000_000)),
        )
        reading = make_call(input_tokens=10_000, max_tokens=10)
        writing = make_call(input_tokens=10, max_tokens=10_000)
        assert served(selector, 20, reading)["reader"] == 20
        assert served(selector, 20, writing)["writer"] == 20

    def test_equals_share(self) -> None:
        """Ties are broken at random."""
        price = Price(1_000_000, 1_000_000)
        selector = select("cheapest", deployment("a", price=price), deployment("b", price=price))
        assert near(served(selector, COUNT)["a"], 0.5)

    def test_an_unknown_price_is_not_nothing(self) -> None:
        """It comes last, and is used when nobody else is left."""
        selector = select("cheapest", deployment("a"), deployment("b", price=Price(10**9, 10**9)))
        assert served(selector, 20, make_call(input_tokens=9))["a"] == 0
        break_circuit(selector, "b")
        assert served(selector, 20)["a"] == 20


def test_priority_asks_the_lowest_level_that_has_anybody_left() -> None:
    """First a and b alike, then c, and a and b again when one of them is back."""
    selector = select("priority", deployment("a"), deployment("b"), deployment("c", priority=1))
    found = served(selector, COUNT)
    assert near(found["a"], 0.5)
    assert found["c"] == 0
    break_circuit(selector, "a", "b")
    assert served(selector, 20)["c"] == 20
    assert served(selector, 20, now=60.0)["c"] == 0


class TestSticky:
    """Same key, same deployment."""

    def test_a_key_stays(self) -> None:
        """Whatever the seed: other processes agree."""
        for key in ("anna", "bernd", "çelik", "\ud800"):
            ids = {
                chosen.id
                for seed in range(5)
                if (chosen := select("sticky", seed=seed).pick(make_call(sticky=key), 0.0))
            }
            assert len(ids) == 1

    def test_only_the_keys_of_one_that_goes_move_and_they_come_back(self) -> None:
        """Nobody else's session is torn away."""
        selector = select("sticky", *(deployment(name) for name in "abcd"))
        keys = [f"user-{number}" for number in range(400)]

        def homes(now: float) -> dict[str, str]:
            return {key: chosen.id for key in keys if (chosen := selector.pick(make_call(sticky=key), now))}

        before = homes(0.0)
        break_circuit(selector, "b")
        without = homes(0.0)
        moved = {key for key in keys if before[key] != without[key]}
        assert moved == {key for key in keys if before[key] == "b"}
        assert {without[key] for key in moved} == {"a", "c", "d"}
        assert homes(60.0) == before

    def test_without_a_key_it_spreads(self) -> None:
        """By weight."""
        selector = select("sticky", deployment("a", weight=3.0), deployment("b"))
        assert near(served(selector, COUNT)["a"], 0.75)


class TestStableDraw:
    """Weighted rendezvous itself."""

    def test_shares_are_those_of_the_weights(self) -> None:
        """Over many keys."""
        arms = [(digest("a"), 80.0), (digest("b"), 15.0), (digest("c"), 5.0)]
        found = Counter(draw(digest(f"user-{number}"), arms) for number in range(COUNT))
        assert all(near(found[arm], share) for arm, share in enumerate((0.8, 0.15, 0.05))), found

    def test_a_weight_that_grows_only_takes(self) -> None:
        """From 5 to 20 percent: keys move to it, and none between the others."""
        small = [(digest("a"), 80.0), (digest("b"), 15.0), (digest("c"), 5.0)]
        grown = [*small[:2], (digest("c"), 20.0)]
        for number in range(2_000):
            point = digest(f"user-{number}")
            before, after = draw(point, small), draw(point, grown)
            assert after in (before, 2)

    def test_arms_are_independent_of_each_other(self) -> None:
        """To know that a key is not c's says nothing about a or b."""
        ranks: Counter[tuple[str, ...]] = Counter()
        for number in range(COUNT):
            point = digest(str(number))
            late = {race(point, digest(arm), 1.0): arm for arm in "abc"}
            ranks[tuple(late[at] for at in sorted(late))] += 1
        assert len(ranks) == 6
        assert all(near(found, 1 / 6) for found in ranks.values()), ranks

    def test_the_draw_is_the_race(self) -> None:
        """Both write the same numbers out."""
        arms = [(digest(name), weight) for name, weight in zip("abcd", (1.0, 2.0, 0.0, 3.0), strict=True)]
        for number in range(200):
            point = digest(str(number))
            late = [race(point, *arm) for arm in arms]
            assert draw(point, arms) == late.index(min(late))

    def test_the_extremes_of_the_hash_have_a_number(self) -> None:
        """No logarithm of nothing, whatever the key."""
        for point in (0, 1, 2**64 - 1, 2**63):
            for seed in (0, 2**64 - 1, point):
                assert 0.0 <= race(point, seed, 1.0) < float("inf")

    def test_digest_is_the_same_everywhere(self) -> None:
        """A replica with another hash would send every session elsewhere."""
        assert digest("user-1") == 0x9AAC5A8621EAE188


def test_an_unknown_strategy_is_refused() -> None:
    """With the names of those that there are."""
    with pytest.raises(ValueError, match=r"no strategy 'fastest'; there are shuffle, round_robin"):
        strategy("fastest", (), lambda each: None, Random(1))
