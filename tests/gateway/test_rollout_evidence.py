"""How soon a regression is taken back, and how seldom a sound canary is, over many seeded runs."""

from __future__ import annotations

import random
from functools import partial

import pytest

from router_core.gateway.trials.live import Live
from router_core.gateway.trials.parse import parse_rollout
from router_core.gateway.trials.state import begun
from router_core.gateway.trials.tally import Tally

RUN = 5000
"""Calls of one run, of which fewer than 5 % may fall to a bad canary."""


def fail(tally: Tally) -> None:
    """Count a call that the model failed."""
    tally.n += 1
    tally.errors += 1


def run(
    seed: int, share: float, calls: int = RUN, *, failing: float = 0.01, slower: float = 1.0
) -> int | None:
    """Return how many calls fell to the canary before it was found guilty; None: it never was."""
    rng = random.Random(seed)
    live = Live(parse_rollout({"id": "r", "model": "old", "canary": "new", "startShare": share}))
    live.take(begun(live.trial, live.definition, 0.0, "test", "it begins"))
    live.hear(())
    seen = 0
    for _ in range(calls):
        arm = int(rng.random() < share / 100)
        seen += arm
        seconds = 0.1 * rng.lognormvariate(0.0, 0.4) * (slower if arm else 1.0)
        add = partial(Tally.answered, seconds=seconds, cost=100, tokens=10)
        if live.count(arm, fail if rng.random() < (failing if arm else 0.01) else add):
            return seen
    return None


@pytest.mark.parametrize("share", [5, 25])
@pytest.mark.parametrize(("failing", "slower"), [(0.5, 1.0), (0.01, 2.0)], ids=["fails half", "half as fast"])
def test_a_regression_is_found_in_time(share: float, failing: float, slower: float) -> None:
    """Each of several runs finds it, and fewer than 5 % of the run's calls fell to the canary."""
    for seed in range(8):
        seen = run(seed, share, failing=failing, slower=slower)
        assert seen is not None
        assert seen < 0.05 * RUN


def test_a_sound_canary_is_left_alone() -> None:
    """Not one of several runs of equals ends with a rollback."""
    assert [run(seed, 25, 1200) for seed in range(8)] == [None] * 8


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_regression_is_found_in_time_in_hundreds_of_runs() -> None:
    """The same with 200 runs for each share and kind; and of 400 sound ones at most 5 % are taken back, also
    of those that are worse by just as much as is allowed."""
    for share in (5, 10, 25):
        for failing, slower in ((0.5, 1.0), (0.01, 2.0)):
            seen = [run(seed, share, failing=failing, slower=slower) for seed in range(200)]
            assert max(RUN if each is None else each for each in seen) < 0.05 * RUN
    for failing, slower in ((0.01, 1.0), (0.06, 1.5)):
        taken = [run(seed, 10, failing=failing, slower=slower) for seed in range(400)]
        assert sum(each is not None for each in taken) <= 0.05 * 400
