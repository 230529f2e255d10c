"""What is remembered between two probes of one upstream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from router_core.gateway.clients.probe import Probe
from router_core.gateway.health.verdict import Verdict
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import HealthPolicy, Model

__all__ = ["DOWN_AFTER", "Key", "Watch", "grouped", "key_of", "probe_of"]

DOWN_AFTER: Final = 2
"""Failures in a row that make an upstream unhealthy."""

Key = tuple[object, ...]
"""Equal for deployments whose probes would be the same request."""


def probe_of(candidate: Candidate, name: str = "probe") -> Probe | None:
    """Return what a deployment can be asked for nothing; ``metrics``: what tells how busy it is."""
    probe = getattr(candidate.client, name, None)
    return probe if isinstance(probe, Probe) and probe.kind != "none" else None


def key_of(candidate: Candidate) -> Key:
    """Return by what a deployment shares its probe with others."""
    own, probe = candidate.deployment, probe_of(candidate)
    if probe is None or own.endpoint or own.type == "scripted":
        return (own.id,)
    # options of the type may change where a request goes, and hold what cannot be hashed
    return (own.type, own.base_url, own.key, own.headers, own.health, probe, repr(own.args))


class Watch:
    """One upstream: the deployments that are there, and how its last probes ended."""

    __slots__ = (
        "failures",
        "key",
        "members",
        "metrics_missing",
        "model",
        "seen_ended",
        "seen_failed",
        "told",
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.members: list[Candidate] = []
        self.model: Model | None = None
        """Of the first member; None: it belongs to none."""
        self.failures = 0
        """Probes that failed in a row."""
        self.told = ""
        """What the operator was told is wrong with the probe."""
        self.metrics_missing = False
        self.seen_ended = self.seen_failed = 0

    def take(self, members: Sequence[Candidate], model: Model | None) -> None:
        """Watch these from now on."""
        if [each.client for each in members] != [each.client for each in self.members]:
            self.metrics_missing, self.told = False, ""
        self.members = list(members)
        self.model = model
        self._count()

    @property
    def first(self) -> Candidate:
        """The one that is asked, for all."""
        return self.members[0]

    @property
    def policy(self) -> HealthPolicy:
        """How it is looked after."""
        return self.first.deployment.health

    @property
    def is_down(self) -> bool:
        """Whether the last probes left a member out."""
        return any(each.standing.probe_ok is False for each in self.members)

    def traffic(self) -> str:
        """Return how calls went since this was last asked: ``good``, ``bad`` (some failed), or empty."""
        ended, failed = self.seen_ended, self.seen_failed
        self._count()
        if self.seen_failed > failed:
            return "bad"
        return "good" if self.seen_ended > ended else ""

    def _count(self) -> None:
        standings = [each.standing for each in self.members]
        self.seen_failed = sum(each.failed for each in standings)
        # one that hangs has been started and says nothing
        self.seen_ended = sum(each.started - each.inflight for each in standings)

    def judge(self, verdict: Verdict, now: float) -> None:
        """Tell the standings: up at once, down after some failures in a row."""
        self.failures = 0 if verdict.up else self.failures + 1
        if verdict.up or self.failures >= DOWN_AFTER:
            self.tell(verdict.up, verdict.detail, now)

    def tell(self, up: bool, detail: str, now: float) -> None:
        """Tell the standings of all members."""
        for each in self.members:
            each.standing.probed(up, detail, now)

    def queue(self, waiting: int) -> None:
        """Tell the standings how many requests wait there."""
        for each in self.members:
            each.standing.queue = waiting


def grouped(candidates: Iterable[Candidate]) -> dict[Key, list[Candidate]]:
    """Return the candidates by the probe that they share."""
    groups: dict[Key, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(key_of(candidate), []).append(candidate)
    return groups
