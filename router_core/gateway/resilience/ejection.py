"""Leaving out what is unlike its peers, and doubting that when it is too many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from router_core.gateway.resilience.standing import Standing
from router_core.gateway.values import EjectionPolicy

__all__ = ["HasStanding", "judge", "panic"]

_MARGIN = 1e-9
"""So that a half of four is two, whatever floating point makes of it."""


class HasStanding(Protocol):
    """A candidate of the selection."""

    @property
    def standing(self) -> Standing: ...


class _Record(NamedTuple):
    """What one deployment is compared by."""

    standing: Standing
    failures: float
    """Share of its calls."""
    seconds: float
    """Mean of its good calls; 0 without one."""


def judge(standings: Sequence[Standing], policy: EjectionPolicy, now: float) -> list[Standing]:
    """Eject those of a model's deployments that fail more, or are slower, than the median of their peers.

    Call it every ``policy.interval``. A deployment needs ``minimum`` calls, and one peer with as many, to be
    judged at all; a lone one never is. Returns those ejected now, the worst first.
    """
    if not policy.enabled:
        return []
    for each in standings:
        each.tidy(now)
    out = sum(each.out(now) == "ejected" for each in standings)
    room = int(len(standings) * policy.max_share + _MARGIN) - out
    records = [record for each in standings if (record := _record(each, policy, now)) is not None]
    found = [
        (badness, reason, each) for each in records for badness, reason in _against(each, records, policy)
    ]
    found.sort(key=lambda one: one[0], reverse=True)
    ejected: list[Standing] = []
    for _, reason, record in found:
        if len(ejected) >= room:
            break
        if record.standing not in ejected:
            record.standing.eject(now, policy.eject_for, reason)
            ejected.append(record.standing)
    return ejected


def panic(candidates: Iterable[HasStanding], now: float, share: float = EjectionPolicy().panic) -> bool:
    """Return whether so few are healthy that health and ejection are not to be believed any more.

    One that is busy or cools down is healthy: it was not ill that made it so.
    """
    total = ill = 0
    for candidate in candidates:
        total += 1
        ill += candidate.standing.out(now) in ("open_circuit", "ejected", "unhealthy")
    return ill > 0 and total - ill < share * total


def _record(standing: Standing, policy: EjectionPolicy, now: float) -> _Record | None:
    if standing.out(now) == "ejected":
        return None
    good, bad, seconds = standing.totals(now)
    if good + bad < max(policy.minimum, 1):
        return None
    return _Record(standing, bad / (good + bad), seconds / good if good else 0.0)


def _against(record: _Record, records: Sequence[_Record], policy: EjectionPolicy) -> list[tuple[float, str]]:
    """Return what speaks against one of them: how much, and why."""
    peers = [each for each in records if each is not record]
    if not peers:
        return []
    found: list[tuple[float, str]] = []
    usual = _median([each.failures for each in peers])
    if record.failures - usual >= policy.failure_gap:
        found.append((1.0 + record.failures - usual,
                      f"{record.failures:.0%} of its calls fail, of its peers' {usual:.0%}"))  # fmt: skip
    times = [each.seconds for each in peers if each.seconds > 0.0]
    if times and record.seconds >= policy.latency_factor * _median(times):
        found.append((record.seconds / (record.seconds + 1.0),
                      f"{record.seconds:.3g} s for a call, its peers {_median(times):.3g} s"))  # fmt: skip
    return found


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2.0
