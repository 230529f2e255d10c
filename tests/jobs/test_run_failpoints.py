"""Failpoints do nothing unless armed, and exactly what was asked once they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router_core.errors import Misconfigured
from router_core.jobs.failpoints import FAILPOINTS, VARIABLE, FailpointHit, arm, disarm, failpoint


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """Leave nothing armed."""
    yield
    disarm()


def test_nothing_is_armed_by_default() -> None:
    """Without the variable every place is passed."""
    arm({})
    for name in FAILPOINTS:
        failpoint(name)


def test_only_the_named_place_and_time() -> None:
    """``name:raise:2`` raises at the second visit of that place, and only then."""
    arm({VARIABLE: "after_add:raise:2, mid_work:raise"})
    failpoint("after_claim")
    failpoint("after_add")
    with pytest.raises(FailpointHit):
        failpoint("after_add")
    failpoint("after_add")
    with pytest.raises(FailpointHit):
        failpoint("mid_work")


@pytest.mark.parametrize("text", ["nowhere:kill", "after_add", "after_add:explode", "after_add:kill:x", ":"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    """A misspelt failpoint would make a test pass for nothing: it is refused by name."""
    with pytest.raises(Misconfigured, match=VARIABLE):
        arm({VARIABLE: text})
