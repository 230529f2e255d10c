"""Matching: which rule holds, where the call goes, and why the others do not hold."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from math import sqrt
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from router_core.gateway.call import Attributes
from router_core.gateway.rules import index
from router_core.gateway.rules.conditions import Clocks, misses
from router_core.gateway.rules.engine import RuleTable
from router_core.gateway.rules.rule import (
    Condition,
    ContentLength,
    Rule,
    Target,
    TimeOfDay,
    TrafficSplit,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC).timestamp()  # a Friday
M = (Target("m"),)
CALL = Attributes(
    "creative", "chat", "ws-1", "anna", "gold", 500, frozenset({"eu", "beta"}), {"team": "red", "size": "2"}
)


def at(text: str, zone: str = "UTC") -> float:
    """Return the seconds of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def holds(condition: Condition, attributes: Attributes = CALL, now: float = NOW) -> bool:
    """Return whether one rule with this condition matches; its words have to agree."""
    matched = RuleTable([Rule("r", M, condition)]).match(attributes, now) is not None
    assert matched is (misses(condition, attributes, now, Clocks()) == [])
    return matched


CONDITIONS: list[tuple[Condition, bool]] = [
    (Condition(), True),
    (Condition(agent_type=("legal", "creative")), True),
    (Condition(agent_type=("Creative",)), False),
    (Condition(request_type=("chat",)), True),
    (Condition(request_type=("completion",)), False),
    (Condition(workspace_id=("ws-1",)), True),
    (Condition(workspace_id=("ws-2",)), False),
    (Condition(user_tier=("gold",)), True),
    (Condition(user_tier=("free",)), False),
    (Condition(content_length=ContentLength(500, 500)), True),
    (Condition(content_length=ContentLength(501)), False),
    (Condition(content_length=ContentLength(max=499)), False),
    (Condition(content_length=ContentLength(max=500)), True),
    (Condition(tags=("beta", "other")), True),
    (Condition(tags=("other",)), False),
    (Condition(custom=(("team", ("red",)), ("size", ("1", "2")))), True),
    (Condition(custom=(("team", ("red",)), ("size", ("1",)))), False),
    (Condition(custom=(("absent", ("",)),)), False),
    (Condition(time_of_day=TimeOfDay(12 * 60, 13 * 60)), True),
    (Condition(time_of_day=TimeOfDay(12 * 60 + 1, 13 * 60)), False),
    (Condition(time_of_day=TimeOfDay(days=frozenset({4}))), True),
    (Condition(time_of_day=TimeOfDay(days=frozenset({5}))), False),
    (Condition(agent_type=("creative",), user_tier=("free",)), False),
]


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS, ids=[str(n) for n in range(len(CONDITIONS))])
def test_a_condition_holds_when_all_it_says_does(condition: Condition, expected: bool) -> None:
    """Checks and words agree."""
    assert holds(condition) is expected


def test_a_call_of_which_nothing_is_known_fits_what_asks_for_nothing() -> None:
    """And nothing else, not even an empty value."""
    assert holds(Condition(), Attributes())
    assert not holds(Condition(workspace_id=("ws-1",)), Attributes())
    assert not holds(Condition(tags=("x",)), Attributes())


class TestTimeOfDay:
    """Windows on the wall."""

    NIGHT = Condition(time_of_day=TimeOfDay(22 * 60, 6 * 60, "Europe/Paris", frozenset({4})))

    @pytest.mark.parametrize(
        ("when", "expected"),
        [
            ("2026-11-20T21:59", False),
            ("2026-11-20T22:00", True),
            ("2026-11-21T00:00", True),
            ("2026-11-21T05:59", True),
            ("2026-11-21T06:00", False),
            ("2026-11-21T22:30", False),
            ("2026-11-20T03:00", False),
        ],
    )
    def test_a_night_belongs_to_the_day_it_began_on(self, when: str, expected: bool) -> None:
        """Friday's lasts into Saturday; Thursday's is not asked for."""
        assert holds(self.NIGHT, now=at(when, "Europe/Paris")) is expected

    def test_sundays_night_ends_on_monday(self) -> None:
        """The week goes round."""
        night = Condition(time_of_day=TimeOfDay(23 * 60, 60, "UTC", frozenset({6})))
        assert holds(night, now=at("2026-11-23T00:30"))
        assert not holds(night, now=at("2026-11-22T00:30"))

    def test_zones_differ(self) -> None:
        """Nine in New York is not nine in Paris."""
        morning = Condition(time_of_day=TimeOfDay(9 * 60, 10 * 60, "America/New_York"))
        assert holds(morning, now=at("2026-11-20T09:30", "America/New_York"))
        assert not holds(morning, now=at("2026-11-20T09:30", "Europe/Paris"))

    def test_the_clock_is_the_one_on_the_wall_when_it_is_put_forward(self) -> None:
        """Nine o'clock stays nine o'clock in summer."""
        morning = Condition(time_of_day=TimeOfDay(9 * 60, 10 * 60, "Europe/Paris"))
        for day in ("2026-03-28", "2026-03-29", "2026-10-25"):
            assert holds(morning, now=at(f"{day}T09:00", "Europe/Paris"))
            assert not holds(morning, now=at(f"{day}T08:59", "Europe/Paris"))

    def test_a_table_that_is_used_for_long_reads_the_clock_again(self) -> None:
        """What is kept is kept for a minute, in both directions."""
        table = RuleTable([Rule("r", M, Condition(time_of_day=TimeOfDay(9 * 60, 10 * 60)))])
        found = [
            table.match(CALL, at(f"2026-11-20T{time}")) is not None
            for time in ("08:59:59", "09:00:00", "09:59:59", "10:00:00", "09:30:00")
        ]
        assert found == [False, True, True, False, True]

    def test_a_zone_that_is_not_known_is_refused_at_once(self) -> None:
        """Not at the first call; rules are not only made by the parser."""
        with pytest.raises(ValueError, match="no time zone 'Mars/Base'"):
            RuleTable([Rule("r", M, Condition(time_of_day=TimeOfDay(timezone="Mars/Base")))])


class TestOrder:
    """Who decides."""

    def test_the_highest_priority_decides_and_of_equals_the_first(self) -> None:
        """Whatever their order in the file."""
        rules = [Rule("low", M, priority=1), Rule("first", M, priority=9), Rule("second", M, priority=9)]
        match = RuleTable(rules).match(CALL, NOW)
        assert match is not None
        assert match.rule.name == "first"

    def test_disabled_rules_are_not_there(self) -> None:
        """Neither in matches nor in reports."""
        table = RuleTable([Rule("off", M, enabled=False)])
        assert not table
        assert table.match(CALL, NOW) is None
        assert table.explain(CALL, NOW)["considered"] == []

    def test_no_rules_match_nothing(self) -> None:
        """An empty table is one too."""
        assert RuleTable().match(CALL, NOW) is None
        assert RuleTable().shadows(CALL, NOW) == ()

    def test_shadow_rules_are_reported_and_never_decide(self) -> None:
        """Highest first, each with what it would have said."""
        rules = [
            Rule("live", (Target("old"),), priority=1),
            Rule("try", (Target("new"),), priority=9, shadow=True),
            Rule("other", (Target("new"),), Condition(agent_type=("legal",)), priority=8, shadow=True),
            Rule("late", (Target("newer"),), shadow=True),
        ]
        table = RuleTable(rules)
        match = table.match(CALL, NOW)
        assert match is not None
        assert match.targets == ("old",)
        assert [(each.rule.name, each.targets) for each in table.shadows(CALL, NOW)] == [
            ("try", ("new",)),
            ("late", ("newer",)),
        ]


class TestTargets:
    """Where a call goes."""

    THREE = (Target("p", 1.0, 1), Target("c", 1.0, 2), Target("e", 1.0, 3), Target("last", 1.0, 4))

    def shares(self, rule: Rule, count: int = 4_000) -> Counter[str]:
        """Return how many of so many users go where first."""
        table = RuleTable([rule])
        found: Counter[str] = Counter()
        for number in range(count):
            match = table.match(CALL, NOW, f"user-{number}")
            assert match is not None
            found[match.targets[0]] += 1
        return found

    def near(self, found: int, share: float, count: int = 4_000) -> bool:
        """Return whether a count lies within four deviations of its share."""
        return abs(found - share * count) <= 4 * sqrt(count * share * (1 - share))

    def test_a_split_gives_its_shares_to_the_targets_in_order(self) -> None:
        """Weights have no say, and a fourth target is for fallback alone."""
        rule = Rule("r", self.THREE, split=TrafficSplit(70.0, 20.0, 10.0))
        found = self.shares(rule)
        assert all(self.near(found[name], share) for name, share in (("p", 0.7), ("c", 0.2), ("e", 0.1))), (
            found
        )
        assert found["last"] == 0

    def test_without_a_split_the_weights_draw(self) -> None:
        """They are relative to each other."""
        rule = Rule("r", (Target("a", 21.0, 1), Target("b", 7.0, 2), Target("never", 0.0, 3)))
        found = self.shares(rule)
        assert self.near(found["a"], 0.75), found
        assert found["never"] == 0

    def test_the_others_follow_in_order_of_fallback(self) -> None:
        """Whoever was drawn comes first, and says which arm it is."""
        table = RuleTable([Rule("r", self.THREE, split=TrafficSplit(40.0, 30.0, 30.0))])
        seen = {
            match.arm: match.targets
            for number in range(100)
            if (match := table.match(CALL, NOW, str(number))) is not None
        }
        assert seen == {
            "primary": ("p", "c", "e", "last"),
            "canary": ("c", "p", "e", "last"),
            "experimental": ("e", "p", "c", "last"),
        }

    def test_a_key_always_goes_the_same_way(self) -> None:
        """In every process, and rules without a key go by the user."""
        rule = Rule("r", self.THREE, split=TrafficSplit(40.0, 30.0, 30.0))
        for number in range(50):
            user = structs.replace(CALL, user_id=f"user-{number}")
            found = {
                match.targets
                for seed in range(4)
                for key in ("", f"user-{number}")
                if (match := RuleTable([rule], rng=Random(seed)).match(user, NOW, key)) is not None
            }
            assert len(found) == 1

    def test_without_key_and_user_each_call_is_drawn_anew(self) -> None:
        """By the generator that was given."""
        rule = Rule("r", self.THREE, split=TrafficSplit(40.0, 30.0, 30.0))
        table = RuleTable([rule], rng=Random(1))
        nobody = structs.replace(CALL, user_id="")
        first = {match.targets[0] for _ in range(100) if (match := table.match(nobody, NOW)) is not None}
        assert first == {"p", "c", "e"}

    def test_a_larger_canary_only_takes_users(self) -> None:
        """From 10 to 30 percent: nobody who was on it leaves it."""

        def canaries(share: float) -> set[int]:
            table = RuleTable([Rule("r", self.THREE, split=TrafficSplit(100.0 - share, share))])
            return {
                number
                for number in range(1_000)
                if (match := table.match(CALL, NOW, str(number))) is not None and match.arm == "canary"
            }

        assert canaries(10.0) < canaries(30.0)

    def test_two_rules_split_independently(self) -> None:
        """Else the canaries of one experiment would be those of every other."""
        split = TrafficSplit(50.0, 50.0)
        one, two = (RuleTable([Rule(name, self.THREE, split=split)]) for name in ("one", "two"))
        both = sum(
            first.arm == second.arm == "canary"
            for number in range(4_000)
            if (first := one.match(CALL, NOW, str(number))) and (second := two.match(CALL, NOW, str(number)))
        )
        assert self.near(both, 0.25), both


class TestExplain:
    """Why."""

    RULES = (
        Rule("shadowed", M, Condition(agent_type=("legal",)), priority=9, shadow=True),
        Rule("long", M, Condition(content_length=ContentLength(1_000), tags=("vip",)), priority=8),
        Rule("mine", (Target("m", 3.0), Target("n", 1.0, 2)), Condition(workspace_id=("ws-1",)), priority=7),
        Rule("all", M, id="rule-4"),
    )

    def test_every_rule_says_why_it_does_not_hold(self) -> None:
        """In the order in which they are asked; one that holds too late says so."""
        report = json.loads(json.dumps(RuleTable(self.RULES).explain(CALL, NOW)))
        assert report["rule"] == "mine"
        assert sorted(report["targets"]) == ["m", "n"]
        assert report["left_out"] == 0
        assert report["considered"] == [
            {"rule": "shadowed", "name": "shadowed", "priority": 9, "shadow": True, "holds": False,
             "why_not": ["agentType is 'creative', not 'legal'"]},
            {"rule": "long", "name": "long", "priority": 8, "holds": False,
             "why_not": ["contentLength is 500, not at least 1000", "tags are 'beta', 'eu', not 'vip'"]},
            {"rule": "mine", "name": "mine", "priority": 7, "holds": True, "decides": True},
            {"rule": "rule-4", "name": "all", "priority": 0, "holds": True,
             "why_not": ["mine stands before it"]},
        ]  # fmt: skip

    def test_it_says_where_the_call_itself_would_go(self) -> None:
        """By the same key."""
        table = RuleTable(self.RULES)
        for key in ("a", "b", "c", "d", "e"):
            match = table.match(CALL, NOW, key)
            assert match is not None
            assert table.explain(CALL, NOW, key)["targets"] == list(match.targets)

    def test_it_changes_nothing(self) -> None:
        """The draws after it are those of a table that nobody asked."""
        nobody = structs.replace(CALL, user_id="")
        asked, alone = (RuleTable(self.RULES, rng=Random(3)) for _ in range(2))
        for _ in range(10):
            asked.explain(nobody, NOW)
            assert asked.match(nobody, NOW) == alone.match(nobody, NOW)

    def test_of_many_rules_those_come_first_that_have_to_do_with_the_call(self) -> None:
        """The others are counted."""
        rules = [
            Rule(f"r{number}", M, Condition(workspace_id=(f"ws-{number % 100}",), user_tier=("free",)))
            for number in range(1_000)
        ]
        report = RuleTable(rules).explain(CALL, NOW, limit=20)
        assert [each["rule"] for each in report["considered"]] == [f"r{n}" for n in range(1, 1_000, 100)]
        assert report["left_out"] == 990
        assert report["rule"] is None
        assert report["targets"] == []

    def test_long_values_are_cut(self) -> None:
        """A caller's text is shown, but not all of it, and in ASCII."""
        call = Attributes(agent_type="é\n" * 5_000)
        rule = Rule("r", M, Condition(agent_type=tuple(f"agent-{number}" for number in range(50))))
        [said] = RuleTable([rule]).explain(call, NOW)["considered"]
        assert len(said["why_not"][0]) < 800
        assert said["why_not"][0].isascii()
        assert said["why_not"][0].endswith("or 45 more")


# --- the index against looking at every rule ----------------------------------------------------

FEW = st.sampled_from(["", "a", "b", "c"])
SOME = st.lists(st.sampled_from("abcd"), max_size=2, unique=True).map(tuple)
RULES = st.builds(
    Rule,
    st.just("r"),
    st.just(M),
    st.builds(
        Condition,
        SOME,
        SOME,
        SOME,
        SOME,
        st.none() | st.builds(ContentLength, st.integers(0, 3), st.none()),
        st.none() | st.builds(TimeOfDay, st.integers(0, 700), st.integers(701, 1440)),
        SOME,
        st.dictionaries(st.sampled_from("xy"), st.sampled_from([("a",), ("a", "b")]), max_size=2).map(
            lambda found: tuple(found.items())
        ),
    ),
    st.none(),
    st.integers(0, 3),
    st.sampled_from([True, True, True, False]),
    st.just(""),
    st.sampled_from([False, False, False, True]),
)
CALLS = st.builds(
    Attributes, FEW, FEW, FEW, st.just("u"), FEW, st.integers(0, 4),
    st.frozensets(st.sampled_from("abcd"), max_size=2),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("ab"), max_size=2),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(RULES, min_size=2, max_size=40), st.lists(CALLS, min_size=1, max_size=8))
def test_the_index_finds_what_looking_at_every_rule_finds(rules: list[Rule], calls: list[Attributes]) -> None:
    """The very same rule, for any rules and calls; shadow rules as well. Told apart as finely as it goes."""
    named = [replace(rule, name=f"r{number}") for number, rule in enumerate(rules)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_FEW", 1)
        table = RuleTable(named)
    order = sorted((rule for rule in named if rule.enabled), key=lambda rule: -rule.priority)
    for call in calls:
        holding = [rule for rule in order if not misses(rule.condition, call, NOW, Clocks())]
        live: list[Any] = [rule.name for rule in holding if not rule.shadow]
        match = table.match(call, NOW)
        assert (match.rule.name if match else None) == (live[0] if live else None)
        assert [each.rule.name for each in table.shadows(call, NOW)] == [
            rule.name for rule in holding if rule.shadow
        ]
        assert table.explain(call, NOW, limit=5)["rule"] == (live[0] if live else None)


@pytest.mark.parametrize("seed", range(8))
def test_branches_keep_to_the_order_of_all_rules(seed: int) -> None:
    """Many rules on different fields, most of which nearly hold: the first one decides all the same."""
    rng = Random(seed)

    def some() -> tuple[str, ...]:
        return (rng.choice("abc"),) if rng.random() < 0.4 else ()

    rules = [
        Rule(
            f"r{n}",
            M,
            Condition(some(), some(), some(), some(), ContentLength(rng.randrange(9)), tags=some()),
        )
        for n in range(60)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_FEW", rng.choice((1, 2, 8)))
        table = RuleTable(rules)
    for _ in range(60):
        words = [rng.choice("abc") for _ in range(5)]
        call = Attributes(words[0], words[1], words[2], "u", words[3], rng.randrange(9), frozenset(words[4:]))
        first = next((rule for rule in rules if not misses(rule.condition, call, NOW, Clocks())), None)
        match = table.match(call, NOW)
        assert (match.rule if match else None) is first


def test_ten_thousand_rules_in_many_workspaces_are_not_looked_at() -> None:
    """But those of the call's own workspace: counted, not timed."""
    rules = [
        Rule(
            f"r{number}",
            M,
            Condition(
                agent_type=(("creative", "legal", "code")[number % 3],), workspace_id=(f"ws-{number // 10}",)
            ),
        )
        for number in range(10_000)
    ]
    table = RuleTable(rules)
    looked_at = list(table._live.candidates(CALL))
    assert 1 <= len(looked_at) <= 8
    assert all(each.rule.condition.workspace_id == ("ws-1",) for each in looked_at)


def test_rules_of_ten_thousand_custom_keys_are_not_looked_at_either() -> None:
    """A key of its own for each does not make a branch of its own for each."""
    rules = [Rule(f"r{n}", M, Condition(tags=("all",), custom=((f"key-{n}", ("x",)),))) for n in range(5_000)]
    table = RuleTable(rules)
    call = Attributes(tags=frozenset({"all"}), custom={"key-77": "x"})
    assert [each.rule.name for each in table._live.candidates(call)] == ["r77"]
    assert len(table._live.branches) == 1
