"""The JSON of workspaces and of limits: what is taken, what is refused, and that nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.gateway.budgets.parse import limits_json, parse_limits, parse_workspace, workspace_json
from router_core.gateway.values import Limit, Requirements, Workspace

SEED: dict[str, Any] = {
    "modelRestrictions": ["gpt-4", "claude-3-sonnet"],
    "budgetLimits": {"daily": 100, "weekly": 500, "monthly": 2000},
    "qualityRequirements": {"minSuccessRate": 0.95, "maxLatency": 5000},
    "complianceRequirements": ["gdpr", "ccpa", "hipaa"],
}


def test_reads_the_example_of_the_documentation() -> None:
    """Dollars become micro-dollars, milliseconds become seconds."""
    assert parse_workspace("ws-marketing-001", SEED) == Workspace(
        "ws-marketing-001",
        models=("gpt-4", "claude-3-sonnet"),
        limits=(Limit("daily", 100_000_000), Limit("weekly", 500_000_000), Limit("monthly", 2_000_000_000)),
        requirements=Requirements(min_success_rate=0.95, max_latency=5.0),
        compliance=frozenset({"gdpr", "ccpa", "hipaa"}),
    )


def test_says_one_value_for_all_limits_or_one_for_each() -> None:
    """``onStoreFailure``, ``alerts`` and ``unpriced`` take both forms; the latter two are about money."""
    limits = parse_limits(
        {
            "budgetLimits": {"daily": 0.5},
            "rateLimits": {"requestsPerMinute": 60, "tokensPerMinute": 1000, "concurrency": 4},
            "onStoreFailure": {"requestsPerMinute": "open"},
            "alerts": [100, 50, 50],
            "unpriced": "refuse",
        }
    )
    assert limits == (
        Limit("daily", 500_000, "closed", (50, 100), "refuse"),
        Limit("requests", 60, "open"),
        Limit("tokens", 1000, "closed"),
        Limit("concurrency", 4, "closed"),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"budgetLimit": {}}, "budgetLimit: there is no such field; did you mean budgetLimits?"),
        ({"budgetLimits": {"dayly": 1}}, "budgetLimits.dayly: there is no such field; did you mean daily?"),
        ({"budgetLimits": {"daily": -1}}, "budgetLimits.daily: has to be between"),
        ({"budgetLimits": {"daily": float("nan")}}, "budgetLimits.daily: has to be between"),
        ({"budgetLimits": {"daily": "1"}}, "budgetLimits.daily: has to be a number"),
        ({"budgetLimits": {"daily": True}}, "budgetLimits.daily: has to be a number"),
        ({"budgetLimits": {"daily": 1e-9}}, "budgetLimits.daily: is less than"),
        ({"budgetLimits": {"daily": 10**11}}, "budgetLimits.daily: has to be up to"),
        ({"budgetLimits": []}, "budgetLimits: has to be an object"),
        ({"rateLimits": {"requestsPerMinute": 1.5}}, "rateLimits.requestsPerMinute: has to be a whole"),
        ({"onStoreFailure": "maybe"}, "onStoreFailure: has to be closed or open"),
        ({"onStoreFailure": {"daily": "open"}}, "onStoreFailure.daily: there is no such field"),
        ({"alerts": 80}, "alerts: has to be a list of percents"),
        ({"alerts": [0]}, "alerts[0]: has to be between"),
        ({"alerts": [101]}, "alerts: has 101 percent"),
        ({"alerts": [*range(1, 22)]}, "alerts: has 21 entries"),
        ({"qualityRequirements": {"minSuccessRate": 95}}, "qualityRequirements.minSuccessRate: has to be"),
        ({"modelRestrictions": []}, "modelRestrictions: is an empty list"),
        ({"complianceRequirements": ["a", 1]}, "complianceRequirements[1]: has to be a string"),
        ({"webhook": "ftp://a"}, "webhook: has to be a URL that begins"),
        ({"webhook": "https://"}, "webhook: has to be a URL that begins"),
        ({"webhook": "https://a:b@c/"}, "webhook: must not hold a user"),
        ({"webhook": "https://[::1"}, "webhook: has to be a URL that begins"),
        ({"webhook": "https://a/\r\nx: y"}, "webhook: has to be a URL"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_names_the_place_of_what_it_refuses(data: dict[str, Any], message: str) -> None:
    """Every refusal begins with the path of the field."""
    with pytest.raises(ValueError, match=r"^\S+: ") as caught:
        parse_workspace("w", data)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 300], ids=["empty", "space", "line", "long"])
def test_refuses_an_id_that_is_no_name(name: str) -> None:
    """An id is printable text of one line."""
    with pytest.raises(ValueError, match="workspaceId"):
        parse_workspace(name, {})


def test_begins_with_the_place_of_the_limits() -> None:
    """Limits may stand inside of something else, such as a key."""
    with pytest.raises(ValueError, match=r"^limits\.rateLimits\.concurency: .*concurrency"):
        parse_limits({"rateLimits": {"concurency": 1}}, "limits")


ORDER = ["daily", "weekly", "monthly", "requests", "tokens", "concurrency"]
MONEY = st.sampled_from(["daily", "weekly", "monthly"])
RATES = st.sampled_from(["requests", "tokens", "concurrency"])
FAILURES = st.sampled_from(["open", "closed"])
ALERTS = st.lists(st.integers(1, 100), max_size=3, unique=True).map(lambda found: tuple(sorted(found)))
LIMITS = st.lists(
    st.builds(Limit, MONEY, st.integers(0, 10**15), FAILURES, ALERTS, st.sampled_from(["allow", "refuse"]))
    | st.builds(Limit, RATES, st.integers(0, 10**12), FAILURES),
    unique_by=lambda limit: limit.kind,
).map(lambda found: tuple(sorted(found, key=lambda limit: ORDER.index(limit.kind))))
NAMES = st.text("abc-1", min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    LIMITS, st.frozensets(NAMES, max_size=3), st.frozensets(NAMES, max_size=2), st.integers(0, 1000),
    st.integers(0, 10**6),
)  # fmt: skip
def test_writes_what_it_reads_to_the_same(
    limits: tuple[Limit, ...], models: frozenset[str], compliance: frozenset[str], rate: int, latency: int
) -> None:
    """A workspace comes back from its JSON as it was, to the micro-dollar."""
    workspace = Workspace(
        "w", tuple(sorted(models)), limits, Requirements(rate / 1000, latency / 1000), compliance, compliance,
        "https://example.com/hook",
    )  # fmt: skip
    assert parse_workspace("w", workspace_json(workspace)) == workspace
    assert parse_limits(limits_json(limits)) == limits
