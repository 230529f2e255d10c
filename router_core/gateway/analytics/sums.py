"""Sums of calls by model, workspace, agent type and outcome, bounded in number whatever callers write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from router_core.gateway.analytics.histogram import Counts, index_of, joined
from router_core.gateway.call import Attempt

__all__ = ["MAX_KEYS", "OTHER", "DeploymentSum", "Key", "Sum", "Table", "Used"]

Key = tuple[str, str, str, str]
"""Model, workspace, agent type, outcome."""

Used = tuple[int, int, int, bool, bool, Attempt | None]
"""Tokens of input, of output, micro-dollars, whether something has no price, whether tokens are estimated,
and the attempt that was answered with."""

OTHER: Final = "other"
"""What stands for names beyond those that are told apart."""
MAX_KEYS: Final = 500
"""Combinations that one table tells apart by all four."""
_MAX_BROAD: Final = 500
"""Combinations of model and outcome alone, for calls beyond these."""
_MAX_AGENTS: Final = 50
"""Agent types of one workspace: whoever invents them takes no room from other workspaces."""
_MAX_NAME: Final = 128


class Sum(msgspec.Struct, array_like=True, gc=False):
    """What calls of one kind come to. Fields are only ever added at the end: others' records are read."""

    calls: int = 0
    seconds: float = 0.0
    streams: int = 0
    """Calls whose time to the first content is known, and streamed."""
    first_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    """Micro-dollars of what has a price."""
    unpriced: int = 0
    """Calls of which something has no price."""
    estimated: int = 0
    """Calls of which tokens are estimated."""
    tries: int = 0
    fallbacks: int = 0
    """Calls that another model served than the one that was asked for."""
    latency: Counts = {}
    first: Counts = {}

    def count(self, seconds: float, first: float, used: Used, tries: int, fallback: bool) -> None:
        """Add one call; ``first``: seconds to its first content, 0 where nobody streamed."""
        self.calls += 1
        self.seconds += seconds
        latency, index = self.latency, index_of(seconds)
        latency[index] = latency.get(index, 0) + 1
        given, made, cost, unpriced, estimated, _ = used
        self.input_tokens += given
        self.output_tokens += made
        self.cost += cost
        self.tries += tries
        if unpriced:
            self.unpriced += 1
        if estimated:
            self.estimated += 1
        if fallback:
            self.fallbacks += 1
        if first > 0.0:
            self.streams += 1
            self.first_seconds += first
            index = index_of(first)
            self.first[index] = self.first.get(index, 0) + 1

    def add(self, other: Sum) -> None:
        """Add another one, which stays as it is."""
        self.calls += other.calls
        self.seconds += other.seconds
        self.streams += other.streams
        self.first_seconds += other.first_seconds
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        self.unpriced += other.unpriced
        self.estimated += other.estimated
        self.tries += other.tries
        self.fallbacks += other.fallbacks
        joined(self.latency, other.latency)
        joined(self.first, other.first)


class DeploymentSum(msgspec.Struct, array_like=True, gc=False):
    """What the attempts at one deployment come to."""

    model: str = ""
    outcomes: dict[str, int] = {}
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0

    def add(self, other: DeploymentSum) -> None:
        """Add another one, which stays as it is."""
        self.model = other.model or self.model
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.seconds += other.seconds
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        self.unpriced += other.unpriced


class Table:
    """Sums by key. A key that is new when there are too many is counted under broader ones."""

    __slots__ = ("_agents", "_broad", "deployments", "rows")

    def __init__(self) -> None:
        self.rows: dict[Key, Sum] = {}
        self.deployments: dict[str, DeploymentSum] = {}
        self._agents: dict[str, set[str]] = {}
        self._broad = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.deployments)

    def __iter__(self) -> Iterator[tuple[Key, Sum]]:
        return iter(self.rows.items())

    def find(self, key: Key) -> Sum:
        """Return the sum of a key, or of the broader one that it is counted under."""
        found = self.rows.get(key)
        return self._new(key) if found is None else found

    def add(self, other: Table) -> None:
        """Add another table, which stays as it is."""
        for key, row in other.rows.items():
            self.find(key).add(row)
        for name, each in other.deployments.items():
            self.deployment(name).add(each)

    def deployment(self, name: str) -> DeploymentSum:
        """Return the sums of a deployment."""
        found = self.deployments.get(name)
        if found is None:
            name = name if len(self.deployments) < MAX_KEYS else OTHER
            found = self.deployments.setdefault(name, DeploymentSum())
        return found

    def _new(self, key: Key) -> Sum:
        model, workspace, agent, outcome = key
        workspace, agent = workspace[:_MAX_NAME], agent[:_MAX_NAME]
        known = self._agents.get(workspace, _NONE)
        if agent not in known and len(known) >= _MAX_AGENTS:
            agent = OTHER
        key = (model, workspace, agent, outcome)
        if key not in self.rows and len(self.rows) - self._broad >= MAX_KEYS:
            return self._broader(model, outcome)
        self._agents.setdefault(workspace, set()).add(agent)
        return self.rows.setdefault(key, Sum())

    def _broader(self, model: str, outcome: str) -> Sum:
        key = (model, OTHER, OTHER, outcome)
        if key not in self.rows and self._broad >= _MAX_BROAD:
            key = (OTHER, OTHER, OTHER, outcome)
        if key not in self.rows:
            self._broad += 1
        return self.rows.setdefault(key, Sum())


_NONE: Final[frozenset[str]] = frozenset()
