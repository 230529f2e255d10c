"""Whose a call of an experiment was, and who may score it: nobody judges the answers of another tenant.

A score of a call that this process does not know waits in the store for the one that does, beside who has
given it: that process decides. Ids of calls are no secrets, so what waits is bounded, for each caller and for
each experiment, and one caller's score is never in the way of another's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from router_core.gateway.call import Call
from router_core.types import Principal

__all__ = ["EACH", "TOTAL", "Noted", "Score", "Scorer", "Waiting"]

EACH: Final = 250
"""Scores of one caller that wait for the processes that served the calls."""
TOTAL: Final = 1000
"""Scores of one experiment that wait, whoever gave them."""


class Noted(NamedTuple):
    """A call that may be scored, or was."""

    arm: str
    """Empty: it does not count."""
    principal: str = ""
    workspace: str = ""

    @classmethod
    def of(cls, call: Call, arm: str) -> Noted:
        """Return what is remembered of a call."""
        return cls(arm, call.principal.id, call.workspace)


class Scorer(NamedTuple):
    """Who gives a score."""

    principal: str
    workspaces: frozenset[str] = frozenset()

    @classmethod
    def of(cls, principal: Principal) -> Scorer:
        """Return what is looked at of a caller."""
        return cls(principal.id, principal.workspaces)

    def may_score(self, noted: Noted) -> bool:
        """Return whether the call was his own, or of a workspace that he may enter."""
        mine = noted.principal == self.principal or "*" in self.workspaces
        return mine or bool(noted.workspace and noted.workspace in self.workspaces)

    @property
    def key(self) -> str:
        """Return a short name that others do not bear."""
        return sha256(self.principal.encode(errors="surrogatepass")).hexdigest()[:24]


class Score(NamedTuple):
    """One that waits."""

    key: str
    """``<key of the scorer>:<request>``."""
    scorer: Scorer
    value: float

    @property
    def request_id(self) -> str:
        """Return which call it is about."""
        return self.key.partition(":")[2]

    def encode(self) -> bytes:
        """Write it down."""
        return json.dumps({"score": self.value, "by": self.scorer.principal,
                           "in": sorted(self.scorer.workspaces)}).encode()  # fmt: skip

    @classmethod
    def decode(cls, key: str, data: bytes) -> Score | None:
        """Read one; None for what is none."""
        try:
            held = json.loads(data)
            return cls(key, Scorer(str(held["by"]), frozenset(held["in"])), float(held["score"]))
        except (ValueError, TypeError, KeyError):
            return None


class Waiting:
    """How many scores wait, as this process knows: what was there when it last looked, and what it has left
    since. Looking takes a page of the store for every hundred, so nobody looks for each score."""

    __slots__ = ("_by_scorer", "_total")

    def __init__(self) -> None:
        self._by_scorer: Counter[str] = Counter()
        self._total = 0

    def saw(self, scores: Iterable[Score]) -> None:
        """Take what waits now."""
        self._by_scorer = Counter(each.key.partition(":")[0] for each in scores)
        self._total = self._by_scorer.total()

    def add(self, scorer: Scorer) -> None:
        """Count one more."""
        self._by_scorer[scorer.key] += 1
        self._total += 1

    def full(self, scorer: Scorer) -> bool:
        """Return whether no more of this caller are taken now."""
        return self._total >= TOTAL or self._by_scorer[scorer.key] >= EACH
