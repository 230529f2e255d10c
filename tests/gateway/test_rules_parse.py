"""The JSON of a rule: what is read, what is refused, and where the message points."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.rules.parse import parse_rule
from router_core.gateway.rules.rule import (
    Condition,
    ContentLength,
    Rule,
    Target,
    TimeOfDay,
    TrafficSplit,
)

SEED: dict[str, Any] = {
    "name": "Creative Agent Claude Preference",
    "condition": {
        "agentType": ["creative"],
        "requestType": ["completion", "chat"],
        "contentLength": {"min": 100, "max": 2000},
    },
    "targetModels": [
        {"modelId": "claude-3-sonnet", "weight": 0.7, "fallbackOrder": 1},
        {"modelId": "gpt-4", "weight": 0.3, "fallbackOrder": 2},
    ],
    "trafficSplit": {"primary": 80, "canary": 20},
    "priority": 100,
    "enabled": True,
}
FULL: dict[str, Any] = {
    "id": "rule-7",
    "name": "Everything",
    "condition": {
        "agentType": ["a"],
        "requestType": ["r"],
        "workspaceId": ["w1", "w2"],
        "userTier": ["gold"],
        "contentLength": {"min": 1},
        "timeOfDay": {
            "start": "22:00",
            "end": "06:00",
            "timezone": "Europe/Paris",
            "days": ["fri", "Sunday"],
        },
        "tags": ["eu"],
        "custom": {"team": "red", "size": [1, 2.5, True]},
    },
    "targetModels": [
        {"modelId": "m2", "fallbackOrder": 3},
        {"modelId": "m1", "weight": 2, "fallbackOrder": 1},
    ],
    "priority": -5,
    "enabled": False,
    "shadow": True,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the seed's rule with one member set; the path is written as in messages."""
    data = deepcopy(SEED)
    at: Any = data
    *way, last = [
        int(part) if part.isdigit() else part for part in path.replace("[", ".").replace("]", "").split(".")
    ]
    for part in way:
        at = at[part] if isinstance(part, int) else at.setdefault(part, {})
    if isinstance(last, int) and last >= len(at):
        at.append(value)
    else:
        at[last] = value
    return data


def test_the_rule_of_the_seed_is_read_as_it_is() -> None:
    """Every member of it."""
    assert parse_rule(SEED) == Rule(
        name="Creative Agent Claude Preference",
        targets=(Target("claude-3-sonnet", 0.7, 1), Target("gpt-4", 0.3, 2)),
        condition=Condition(
            agent_type=("creative",),
            request_type=("completion", "chat"),
            content_length=ContentLength(100, 2000),
        ),
        split=TrafficSplit(80.0, 20.0, 0.0),
        priority=100,
    )


def test_every_member_is_read() -> None:
    """Targets come in order of fallback, and values that are not text as their JSON text."""
    rule = parse_rule(FULL)
    assert rule == Rule(
        name="Everything",
        targets=(Target("m1", 2.0, 1), Target("m2", 1.0, 3)),
        condition=Condition(
            ("a",), ("r",), ("w1", "w2"), ("gold",), ContentLength(1, None),
            TimeOfDay(22 * 60, 6 * 60, "Europe/Paris", frozenset({4, 6})), ("eu",),
            (("team", ("red",)), ("size", ("1", "2.5", "true"))),
        ),
        priority=-5, enabled=False, id="rule-7", shadow=True,
    )  # fmt: skip
    assert rule.key == "rule-7"
    assert parse_rule(SEED).key == "Creative Agent Claude Preference"


@pytest.mark.parametrize("data", [SEED, FULL], ids=["seed", "full"])
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    """Through JSON."""
    rule = parse_rule(data)
    assert parse_rule(json.loads(json.dumps(rule.to_json()))) == rule


def test_what_is_left_out_has_a_default() -> None:
    """Null is as good as left out."""
    rule = parse_rule(
        {"name": "n", "targetModels": [{"modelId": "m"}], "condition": None, "trafficSplit": None}
    )
    assert rule == Rule("n", (Target("m", 1.0, 1),))
    assert (rule.priority, rule.enabled, rule.shadow, rule.split) == (0, True, False, None)


REFUSED: list[tuple[str, Any, str]] = [
    ("name", "", "name: has to be printable"),
    ("name", 7, "name: has to be a string, not 7"),
    ("name", "two\r\nlines", "name: has to be printable"),
    ("name", "x" * 300, "name: has 300 characters, at most 256"),
    ("nmae", "x", "nmae: there is no such field; did you mean name?"),
    ("target_models", [], "target_models: there is no such field; did you mean targetModels?"),
    ("qqq", 1, "qqq: there is no such field; there are condition, enabled"),
    ("x\ny", 1, r'"x\ny": there is no such field'),
    ("enabled", "yes", 'enabled: has to be true or false, not "yes"'),
    ("shadow", 1, "shadow: has to be true or false, not 1"),
    ("priority", 1.5, "priority: has to be a whole number, not 1.5"),
    ("priority", True, "priority: has to be a whole number, not true"),
    ("priority", 10**400, "priority: has to be between"),
    ("priority", math.inf, "priority: has to be a whole number, not inf"),
    ("condition", [], "condition: has to be an object, not a list"),
    ("condition.agenttype", ["x"], "condition.agenttype: there is no such field; did you mean agentType?"),
    ("condition.agentType", "creative", 'condition.agentType: has to be a list of strings, not "creative"; '
     'write ["creative"]'),
    ("condition.agentType", [], "condition.agentType: is an empty list, which nothing fits"),
    ("condition.agentType", ["a", 5], "condition.agentType[1]: has to be a string, not 5"),
    ("condition.agentType", ["a", ""], "condition.agentType[1]: has to be printable"),
    ("condition.tags", ["x"] * 10_001, "condition.tags: has 10,001 values, at most 10,000"),
    ("condition.contentLength", {}, "condition.contentLength: needs min or max"),
    ("condition.contentLength", 5, "condition.contentLength: has to be an object, not 5"),
    ("condition.contentLength.min", -1, "condition.contentLength.min: has to be between 0 and"),
    ("condition.contentLength.max", 99, "condition.contentLength.max: is 99, which is below min, 100"),
    ("condition.contentLength.max", "5", 'condition.contentLength.max: has to be a whole number, not "5"'),
    ("condition.timeOfDay", {}, "condition.timeOfDay: needs start, end or days"),
    ("condition.timeOfDay", {"timezone": "UTC"}, "condition.timeOfDay: needs start, end or days"),
    ("condition.timeOfDay.start", "9:30", "condition.timeOfDay.start: has to be a time"),
    ("condition.timeOfDay.start", "24:01", "condition.timeOfDay.start: has to be a time"),
    ("condition.timeOfDay.start", "12:60", "condition.timeOfDay.start: has to be a time"),
    ("condition.timeOfDay.start", "²²:00", "condition.timeOfDay.start: has to be a time"),
    ("condition.timeOfDay.start", 1320,
     'condition.timeOfDay.start: has to be a time of the day such as "09:30"; with quotes: "22:00"'),
    ("condition.timeOfDay.start", "24:00", "condition.timeOfDay.end: is start as well"),
    ("condition.timeOfDay", {"start": "08:00", "end": "08:00"}, "condition.timeOfDay.end: is start as well"),
    ("condition.timeOfDay", {"start": "08:00", "timezone": "Paris"},
     "condition.timeOfDay.timezone: there is no time zone 'Paris'"),
    ("condition.timeOfDay", {"start": "08:00", "timezone": "Europe"},
     "condition.timeOfDay.timezone: there is no"),
    ("condition.timeOfDay", {"start": "08:00", "timezone": "../../etc/passwd"},
     "condition.timeOfDay.timezone: there is no"),
    ("condition.timeOfDay.days", ["tue", "tomorrow"],
     "condition.timeOfDay.days: 'tomorrow' is no day; there are mon"),
    ("condition.timeOfDay.days", [1], "condition.timeOfDay.days[0]: has to be a string"),
    ("condition.custom", [], "condition.custom: has to be an object"),
    ("condition.custom", {}, "condition.custom: has 0 keys"),
    ("condition.custom.team", None, "condition.custom.team: has to be a string, not null"),
    ("condition.custom.team", {"a": 1}, "condition.custom.team: has to be a string, not an object"),
    ("condition.custom.team", [], "condition.custom.team: is an empty list"),
    ("condition.custom.team", math.nan, "condition.custom.team: has to be between"),
    ("condition.custom", {3: "x"}, "condition.custom: has to be a string, not 3"),
    ("targetModels", [], "targetModels: is empty; a rule needs a model"),
    ("targetModels", {"modelId": "m"}, "targetModels: has to be a list of objects"),
    ("targetModels", [{"modelId": f"m{n}"} for n in range(65)], "targetModels: has 65 entries, at most 64"),
    ("targetModels[0]", "gpt-4", 'targetModels[0]: has to be an object, not "gpt-4"'),
    ("targetModels[1].modelId", None, "targetModels[1].modelId: is missing"),
    ("targetModels[1].modelId", "claude-3-sonnet",
     "targetModels[1].modelId: 'claude-3-sonnet' is a target already"),
    ("targetModels[1].wieght", 1, "targetModels[1].wieght: there is no such field; did you mean weight?"),
    ("targetModels[0].weight", -0.1, "targetModels[0].weight: has to be between 0 and"),
    ("targetModels[0].weight", math.nan, "targetModels[0].weight: has to be between 0 and"),
    ("targetModels[0].weight", math.inf, "targetModels[0].weight: has to be between 0 and"),
    ("targetModels[0].weight", 10**400, "targetModels[0].weight: has to be between 0 and"),
    ("targetModels[0].weight", "1", 'targetModels[0].weight: has to be a number, not "1"'),
    ("targetModels[0].fallbackOrder", 0, "targetModels[0].fallbackOrder: has to be between 1 and"),
    ("targetModels[0].fallbackOrder", 2, "targetModels: fallbackOrder 2 is given twice"),
    ("trafficSplit.primary", 70, "trafficSplit: has to sum up to 100, not 90"),
    ("trafficSplit.primary", -80, "trafficSplit.primary: has to be between 0 and"),
    ("trafficSplit", {}, "trafficSplit: has to sum up to 100, not 0"),
    ("trafficSplit", {"primary": 90, "experimental": 10},
     "trafficSplit.experimental: there is no target number 3"),
    ("trafficSplit.kanary", 1, "trafficSplit.kanary: there is no such field; did you mean canary?"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_is_wrong_is_refused_by_its_path(path: str, value: Any, message: str) -> None:
    """The message begins with the field and says what to write."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared below
        parse_rule(changed(path, value))
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("missing", ["name", "targetModels"])
def test_what_is_missing_is_named(missing: str) -> None:
    """Two members are needed."""
    with pytest.raises(ValueError, match=f"^{missing}: is missing"):
        parse_rule({name: value for name, value in SEED.items() if name != missing})


@pytest.mark.parametrize("data", [None, [], "rule", 3, [SEED]], ids=str)
def test_what_is_no_object_is_no_rule(data: Any) -> None:
    """Whatever a file holds."""
    with pytest.raises(ValueError, match=r"^rule: has to be an object"):
        parse_rule(data)


def test_shares_may_miss_100_by_a_rounding() -> None:
    """Three times 33.3."""
    data = changed("targetModels[2]", {"modelId": "third", "fallbackOrder": 3})
    data["trafficSplit"] = {"primary": 33.3, "canary": 33.3, "experimental": 33.3}
    assert parse_rule(data).split == TrafficSplit(33.3, 33.3, 33.3)


def test_weights_that_are_all_nothing_are_refused_but_under_a_split() -> None:
    """There the shares decide."""
    data = deepcopy(SEED)
    for target in data["targetModels"]:
        target["weight"] = 0
    assert parse_rule(data).split is not None
    del data["trafficSplit"]
    with pytest.raises(ValueError, match=r"^targetModels\[0\]\.weight: is 0, as all weights are"):
        parse_rule(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
PATHS = sorted({path for path, _, _ in REFUSED if path.isprintable()})


@given(st.sampled_from(PATHS), JSON)
def test_anything_anywhere_is_a_rule_or_a_value_error(path: str, value: Any) -> None:
    """Never another exception: it would be a 500."""
    try:
        rule = parse_rule(changed(path, value))
    except ValueError:
        return
    assert parse_rule(rule.to_json()) == rule
