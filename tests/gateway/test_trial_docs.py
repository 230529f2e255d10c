"""What the pages say about trials and agents can be copied; odd JSON is refused, and nothing worse."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.gateway.config.load import parse_config
from router_core.gateway.trials.checks import unfit_trials
from router_core.gateway.trials.parse import parse_experiment, parse_rollout
from router_core.gateway.trials.state import TrialState, begun
from router_core.gateway.trials.tally import Tally
from tests.docs_blocks import ROOT, blocks

MODELS = ("gpt-4", "gpt-5", "claude-3-sonnet", "claude-3-opus", "small")
VALID: dict[str, dict[str, Any]] = {
    "parse_rollout": {"id": "r", "model": "old", "canary": "new"},
    "parse_experiment": {
        "id": "e", "model": "old", "variants": [{"name": "a", "modelId": "m"}, {"name": "b", "modelId": "n"}],
    },
}  # fmt: skip
NAMES = st.sampled_from((
    "id", "model", "canary", "rule", "strategy", "startShare", "step", "stages", "variants", "name",
    "modelId", "weight", "metric", "alpha", "success", "rollback", "maxErrorRate", "guardrails",
    "condition", "runs",
))  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(("linear", "manual", "old", "new", "cost")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


def test_the_pages_can_be_copied() -> None:
    """The YAML of the pages, beside models of these names, is a configuration."""
    models = ["models:"]
    for name in MODELS:
        models += [
            f"  - {{id: {name}, type: text-generation,",
            "     clients: [{type: scripted, model: up}]}",
        ]
    for page in ("gateway-experiments.md", "gateway-rules.md"):
        found = blocks(ROOT / "docs" / page, "yaml")
        assert found
        for block in found:
            config = parse_config("\n".join([*models, block.code]), block.where, {})
            assert config.rollouts or config.experiments or config.agents
            assert unfit_trials(config) == []


@given(st.dictionaries(NAMES, VALUES, max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_is_said_is_read_or_refused(data: dict[str, Any]) -> None:
    """Odd JSON is a ValueError that begins with a path, and nothing else; what is read can be written."""
    for parse in (parse_rollout, parse_experiment):
        told, made = "", None
        try:
            made = parse({**VALID[parse.__name__], **data})
        except ValueError as error:
            told = str(error)
        if made is None:
            assert ": " in told
        else:
            assert parse(json.loads(json.dumps(made.to_json()))) == made


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_whatever_stands_in_the_store_is_survived(data: Any) -> None:
    """A state or a count that somebody else wrote is one, or none."""
    tally = Tally.read(data)
    assert tally.quantile(0.5) is None or tally.latencies
    with suppress(ValueError):  # NaN is no JSON of ours
        assert TrialState.decode(json.dumps(data, allow_nan=False).encode()) is None


def test_a_state_survives_being_written() -> None:
    """Every field comes back, and only the last decisions are kept."""
    trial = parse_rollout({"id": "r", "model": "old", "canary": "new"})
    state = begun(trial, "abc", 5.0, "ann", "because")
    for number in range(150):
        state = state.decided(state.decisions[-1], stage=number, least_p={"b": 0.25}, holding="x")
    assert TrialState.decode(state.encode()) == state
    assert len(state.decisions) == 100
